"""Spikformer: the first spiking transformer (Zhou et al., ICLR 2023), and the net that its second version shares.

A stem turns the image into a map of spikes; blocks of spiking self-attention and a spiking MLP follow. Every branch
ends in a neuron and its spikes are added to the trunk (the SEW shortcut), which so carries small integers; there is
no norm outside the branches and no softmax. The versions differ in the stem: spiking patch splitting ("sps",
convolutions and max-pooling) or the spiking convolutional stem ("scs", `spikformer_v2`).

Shapes: T spike time, B batch, C channels, H W feature map, D width, K classes. Default values: the 8-512 of V2.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from neuromix.core.batch import Batch
from neuromix.core.config import Spec
from neuromix.core.layout import Layout, Rule, drop, rename, reshape
from neuromix.core.model import Model, ModelConfig, require_image
from neuromix.core.registry import Paper, register_model
from neuromix.layers.block import Block
from neuromix.layers.init import truncated_normal
from neuromix.layers.residual import Residual
from neuromix.layers.spiking_mlp import SpikingMLP
from neuromix.layers.spiking_stem import ConvStem, PatchSplittingStem
from neuromix.mixers.mixer import make_mixer
from neuromix.models.vision.meta_spikeformer import read_lif
from neuromix.neurons.neuron import make_neuron


@dataclass(frozen=True)
class SpikformerConfig(ModelConfig):
    """Config of Spikformer."""

    stem: Literal["sps", "scs"] = "scs"
    strides: tuple[int, ...] = (
        2,
        2,
        2,
        2,
    )  # of the stages of the stem; the width doubles from one to the next
    stem_ratio: int = 4  # widening inside the stages of "scs"
    dim: int = 512  # D
    depth: int = 8  # blocks
    mlp_ratio: int = 4
    mixer: Spec = Spec("ssa")
    neuron: Spec = Spec("lif", {"tau": 2.0, "v_threshold": 1.0, "surrogate": ["sigmoid", {"alpha": 4.0}]})
    time_steps: int = 4
    in_channels: int = 3
    num_classes: int = 1000
    unused_norms: bool = False  # two LayerNorms a block that the released V1 has and never calls

    def validate(self) -> None:
        self.require_positive("strides", "stem_ratio", "dim", "depth", "mlp_ratio", "time_steps")
        self.require_positive("in_channels", "num_classes")
        self.require(len(self.strides) > 0, "strides needs one entry a stage of the stem")

    @property
    def patch(self) -> int:
        """Side of the square of pixels that a token stands for."""
        return math.prod(self.strides)


@dataclass(frozen=True)
class SpikformerV1Config(SpikformerConfig):
    """Config of the first version as it was released."""

    stem: Literal["sps", "scs"] = "sps"
    unused_norms: bool = True


class SpikformerEncoder(Model):
    """Stem and blocks, of which a classifier or an autoencoder is made.

    H and W of the image must be multiples of the product of the strides.
    """

    Config = SpikformerConfig

    def __init__(self, config: SpikformerConfig) -> None:
        super().__init__(config)
        self.stem = _stem(config)
        self.blocks = nn.Sequential(*(_block(config) for _ in range(config.depth)))
        if config.unused_norms:
            self.unused_norms = nn.ModuleList(_norm_pair(config.dim) for _ in range(config.depth))
        self.require_feature_levels()

    def encode(self, *inputs: Tensor) -> Tensor:
        (image,) = inputs
        require_image(image, self.config.in_channels, multiple_of=self.config.patch, dims=(4, 5))
        return image if image.dim() == 5 else image.unsqueeze(0)

    def example(self, batch_size: int, generator: torch.Generator | None = None) -> Batch:
        side = 4 * self.config.patch
        return Batch(
            {"image": torch.randn(batch_size, self.config.in_channels, side, side, generator=generator)}
        )

    def layers_in_order(self) -> tuple[str, ...]:
        """Globs over the parameters of each layer, from the image to the output."""
        return ("stem.*", *(f"blocks.{i}.*" for i in range(self.config.depth)), "head.*")

    @classmethod
    def layouts(cls, config: SpikformerConfig) -> Mapping[str, Layout]:
        if config.stem == "scs":
            return {"reference": Layout(*_scs_rules(config), *_encoder_rules("conv", 3, 4))}
        return {
            "authors": Layout(*_sps_rules(config), *_encoder_rules("conv", 3, 4)),
            "authors, CIFAR": Layout(*_sps_rules(config), *_encoder_rules("linear", 2, 2)),
            "authors, DVS": Layout(
                drop("pos_embed"), drop("norm.*"), *_sps_rules(config), *_encoder_rules("conv", 3, 3)
            ),
        }


def _stem(config: SpikformerConfig) -> nn.Module:
    common = (config.in_channels, config.dim, config.strides, config.neuron, config.time_steps)
    return PatchSplittingStem(*common) if config.stem == "sps" else ConvStem(*common, config.stem_ratio)


def _block(config: SpikformerConfig) -> Block:
    mixer = make_mixer(config.mixer.with_defaults(neuron=config.neuron), config.dim)
    mlp = SpikingMLP(config.dim, config.mlp_ratio, config.neuron)
    return Block(
        Residual(mixer, make_neuron(config.neuron), where="spike"),
        Residual(mlp, make_neuron(config.neuron), where="spike"),
    )


def _norm_pair(dim: int) -> nn.ModuleDict:
    return nn.ModuleDict({f"norm{number}": nn.LayerNorm(dim).requires_grad_(False) for number in (1, 2)})


def _published(parameters: int, millions: float, **figures: float) -> dict[str, Any]:
    # The whole count has the norms that are never called. The image convolution is charged once, not T times.
    return {
        "parameters": parameters,
        "parameters_m": millions,
        "scope": "all",
        **figures,
        "counting": {"static_stem": "once"},
    }


class Spikformer(SpikformerEncoder):
    """Static image [B, C, H, W], or a frame a step [T, B, C, H, W], to logits [B, K]."""

    stream_axis = 0

    def __init__(self, config: SpikformerConfig) -> None:
        super().__init__(config)
        self.head = truncated_normal(nn.Linear(config.dim, config.num_classes))

    def forward_steps(self, x_TBCHW: Tensor) -> Tensor:
        """x_TBCHW with T = 1 (a static image) or one frame a step; logits of each step, [T, B, K]."""
        y_TBDHW = self.blocks(self.stem(x_TBCHW))
        logits_TBK: Tensor = self.head(y_TBDHW.mean((-2, -1)))
        return logits_TBK

    def readout(self, y: Tensor) -> Tensor:
        return y.mean(0)


# A net of a few thousand weights, whose neurons fire.
TINY: Mapping[str, Any] = {
    "strides": (2, 1, 2),
    "dim": 16,
    "depth": 2,
    "mlp_ratio": 2,
    "mixer": ("ssa", {"heads": 2, "scale": 1.0}),
    "neuron.v_threshold": 0.5,
    "time_steps": 2,
}

register_model(
    "spikformer",
    config=SpikformerV1Config,
    paper=Paper("Spikformer: When Spiking Neural Network Meets Transformer", 2023, "ICLR"),
    tasks=("image-classification", "event-classification"),
    family="spiking",
    provenance="authors' code",
    variants={
        "spikformer_8_384": {"dim": 384},
        "spikformer_6_512": {"depth": 6},
        "spikformer_8_512": {},
        "spikformer_10_512": {"depth": 10},
        "spikformer_8_768": {"dim": 768},
        "spikformer_4_384_cifar10": {
            "strides": (1, 1, 2, 2),
            "dim": 384,
            "depth": 4,
            "mixer": ("ssa", {"heads": 12, "order": "qk", "qkv_bias": True}),
            "num_classes": 10,
        },
        "spikformer_2_256_dvs": {
            "dim": 256,
            "depth": 2,
            "mixer": ("ssa", {"heads": 16, "scale": 0.25, "order": "qk"}),
            "time_steps": 16,
            "in_channels": 2,
            "num_classes": 10,
        },
    },
    tiny={**TINY, "num_classes": 3},
    published={
        "spikformer_8_384": _published(16_828_312, 16.81, top1_t4=70.24, mj_t4=7.73),
        "spikformer_6_512": _published(23_385_640, 23.37, top1_t4=72.46, mj_t4=9.42),
        "spikformer_8_512": _published(29_705_768, 29.68, top1_t4=73.38, mj_t4=11.58),
        "spikformer_10_512": _published(36_025_896, 36.01, top1_t4=73.68, mj_t4=13.57),
        "spikformer_8_768": _published(66_363_208, 66.34, top1_t4=74.81, mj_t4=21.48),
    },
)(Spikformer)


def read_config(given: Mapping[str, Any], state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Our values for a net with these constructor values of the authors; what they leave out, the weights tell."""
    is_sps = "patch_embed.proj_conv.weight" in state
    first = state["patch_embed.proj_conv.weight" if is_sps else "stem.stages.0.down.conv.weight"]
    kind = "conv" if "block.0.mlp.fc1_conv.weight" in state else "linear"
    hidden, dim = state[f"block.0.mlp.fc1_{kind}.weight"].shape[:2]
    depth = 1 + max(int(match[1]) for name in state if (match := re.match(r"block\.(\d+)\.", name)))
    ratio = {} if is_sps else {"stem_ratio": len(state["stem.stages.0.conv1.conv.weight"]) // len(first)}
    attention = {
        "heads": given.get("num_heads", 8),
        "scale": given.get("attn_scale", 0.125),
        "attention_threshold": given.get("attn_v_threshold", 0.5),
        "qkv_bias": f"block.0.attn.q_{kind}.bias" in state,
    }
    return {
        "stem": "sps" if is_sps else "scs",
        "dim": dim,
        "depth": depth,
        "mlp_ratio": hidden // dim,
        "mixer": Spec("ssa", attention),
        "neuron": read_lif(given),
        "time_steps": given.get("T", 4),
        "in_channels": first.shape[1],
        "num_classes": len(state["head.weight"]) if "head.weight" in state else 1,
        "unused_norms": "block.0.norm1.weight" in state,
        **ratio,
    }


def _sps_rules(config: SpikformerConfig) -> list[Rule]:
    rules: list[Rule] = []
    for i in range(len(config.strides)):
        number, ours = i or "", _first_conv(i)
        rules += [
            rename(f"patch_embed.proj_conv{number}.*", f"stem.stages.{i}.{ours}.conv.*"),
            rename(f"patch_embed.proj_bn{number}.*", f"stem.stages.{i}.{ours}.bn.*"),
        ]
    return [
        *rules,
        rename("patch_embed.rpe_conv.*", "stem.position.branch.conv.conv.*"),
        rename("patch_embed.rpe_bn.*", "stem.position.branch.conv.bn.*"),
    ]


def _scs_rules(config: SpikformerConfig) -> list[Rule]:
    rules: list[Rule] = []
    for i in range(len(config.strides)):
        rules += [
            rename(f"stem.stages.{i}.down.*", f"stem.stages.{i}.0.{_first_conv(i)}.*"),
            rename(f"stem.stages.{i}.conv1.*", f"stem.stages.{i}.1.branch.expand.*"),
            rename(f"stem.stages.{i}.conv2.*", f"stem.stages.{i}.1.branch.project.*"),
        ]
    return rules


def _first_conv(stage: int) -> str:
    """Where the convolution of `spiking_conv` is."""
    return "0.stem" if stage == 0 else "conv"


def _encoder_rules(kind: str, attention_dims: int, mlp_dims: int) -> list[Rule]:
    """Blocks and head, whose weights the authors keep in so many axes, as `kind` of layers."""
    rules = [
        rename("head.*", "head.*"),
        rename("block.{i}.norm1.*", "unused_norms.{i}.norm1.*"),
        rename("block.{i}.norm2.*", "unused_norms.{i}.norm2.*"),
    ]
    for name in ("q", "k", "v", "proj"):
        conv = "out" if name == "proj" else f"projections.{name}"
        ours = f"blocks.{{i}}.mixer.branch.{conv}"
        rules += _conv_rules(f"block.{{i}}.attn.{name}", ours, kind, attention_dims)
    for number, name in ((1, "expand"), (2, "project")):
        ours = f"blocks.{{i}}.channel_mixer.branch.{name}"
        rules += _conv_rules(f"block.{{i}}.mlp.fc{number}", ours, kind, mlp_dims)
    return rules


def _conv_rules(theirs: str, ours: str, kind: str, dims: int) -> list[Rule]:
    return [
        reshape(f"{theirs}_{kind}.weight", f"{ours}.conv.weight", _to_conv2d, lambda w: w.flatten(dims - 1)),
        rename(f"{theirs}_{kind}.bias", f"{ours}.conv.bias"),
        rename(f"{theirs}_bn.*", f"{ours}.bn.*"),
    ]


def _to_conv2d(weight: Tensor) -> Tensor:
    return weight.reshape(*weight.shape[:2], 1, 1)
