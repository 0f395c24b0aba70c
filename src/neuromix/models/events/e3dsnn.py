"""E-3DSNN: a spiking net of sparse convolutions over voxels (Qiu et al., AAAI 2025).

A point cloud is mostly empty space, and a spiking net mostly silent. So its convolutions visit the occupied voxels
only (submanifold convolutions never make new ones), and between them stand integer neurons, n in 0..4, which are four
binary spikes when the net runs. The first convolution and its neurons are the code: there is no other encoder.

Skip connections carry the membrane, not spikes. A classifier takes the mean over the voxels of the last stage; the
segmenter goes back up with inverse convolutions, which give each stage its own voxels again.

Shapes: T spike time (1, or the binary steps of a converted net), N voxels of all samples, C channels, B samples,
K classes. Default values: the T net for ModelNet40.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from neuromix.core.batch import Batch, Ragged
from neuromix.core.config import Spec
from neuromix.core.errors import ConfigError, ShapeError
from neuromix.core.layout import Layout
from neuromix.core.model import Field, Model, ModelConfig
from neuromix.core.reference import load_reference, reference
from neuromix.core.registry import Paper, register_model
from neuromix.core.time import Repeat
from neuromix.layers.init import truncated_normal
from neuromix.layers.residual import Residual
from neuromix.layers.sites import Neighbours, Sites
from neuromix.layers.sparse_conv import SiteNorm, SparseConv3d
from neuromix.models.events.e3dsnn_layouts import decoder_rules, encoder_rules, with_prefixes
from neuromix.neurons.neuron import make_neuron

PAPER = Paper(
    "Efficient 3D Recognition with Event-driven Spike Sparse Convolution",
    2025,
    "AAAI",
    "https://arxiv.org/abs/2412.07360",
)


@dataclass(frozen=True)
class E3DSNNConfig(ModelConfig):
    """Config of E3DSNN."""

    in_channels: int = 6  # features of a voxel: a point's coordinates and normal
    stem_dim: int = 16
    dims: tuple[int, ...] = (
        16,
        32,
        64,
        128,
    )  # channels of each stage, which has half the resolution of the last
    depths: tuple[int, ...] = (1, 1, 1, 1)  # blocks of each stage
    neuron: Spec = Spec("i_lif", {"levels": 4})
    # How much larger than the largest voxel coordinate the grid is, >= 1. With 1 a stage of odd size loses its last
    # layer of voxels, and which are lost hangs on the other samples of the batch.
    margin: int = 96
    norm_eps: float = 1e-3
    norm_momentum: float = 0.01
    num_classes: int = 40

    def validate(self) -> None:
        self.require_positive("in_channels", "stem_dim", "dims", "margin", "norm_eps", "num_classes")
        self.require(
            len(self.dims) == len(self.depths) > 0,
            f"dims and depths need one entry a stage, got {self.dims} and {self.depths}",
        )
        self.require(min(self.depths) >= 0, f"depths must be 0 or more, got {self.depths}")


@dataclass(frozen=True)
class E3DSNNSegConfig(E3DSNNConfig):
    """Config of E3DSNNSeg."""

    RELEASED: ClassVar[Mapping[str, Any]] = {"margin": 1}

    in_channels: int = 4  # coordinates and strength
    stem_dim: int = 64
    dims: tuple[int, ...] = (64, 128, 128, 256)
    depths: tuple[int, ...] = (2, 2, 2, 2)
    decoder_dims: tuple[int, ...] = (256, 256, 256, 256)  # of each stage, from the finest
    num_classes: int = 19

    def validate(self) -> None:
        super().validate()
        self.require_positive("decoder_dims")
        self.require(
            len(self.decoder_dims) == len(self.dims),
            f"decoder_dims needs one entry a stage, got {self.decoder_dims} for {len(self.dims)} stages",
        )


class ConvNorm(nn.Module):
    """A sparse convolution and the norm behind it."""

    def __init__(self, config: E3DSNNConfig, in_dim: int, out_dim: int, kernel: int = 3) -> None:
        super().__init__()
        # As the authors: only the submanifold ones are drawn anew, the others start as their library has them.
        init = "truncated_normal" if kernel % 2 else "kaiming_uniform"
        self.conv = SparseConv3d(in_dim, out_dim, kernel, init=init)  # type: ignore[arg-type]
        self.norm = SiteNorm(out_dim, config.norm_eps, config.norm_momentum)

    def forward(self, x_TNC: Tensor, neighbours: Neighbours) -> Tensor:
        y_TNC: Tensor = self.norm(self.conv(x_TNC, neighbours))
        return y_TNC


class SpikingConvs(nn.Module):
    """Submanifold convolutions with norms, and a neuron between each two."""

    def __init__(self, config: E3DSNNConfig, *dims: int) -> None:
        super().__init__()
        pairs = list(itertools.pairwise(dims))
        self.convs = nn.ModuleList(ConvNorm(config, *pair) for pair in pairs)
        self.neurons = nn.ModuleList(make_neuron(config.neuron) for _ in pairs[1:])

    def forward(self, x_TNC: Tensor, neighbours: Neighbours) -> Tensor:
        y_TNC: Tensor = self.convs[0](x_TNC, neighbours)
        for neuron, conv in zip(self.neurons, self.convs[1:], strict=True):
            y_TNC = conv(neuron(y_TNC), neighbours)
        return y_TNC


class Block(nn.Module):
    """One convolution and then two, each behind a neuron and around a skip connection."""

    def __init__(self, config: E3DSNNConfig, dim: int) -> None:
        super().__init__()
        self.first = Residual(SpikingConvs(config, dim, dim), make_neuron(config.neuron))
        self.second = Residual(SpikingConvs(config, dim, dim, dim), make_neuron(config.neuron))

    def forward(self, x_TNC: Tensor, neighbours: Neighbours) -> Tensor:
        y_TNC: Tensor = self.second(self.first(x_TNC, neighbours), neighbours)
        return y_TNC


class Level(NamedTuple):
    """What the net holds at one resolution."""

    x_TNC: Tensor
    sites: Sites


class Stage(nn.Module):
    """Down to half the resolution, then blocks."""

    def __init__(self, config: E3DSNNConfig, in_dim: int, dim: int, depth: int) -> None:
        super().__init__()
        self.neuron = make_neuron(config.neuron)
        self.down = ConvNorm(config, in_dim, dim, kernel=2)
        self.blocks = nn.ModuleList(Block(config, dim) for _ in range(depth))

    def forward(self, level: Level) -> Level:
        sites, neighbours = level.sites.down()
        y_TNC = self.down(self.neuron(level.x_TNC), neighbours)
        for block in self.blocks:
            y_TNC = block(y_TNC, sites.neighbours())
        return Level(y_TNC, sites)


class Encoder(nn.Module):
    """Stem and stages: features of voxels to what each level holds, the stem's first."""

    def __init__(self, config: E3DSNNConfig) -> None:
        super().__init__()
        dims = (config.stem_dim, *config.dims)
        self.stem = SpikingConvs(config, config.in_channels, *3 * dims[:1])
        pairs = zip(dims, dims[1:], config.depths, strict=False)
        self.stages = nn.ModuleList(Stage(config, *sizes) for sizes in pairs)

    def forward(self, x_TNC: Tensor, sites: Sites) -> list[Level]:
        levels = [Level(self.stem(x_TNC, sites.neighbours()), sites)]
        for stage in self.stages:
            levels.append(stage(levels[-1]))
        return levels


class Fuse(nn.Module):
    """What comes from below and what the encoder had there, through two linear layers of spikes."""

    def __init__(self, config: E3DSNNConfig, dim: int, skip_dim: int) -> None:
        super().__init__()
        self.linears = nn.ModuleList(truncated_normal(nn.Linear(n, dim)) for n in (dim + skip_dim, dim))
        self.norms = nn.ModuleList(SiteNorm(dim, config.norm_eps, config.norm_momentum) for _ in range(2))
        self.neurons = nn.ModuleList(make_neuron(config.neuron) for _ in range(2))

    def forward(self, x_TNC: Tensor, skip_TNC: Tensor) -> Tensor:
        y_TNC = torch.cat([x_TNC, skip_TNC], -1)
        for neuron, linear, norm in zip(self.neurons, self.linears, self.norms, strict=True):
            y_TNC = norm(linear(neuron(y_TNC)))
        return y_TNC


class DecoderStage(nn.Module):
    """Back to the voxels of the finer level."""

    def __init__(self, config: E3DSNNConfig, in_dim: int, dim: int, skip_dim: int) -> None:
        super().__init__()
        self.neuron = make_neuron(config.neuron)
        self.up = ConvNorm(config, in_dim, dim, kernel=2)
        self.fuse = Residual(Fuse(config, dim, skip_dim))

    def forward(self, x_TNC: Tensor, finer: Level) -> Tensor:
        up_TNC = self.up(self.neuron(x_TNC), finer.sites.down().neighbours.swapped())
        y_TNC: Tensor = self.fuse(up_TNC, finer.x_TNC)
        return y_TNC


class _VoxelNet(Model):
    """What the classifier and the segmenter share."""

    inputs = (Field("cloud", "NC"),)

    def __init__(self, config: E3DSNNConfig) -> None:
        super().__init__(config)
        self.show = Repeat(1, nn.Identity())  # where the time of a net in binary steps begins
        self.encoder = Encoder(config)
        self.require_feature_levels()

    def levels(self, cloud: Ragged) -> list[Level]:
        """What each level holds, from the stem's on, for a cloud of voxels.

        Raises:
            ShapeError: other features, or what `Sites.of` refuses.
        """
        channels = self.config.in_channels
        if (
            not isinstance(cloud, Ragged)
            or cloud.values.shape[1:] != (channels,)
            or not cloud.values.is_floating_point()
        ):
            given = (
                f"{cloud.values.dtype} {list(cloud.values.shape)}"
                if isinstance(cloud, Ragged)
                else type(cloud)
            )
            raise ShapeError(
                f"expected a Ragged cloud of floating-point features [N, {channels}], got {given}"
            )
        sites = Sites.of(cloud, self.config.margin)
        levels: list[Level] = self.encoder(self.show(cloud.values[None]), sites)
        return levels

    def example(self, batch_size: int, generator: torch.Generator | None = None) -> Batch:
        """Surfaces of boxes, of 100 to 200 voxels."""
        coords, features = [], []
        for _ in range(batch_size):
            sides = torch.randint(4, 7, (3,), generator=generator)
            grid_N3 = torch.cartesian_prod(*(torch.arange(int(side)) for side in sides))
            surface_N3 = grid_N3[((grid_N3 == 0) | (grid_N3 == sides - 1)).any(1)]
            coords.append(surface_N3)
            features.append(torch.randn(len(surface_N3), self.config.in_channels, generator=generator))
        return Batch({"cloud": Ragged.of(features, coords=coords)})


_SHARED: Mapping[str, Any] = {
    "paper": PAPER,
    "family": "spiking",
    "provenance": "authors' code",
    "no_compile": "how many voxels a stage has depends on the cloud",
}


# After some hundred steps running statistics of momentum 0.01 still hold much of what they began with.
_SHORT: Mapping[str, Any] = {"norm_momentum": 0.1}


def _published(parameters: int, millions: float, **figures: float) -> dict[str, Any]:
    return {"parameters": parameters, "parameters_m": millions, **figures}


@register_model(
    "e3dsnn",
    **_SHARED,
    tasks=("point-cloud-classification",),
    variants={
        "e3dsnn_t": {},
        "e3dsnn_s": {"stem_dim": 24, "dims": (24, 48, 96, 160)},
        "e3dsnn_l": {"stem_dim": 64, "dims": (64, 128, 128, 256), "depths": (2, 2, 2, 2)},
        "e3dsnn_h": {"stem_dim": 64, "dims": (96, 192, 288, 384), "depths": (2, 2, 2, 2)},
        # Ours, for clouds of some hundred voxels and short trainings.
        "e3dsnn_nano": {
            "stem_dim": 16,
            "dims": (16, 32, 64),
            "depths": (1, 1, 1),
            "num_classes": 4,
            **_SHORT,
        },
    },
    tiny={"stem_dim": 6, "dims": (6, 8), "depths": (1, 1), "num_classes": 3},
    published={
        "e3dsnn_t": _published(1_874_216, 1.87, top1=91.7),
        "e3dsnn_s": _published(3_271_144, 3.27),
        "e3dsnn_l": _published(17_330_600, 17.33),
        "e3dsnn_h": _published(46_574_248, 46.57),
    },
)
class E3DSNN(_VoxelNet):
    """Classifier: a cloud of voxels, features [N, C] with an extra "coords" [N, 3], to logits [B, K].

    The head is linear on the membrane of the last stage's voxels, and the logits are the means over each sample's.
    """

    Config: ClassVar[type[ModelConfig]] = E3DSNNConfig

    def __init__(self, config: E3DSNNConfig) -> None:
        super().__init__(config)
        self.head = truncated_normal(nn.Linear(config.dims[-1], config.num_classes))

    def forward(self, cloud: Ragged) -> Tensor:  # type: ignore[override]
        x_TNC, sites = self.levels(cloud)[-1]
        logits_NK: Tensor = self.head(x_TNC).mean(0)
        sum_BK = logits_NK.new_zeros(sites.size, logits_NK.shape[1]).index_add(0, sites.batch_N, logits_NK)
        # Where a small margin has cost a sample all its voxels there is nothing to go by: zeros.
        return sum_BK / sites.counts().clamp(min=1)[:, None]

    @classmethod
    def layouts(cls, config: E3DSNNConfig) -> Mapping[str, Layout]:
        return with_prefixes(encoder_rules())


@register_model(
    "e3dsnn_seg",
    **_SHARED,
    tasks=("point-cloud-segmentation",),
    variants={
        "e3dsnn_seg": {},
        # Ours, for small scenes and short trainings.
        "e3dsnn_seg_nano": {
            "stem_dim": 16,
            "dims": (16, 32, 48),
            "depths": (1, 1, 1),
            "decoder_dims": (32, 32, 32),
            **_SHORT,
        },
    },
    tiny={"stem_dim": 6, "dims": (6, 8), "depths": (1, 2), "decoder_dims": (10, 8), "num_classes": 3},
    published={"e3dsnn_seg": _published(20_049_683, 20.1, miou=69.4)},
)
class E3DSNNSeg(_VoxelNet):
    """Segmenter: a cloud of voxels, features [N, C] with an extra "coords" [N, 3], to a Ragged of logits [N, K]."""

    Config: ClassVar[type[ModelConfig]] = E3DSNNSegConfig

    def __init__(self, config: E3DSNNSegConfig) -> None:
        super().__init__(config)
        outputs, skips = config.decoder_dims, (config.stem_dim, *config.dims)
        inputs = (*outputs[1:], config.dims[-1])
        sizes = zip(inputs, outputs, skips, strict=False)
        self.decoder = nn.ModuleList(DecoderStage(config, *each) for each in sizes)
        self.head = truncated_normal(nn.Linear(outputs[0], config.num_classes))

    def forward(self, cloud: Ragged) -> Ragged:  # type: ignore[override]
        *finer, last = self.levels(cloud)
        x_TNC = last.x_TNC
        for stage, level in zip(reversed(self.decoder), reversed(finer), strict=True):
            x_TNC = stage(x_TNC, level)
        return Ragged(self.head(x_TNC).mean(0), cloud.offsets)

    @classmethod
    def layouts(cls, config: E3DSNNSegConfig) -> Mapping[str, Layout]:
        return with_prefixes([*encoder_rules(), *decoder_rules()])


@reference("e-3dsnn")
def read_authors(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> nn.Module:
    """Constructor values of the authors' nets; sizes, and whether it is a segmenter, the weights tell."""
    plain = {re.sub(r"^(module\.)?(backbone\.)?", "", name): tensor for name, tensor in state.items()}
    if "stem.0.weight" not in plain or "final.weight" not in plain:
        raise ConfigError("the weights have no stem.0 and final: not a net of the E-3DSNN authors")
    stages, ups = _numbered(plain, r"enc\.(\d+)\."), _numbered(plain, r"dec\.(\d+)\.")
    kind = "segmenter" if ups else "classifier"
    rule = str(config.get("spatial_shape_rule", "max+1" if ups else "max+96"))
    if not re.fullmatch(r"max\+\d+", rule):
        raise ConfigError(f"spatial_shape_rule is max+NUMBER, got {rule!r}")
    values: dict[str, Any] = {
        "in_channels": plain["stem.0.weight"].shape[-1],
        "stem_dim": len(plain["stem.0.weight"]),
        "dims": tuple(len(plain[f"enc.{i}.down.1.weight"]) for i in range(stages)),
        "depths": tuple(_numbered(plain, rf"enc\.{i}\.blocks\.(\d+)\.") for i in range(stages)),
        "neuron": Spec("i_lif", {"levels": int(config.get("spike_levels", 4))}),
        "margin": int(rule.removeprefix("max+")),
        "norm_eps": float(config.get("bn_eps", 1e-3)),
        "norm_momentum": float(config.get("bn_momentum", 0.01)),
        "num_classes": len(plain["final.weight"]),
    }
    if kind == "classifier":
        return load_reference("e3dsnn", E3DSNNConfig(**values), state)
    decoder = tuple(len(plain[f"dec.{i}.up.1.weight"]) for i in range(ups))
    return load_reference("e3dsnn_seg", E3DSNNSegConfig(**values, decoder_dims=decoder), state)


def _numbered(state: Mapping[str, Tensor], pattern: str) -> int:
    """How many different numbers stand in names at a place."""
    return len({match[1] for name in state if (match := re.match(pattern, name))})
