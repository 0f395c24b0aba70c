"""VGG as a skeleton: a list of 3x3 convolutions and poolings (Simonyan & Zisserman, ICLR 2015); see `cnn`.

Shapes: T spike time, B batch, C channels, H W feature map. Default values: VGG-11.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, TypeAlias

from torch import nn

from neuromix.core.model import FeatureInfo, ModelConfig
from neuromix.core.time import Repeat
from neuromix.models.vision.cnn import (
    CNN,
    Activate,
    CNNConfig,
    Folded,
    Head,
    MeanPool,
    Unit,
    make_conv,
    make_dropout,
    make_pool,
)

Layer: TypeAlias = int | Literal["A", "M"]


class Place(NamedTuple):
    """Where a convolution of the list stands: what readers of other people's names count by.

    Attributes:
        stage, unit: of our names; `stage` is also the number of poolings before it.
        layer: its number in the list, in which poolings count.
        number: its number among the convolutions.
    """

    stage: int
    unit: int
    layer: int
    number: int

    @property
    def path(self) -> str:
        """Of the unit in the model."""
        return f"stages.{self.stage}.{self.unit}"

    @property
    def conv(self) -> str:
        """Of its convolution and norm; the first one sees the image, before there is time."""
        return f"{self.path}.conv.stem" if self.number == 0 else f"{self.path}.conv"


VGG11: tuple[Layer, ...] = (64, "A", 128, "A", 256, 256, "A", 512, 512, "A", 512, 512, "A")


@dataclass(frozen=True)
class VGGConfig(CNNConfig):
    """Config of VGG."""

    # In order: the width of a 3x3 convolution with its norm and activation, "A" average or "M" maximum pooling by 2.
    layers: tuple[Layer, ...] = VGG11
    map_side: int | None = None  # the map is pooled to this side and flattened; None: mean over the map
    hidden: tuple[int, ...] = ()  # widths of the linear layers before the classifier
    hidden_bias: bool = True  # of these linear layers
    head_bias: bool = True  # of the classifier
    dropout_before_pool: bool = True  # False: a pooling takes the place of the dropout

    def validate(self) -> None:
        super().validate()
        self.require(bool(self.layers) and isinstance(self.layers[0], int), "layers must start with a width")
        self.require_positive("hidden")
        self.require(all(width > 0 for width in self.widths), f"widths must be positive, got {self.layers}")
        self.require(
            self.map_side is None or self.map_side > 0, f"map_side must be positive, got {self.map_side}"
        )

    @property
    def places(self) -> tuple[Place, ...]:
        """The convolutions, in order."""
        places: list[Place] = []
        stage, unit = 0, 0
        for layer, width in enumerate(self.layers):
            if isinstance(width, str):
                stage, unit = stage + 1, 0
            else:
                places.append(Place(stage, unit, layer, len(places)))
                unit += 1
        return tuple(places)

    @property
    def widths(self) -> tuple[int, ...]:
        """Widths of the convolutions."""
        return tuple(layer for layer in self.layers if isinstance(layer, int))


class VGG(CNN):
    """3x3 convolutions and pooling, one behind the other, as `layers` lists them.

    Each convolution is followed by norm, activation and dropout. The last map is pooled and flattened, and goes
    through linear layers with activation and dropout to the classifier. A stage ends with a pooling.
    """

    Config: ClassVar[type[ModelConfig]] = VGGConfig

    def __init__(self, config: VGGConfig) -> None:
        super().__init__(
            config, _make_stages(config), _make_head(config), stem=nn.Identity(), tail=nn.Identity()
        )
        # Every pooling halves the map, and something of it must be left.
        self.least_side = 2 ** sum(isinstance(layer, str) for layer in config.layers)

    def feature_info(self) -> tuple[FeatureInfo, ...]:
        levels: list[FeatureInfo] = []
        stride, dim = 1, self.config.in_channels
        for stage in _split_at_pools(self.config.layers):
            dim = next((layer for layer in reversed(stage) if isinstance(layer, int)), dim)
            stride *= 2 if isinstance(stage[-1], str) else 1
            levels.append(FeatureInfo(stride, dim))
        return tuple(levels)


def _split_at_pools(layers: Sequence[int | str]) -> list[list[int | str]]:
    """The layers in groups that end with a pooling (the last one need not)."""
    groups: list[list[int | str]] = [[]]
    for layer in layers:
        groups[-1].append(layer)
        if isinstance(layer, str):
            groups.append([])
    return [group for group in groups if group]


def _make_stages(config: VGGConfig) -> list[nn.Module]:
    stages: list[nn.Module] = []
    dim, sees_image = config.in_channels, True
    for group in _split_at_pools(config.layers):
        layers: list[nn.Module] = []
        for place, layer in enumerate(group):
            if isinstance(layer, str):
                layers.append(Folded(make_pool("avg" if layer == "A" else "max", 2)))
                continue
            conv = make_conv(config, dim, layer, 3, bias=config.bias, norm=True)
            conv = Repeat(config.time_steps, conv) if sees_image else conv
            is_pooled = any(isinstance(following, str) for following in group[place + 1 : place + 2])
            dropout = config.dropout if config.dropout_before_pool or not is_pooled else 0.0
            layers.append(Unit(conv, Activate(config.activation), make_dropout(dropout)))
            dim, sees_image = layer, False
        stages.append(nn.Sequential(*layers))
    return stages


def _make_head(config: VGGConfig) -> Head:
    side = config.map_side
    dims = (config.widths[-1] * (side or 1) ** 2, *config.hidden)
    hidden = [
        nn.Sequential(
            nn.Linear(dim, dim_out, config.hidden_bias),
            Activate(config.activation),
            make_dropout(config.dropout),
        )
        for dim, dim_out in itertools.pairwise(dims)
    ]
    pool = MeanPool() if side is None else nn.AdaptiveAvgPool2d(side)
    return Head(pool, hidden, nn.Linear(dims[-1], config.num_classes, config.head_bias))
