"""Weights of hybrid models as Megatron names, groups and shards them.

Shapes: D width, H query heads, G groups of them that share keys and values, K width of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from neuromix.core.errors import CheckpointError
from neuromix.core.layout import Layout, Rule, drop, rename, reshape
from neuromix.mixers.causal_attention import CausalAttentionConfig
from neuromix.mixers.mamba2 import Mamba2Config

Tensors = Mapping[str, Tensor]


def megatron_layout(pattern: str, attention: Mapping[str, Any]) -> Layout:
    """Megatron's names for a stack of layers `M`, `*` and `-`.

    Norms may stand inside the first linear map of a layer, or by themselves; the taps of a convolution may be
    `conv1d.weight` or `conv1d_weight`.
    """
    rules: list[Rule] = [
        drop("*._extra_state"),
        rename("embedding.word_embeddings.weight", "embedding.weight"),
        rename("decoder.final_norm.weight", "norm.weight"),
        rename("output_layer.weight", "head.weight"),
    ]
    config = CausalAttentionConfig.from_dict(attention)
    for i, symbol in enumerate(pattern):
        layer, block = f"decoder.layers.{i}.", f"blocks.{i}."
        if symbol == "M":
            rules += _mamba(layer, f"{block}mixer.")
        elif symbol == "*":
            rules += _attention(layer, f"{block}mixer.", config)
        else:
            rules += _mlp(layer, f"{block}ffn.")
    return Layout(*rules)


def _norm(layer: str, names: Sequence[str], ours: str) -> list[Rule]:
    return [rename(f"{layer}{name}", f"{ours}norm.weight") for name in names]


def _mamba(layer: str, ours: str) -> list[Rule]:
    return [
        *_norm(layer, ("mixer.in_proj.layer_norm_weight", "norm.weight"), ours),
        rename(f"{layer}mixer.conv1d.*", f"{ours}branch.conv.conv.*"),
        rename(f"{layer}mixer.conv1d_weight", f"{ours}branch.conv.conv.weight"),
        rename(f"{layer}mixer.conv1d_bias", f"{ours}branch.conv.conv.bias"),
        rename(f"{layer}mixer.*", f"{ours}branch.*"),
    ]


def _attention(layer: str, ours: str, config: CausalAttentionConfig) -> list[Rule]:
    groups = config.kv_heads or config.heads
    norms = ("self_attention.linear_qkv.layer_norm_weight", "input_layernorm.weight", "norm.weight")
    return [
        *_norm(layer, norms, ours),
        reshape(
            f"{layer}self_attention.linear_qkv.*",
            f"{ours}branch.qkv.*",
            lambda rows: _ungrouped(rows, config.heads, groups),
            lambda rows: _grouped(rows, config.heads, groups),
        ),
        rename(f"{layer}self_attention.linear_proj.*", f"{ours}branch.out.*"),
    ]


def _mlp(layer: str, ours: str) -> list[Rule]:
    norms = ("mlp.linear_fc1.layer_norm_weight", "pre_mlp_layernorm.weight", "norm.weight")
    return [
        *_norm(layer, norms, ours),
        rename(f"{layer}mlp.linear_fc1.*", f"{ours}branch.expand.*"),
        rename(f"{layer}mlp.linear_fc2.*", f"{ours}branch.contract.*"),
    ]


def _ungrouped(rows: Tensor, heads: int, groups: int) -> Tensor:
    """Rows [q of the group's heads, k, v], group after group, as all q, all k, all v."""
    by_group = torch.unflatten(rows, 0, (groups, heads // groups + 2, -1))
    q, k, v = torch.split(by_group, [heads // groups, 1, 1], 1)
    return torch.cat([part.flatten(0, 2) for part in (q, k, v)])


def _grouped(rows: Tensor, heads: int, groups: int) -> Tensor:
    """Undoes `_ungrouped`."""
    by_head = torch.unflatten(rows, 0, (heads + 2 * groups, -1))
    q, k, v = (
        torch.unflatten(part, 0, (groups, -1)) for part in torch.split(by_head, [heads, groups, groups])
    )
    return torch.cat([q, k, v], 1).flatten(0, 2)


def merge_shards(shards: Sequence[Tensors], mixer: Mapping[str, Any], dim: int) -> dict[str, Tensor]:
    """One rank's tensors, under Megatron's names, from those of all tensor-parallel ranks in order.

    Of a Mamba-2 layer, z, x, B, C and dt are sharded each by itself, so a rank holds a piece of every one.

    Args:
        shards: the tensors of each rank.
        mixer: options of the Mamba-2 mixer, of the whole model.
        dim: width D of the model.

    Raises:
        CheckpointError: no shards, ranks with other names, widths that the ranks do not divide, or tensors that all
            ranks should have alike and have not.
    """
    if not shards:
        raise CheckpointError("a sharded checkpoint needs one rank at least, got none")
    names = [name for name in shards[0] if not name.endswith("._extra_state")]
    for rank, shard in enumerate(shards):
        odd = {name for name in shard if not name.endswith("._extra_state")} ^ set(names)
        if odd:
            raise CheckpointError(
                f"rank {rank} and rank 0 differ in their tensors: {', '.join(sorted(odd)[:3])}"
            )
    config = Mamba2Config.from_dict(mixer)
    _, d_ssm, heads = config.sizes(dim)
    d_bc = config.ngroups * config.d_state
    sections = {
        "mixer.in_proj": (d_ssm, d_ssm, d_bc, d_bc, heads),
        "mixer.conv1d": (d_ssm, d_bc, d_bc),
    }
    return {name: _joiner(name, sections)(name, [shard[name] for shard in shards]) for name in names}


_ROWS = (
    "mixer.dt_bias",
    "mixer.A_log",
    "mixer.D",
    "mixer.norm.weight",
    "linear_qkv.weight",
    "linear_qkv.bias",
    "linear_fc1.weight",
    "linear_fc1.bias",
    "word_embeddings.weight",
    "output_layer.weight",
)
_COLUMNS = ("mixer.out_proj.weight", "linear_proj.weight", "linear_fc2.weight")
Joiner = Callable[[str, list[Tensor]], Tensor]


def _joiner(name: str, sections: Mapping[str, tuple[int, ...]]) -> Joiner:
    if name.endswith("layer_norm_weight"):
        return _alike
    for part, widths in sections.items():
        if f".{part}" in name:
            return lambda name, pieces: _interleaved(name, pieces, widths)
    if name.endswith(_ROWS):
        return lambda name, pieces: torch.cat(pieces, 0)
    return (lambda name, pieces: torch.cat(pieces, 1)) if name.endswith(_COLUMNS) else _alike


def _interleaved(name: str, pieces: list[Tensor], widths: tuple[int, ...]) -> Tensor:
    """Rows of several parts of which each rank has its share."""
    ranks = len(pieces)
    if any(width % ranks for width in widths) or any(len(p) != sum(widths) // ranks for p in pieces):
        raise CheckpointError(
            f"{name}: {ranks} ranks with {[len(piece) for piece in pieces]} rows do not make up parts of {list(widths)}"
        )
    shares = [torch.split(piece, [width // ranks for width in widths]) for piece in pieces]
    return torch.cat([torch.cat(part) for part in zip(*shares, strict=True)])


def _alike(name: str, pieces: list[Tensor]) -> Tensor:
    if not all(torch.equal(piece, pieces[0]) for piece in pieces):
        raise CheckpointError(f"{name} must be the same on all ranks, and is not")
    return pieces[0]
