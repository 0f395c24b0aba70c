"""Readers of H3's constructor values. Values that are absent have the authors' defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from neuromix.core.config import Spec
from neuromix.core.errors import ConfigError
from neuromix.core.layout import Layout, load_layout
from neuromix.core.reference import load_reference, reference
from neuromix.mixers.sequence import SequenceMixer, make_sequence_mixer
from neuromix.models.language.h3 import H3LMConfig, h3_rules

Values = Mapping[str, Any]
Tensors = Mapping[str, Tensor]

_OPTIONS = {
    "d_state": "d_state",
    "head_dim": "head_dim",
    "n_ssm": "n_ssm",
    "disc": "discretisation",
    "dt_min": "dt_min",
    "dt_max": "dt_max",
}


def mixer_spec(values: Values) -> Spec:
    """An H3 layer from its constructor values; how it starts does not matter to weights that are given."""
    if values.get("mode", "diag") != "diag":
        raise ConfigError(f"H3: only the state space of mode diag is read, got {values['mode']!r}")
    for name, only in (("real_type", "exp"), ("l_max", None), ("bandlimit", None), ("force_real", False)):
        if values.get(name, only) != only:
            raise ConfigError(f"H3: {name} must be {only!r}, got {values[name]!r}; no released model has it")
    return Spec("h3", {ours: values[theirs] for theirs, ours in _OPTIONS.items() if theirs in values})


def config_of_authors(values: Values) -> H3LMConfig:
    """The Config of an SSMLMHeadModel; options of the layers are in `ssm_cfg` and `attn_cfg`, or beside the others."""
    if values.get("resid_dropout", 0.0):
        raise ConfigError("H3: resid_dropout is not supported; released models have none")
    if values.get("max_position_embeddings", 0) > 0:
        raise ConfigError("H3: position embeddings are not supported; released models have none")
    ssm, attention = {**values, **(values.get("ssm_cfg") or {})}, {**values, **(values.get("attn_cfg") or {})}
    dim, heads = values.get("d_model", 768), attention.get("num_heads", 12)
    return H3LMConfig.from_dict(
        {
            "vocab_size": values.get("vocab_size", 50257),
            "vocab_multiple": values.get("pad_vocab_size_multiple", 1),
            "dim": dim,
            "layers": values.get("n_layer", 12),
            "norm_eps": values.get("layer_norm_epsilon", 1e-5),
            "dropout": values.get("embed_dropout", 0.1),
            "mixer": mixer_spec(ssm),
            "attention_layers": tuple(values.get("attn_layer_idx") or ()),
            "attention": Spec(
                "attention",
                {
                    "heads": heads,
                    "rotary": attention.get("rotary_emb_dim", 0),
                    "rotary_base": attention.get("rotary_emb_base", 10000.0),
                    "qkv_bias": attention.get("qkv_proj_bias", True),
                    "bias": attention.get("out_proj_bias", True),
                },
            ),
            "ffn_hidden": values.get("d_inner"),
        }
    )


@reference("h3")
@reference("h3", "hybrid_lm")
@reference("h3", "lm")
def read_lm(values: Values, state: Tensors) -> nn.Module:
    """A language model, with or without attention layers, in new or old names."""
    prefix = "model." if all(name.startswith("model.") for name in state) else ""
    tied = [f"{prefix}{name}.weight" for name in ("embedding", "backbone.embeddings.word_embeddings")]
    embedding = next((state[name] for name in tied if name in state), None)
    if embedding is not None:
        state = {f"{prefix}lm_head.weight": embedding, **state}  # a file may leave out what is tied
    return load_reference("h3", config_of_authors(values), state)


@reference("h3", "layer")
def read_layer(values: Values, state: Tensors) -> SequenceMixer:
    """One H3 layer."""
    mixer = make_sequence_mixer(mixer_spec(values), values["d_model"])
    mixer.to(max((t.dtype for t in state.values()), key=lambda dtype: torch.finfo(dtype).bits))
    load_layout(mixer, {"authors": Layout(*h3_rules("", ""))}, state)
    return mixer
