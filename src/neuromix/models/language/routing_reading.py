"""Weights and constructor values of the PyTorch release of the Routing Transformer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from neuromix.core.errors import ConfigError
from neuromix.core.layout import Layout, Rule, drop, load_layout, rename
from neuromix.core.reference import load_reference, reference
from neuromix.mixers.routing_attention import RoutingAttention
from neuromix.mixers.routing_heads import RoutingHeads, RoutingHeadsConfig
from neuromix.models.language.routing_transformer import RoutingTransformerConfig

Values = Mapping[str, Any]

_ATTENTION = {
    "local_to_qkv": "local_qkv",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out": "out",
}
_HEADS = {
    "kmeans.means": "centroids.means",
    "kmeans.initted": "centroids.initialised",
    "mem_key": "memory_keys",
    "mem_value": "memory_values",
}
_NORM = {"layer": "norm.*", "scale": "norm.g", "rezero": "residual_weight"}
_OUR_NORM = {"layer": "norm.*", "scale": "norm.scale", "rezero": "factor"}

# Options that say how the same numbers are computed, or that the authors' code itself passes over.
_NO_MEANING = (
    "ff_chunks", "rel_pos_emb", "use_absolute_pos_emb", "_register_kmeans_update", "commitment_factor", "ff_mult",
    "context_window_size", "context_shared_qk", "pkm_num_keys", "moe_num_experts", "moe_loss_coef",
)  # fmt: skip
_REFUSED = ("receives_context", "pkm_layers", "moe_layers", "ff_activation")
_SAME = {
    "num_tokens": "vocab_size",
    "dim": "dim",
    "depth": "depth",
    "max_seq_len": "max_length",
    "heads": "heads",
    "dim_head": "head_dim",
    "window_size": "window",
    "local_attn_window_size": "local_window",
    "local_attn_radius_blocks": "look_back",
    "causal": "causal",
    "emb_dim": "embedding_dim",
    "weight_tie": "share_layers",
    "attn_dropout": "attention_dropout",
    "ff_dropout": "ffn_dropout",
    "attn_layer_dropout": "out_dropout",
    "layer_dropout": "layer_dropout",
    "ff_glu": "glu",
    "reversible": "reversible",
    "kmeans_ema_decay": "decay",
    "num_mem_kv": "memory_slots",
    "shared_qk": "shared_qk",
    "tie_embedding": "tied",
    "shift_tokens": "token_shift",
}


def layout(config: RoutingTransformerConfig) -> Layout:
    """The release's names of a model's tensors."""
    projected = config.embedding_width != config.dim
    stem = "routing_transformer.fn" if projected else "routing_transformer"
    rules = [drop("sinu_pos_emb.emb"), rename("token_emb.*", "embedding.*"), rename("norm.*", "norm.*")]
    rules += [rename("out.tensor" if config.tied else "out.*", "head.weight" if config.tied else "head.*")]
    rules += [rename(f"routing_transformer.{name}.*", f"{name}.*") for name in ("project_in", "project_out")]
    for layer, local in enumerate(config.local_heads_of):
        rules += _layer_rules(config, stem, layer, local)
    return Layout(*rules)


def _layer_rules(config: RoutingTransformerConfig, stem: str, layer: int, local: int) -> list[Rule]:
    rules: list[Rule] = []
    for number, (part, ours) in enumerate((("f", "attention"), ("g", "ffn"))):
        theirs = f"{stem}.layers.layers.{layer}.{number}"
        if config.reversible:
            theirs = f"{stem}.layers.blocks.{layer}.{part}.net"
        ours = f"layers.{layer}.{ours}"
        rules.append(rename(f"{theirs}.{_NORM[config.norm]}", f"{ours}.{_OUR_NORM[config.norm]}"))
        inner = f"{theirs}.fn.fn" if config.token_shift else f"{theirs}.fn"
        if part == "g":
            rules += [rename(f"{inner}.fn.w1.*", f"{ours}.branch.expand.*")]
            rules += [rename(f"{inner}.fn.w2.*", f"{ours}.branch.contract.*")]
        else:
            rules += _attention_rules(inner, f"{ours}.branch", local == config.heads)
    return rules


def _attention_rules(theirs: str, ours: str, all_local: bool) -> list[Rule]:
    rules = [drop(f"{theirs}.local_attn.rel_pos.inv_freq")]
    if all_local:  # maps to no heads at all
        rules += [drop(f"{theirs}.{name}.weight") for name in ("to_q", "to_k", "to_v")]
    rules += [rename(f"{theirs}.{name}.*", f"{ours}.{mine}.*") for name, mine in _ATTENTION.items()]
    return rules + [
        rename(f"{theirs}.global_attn.{name}", f"{ours}.routing.{mine}") for name, mine in _HEADS.items()
    ]


@reference("routing-transformer")
def read_model(config: Values, state: Mapping[str, Tensor]) -> nn.Module:
    """The language model."""
    values = model_values(config, state)
    model = load_reference("routing_transformer", RoutingTransformerConfig.from_dict(values), state)
    _take_tables(model, state)
    return model


reference("routing-transformer", "lm")(read_model)


def model_values(config: Values, state: Mapping[str, Tensor] | None = None) -> dict[str, Any]:
    """Fields of our Config from the release's constructor values.

    Raises:
        ConfigError: an option that this model does not have.
    """
    asked = [name for name in _REFUSED if config.get(name)]
    if asked:
        raise ConfigError(
            f"{', '.join(asked)}: cross attention, product keys and experts are not in this model"
        )
    values: dict[str, Any] = {"head_dim": 64, "heads": 8, "window": 64, "causal": False}
    values |= {ours: config[name] for name, ours in _SAME.items() if name in config}
    local = config.get("n_local_attn_heads", 0)
    values["local_heads"] = tuple(local) if isinstance(local, list | tuple) else (local,)
    values["head"] = not config.get("return_embeddings", False)
    if config.get("use_rezero"):
        values["norm"] = "rezero"
    elif config.get("use_scale_norm"):
        values["norm"] = "scale"
    known = {
        *_SAME,
        *_NO_MEANING,
        *_REFUSED,
        "n_local_attn_heads",
        "return_embeddings",
        "use_rezero",
        "use_scale_norm",
    }
    unknown = sorted(set(config) - known)
    if unknown:
        raise ConfigError(f"unknown constructor values of the Routing Transformer: {', '.join(unknown)}")
    return values


def _take_tables(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Gives the layers the position tables that the weights were trained with, to their last digit."""
    frequencies = [t for name, t in state.items() if name.endswith("local_attn.rel_pos.inv_freq")]
    for module in model.modules():
        if isinstance(module, RoutingAttention):
            if "sinu_pos_emb.emb" in state:
                module.table = state["sinu_pos_emb.emb"].to(module.table)
            if frequencies and module.local is not None:
                module.local.inverse_R = frequencies[0].to(module.local.inverse_R)


@reference("routing-transformer", "attention")
def read_attention(config: Values, state: Mapping[str, Tensor]) -> nn.Module:
    """The routing heads of the release."""
    values = RoutingHeadsConfig(
        clusters=config["num_clusters"],
        window=config["window_size"],
        causal=config.get("causal", False),
        strict=False,
        shared_qk=config.get("shared_qk", False),
        memory_slots=config.get("num_mem_kv", 0),
        decay=config.get("ema_decay", 0.999),
        commitment=config.get("commitment", 1e-4),
        dropout=config.get("dropout", 0.0),
    )
    heads = RoutingHeads(values, config["num_heads"], config["head_dim"]).to(state["kmeans.means"].dtype)
    names = [rename(theirs, ours) for theirs, ours in _HEADS.items()]
    load_layout(heads, {"pytorch": Layout(*names)}, state)
    return heads


@reference("routing-transformer", "core_layernorm")
def read_layernorm(config: Values, state: Mapping[str, Tensor]) -> nn.Module:
    """The routing heads of the paper's own code; queries are keys, whether causal or not."""
    values = RoutingHeadsConfig(
        clusters=config["clusters"],
        window=config["window"],
        causal=config.get("causal", True),
        strict=False,
        normalise="layernorm",
        decay=config.get("decay", 0.999),
        commitment=config.get("beta", 1e-4),
    )
    heads = RoutingHeads(values, config["heads"], config["dim"]).double()
    with torch.no_grad():
        for name, tensor in state.items():
            heads.centroids.get_buffer(name).copy_(tensor)
    return heads
