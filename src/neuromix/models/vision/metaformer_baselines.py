"""MetaFormer baselines: IdentityFormer, RandFormer, PoolFormerV2, ConvFormer, CAFormer (Yu et al., TPAMI 2023).

The same net as PoolFormer with other parts: StarReLU instead of GELU, no biases in the blocks, ResScale on the
skip connections of the last two stages instead of LayerScale, norms in stem and downsampling, and a head that
takes the mean before its norm. CAFormer has separable convolutions in two stages and attention in two.

The authors' code is channels last; ours keeps x_BCHW, so its linear layers are 1x1 convolutions here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from neuromix.core.config import Spec
from neuromix.core.reference import load_reference, reference
from neuromix.core.registry import Paper, register_model
from neuromix.layers.norm import NormName
from neuromix.models.metaformer import MetaFormer, MetaFormerConfig, PerStage
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

MLP = Spec("mlp", {"activation": "star_relu", "bias": False})
ATTENTION = Spec("attention", {"proj_bias": False})
NANO_ATTENTION = Spec("attention", {"head_dim": 24, "proj_bias": False})


@dataclass(frozen=True)
class MetaFormerBaselinesConfig(MetaFormerConfig):
    """Config of the baselines; as it stands, of PoolFormerV2-S12."""

    channel_mixers: PerStage[Spec | None] = MLP
    norm_eps: float = 1e-6
    norm_bias: bool = False
    layer_scale: PerStage[float | None] = None
    res_scale: PerStage[float | None] = (None, None, 1.0, 1.0)
    stem_norm: NormName = "channel"
    down_norm: NormName = "channel"
    patch_init: Literal["torch", "truncated_normal"] = "truncated_normal"
    head_norm: NormName = "channel"
    norm_after_pool: bool = True


SIZES: dict[str, dict[str, Any]] = {
    "s12": {"depths": (2, 2, 6, 2)},
    "s24": {"depths": (4, 4, 12, 4)},
    "s36": {"depths": (6, 6, 18, 6)},
    "m36": {"depths": (6, 6, 18, 6), "dims": (96, 192, 384, 768)},
    "m48": {"depths": (8, 8, 24, 8), "dims": (96, 192, 384, 768)},
}
RANDOM: dict[str, Any] = {"mixers": ("identity", "identity", "random", "random"), "input_size": (224, 224)}
# Ours, for images of 8 to 32 pixels, of the size of poolformer_nano.
NANO: dict[str, Any] = {
    "depths": (1, 1, 2),
    "dims": (24, 48, 96),
    "res_scale": None,
    "norms": "channel",
    "in_channels": 1,
    "in_patch_size": 3,
    "in_stride": 1,
    "in_pad": 1,
    "num_classes": 10,
}
S18: dict[str, Any] = {"depths": (3, 3, 9, 3), "norms": "channel", "head": "mlp"}

VARIANTS: dict[str, dict[str, Any]] = {
    **{f"identityformer_{size}": {**values, "mixers": "identity"} for size, values in SIZES.items()},
    **{f"randformer_{size}": {**values, **RANDOM} for size, values in SIZES.items()},
    **{f"poolformerv2_{size}": values for size, values in SIZES.items()},
    "convformer_s18": {**S18, "mixers": "sepconv"},
    "caformer_s18": {**S18, "mixers": ("sepconv", "sepconv", ATTENTION, ATTENTION)},
    "identityformer_nano": {**NANO, "mixers": "identity"},
    "convformer_nano": {**NANO, "mixers": ("sepconv", {"kernel": 3})},
    "caformer_nano": {
        **NANO,
        "mixers": (("sepconv", {"kernel": 3}), ("sepconv", {"kernel": 3}), NANO_ATTENTION),
    },
}


def _published(parameters: int, gmacs: float, top1: float, **more: float) -> dict[str, Any]:
    at = {"input": (3, 224, 224)}
    return {"parameters": parameters, "gmacs": gmacs, "top1": top1, "gmacs_at": at, **more}


# Trainable parameters, at S12 and S18 as counted on the authors' code; GMAC and ImageNet-1k top-1 (%) as printed.
PUBLISHED: dict[str, dict[str, Any]] = {
    "identityformer_s12": _published(11_891_712, 1.8, 74.6),
    "identityformer_m48": _published(73_346_056, 11.5, 80.4),
    "randformer_s12": _published(11_891_712, 1.9, 76.6, frozen_parameters=235_298),
    "randformer_m48": _published(73_346_056, 11.9, 81.4),
    "poolformerv2_s12": _published(11_891_712, 1.8, 78.0),
    "poolformerv2_m48": _published(73_346_056, 11.5, 82.6),
    "convformer_s18": _published(26_774_448, 3.9, 83.0),
    "caformer_s18": _published(26_341_656, 4.1, 83.6),
}

register_model(
    "metaformer_baselines",
    config=MetaFormerBaselinesConfig,
    build=MetaFormer.from_config,
    paper=Paper("MetaFormer Baselines for Vision", 2023, "TPAMI", "https://arxiv.org/abs/2210.13452"),
    tasks=("image-classification",),
    family="metaformer",
    variants=VARIANTS,
    tiny={
        "depths": (1, 1),
        "dims": (8, 12),
        "mixers": (("sepconv", {"kernel": 3}), ("attention", {"head_dim": 4, "proj_bias": False})),
        "norms": "channel",
        "res_scale": (None, 1.0),
        "in_patch_size": 5,
        "num_classes": 4,
        "head": "mlp",
        "drop_path": 0.1,
    },
    provenance="authors' code",
    published=PUBLISHED,
)(MetaFormer)


@reference("poolformer", kind="v2")
@reference("poolformer", kind="baselines")
def read_baselines(given: Given, state: Weights) -> nn.Module:
    """A net of the authors' `MetaFormer` class of the second paper, with these weights."""
    return load_reference("metaformer_baselines", baselines_config(given, state), state)


def baselines_config(given: Given, state: Weights) -> MetaFormerBaselinesConfig:
    """Our Config of such a net."""
    stages = len(numbers_below(state, "stages."))
    blocks = [below(state, f"stages.{i}.0.") for i in range(stages)]
    patches = [state[f"downsample_layers.{i}.conv.weight"] for i in range(stages)]
    dims = given.get("dims") or [len(patch) for patch in patches]
    texts = texts_per_stage(given, "token_mixers", "mixers", stages=stages)
    mixers = [
        mixer_spec(block, dim, text, given.get("pool_size", 3))
        for block, dim, text in zip(blocks, dims, texts, strict=True)
    ]
    norm_texts = texts_per_stage(given, "norms", "norm", stages=stages)
    activation = given.get("act", given.get("mlp_act"))
    layer_scales = _initial_values(given, "layer_scale", stages)
    res_scales = _initial_values(given, "res_scale", stages)
    mlp_head = "head.fc1.weight" in state
    last = "head.fc2.weight" if mlp_head else "head.weight"
    return MetaFormerBaselinesConfig.released(
        {
            "depths": given.get("depths")
            or [len(numbers_below(state, f"stages.{i}.")) for i in range(stages)],
            "dims": dims,
            "mixers": mixers,
            "channel_mixers": [
                channel_mixer_spec(block, dim, activation, "squared_relu")
                for block, dim in zip(blocks, dims, strict=True)
            ],
            "norms": [
                norm_name(text, block, _default_norm(mixer.name))
                for text, block, mixer in zip(norm_texts, blocks, mixers, strict=True)
            ],
            "norm_eps": norm_eps(norm_texts, 1e-6),
            "norm_bias": any("norm1.bias" in block for block in blocks),
            "layer_scale": [
                initial if "layer_scale1.scale" in block else None
                for block, initial in zip(blocks, layer_scales, strict=True)
            ],
            "res_scale": [
                initial if "res_scale1.scale" in block else None
                for block, initial in zip(blocks, res_scales, strict=True)
            ],
            "drop_path": given.get("drop_path_rate", 0.0),
            "in_channels": patches[0].shape[1],
            "input_size": input_size(given),
            "in_patch_size": patches[0].shape[-1],
            "in_stride": given.get("in_stride", 4),
            "in_pad": given.get("in_pad", 2),
            "stem_norm": "channel" if "downsample_layers.0.post_norm.weight" in state else "none",
            "down_patch_size": patches[1].shape[-1] if stages > 1 else 3,
            "down_stride": given.get("down_stride", 2),
            "down_pad": given.get("down_pad", 1),
            "down_norm": "channel" if "downsample_layers.1.pre_norm.weight" in state else "none",
            "num_classes": len(state[last]) if last in state else 0,
            "head": "mlp" if mlp_head else "linear",
            "head_dropout": given.get("head_dropout", 0.0),
        }
    )


def _default_norm(mixer: str) -> NormName:
    return "channel" if mixer in ("sepconv", "attention") else "group"


def _initial_values(given: Given, key: str, stages: int) -> list[float]:
    """One initial value a stage of a scale, 1 where it is absent or null: only the weights tell whether it is there."""
    value = given.get(key, given.get(f"{key}_init_values"))
    values = value if isinstance(value, list | tuple) else [value] * stages
    return [1.0 if initial is None else float(initial) for initial in values]
