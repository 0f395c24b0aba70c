"""PoolFormer: a MetaFormer whose token mixer is average pooling (Yu et al., CVPR 2022).

The paper's point is that the block - norm, mixer, norm, MLP, two skip connections - does most of the work, so the
mixer may have no parameters at all: pooling here, the identity or a frozen random matrix as controls, and hybrids
that spend attention or a spatial fully connected layer only on the small maps of the last stages.

Sizes, initial values and rates of stochastic depth are those of the authors' code; the net is `MetaFormer`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from neuromix.core.errors import CheckpointError
from neuromix.core.reference import load_reference, reference
from neuromix.core.registry import Paper, register_model
from neuromix.layers.norm import NormName
from neuromix.models.metaformer import MetaFormer, MetaFormerConfig
from neuromix.models.metaformer_reading import (
    Given,
    Weights,
    below,
    channel_mixer_spec,
    input_size,
    mixer_spec,
    norm_eps,
    norm_name,
    numbers_below,
    texts_per_stage,
)
from neuromix.models.vision.metaformer_baselines import read_baselines

S12: dict[str, Any] = {
    "depths": (2, 2, 6, 2),
    "dims": (64, 128, 320, 512),
    "layer_scale": 1e-5,
    "drop_path": 0.1,
}
S36: dict[str, Any] = {**S12, "depths": (6, 6, 18, 6), "layer_scale": 1e-6, "drop_path": 0.2}
M36: dict[str, Any] = {**S36, "dims": (96, 192, 384, 768), "drop_path": 0.3}
AT_224: dict[str, Any] = {**S12, "input_size": (224, 224)}
ATTENTION: dict[str, Any] = {**AT_224, "norms": "channel", "head_norm": "channel"}

VARIANTS: dict[str, dict[str, Any]] = {
    "poolformer_s12": S12,
    "poolformer_s24": {**S12, "depths": (4, 4, 12, 4)},
    "poolformer_s36": S36,
    "poolformer_m36": M36,
    "poolformer_m48": {**M36, "depths": (8, 8, 24, 8), "drop_path": 0.4},
    "metaformer_id_s12": {**S12, "mixers": "identity"},
    "metaformer_rand_s12": {**AT_224, "mixers": "random"},
    "metaformer_pppa_s12_224": {
        **ATTENTION,
        "mixers": ("pool", "pool", "pool", "attention"),
        "pos_embeds": (None, None, None, (7, 7)),
    },
    "metaformer_ppaa_s12_224": {
        **ATTENTION,
        "mixers": ("pool", "pool", "attention", "attention"),
        "pos_embeds": (None, None, (14, 14), None),
    },
    "metaformer_pppf_s12_224": {**AT_224, "mixers": ("pool", "pool", "pool", "spatial_fc")},
    "metaformer_ppff_s12_224": {**AT_224, "mixers": ("pool", "pool", "spatial_fc", "spatial_fc")},
    # Ours, for images of 8 to 32 pixels. The paper's LayerScale would keep a net that trains for minutes at the
    # identity, and with a norm for each position it learns digits in fewer epochs than with the paper's.
    "poolformer_nano": {
        "depths": (1, 1, 2),
        "dims": (24, 48, 96),
        "layer_scale": None,
        "norms": "channel",
        "head_norm": "channel",
        "in_channels": 1,
        "in_patch_size": 3,
        "in_stride": 1,
        "in_pad": 1,
        "num_classes": 10,
    },
}


def _published(parameters: int, gmacs: float, top1: float, **more: float) -> dict[str, Any]:
    at = {"input": (3, 224, 224)}
    return {"parameters": parameters, "gmacs": gmacs, "top1": top1, "gmacs_at": at, **more}


# Trainable parameters counted on the authors' code; GMAC at 224x224 and ImageNet-1k top-1 (%) as printed. The last
# number was counted, not printed: GMAC of convolutions, linear layers and the two products of attention.
PUBLISHED: dict[str, dict[str, Any]] = {
    "poolformer_s12": _published(11_915_176, 1.8, 77.2, gmacs_without_norms=1.8123),
    "poolformer_s24": _published(21_388_968, 3.4, 80.3, gmacs_without_norms=3.3922),
    "poolformer_s36": _published(30_862_760, 5.0, 81.4, gmacs_without_norms=4.9721),
    "poolformer_m36": _published(56_172_520, 8.8, 82.1, gmacs_without_norms=8.7588),
    "poolformer_m48": _published(73_473_448, 11.6, 82.5, gmacs_without_norms=11.5333),
    "metaformer_id_s12": _published(11_915_176, 1.8, 74.3, gmacs_without_norms=1.8123),
    "metaformer_rand_s12": _published(11_915_176, 3.3, 75.8),
    "metaformer_pppa_s12_224": _published(14_038_440, 1.9, 78.3, gmacs_without_norms=1.9199),
    "metaformer_ppaa_s12_224": _published(16_535_592, 2.5, 81.0, gmacs_without_norms=2.5492),
    "metaformer_pppf_s12_224": _published(11_919_978, 1.8, 77.5, gmacs_without_norms=1.8147),
    "metaformer_ppff_s12_224": _published(12_150_474, 1.9, 77.9, gmacs_without_norms=1.8885),
}

register_model(
    "poolformer",
    build=MetaFormer.from_config,
    paper=Paper(
        "MetaFormer Is Actually What You Need for Vision", 2022, "CVPR", "https://arxiv.org/abs/2111.11418"
    ),
    tasks=("image-classification",),
    family="metaformer",
    variants=VARIANTS,
    tiny={"depths": (1, 1), "dims": (8, 12), "in_patch_size": 5, "num_classes": 4, "drop_path": 0.1},
    provenance="authors' code",
    published=PUBLISHED,
)(MetaFormer)


@reference("poolformer", kind="classifier")
@reference("poolformer", kind="features")
@reference("poolformer", kind="hybrid")
@reference("poolformer", kind="hybrid_full")
def _poolformer(given: Given, state: Weights) -> nn.Module:
    return load_reference("poolformer", poolformer_config(given, state), state)


@reference("poolformer")
def _model(given: Given, state: Weights) -> nn.Module:
    """A whole net of either paper: the names of its weights tell which."""
    if "patch_embed.proj.weight" in state:
        return _poolformer(given, state)
    if "downsample_layers.0.conv.weight" in state:
        return read_baselines(given, state)
    raise CheckpointError(
        "these weights are of no MetaFormer: neither patch_embed nor downsample_layers is there"
    )


def poolformer_config(given: Given, state: Weights) -> MetaFormerConfig:
    """Our Config of a net of the authors' `PoolFormer` or `MetaFormer` class with these weights."""
    slots = _slots(state)
    paths = [path for part, path in slots if part == "blocks"]
    blocks = [below(state, f"{path}.0.") for path in paths]
    stages = len(blocks)
    dims = given.get("embed_dims") or _dims(state, slots)
    mixers = texts_per_stage(given, "token_mixers", "mixers", stages=stages)
    norm_texts = texts_per_stage(given, "norm", "norm_layer", stages=stages)
    activation = given.get("act", given.get("act_layer"))
    attends = any("token_mixer.qkv.weight" in block for block in blocks)
    default: NormName = "channel" if attends else "group"
    norms = tuple(norm_name(text, block, default) for text, block in zip(norm_texts, blocks, strict=True))
    initial_scale = given.get("layer_scale_init_value") or 1e-5
    stem = state["patch_embed.proj.weight"]
    down = next((state[f"{path}.proj.weight"] for part, path in slots if part == "downsample"), None)
    return MetaFormerConfig.released(
        {
            "feature_levels": _feature_levels(given, state, stages),
            "depths": given.get("layers") or [len(numbers_below(state, f"{path}.")) for path in paths],
            "dims": dims,
            "mixers": [
                mixer_spec(block, dim, text, given.get("pool_size", 3))
                for block, dim, text in zip(blocks, dims, mixers, strict=True)
            ],
            "channel_mixers": [
                channel_mixer_spec(block, dim, activation, "gelu")
                for block, dim in zip(blocks, dims, strict=True)
            ],
            "norms": norms,
            "norm_eps": norm_eps(norm_texts, 1e-5),
            "layer_scale": [initial_scale if "layer_scale_1" in block else None for block in blocks],
            "drop_path": given.get("drop_path_rate", 0.0),
            "in_channels": stem.shape[1],
            "input_size": input_size(given),
            "in_patch_size": stem.shape[-1],
            "in_stride": given.get("in_stride", 4),
            "in_pad": given.get("in_pad", 2),
            "downsamples": _downsamples(slots, stages),
            "down_patch_size": 3 if down is None else down.shape[-1],
            "down_stride": given.get("down_stride", 2),
            "down_pad": given.get("down_pad", 1),
            "pos_embeds": _tables(state, slots),
            "num_classes": len(state["head.weight"]) if "head.weight" in state else 0,
            "head_norm": norms[-1],
        }
    )


def _slots(state: Weights) -> list[tuple[str, str]]:
    """What each entry of the authors' list `network` is, in order, and its path."""
    slots = []
    for n in numbers_below(state, "network."):
        path = f"network.{n}"
        part = "position" if f"{path}.pos_embed" in state else "blocks"
        slots.append(("downsample" if f"{path}.proj.weight" in state else part, path))
    return slots


def _dims(state: Mapping[str, Tensor], slots: list[tuple[str, str]]) -> list[int]:
    dims, dim = [], state["patch_embed.proj.weight"].shape[0]
    for part, path in slots:
        if part == "downsample":
            dim = state[f"{path}.proj.weight"].shape[0]
        elif part == "blocks":
            dims.append(dim)
    return dims


def _downsamples(slots: list[tuple[str, str]], stages: int) -> list[bool]:
    after = [False] * stages
    stage = -1
    for part, _ in slots:
        if part == "blocks":
            stage += 1
        elif part == "downsample":
            after[stage] = True
    return after


def _tables(state: Weights, slots: list[tuple[str, str]]) -> list[tuple[int, int] | None]:
    tables: list[tuple[int, int] | None] = []
    table = None
    for part, path in slots:
        if part == "position":
            height, width = state[f"{path}.pos_embed"].shape[-2:]
            table = (height, width)
        elif part == "blocks":
            tables.append(table)
            table = None
    return tables


def _feature_levels(given: Given, state: Weights, stages: int) -> list[int]:
    normed = [level for level in range(stages) if f"norm{2 * level}.weight" in state]
    return normed or (list(range(stages)) if given.get("fork_feat") else [])
