"""Readers of Mamba's constructor values: the authors', those of Hugging Face checkpoints, and Megatron's.

Values that are absent have the authors' defaults. What only says how fast a kernel runs is passed over.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from neuromix.core.config import Spec
from neuromix.core.errors import ConfigError
from neuromix.core.layout import Layout, load_layout
from neuromix.core.reference import load_reference, reference
from neuromix.mixers.sequence import SequenceMixer, make_sequence_mixer
from neuromix.models.language.mamba import MambaLMConfig, mixer_rules
from neuromix.models.language.mamba2 import Mamba2LMConfig
from neuromix.models.language.mamba_hybrid import MambaHybridConfig

Values = Mapping[str, Any]
Tensors = Mapping[str, Tensor]

# Options of the authors' mixers that change no number.
_NO_MEANING = (
    "use_fast_path",
    "use_mem_eff_path",
    "layer_idx",
    "device",
    "dtype",
    "process_group",
    "sequence_parallel",
)


def mixer_spec(name: str, values: Values) -> Spec:
    """A mixer from the authors' constructor values, which have our names."""
    options = {key: value for key, value in values.items() if key not in _NO_MEANING}
    if options.get("dt_rank") == "auto":
        del options["dt_rank"]
    if "activation" in options and options.pop("activation") not in ("silu", "swish"):
        raise ConfigError("the activation of a Mamba-2 mixer must be silu or swish")
    if "dt_limit" in options:
        low, high = options["dt_limit"]
        options["dt_limit"] = (low, None if high is None or math.isinf(high) else high)
    return Spec(name, options)


def attention_spec(values: Values) -> Spec:
    """Attention of the authors' models, `attn_cfg`."""
    if not values.get("causal", False):
        raise ConfigError("attn_cfg must say causal: true; a language model must not see its future")
    for name in ("mlp_dim", "softmax_scale", "rotary_emb_interleaved"):
        if values.get(name):
            raise ConfigError(f"attn_cfg: {name}={values[name]!r} is not supported; no released model has it")
    options = {
        "heads": values["num_heads"],
        "kv_heads": values.get("num_heads_kv"),
        "head_dim": values.get("head_dim"),
        "rotary": values.get("rotary_emb_dim", 0),
        "rotary_base": values.get("rotary_emb_base", 10000.0),
        "qkv_bias": values.get("qkv_proj_bias", True),
        "bias": values.get("out_proj_bias", True),
    }
    width = values.get("d_conv", 0)
    return Spec("conv_attention", {**options, "d_conv": width}) if width else Spec("attention", options)


def config_of_authors(values: Values) -> MambaLMConfig:
    """The Config of a MambaLMHeadModel: of Mamba2LM where `ssm_cfg` asks for that layer."""
    ssm = dict(values.get("ssm_cfg") or {})
    layer = ssm.pop("layer", "Mamba1")
    if layer not in ("Mamba1", "Mamba2"):
        raise ConfigError(f"ssm_cfg: layer must be Mamba1 or Mamba2, got {layer!r}")
    make = Mamba2LMConfig if layer == "Mamba2" else MambaLMConfig
    attention_layers = tuple(values.get("attn_layer_idx") or ())
    attention = {"attention": attention_spec(values.get("attn_cfg") or {})} if attention_layers else {}
    return make.from_dict(
        {
            "vocab_size": values.get("vocab_size", 50277),
            "vocab_multiple": values.get("pad_vocab_size_multiple", 8),
            "dim": values.get("d_model", 2560),
            "layers": values.get("n_layer", 64),
            "norm": "rms" if values.get("rms_norm", True) else "layer",
            "norm_eps": values.get("norm_epsilon", 1e-5),
            "tied": values.get("tie_embeddings", True),
            "d_intermediate": values.get("d_intermediate", 0),
            "mixer": mixer_spec("mamba2" if layer == "Mamba2" else "mamba", ssm),
            "attention_layers": attention_layers,
            **attention,
        }
    )


# Hugging Face name -> the authors' name of an option of the mixer.
_HF_OPTIONS = {
    "state_size": "d_state",
    "conv_kernel": "d_conv",
    "expand": "expand",
    "use_bias": "bias",
    "use_conv_bias": "conv_bias",
    "time_step_rank": "dt_rank",
    "time_step_min": "dt_min",
    "time_step_max": "dt_max",
    "time_step_floor": "dt_init_floor",
    "time_step_limit": "dt_limit",
    "head_dim": "headdim",
    "n_groups": "ngroups",
    "chunk_size": "chunk_size",
}


def config_of_transformers(values: Values) -> MambaLMConfig:
    """The Config of a MambaForCausalLM or Mamba2ForCausalLM."""
    second = values.get("model_type", "mamba") == "mamba2" or "n_groups" in values
    make = Mamba2LMConfig if second else MambaLMConfig
    only_first, only_second = ("time_step_rank",), ("time_step_limit", "head_dim", "n_groups", "chunk_size")
    foreign = only_first if second else only_second
    options = {
        ours: values[name] for name, ours in _HF_OPTIONS.items() if name in values and name not in foreign
    }
    return make.from_dict(
        {
            "vocab_size": values.get("vocab_size", 50280),
            "vocab_multiple": 1,  # the size is that of the weights
            "dim": values["hidden_size"],
            "layers": values["num_hidden_layers"],
            "norm_eps": values.get("layer_norm_epsilon", 1e-5),
            "tied": values.get("tie_word_embeddings", not second),
            "mixer": mixer_spec("mamba2" if second else "mamba", options),
        }
    )


@reference("mamba")
@reference("mamba", "lm")
def read_lm(values: Values, state: Tensors) -> nn.Module:
    """A language model, in the names of the authors or of Hugging Face."""
    config = (config_of_transformers if "hidden_size" in values else config_of_authors)(values)
    name = "mamba2" if isinstance(config, Mamba2LMConfig) else "mamba"
    embedding = next((key for key in state if key.startswith("backbone.embedding")), None)
    if config.tied and embedding is not None:
        state = {"lm_head.weight": state[embedding], **state}  # a file may leave out what is tied
    return load_reference(name, config, state)


@reference("mamba", "layer")
def read_mamba_layer(values: Values, state: Tensors) -> nn.Module:
    """One Mamba mixer."""
    return _read_layer("mamba", values, state)


@reference("mamba-hybrid", "mamba2_layer")
def read_mamba2_layer(values: Values, state: Tensors) -> nn.Module:
    """One Mamba-2 mixer."""
    return _read_layer("mamba2", values, state)


def _read_layer(name: str, values: Values, state: Tensors) -> SequenceMixer:
    options = {key: value for key, value in values.items() if key not in ("d_model", "prefill")}
    mixer = make_sequence_mixer(mixer_spec(name, options), values["d_model"])
    mixer.to(max((t.dtype for t in state.values()), key=lambda dtype: torch.finfo(dtype).bits))
    load_layout(mixer, {"authors": Layout(*mixer_rules("", ""))}, state)
    return mixer


@reference("mamba-hybrid")
@reference("mamba-hybrid", "hybrid_lm")
def read_hybrid(values: Values, state: Tensors) -> nn.Module:
    """A hybrid model of Megatron."""
    if "ssm_cfg" in values:
        return read_lm(values, state)
    return load_reference("mamba_hybrid", config_of_megatron(values), state)


# Megatron's name -> the name of an option of the mixer.
_MEGATRON_OPTIONS = {
    "mamba_state_dim": "d_state",
    "mamba_head_dim": "headdim",
    "mamba_num_groups": "ngroups",
    "expand": "expand",
    "d_conv": "d_conv",
    "chunk_size": "chunk_size",
}


def config_of_megatron(values: Values) -> MambaHybridConfig:
    """The Config of a hybrid from Megatron's arguments."""
    dim, heads = values["hidden_size"], values.get("num_attention_heads", 32)
    mixer = {"d_state": 128, "headdim": 64, "ngroups": 8, "chunk_size": 128}
    mixer |= {ours: values[name] for name, ours in _MEGATRON_OPTIONS.items() if name in values}
    return MambaHybridConfig.from_dict(
        {
            "vocab_size": values["vocab_size"],
            "dim": dim,
            "tied": not values.get("untie_embeddings_and_output_weights", True),
            "norm_eps": values.get("norm_epsilon", 1e-5),
            "pattern": values.get("pattern", values.get("hybrid_override_pattern")),
            "layers": values.get("num_layers", 56),
            "attention_ratio": values.get("hybrid_attention_ratio", 0.08),
            "mlp_ratio": values.get("hybrid_mlp_ratio", 0.5),
            "mixer": mixer_spec("mamba2", mixer),
            "attention": Spec(
                "attention",
                {
                    "heads": heads,
                    "kv_heads": values.get("num_query_groups", heads),
                    "head_dim": values.get("kv_channels", dim // heads),
                },
            ),
            "ffn": Spec("mlp", {"hidden": values.get("ffn_hidden_size", 4 * dim), "bias": False}),
        }
    )
