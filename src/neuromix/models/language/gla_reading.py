"""Readers of GLA: the constructor values of the maintained repository, and of the authors' first one.

Values that are absent have the defaults of the repository. What only says how a kernel runs is passed over.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from neuromix.core.config import Spec
from neuromix.core.errors import ConfigError
from neuromix.core.layout import Layout, load_layout
from neuromix.core.reference import load_reference, reference
from neuromix.mixers.sequence import SequenceMixer, make_sequence_mixer
from neuromix.models.language.gla import GLALMConfig, mixer_rules

Values = Mapping[str, Any]
Tensors = Mapping[str, Tensor]

_ACTIVATIONS = {"swish": "silu", "sqrelu": "squared_relu", "gelu": "gelu_tanh"}


def mixer_spec(values: Values, *, norm_eps: float) -> Spec:
    """A mixer from the values of the maintained layer.

    Args:
        norm_eps: its default, which differs between the layer alone and in a model.
    """
    feature_map = values.get("feature_map")
    gate = _activation(values.get("gate_fn", "swish")) if values.get("use_output_gate", True) else None
    options = {
        "heads": values.get("num_heads", 4),
        "kv_heads": values.get("num_kv_heads"),
        "expand_k": values.get("expand_k", 0.5),
        "expand_v": values.get("expand_v", 1.0),
        "feature_map": _activation(feature_map) if feature_map else None,
        "short_conv": values.get("conv_size", 4) if values.get("use_short_conv", False) else 0,
        "conv_bias": values.get("conv_bias", False),
        "gate": gate,
        "norm_affine": values.get("elementwise_affine", True),
        "norm_eps": values.get("norm_eps", norm_eps),
        "gate_rank": values.get("gate_low_rank_dim", 16),
        "gate_logit_normalizer": values.get("gate_logit_normalizer", 16.0),
        "clamp_min": values.get("clamp_min"),
    }
    return Spec("gla", options)


def _activation(name: str) -> Spec:
    return Spec(_ACTIVATIONS.get(name, name))


def config_of_maintained(values: Values) -> GLALMConfig:
    """The Config of a GLAForCausalLM."""
    if values.get("attn"):
        raise ConfigError("GLA: layers of softmax attention, attn, are not read; no released model has them")
    if values.get("hidden_act", "swish") not in ("swish", "silu"):
        raise ConfigError(f"GLA: hidden_act must be swish, got {values['hidden_act']!r}")
    return GLALMConfig.from_dict(
        {
            "vocab_size": values.get("vocab_size", 32000),
            "dim": values.get("hidden_size", 2048),
            "layers": values.get("num_hidden_layers", 24),
            "norm_eps": values.get("norm_eps", 1e-6),
            "tied": values.get("tie_word_embeddings", False),
            "ffn_ratio": values.get("hidden_ratio") or 4,
            "ffn_hidden": values.get("intermediate_size"),
            "mixer": mixer_spec(values, norm_eps=1e-6),
        }
    )


def config_of_original(values: Values) -> GLALMConfig:
    """The Config of a model of the first repository: k is scaled like q, and the norms of heads have no weights."""
    if not values.get("use_gk", True) or values.get("use_gv", False):
        raise ConfigError("GLA: only models with use_gk and without use_gv are read; no other was released")
    dim, heads = values.get("d_model", 2048), values.get("n_head", 8)
    mixer = {
        "heads": heads,
        "key_scale": (dim / heads) ** -0.5,
        "gate_bias": True,
        "norm": "layer",
        "norm_affine": False,
        "norm_eps": 1e-5,
    }
    return GLALMConfig.from_dict(
        {
            "vocab_size": values.get("vocab_size", 50432),
            "dim": dim,
            "layers": values.get("n_layer", 24),
            "norm_eps": 1e-5,
            "tied": values.get("tie_word_embeddings", False),
            "mixer": Spec("gla", mixer),
        }
    )


@reference("gla")
@reference("gla", "lm")
def read_lm(values: Values, state: Tensors) -> nn.Module:
    """A language model, of either repository."""
    if any(name.startswith("transformer.") for name in state):
        return load_reference("gla", config_of_original(values), state)
    config, state = config_of_maintained(values), _with_up_proj(state)
    if config.tied:
        state = {
            "lm_head.weight": state["model.embeddings.weight"],
            **state,
        }  # a file may leave out what is tied
    return load_reference("gla", config, state)


@reference("gla", "layer")
def read_layer(values: Values, state: Tensors) -> SequenceMixer:
    """One GatedLinearAttention layer."""
    mixer = make_sequence_mixer(mixer_spec(values, norm_eps=1e-5), values.get("hidden_size", 1024))
    mixer.to(max((t.dtype for t in state.values()), key=lambda dtype: torch.finfo(dtype).bits))
    load_layout(mixer, {"maintained": Layout(*mixer_rules("", ""))}, state)
    return mixer


def _with_up_proj(state: Tensors) -> dict[str, Tensor]:
    """Older files have both maps of the gated network in one: its first half is the gate, the second half up."""
    pattern = re.compile(r"(model\.layers\.\d+\.mlp\.)gate_proj\.weight")
    found = dict(state)
    for name, weight in state.items():
        match = pattern.fullmatch(name)
        if match and f"{match[1]}up_proj.weight" not in state:
            found[name], found[f"{match[1]}up_proj.weight"] = weight.chunk(2)
    return found
