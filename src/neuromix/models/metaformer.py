"""MetaFormer: stem -> stages of blocks -> head, with any registered token mixer in any stage.

A block is two branches around skip connections, for a map x of C channels:

    y = skip(x) + drop_path(scale(token_mixer(norm(x))))
    z = skip(y) + drop_path(scale(channel_mixer(norm(y))))

with per-channel factors `scale` (LayerScale) and `skip` (ResScale), each of which may be absent. This one net,
by its Config, is PoolFormer and the hybrids of "MetaFormer Is Actually What You Need for Vision" (Yu et al.,
CVPR 2022, eqs. 2 and 3; the default values are those of its S12) and all of "MetaFormer Baselines for Vision"
(Yu et al., TPAMI 2023).

Shapes: B batch, C channels, H W feature map; maps are x_BCHW all the way.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from neuromix.core.batch import Batch
from neuromix.core.config import Spec
from neuromix.core.layout import Layout
from neuromix.core.model import FeatureInfo, Model, ModelConfig, require_image
from neuromix.layers.activation import SquaredReLU
from neuromix.layers.block import Block
from neuromix.layers.chance import Dropout
from neuromix.layers.init import truncated_normal
from neuromix.layers.mlp import make_channel_mixer
from neuromix.layers.norm import NormName, make_norm
from neuromix.layers.patch import PatchConv, Window
from neuromix.layers.position import PositionTable
from neuromix.layers.residual import Residual, Scale
from neuromix.mixers.mixer import OneStep, make_mixer
from neuromix.models.metaformer_layouts import metaformer_layouts

T = TypeVar("T")
# One value for all stages, or one for each.
PerStage: TypeAlias = T | tuple[T, ...]
Size: TypeAlias = tuple[int, int]


@dataclass(frozen=True)
class MetaFormerConfig(ModelConfig):
    """Config of MetaFormer; a field of type PerStage takes one value for all stages, or one for each."""

    depths: tuple[int, ...] = (2, 2, 6, 2)  # blocks of each stage
    dims: tuple[int, ...] = (64, 128, 320, 512)  # channels of each stage
    mixers: PerStage[Spec] = Spec("pool")  # token mixers
    channel_mixers: PerStage[Spec | None] = Spec("mlp")  # None: the block has no second half
    norms: PerStage[NormName] = "group"
    norm_eps: float = 1e-5  # > 0
    norm_bias: bool = True  # in all norms but those after the last stage
    layer_scale: PerStage[float | None] = 1e-5  # initial value; None: no such factor
    res_scale: PerStage[float | None] = None  # initial value; None: no such factor
    residual: bool = True  # False: no skip connections, an ablation
    drop_path: float = 0.0  # in [0, 1), of the last block; rises linearly from 0 at the first

    in_channels: int = 3
    input_size: Size | None = None  # (H, W) of the image; needed by mixers whose weights fix the map
    in_patch_size: int = 7  # stem: kernel, stride (2 or 1 for images of about 32 pixels) and padding
    in_stride: int = 4
    in_pad: int = 2
    stem_norm: NormName = "none"  # after the stem's convolution
    downsamples: PerStage[bool] = True  # after each stage but the last; a change of width always has one
    down_patch_size: int = 3
    down_stride: int = 2
    down_pad: int = 1
    down_norm: NormName = "none"  # before the convolution
    patch_init: Literal["torch", "truncated_normal"] = "torch"  # of stem and downsampling convolutions
    pos_embeds: tuple[Size | None, ...] = ()  # (H, W) of a position table before the blocks of each stage

    num_classes: int = 1000  # 0: the output is the pooled features [B, C]
    head: Literal["linear", "mlp"] = "linear"
    head_norm: NormName = "group"
    norm_after_pool: bool = False  # the head takes the mean over the map first, then its norm
    head_dropout: float = 0.0  # in [0, 1), before the last linear layer

    def validate(self) -> None:
        stages = len(self.depths)
        self.require(
            0 < stages == len(self.dims),
            f"depths and dims need one entry a stage, got {self.depths} and {self.dims}",
        )
        per_stage = ("mixers", "channel_mixers", "norms", "layer_scale", "res_scale", "downsamples")
        for name in per_stage:
            self.require(
                len(self.per_stage(name)) == stages,
                f"{name} needs one value, or one for each of {stages} stages, got {getattr(self, name)}",
            )
        self.require(
            len(self.pos_embeds) in (0, stages),
            f"pos_embeds needs one entry for each of {stages} stages, got {self.pos_embeds}",
        )
        self.require_positive("depths", "dims", "norm_eps", "in_channels", "in_patch_size", "in_stride")
        self.require_positive("down_patch_size", "down_stride")
        self.require_within(0, 1, "drop_path", "head_dropout")
        self.require_within(0, math.inf, "num_classes", "in_pad", "down_pad")
        self._require_sizes()

    def _require_sizes(self) -> None:
        least = self.least_side()
        self.require(
            self.input_size is None or min(self.input_size) >= least,
            f"input_size must be at least {least} by {least}, got {self.input_size}",
        )
        for table, size in zip(self.pos_embeds, self.map_sizes(), strict=False):
            self.require(
                None in (table, size) or table == size,
                f"a position table is for maps of {table}, but input_size {self.input_size} gives a map of {size}",
            )

    def per_stage(self, name: str) -> tuple[Any, ...]:
        """The field `name` as a tuple with one value for each stage."""
        value = getattr(self, name)
        whole = not isinstance(value, tuple) or isinstance(value, Spec)
        return (value,) * len(self.depths) if whole else value

    def window(self, stage: int) -> Window | None:
        """How the convolution before a stage samples its input; None where there is none."""
        if stage == 0:
            return Window(self.in_patch_size, self.in_stride, self.in_pad)
        if self.per_stage("downsamples")[stage - 1] or self.dims[stage - 1] != self.dims[stage]:
            return Window(self.down_patch_size, self.down_stride, self.down_pad)
        return None

    def map_sizes(self) -> tuple[Size | None, ...]:
        """(H, W) of the map of each stage, None where `input_size` is not given."""
        sizes: list[Size | None] = []
        size = self.input_size
        for stage in range(len(self.depths)):
            window = self.window(stage)
            if size is not None and window is not None:
                size = (window.output_side(size[0]), window.output_side(size[1]))
            sizes.append(size)
        return tuple(sizes)

    def least_side(self) -> int:
        """The shortest side of an image whose maps all have a place."""
        side = 1
        for stage in reversed(range(len(self.depths))):
            window = self.window(stage)
            side = side if window is None else window.least_side(side)
        return side


class NoSkip(nn.Module):
    """Zeros in place of the skip connection, for the net without any."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


class Stage(nn.Module):
    """Blocks over maps of one size, after the convolution that leads to it and a position table, if any."""

    def __init__(self, config: MetaFormerConfig, index: int) -> None:
        super().__init__()
        self.downsample: nn.Module = nn.Identity()
        window, dim = config.window(index), config.dims[index]
        if index > 0 and window is not None:
            dim_in = config.dims[index - 1]
            norm = make_norm(config.down_norm, dim_in, config.norm_eps, config.norm_bias)
            self.downsample = PatchConv(dim_in, dim, window, norm, norm_first=True, init=config.patch_init)
        table = config.pos_embeds[index] if config.pos_embeds else None
        self.position = nn.Identity() if table is None else PositionTable(dim, table)
        before, blocks = sum(config.depths[:index]), max(sum(config.depths) - 1, 1)
        self.blocks = nn.Sequential(
            *(
                _block(config, index, config.drop_path * (before + j) / blocks)
                for j in range(config.depths[index])
            )
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y_BCHW: Tensor = self.blocks(self.position(self.downsample(x_BCHW)))
        return y_BCHW


def _block(config: MetaFormerConfig, stage: int, drop_path: float) -> Block:
    dim = config.dims[stage]
    layer_scale = config.per_stage("layer_scale")[stage]
    res_scale = config.per_stage("res_scale")[stage]

    def around(branch: nn.Module) -> Residual:
        if getattr(branch, "takes_time", False):
            branch = OneStep(branch)
        skip = None if res_scale is None else Scale(dim, res_scale)
        return Residual(
            branch,
            make_norm(config.per_stage("norms")[stage], dim, config.norm_eps, config.norm_bias),
            scale=None if layer_scale is None else Scale(dim, layer_scale),
            skip=skip if config.residual else NoSkip(),
            drop_path=drop_path,
        )

    mixer = make_mixer(config.per_stage("mixers")[stage], dim, config.map_sizes()[stage])
    channel_mixer: Spec | None = config.per_stage("channel_mixers")[stage]
    return Block(
        around(mixer),
        nn.Identity() if channel_mixer is None else around(make_channel_mixer(channel_mixer, dim)),
    )


class Head(nn.Module):
    """Norm and mean over the map, in either order, then a classifier: x_BCHW to logits [B, num_classes]."""

    def __init__(self, config: MetaFormerConfig) -> None:
        super().__init__()
        dim, classes = config.dims[-1], config.num_classes
        self.norm = make_norm(config.head_norm, dim, config.norm_eps)
        self.norm_after_pool = config.norm_after_pool
        self.classifier: nn.Module = nn.Identity()
        if classes:
            kind = LinearClassifier if config.head == "linear" else MlpClassifier
            self.classifier = kind(dim, classes, config.head_dropout)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        if self.norm_after_pool:
            x_BC11 = self.norm(x_BCHW.mean((2, 3), keepdim=True))
        else:
            x_BC11 = self.norm(x_BCHW).mean((2, 3), keepdim=True)
        y_BK: Tensor = self.classifier(x_BC11.flatten(1))
        return y_BK


class LinearClassifier(nn.Module):
    """One linear layer: x_BC to logits of K classes."""

    def __init__(self, dim: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.dropout = Dropout(dropout)
        self.fc = truncated_normal(nn.Linear(dim, classes))

    def forward(self, x_BC: Tensor) -> Tensor:
        y_BK: Tensor = self.fc(self.dropout(x_BC))
        return y_BK


class MlpClassifier(nn.Module):
    """fc(norm(relu(expand(x))^2)) with 4 times as many hidden channels: x_BC to logits of K classes."""

    def __init__(self, dim: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.expand = truncated_normal(nn.Linear(dim, 4 * dim))
        self.activation = SquaredReLU()
        self.norm = nn.LayerNorm(4 * dim)
        self.dropout = Dropout(dropout)
        self.fc = truncated_normal(nn.Linear(4 * dim, classes))

    def forward(self, x_BC: Tensor) -> Tensor:
        y_BK: Tensor = self.fc(self.dropout(self.norm(self.activation(self.expand(x_BC)))))
        return y_BK


class MetaFormer(Model):
    """Image classifier, or with `feature_levels` a backbone that returns maps.

    It knows no spike time (`stream_axis` is None): a mixer that takes time works on one step.

    Example:
        logits_BK = MetaFormer(MetaFormerConfig(num_classes=10))(image_BCHW)
    """

    Config: ClassVar[type[ModelConfig]] = MetaFormerConfig

    def __init__(self, config: MetaFormerConfig) -> None:
        super().__init__(config)
        self.require_feature_levels()
        levels = config.feature_levels
        # Stages above the last level that is asked for would never run.
        stages = max(levels) + 1 if levels else len(config.depths)
        window = config.window(0)
        assert window is not None
        stem_norm = make_norm(config.stem_norm, config.dims[0], config.norm_eps, config.norm_bias)
        self.stem = PatchConv(config.in_channels, config.dims[0], window, stem_norm, init=config.patch_init)
        self.stages = nn.ModuleList(Stage(config, index) for index in range(stages))
        self.norms = nn.ModuleDict(
            {
                str(level): make_norm(config.per_stage("norms")[level], config.dims[level], config.norm_eps)
                for level in levels
            }
        )
        self.head = None if levels else Head(config)

    def forward(self, *inputs: Tensor) -> Any:
        """image [B, in_channels, H, W] to logits [B, num_classes], or to a list of maps, finest first.

        Raises:
            ShapeError: not such an image, too small for the last map, or not of the size that a mixer or a
                position table is for.
        """
        (x_BCHW,) = inputs
        maps = self.forward_features(x_BCHW)
        if self.head is None:
            return [self.norms[str(level)](maps[level]) for level in self.config.feature_levels]
        return self.head(maps[-1])

    def forward_features(self, x_BCHW: Tensor) -> list[Tensor]:
        """The map that each stage gives, without a norm."""
        require_image(x_BCHW, self.config.in_channels, least=self.config.least_side())
        maps = [self.stem(x_BCHW)]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return maps[1:]

    def feature_info(self) -> tuple[FeatureInfo, ...]:
        """Stride and channels of all levels, whichever are built."""
        windows = [self.config.window(stage) for stage in range(len(self.config.depths))]
        strides = [1 if window is None else window.stride for window in windows]
        return tuple(
            FeatureInfo(math.prod(strides[: level + 1]), dim) for level, dim in enumerate(self.config.dims)
        )

    def example(self, batch_size: int, generator: torch.Generator | None = None) -> Batch:
        """A batch with "image": normal noise of `input_size`, or of 32 by 32 where the net allows it."""
        side = max(32, self.config.least_side())
        size = self.config.input_size or (side, side)
        return Batch({"image": torch.randn(batch_size, self.config.in_channels, *size, generator=generator)})

    @classmethod
    def layouts(cls, config: Any) -> Mapping[str, Layout]:
        """The names of the two papers' code and of timm; see `metaformer_layouts`."""
        return metaformer_layouts(config)
