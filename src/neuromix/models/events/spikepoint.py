"""SpikePoint: action recognition from the events of a camera, as points and without frames (Ren et al., ICLR 2024).

A clip is a set of points (x, y, t), taken apart into groups of neighbours (`data.events.grouping`): how far each
neighbour lies from the middle of its group, without signs, and the lowest corner of the group, which makes up for
the signs. Numbers in [0, 1] all, they become spike trains, and from there on the net adds and never multiplies: each
of its layers is a convolution of width 1 that spikes feed, groups and neighbours meet only where the largest is
taken. So their order does not matter.

No code was released: this is a re-derivation from the paper. The widths are those that give the published numbers of
parameters; what the paper leaves open is a field of the Config, or of the representation.

Shapes: T spike time, B batch, X = 3 axes of a point (x, y, t), M groups, K neighbours and then the corner, C channels.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal

import torch
from torch import Tensor, nn

from neuromix.core.batch import Batch
from neuromix.core.config import Spec
from neuromix.core.errors import ShapeError
from neuromix.core.layout import Layout, rename, reshape
from neuromix.core.model import Field, Model, ModelConfig
from neuromix.core.reference import load_reference, reference
from neuromix.core.registry import Paper, register_model
from neuromix.core.time import fold
from neuromix.layers.conv import ConvBN
from neuromix.layers.rate_coder import Coding, RateCoder
from neuromix.layers.residual import Residual
from neuromix.layers.spiking_mlp import SpikingDownsample
from neuromix.neurons.neuron import make_neuron

AXES = 3


def rectangle_lif(threshold: float = 0.5, decay: float = 0.25, half_width: float = 0.5) -> Spec:
    """The neuron of the paper, with a rectangle of height 1 for the derivative of a spike.

    u[t] = decay*u[t-1]*(1 - s[t-1]) + x[t], s[t] = [u[t] > threshold]; ds/du is 1 where |u - threshold| < half_width.
    """
    width = 2 * half_width
    return Spec(
        "lif",
        {
            "decay": decay,
            "decay_input": False,
            "v_threshold": threshold,
            "v_reset": 0.0,
            "compare": ">",
            "detach_reset": False,
            "surrogate": ["rectangle", {"width": width, "scale": width, "closed": False}],
        },
    )


@dataclass(frozen=True)
class SpikePointConfig(ModelConfig):
    """Config of SpikePoint.

    `points`, `groups`, `neighbours` and `window` say how a task of events gives the clips; the net itself takes any
    number of groups and neighbours.
    """

    # Channels of the two local extractors, then of each global stage; even.
    dims: tuple[int, ...] = (64, 128, 256, 512)
    num_classes: int = 10
    votes: int = 10  # neurons of the head that vote for a class
    time_steps: int = 16
    neuron: Spec = rectangle_lif()
    coding: Coding = "bernoulli"  # or "low-discrepancy": the same spikes every time
    # What the largest neighbour, and the largest group, is taken of: membrane potentials, or the spikes that neurons
    # make of them. The neurons stand behind or before the maximum.
    local_pool: Literal["membrane", "spikes"] = "membrane"
    global_pool: Literal["membrane", "spikes"] = "spikes"
    # How norms begin: so that few groups fire at first, see `_start_sparse`, or as PyTorch has them.
    start: Literal["sparse", "usual"] = "sparse"
    points: int = 1024  # drawn from a clip
    groups: int = 512  # M
    neighbours: int = 24  # K
    window: int | None = None  # microseconds of a clip; None: the whole recording

    def validate(self) -> None:
        self.require_positive("dims", "num_classes", "votes", "time_steps", "points", "groups", "neighbours")
        self.require(
            len(self.dims) > 1, f"dims needs the local width and one or more others, got {self.dims}"
        )
        self.require(
            all(dim % 2 == 0 for dim in self.dims), f"dims are halved inside, so even; got {self.dims}"
        )
        self.require(self.window is None or self.window > 0, f"window must be positive, got {self.window}")


class Bottleneck(nn.Module):
    """Conv-BN (C -> C/2) -> neuron -> Conv-BN (C/2 -> C), on spikes [T, B, C, M, K]."""

    def __init__(self, dim: int, neuron: Spec) -> None:
        super().__init__()
        self.reduce = ConvBN(dim, dim // 2)
        self.neuron = make_neuron(neuron)
        self.expand = ConvBN(dim // 2, dim)

    def forward(self, x_TBCMK: Tensor) -> Tensor:
        return fold(self.expand, self.neuron(fold(self.reduce, x_TBCMK)))


class Stage(nn.Module):
    """[neuron ->] Conv-BN -> residual bottleneck, whose trunk carries membrane potentials.

    Args:
        takes_spikes: the input is spikes already, and no neuron stands before the convolution.
    """

    def __init__(self, dim: int, out_dim: int, neuron: Spec, *, takes_spikes: bool = False) -> None:
        super().__init__()
        before = None if takes_spikes else make_neuron(neuron)
        self.conv = SpikingDownsample(ConvBN(dim, out_dim), before)
        self.residual = Residual(Bottleneck(out_dim, neuron), make_neuron(neuron))

    def forward(self, x_TBCMK: Tensor) -> Tensor:
        y_TBCMK: Tensor = self.residual(self.conv(x_TBCMK))
        return y_TBCMK


def largest(x: Tensor, dim: int) -> Tensor:
    """The maximum along an axis that stays, of size 1. Its whole gradient goes to one place, the first on ties."""
    return x.max(dim, keepdim=True).values


_SMALL = (32, 64, 128, 256)


@register_model(
    "spikepoint",
    paper=Paper(
        "SpikePoint: An Efficient Point-based Spiking Neural Network for Event Cameras Action Recognition",
        2024,
        "ICLR",
        "https://arxiv.org/abs/2310.07189",
    ),
    tasks=("event-classification",),
    family="spiking",
    provenance="reconstructed",
    variants={
        "spikepoint_dvs_action": {"dims": _SMALL, "window": 500_000},
        "spikepoint_daily_dvs": {"dims": _SMALL, "num_classes": 12, "window": 1_500_000},
        "spikepoint_dvs128_gesture": {"window": 500_000},
        "spikepoint_hmdb51_dvs": {"num_classes": 51, "window": 500_000},
        "spikepoint_ucf101_dvs": {"num_classes": 101, "window": 1_000_000},
        "spikepoint_nano": {
            "dims": (16, 32, 64, 128),
            "time_steps": 8,
            "points": 256,
            "groups": 64,
            "neighbours": 12,
        },
    },
    tiny={
        "dims": (8, 12, 16),
        "num_classes": 3,
        "votes": 2,
        "time_steps": 4,
        "coding": "low-discrepancy",
        "start": "usual",
        "points": 32,
        "groups": 8,
        "neighbours": 4,
    },
    published={
        "spikepoint_dvs_action": {"parameters": 159_524, "parameters_m": 0.16, "top1": 90.6},
        "spikepoint_daily_dvs": {"parameters": 164_664, "top1": 97.92},
        "spikepoint_dvs128_gesture": {"parameters": 581_092, "parameters_m": 0.58, "top1": 98.74},
        "spikepoint_hmdb51_dvs": {"parameters": 791_422, "parameters_m": 0.79, "top1": 55.6},
        "spikepoint_ucf101_dvs": {"parameters": 1_047_922, "parameters_m": 1.05, "top1": 68.46},
    },
)
class SpikePoint(Model):
    """Groups of events [B, 3, M, K+1] in [0, 1] to class scores [B, classes], the mean votes in [0, 1].

    Along the last axis stand the K neighbours of a group and behind them its corner.
    """

    Config = SpikePointConfig
    inputs = (Field("groups", "BXMK"),)
    stream_axis = 0

    def __init__(self, config: SpikePointConfig) -> None:
        super().__init__(config)
        first = config.dims[0]
        self.coder = RateCoder(config.time_steps, config.coding)
        self.relative = Stage(AXES, first, config.neuron, takes_spikes=True)
        self.corner = Stage(AXES, first, config.neuron, takes_spikes=True)
        self.fire = nn.Identity() if config.local_pool == "membrane" else make_neuron(config.neuron)
        stages = [Stage(dim, out_dim, config.neuron) for dim, out_dim in itertools.pairwise(config.dims)]
        self.trunk = nn.Sequential(*stages)
        self.neuron = make_neuron(config.neuron)
        self.head = nn.Linear(config.dims[-1], config.votes * config.num_classes)
        self.vote = make_neuron(config.neuron)
        self.require_feature_levels()
        if config.start == "sparse":
            self._start_sparse(stages[-1])

    def _start_sparse(self, last: Stage) -> None:
        """Residual branches begin at 0, and the last trunk so low that few groups fire.

        With norms as PyTorch has them a third of the groups fire in every channel. Among all groups there is always
        one, whatever the clip: the head sees ones only, and some hundred steps of training do not change that. Here,
        were membrane potentials normal, one group or more would fire every other time.
        """
        for module in self.modules():
            if isinstance(module, Bottleneck):
                nn.init.zeros_(module.expand.bn.weight)
        silent = 0.5 ** (1 / self.config.groups)  # the chance of a group, of a normal membrane potential
        threshold = getattr(self.neuron.config, "v_threshold", 0.0)
        nn.init.constant_(last.conv.conv.bn.bias, threshold - NormalDist().inv_cdf(silent))

    @classmethod
    def task_values(cls, config: SpikePointConfig) -> Mapping[str, Any]:
        groups = {"points": config.points, "groups": config.groups, "neighbours": config.neighbours}
        return {"representation": ["groups", {**groups, "duration": config.window}], "window": config.window}

    def encode(self, *inputs: Tensor) -> Tensor:
        """Spike trains [T, B, 3, M, K+1]."""
        (groups_BXMK,) = inputs
        shape = groups_BXMK.shape
        if (
            len(shape) != 4
            or shape[1] != AXES
            or shape[3] < 2
            or 0 in shape
            or not groups_BXMK.is_floating_point()
        ):
            raise ShapeError(
                "expected groups of events, floating point [B, 3, M, K+1]: K neighbours and a corner; "
                f"got {groups_BXMK.dtype} {list(shape)}"
            )
        spikes_TBXMK: Tensor = self.coder(groups_BXMK)
        return spikes_TBXMK

    def forward_steps(self, x: Tensor) -> Tensor:
        """Spikes [T, B, 3, M, K+1] to the votes of each step, [T, B, classes]."""
        features_TBCM1 = self.features(x)
        if self.config.global_pool == "spikes":
            spikes_TBC11 = largest(self.neuron(features_TBCM1), -2)
        else:
            spikes_TBC11 = self.neuron(largest(features_TBCM1, -2))
        votes_TBV = self.vote(self.head(spikes_TBC11.flatten(2)))
        votes_TBKV: Tensor = votes_TBV.reshape(
            *votes_TBV.shape[:2], self.config.num_classes, self.config.votes
        )
        return votes_TBKV.mean(-1)

    def features(self, spikes_TBXMK: Tensor) -> Tensor:
        """Membrane potentials of the groups behind the last stage, [T, B, C, M, 1]."""
        y_TBCM1: Tensor = self.trunk(self.local_features(spikes_TBXMK))
        return y_TBCM1

    def local_features(self, spikes_TBXMK: Tensor) -> Tensor:
        """The same before the first stage that knows nothing of neighbours."""
        of_neighbours_TBCMK = self.fire(self.relative(spikes_TBXMK[..., :-1]))
        of_corner_TBCM1: Tensor = self.corner(spikes_TBXMK[..., -1:])
        return largest(of_neighbours_TBCMK, -1) + of_corner_TBCM1

    def readout(self, y: Tensor) -> Tensor:
        return y.mean(0)

    def example(self, batch_size: int, generator: torch.Generator | None = None) -> Batch:
        shape = (batch_size, AXES, self.config.groups, self.config.neighbours + 1)
        return Batch({"groups": torch.rand(shape, generator=generator)})

    @classmethod
    def layouts(cls, config: SpikePointConfig) -> Mapping[str, Layout]:
        return {"reference": Layout(*_rules(config), rename("head.*", "head.*"))}


def _rules(config: SpikePointConfig) -> list[Any]:
    stages = {"local": "relative", "centre": "corner"}
    stages |= {f"glob.{i}": f"trunk.{i}" for i in range(len(config.dims) - 1)}
    return [
        rule
        for theirs, ours in stages.items()
        for their_conv, our_conv in (
            ("cb", "conv.conv"),
            ("res.cb1", "residual.branch.reduce"),
            ("res.cb2", "residual.branch.expand"),
        )
        for rule in (
            reshape(
                f"{theirs}.{their_conv}.conv.weight",
                f"{ours}.{our_conv}.conv.weight",
                lambda weight: weight.unsqueeze(-1),
                lambda weight: weight.squeeze(-1),
            ),
            rename(f"{theirs}.{their_conv}.bn.*", f"{ours}.{our_conv}.bn.*"),
        )
    ]


@reference("spikepoint")
def read_reference(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> nn.Module:
    """Constructor values in the letters of the paper, with its defaults where they are absent."""
    neuron = rectangle_lif(
        config.get("threshold", 0.5), config.get("decay", 0.25), config.get("surrogate_half_width", 0.5)
    )
    ours = SpikePointConfig(
        dims=tuple(config.get("dims", (64, 128, 256, 512))),
        num_classes=config.get("num_classes", 10),
        votes=config.get("votes", 10),
        time_steps=config.get("T", 16),
        neuron=neuron,
        points=config.get("N", 1024),
        groups=config.get("M", 512),
        neighbours=config.get("K", 24),
    )
    return load_reference("spikepoint", ours, state)
