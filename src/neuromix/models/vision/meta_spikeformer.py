"""Meta-SpikeFormer: the spike-driven transformer as a MetaFormer (Yao et al., ICLR 2024).

Three stages of spiking convolution blocks, two of spiking transformer blocks. Every branch starts with a neuron
and ends in a batch-norm, and the trunk carries membrane potentials (the membrane shortcut), so that between
neurons there are only additions. A static image is shown T times; what lies before the first neuron is computed
once.

Shapes: T spike time, B batch, C channels, H W feature map, K classes. Default values: the published 15M model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from neuromix.core.batch import Batch
from neuromix.core.config import Spec
from neuromix.core.layout import Layout, Rule, load_layout, rename, reshape
from neuromix.core.model import FeatureInfo, Model, ModelConfig, require_image
from neuromix.core.reference import load_reference, reference
from neuromix.core.registry import Paper, register_model
from neuromix.core.time import Repeat
from neuromix.layers.block import Block
from neuromix.layers.conv import ConvBN, RepConvBN
from neuromix.layers.residual import Residual, Scale, Where
from neuromix.layers.spiking_mlp import SpikingDownsample, SpikingMLP
from neuromix.mixers.mixer import make_mixer
from neuromix.neurons.neuron import make_neuron

# Where the neuron of a branch stands, by kind of shortcut.
SHORTCUTS: Mapping[str, Where] = {"membrane": "pre", "sew": "spike", "vanilla": "post"}
# The stages whose outputs are a feature pyramid.
PYRAMIDS: Mapping[str, tuple[int, ...]] = {"detection": (1, 2, 3, 4), "segmentation": (0, 1, 2, 4)}


@dataclass(frozen=True)
class MetaSpikeFormerConfig(ModelConfig):
    """Config of MetaSpikeFormer."""

    dims: tuple[int, int, int, int] = (64, 128, 256, 360)  # channels; the first stage has half of the first
    conv_depths: tuple[int, int, int] = (1, 1, 2)  # blocks in the convolution stages
    depths: tuple[int, int] = (6, 2)  # blocks in the transformer stages
    strides: tuple[int, int, int, int, int] = (2, 2, 2, 2, 1)  # of the convolution before each stage
    stem_kernel: int = 7  # odd
    mlp_ratio: int = 4
    conv_mixer: Spec = Spec("spiking_sepconv")  # in the convolution stages
    mixer: Spec = Spec("sdsa")  # in the transformer stages
    neuron: Spec = Spec("lif", {"tau": 2.0, "v_threshold": 1.0, "surrogate": ["sigmoid", {"alpha": 4.0}]})
    shortcut: Literal["membrane", "sew", "vanilla"] = "membrane"
    layer_scale: float | None = (
        None  # initial factor of each channel of a transformer branch; None: no such factor
    )
    time_steps: int = 4
    in_channels: int = 3
    num_classes: int = 1000
    distillation: bool = False  # a second head that learns from a teacher
    pyramid: Literal["detection", "segmentation"] = "detection"  # what feature_levels count

    def validate(self) -> None:
        self.require_positive(
            "dims",
            "conv_depths",
            "depths",
            "strides",
            "mlp_ratio",
            "time_steps",
            "in_channels",
            "num_classes",
        )
        self.require(self.dims[0] % 2 == 0, f"the first of dims must be even, got {self.dims[0]}")
        self.require(self.stem_kernel % 2 == 1 and self.stem_kernel > 0, "stem_kernel must be odd")

    @property
    def stage_dims(self) -> tuple[int, ...]:
        """Channels of the five stages."""
        return (self.dims[0] // 2, *self.dims)


class Distilled(NamedTuple):
    """Logits in training with a distillation head, [B, K] each (with a leading T for single steps)."""

    logits: Tensor
    distilled_logits: Tensor


class Stage(nn.Module):
    """A convolution with stride, then blocks, on x_TBCHW."""

    def __init__(self, downsample: nn.Module, blocks: list[Block]) -> None:
        super().__init__()
        self.downsample = downsample
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x_TBCHW: Tensor) -> Tensor:
        y_TBCHW: Tensor = self.blocks(self.downsample(x_TBCHW))
        return y_TBCHW


class Head(nn.Module):
    """Mean over the map, neuron, linear: membrane potentials x_TBCHW to logits [T, B, K]."""

    def __init__(self, config: MetaSpikeFormerConfig) -> None:
        super().__init__()
        self.neuron = make_neuron(config.neuron)
        self.classify = nn.Linear(config.dims[-1], config.num_classes)
        self.distill = nn.Linear(config.dims[-1], config.num_classes) if config.distillation else None

    def forward(self, x_TBCHW: Tensor) -> Tensor | Distilled:
        spikes_TBC = self.neuron(x_TBCHW.mean((-2, -1)))
        logits: Tensor = self.classify(spikes_TBC)
        if self.distill is None:
            return logits
        both = Distilled(logits, self.distill(spikes_TBC))
        return both if self.training else (both.logits + both.distilled_logits) / 2


def _published(parameters: int, millions: float, gmacs: float, **figures: float) -> dict[str, Any]:
    return {
        "parameters": parameters,
        "parameters_m": millions,
        "gmacs": gmacs,
        "gmacs_at": {"input": (3, 224, 224), "time_steps": 1},
        "scope": "trainable",
        **figures,
    }


@register_model(
    "meta_spikeformer",
    paper=Paper(
        "Spike-driven Transformer V2: Meta Spiking Neural Network Architecture Inspiring the Design of "
        "Next-generation Neuromorphic Chips",
        2024,
        "ICLR",
    ),
    tasks=("image-classification", "event-classification"),
    family="spiking",
    provenance="authors' code",
    variants={
        "meta_spikeformer_15m": {},
        "meta_spikeformer_31m": {"dims": (96, 192, 384, 480)},
        "meta_spikeformer_55m": {"dims": (128, 256, 512, 640)},
        "meta_spikeformer_124m": {"dims": (192, 384, 768, 960)},
        "meta_spikeformer_nano": {
            "dims": (16, 32, 48, 64),
            "conv_depths": (1, 1, 1),
            "depths": (1, 1),
            "strides": (1, 1, 2, 2, 1),
            "stem_kernel": 3,
            # A small map has few tokens to sum over: at the published scale and threshold its attention would
            # never fire, and a batch-norm of a constant would blow up the gradients.
            "mixer": ("sdsa", {"heads": 4, "scale": 1.0}),
            "neuron.v_threshold": 0.5,
            "in_channels": 1,
            "num_classes": 10,
        },
    },
    tiny={
        "dims": (4, 4, 8, 8),
        "conv_depths": (1, 1, 1),
        "depths": (1, 1),
        "strides": (1, 2, 2, 1, 1),
        "stem_kernel": 3,
        "mlp_ratio": 2,
        "mixer": ("sdsa", {"heads": 2}),
        "time_steps": 2,
        "num_classes": 3,
    },
    published={
        "meta_spikeformer_15m": _published(
            15_112_208, 15.1, 6.441, top1_t1=71.8, top1_t4=74.1, mj_t1=4.0, mj_t4=16.7
        ),
        "meta_spikeformer_31m": _published(
            31_333_864, 31.3, 13.951, top1_t1=75.4, top1_t4=77.2, mj_t1=7.8, mj_t4=32.8
        ),
        "meta_spikeformer_55m": _published(55_350_248, 55.4, 24.699, top1_t4=79.7, mj_t1=13.0, mj_t4=52.4),
        "meta_spikeformer_124m": {"parameters": 123_741_160, "scope": "trainable"},
    },
)
class MetaSpikeFormer(Model):
    """Static image [B, C, H, W], or a frame a step [T, B, C, H, W], to logits [B, K].

    H and W must be multiples of the product of the strides. With `feature_levels` it gives membrane-valued maps
    [T, B, C, H, W] instead (averaged over T in the segmentation pyramid).
    """

    Config = MetaSpikeFormerConfig
    stream_axis = 0

    def __init__(self, config: MetaSpikeFormerConfig) -> None:
        super().__init__(config)
        dims, depths = config.stage_dims, (*config.conv_depths, *config.depths)
        self.stages = nn.ModuleList(
            Stage(
                self._downsample(stage, config),
                [self._block(dims[stage], stage >= len(config.conv_depths), config) for _ in range(depth)],
            )
            for stage, depth in enumerate(depths)
        )
        self.require_feature_levels()
        self.head = Head(config) if not config.feature_levels else None
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    @staticmethod
    def _downsample(stage: int, config: MetaSpikeFormerConfig) -> nn.Module:
        dims, stride = (config.in_channels, *config.stage_dims), config.strides[stage]
        kernel = config.stem_kernel if stage == 0 else 3
        conv = ConvBN(dims[stage], dims[stage + 1], kernel, stride=stride, bias=True)
        neuron_first = config.shortcut == "membrane"
        if stage > 0:
            return SpikingDownsample(conv, make_neuron(config.neuron), neuron_first)
        image = Repeat(config.time_steps, conv)  # sees the image itself: no neuron before it
        return image if neuron_first else nn.Sequential(image, make_neuron(config.neuron))

    @staticmethod
    def _block(dim: int, is_transformer: bool, config: MetaSpikeFormerConfig) -> Block:
        if is_transformer:
            mixer = config.mixer.with_defaults(neuron=config.neuron)
            mlp = SpikingMLP(dim, config.mlp_ratio, config.neuron)
        else:
            mixer = config.conv_mixer.with_defaults(neuron=config.neuron)
            mlp = SpikingMLP(dim, config.mlp_ratio, config.neuron, kernel=3, bias=False)

        layer_scale = config.layer_scale if is_transformer else None

        def around(branch: nn.Module) -> Residual:
            scale = None if layer_scale is None else Scale(dim, layer_scale)
            return Residual(branch, make_neuron(config.neuron), where=SHORTCUTS[config.shortcut], scale=scale)

        return Block(around(make_mixer(mixer, dim)), around(mlp))

    def encode(self, *inputs: Tensor) -> Tensor:
        (image,) = inputs
        multiple_of = math.prod(self.config.strides)
        require_image(image, self.config.in_channels, multiple_of=multiple_of, dims=(4, 5))
        return image if image.dim() == 5 else image.unsqueeze(0)

    def forward_steps(self, x_TBCHW: Tensor) -> Any:
        """x_TBCHW with T = 1 (a static image) or one frame a step; logits of each step, [T, B, K]."""
        wanted = [PYRAMIDS[self.config.pyramid][level] for level in self.config.feature_levels]
        maps: list[Tensor] = []
        for number, stage in enumerate(self.stages):
            x_TBCHW = stage(x_TBCHW)
            if number in wanted:
                maps.append(x_TBCHW)
        return maps if self.head is None else self.head(x_TBCHW)

    def readout(self, y: Any) -> Any:
        if isinstance(y, list):
            return y if self.config.pyramid == "detection" else [map_TBCHW.mean(0) for map_TBCHW in y]
        if isinstance(y, Distilled):
            return Distilled(y.logits.mean(0), y.distilled_logits.mean(0))
        return y.mean(0)

    def feature_info(self) -> tuple[FeatureInfo, ...]:
        dims, strides = self.config.stage_dims, self.config.strides
        stages = PYRAMIDS[self.config.pyramid]
        return tuple(FeatureInfo(math.prod(strides[: stage + 1]), dims[stage]) for stage in stages)

    def example(self, batch_size: int, generator: torch.Generator | None = None) -> Batch:
        side = 2 * math.prod(self.config.strides)
        image = torch.randn(batch_size, self.config.in_channels, side, side, generator=generator)
        return Batch({"image": image})

    @classmethod
    def layouts(cls, config: MetaSpikeFormerConfig) -> Mapping[str, Layout]:
        return {"authors": Layout(*authors_rules(config))}


def authors_rules(config: MetaSpikeFormerConfig) -> list[Rule]:
    """Names of the released weights, each on the left, and ours."""
    rules: list[Rule] = []
    for stage, name in enumerate(("1_1", "1_2", "2", "3", "4")):
        ours = "stages.0.downsample.stem" if stage == 0 else f"stages.{stage}.downsample.conv"
        rules += [
            rename(f"downsample{name}.encode_conv.*", f"{ours}.conv.*"),
            rename(f"downsample{name}.encode_bn.*", f"{ours}.bn.*"),
        ]
    for stage, count in enumerate(config.conv_depths):
        # The first two stages have one block, ConvBlock1_1 and 1_2; the third has ConvBlock2_1, 2_2, ...
        for block in range(count):
            name = f"ConvBlock2_{block + 1}" if stage == 2 else f"ConvBlock1_{stage + 1}"
            rules += _conv_block_rules(f"{name}.0", f"stages.{stage}.blocks.{block}")
    for stage in (3, 4):
        rules += _transformer_block_rules(f"block{stage}.{{j}}", f"stages.{stage}.blocks.{{j}}")
        for number, branch in ((1, "mixer"), (2, "channel_mixer")):
            scale = f"stages.{stage}.blocks.{{j}}.{branch}.scale.weight"
            rules.append(rename(f"block{stage}.{{j}}.layer_scale{number}", scale))
    return [*rules, rename("head.*", "head.classify.*"), rename("head_kd.*", "head.distill.*")]


def _conv_block_rules(theirs: str, ours: str) -> list[Rule]:
    mixer, mlp = f"{ours}.mixer.branch", f"{ours}.channel_mixer.branch"
    return [
        rename(f"{theirs}.Conv.pwconv1.*", f"{mixer}.expand.conv.*"),
        rename(f"{theirs}.Conv.bn1.*", f"{mixer}.expand.bn.*"),
        rename(f"{theirs}.Conv.dwconv.*", f"{mixer}.depthwise.*"),
        rename(f"{theirs}.Conv.pwconv2.*", f"{mixer}.project.conv.*"),
        rename(f"{theirs}.Conv.bn2.*", f"{mixer}.project.bn.*"),
        rename(f"{theirs}.conv1.*", f"{mlp}.expand.conv.*"),
        rename(f"{theirs}.bn1.*", f"{mlp}.expand.bn.*"),
        rename(f"{theirs}.conv2.*", f"{mlp}.project.conv.*"),
        rename(f"{theirs}.bn2.*", f"{mlp}.project.bn.*"),
    ]


def _transformer_block_rules(theirs: str, ours: str) -> list[Rule]:
    rules: list[Rule] = []
    for name in ("q", "k", "v", "proj"):
        conv = "out" if name == "proj" else f"projections.{name}"
        rules += _repconv_rules(f"{theirs}.attn.{name}_conv", f"{ours}.mixer.branch.{conv}.")
    for number, name in ((1, "expand"), (2, "project")):
        conv = f"{ours}.channel_mixer.branch.{name}"
        rules += [
            reshape(f"{theirs}.mlp.fc{number}_conv.weight", f"{conv}.conv.weight", _to_conv2d, _to_conv1d),
            rename(f"{theirs}.mlp.fc{number}_conv.*", f"{conv}.conv.*"),
            rename(f"{theirs}.mlp.fc{number}_bn.*", f"{conv}.bn.*"),
        ]
    return rules


def _repconv_rules(theirs: str, ours: str) -> list[Rule]:
    """Names of a RepConv with its outer batch-norm; `ours` is a prefix."""
    return [
        rename(f"{theirs}.0.body.0.*", f"{ours}reduce.*"),
        rename(f"{theirs}.0.body.1.bn.*", f"{ours}pad.bn.*"),
        rename(f"{theirs}.0.body.2.0.*", f"{ours}depthwise.*"),
        rename(f"{theirs}.0.body.2.1.*", f"{ours}expand.*"),
        rename(f"{theirs}.0.body.2.2.*", f"{ours}inner_bn.*"),
        rename(f"{theirs}.1.*", f"{ours}outer_bn.*"),
    ]


def _to_conv2d(weight: Tensor) -> Tensor:
    return weight.unsqueeze(-1)


def _to_conv1d(weight: Tensor) -> Tensor:
    return weight.squeeze(-1)


def read_lif(config: Mapping[str, Any]) -> Spec:
    """The neuron that the authors of this family of nets hard-code."""
    surrogate, _, alpha = str(config.get("surrogate", "sigmoid alpha=4")).partition(" alpha=")
    return Spec(
        "lif",
        {
            "tau": config.get("tau", 2.0),
            "v_threshold": config.get("v_threshold", 1.0),
            "v_reset": config.get("v_reset", 0.0),
            "detach_reset": config.get("detach_reset", True),
            "surrogate": [surrogate, {"alpha": float(alpha)}] if alpha else surrogate,
        },
    )


@reference("meta-spikeformer")
def read_authors(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> nn.Module:
    """Constructor values of the authors' class and of the neurons that it hard-codes."""
    attention = {
        "heads": config.get("num_heads", 8),
        "scale": config.get("attn_scale", 0.125),
        "attention_threshold": config.get("attn_v_threshold", 0.5),
    }
    ours = MetaSpikeFormerConfig(
        dims=tuple(config.get("embed_dim", (64, 128, 256, 360))),
        depths=tuple(config.get("depths_stage3_stage4", (6, 2))),
        mlp_ratio=int(config.get("mlp_ratio", 4)),
        mixer=Spec("sdsa", attention),
        neuron=read_lif(config),
        time_steps=config.get("T", 1),
        in_channels=config.get("in_channels", 3),
        num_classes=config.get("num_classes", 1000),
        distillation=config.get("kd", False),
    )
    return load_reference("meta_spikeformer", ours, state)


@reference("meta-spikeformer", kind="repconv")
def read_repconv(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> nn.Module:
    """One RepConv with its outer batch-norm, `repconv.0` and `repconv.1`."""
    expand, reduce = state["repconv.0.body.2.1.weight"], state["repconv.0.body.0.weight"]
    repconv = RepConvBN(reduce.shape[1], expand.shape[0]).to(expand.dtype)
    load_layout(repconv, {"authors": Layout(*_repconv_rules("repconv", ""))}, state)
    return repconv
