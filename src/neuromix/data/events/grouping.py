"""Groups of neighbouring events: what a point-based network takes in place of frames.

N points are drawn from the events; M of them, chosen so that each is as far as can be from those chosen before,
become the middles of groups; a group is the K points nearest to its middle. Of each neighbour the network is told how
far it lies from the middle, and of each group where its corner is.

Everything is vectorised over a batch of clips.

Shapes: B clips, N points, M groups, K neighbours, X = 3 axes (x, y, t).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor

from neuromix.core.errors import ShapeError
from neuromix.data.events.representations import (
    Representation,
    drawn,
    point_cloud,
    register_representation,
)
from neuromix.data.events.value import Events

AXES = 3
_SMALLEST = 1e-5  # added to a standard deviation


class Grouped(NamedTuple):
    """Groups, by the numbers of their points.

    Attributes:
        centres_BM: int64, which point is the middle of each group.
        members_BMK: int64, its neighbours, nearest first, itself among them; of equally near ones the lower number
            comes first.
    """

    centres_BM: Tensor
    members_BMK: Tensor


def group(points_BNX: Tensor, groups: int, neighbours: int, first_B: Tensor | None = None) -> Grouped:
    """Takes clouds apart into groups.

    Args:
        points_BNX: floating point.
        first_B: the point that is chosen first in each cloud, int64; None: point 0.

    Raises:
        ShapeError: other axes, or fewer points than groups or neighbours.

    Example:
        >>> group(torch.tensor([[[0.0], [1.0], [0.2]]]), groups=2, neighbours=2).members_BMK
        tensor([[[0, 2],
                 [1, 2]]])
    """
    shape = points_BNX.shape
    if len(shape) != 3 or not points_BNX.is_floating_point() or not 1 <= max(groups, neighbours) <= shape[1]:
        raise ShapeError(
            f"{groups} groups of {neighbours} need floating-point points [B, N, X], N at least as many; "
            f"got {points_BNX.dtype} {list(shape)}"
        )
    centres_BM = farthest_points(points_BNX, groups, first_B)
    return Grouped(centres_BM, nearest_points(points_BNX, centres_BM, neighbours))


def farthest_points(points_BNX: Tensor, count: int, first_B: Tensor | None = None) -> Tensor:
    """Farthest point sampling: [B, count], int64.

    The next point is the one whose squared distance to the nearest of those already chosen is largest; of equally far
    ones it is the lowest number. Where there are fewer places than `count`, points come again.
    """
    points = points_BNX.detach().cpu().numpy()
    samples, steps = np.arange(len(points)), points.shape[1]
    latest = np.zeros(len(points), np.int64) if first_B is None else first_B.cpu().numpy()
    chosen, distance_BN = np.empty((len(points), count), np.int64), np.full((len(points), steps), np.inf)
    for number in range(count):
        chosen[:, number] = latest
        away_BNX = points - points[samples, latest][:, None]
        np.minimum(distance_BN, np.square(away_BNX).sum(-1), out=distance_BN)
        latest = distance_BN.argmax(1)
    return torch.from_numpy(chosen).to(points_BNX.device)


def nearest_points(points_BNX: Tensor, centres_BM: Tensor, count: int) -> Tensor:
    """The `count` points nearest to each centre, the centre itself included: [B, M, count], int64."""
    middle_BMX = _picked(points_BNX, centres_BM)
    distance_BMN = points_BNX.new_zeros(*centres_BM.shape, points_BNX.shape[1])
    # One axis at a time: [B, M, N, X] would be the largest tensor of all by far.
    for middle_BM, points_BN in zip(middle_BMX.unbind(-1), points_BNX.unbind(-1), strict=True):
        distance_BMN += (middle_BM[:, :, None] - points_BN[:, None]).square()
    return distance_BMN.sort(dim=-1, stable=True).indices[..., :count]


def relative(
    points_BNX: Tensor, grouped: Grouped, *, folded: bool = True, spread: Literal["group", "cloud"] = "group"
) -> Tensor:
    """Where the neighbours lie, seen from the middle of their group, scaled to [0, 1]: [B, M, K, X].

    r = (p - c) / (sqrt(sum (p - c)^2 / (n - 1)) + 1e-5), the sum over the n = 3K numbers of a group, or over all of a
    cloud. Rate coding knows no sign: `folded` gives |r|, and both are divided by the largest |r| of the cloud.
    """
    middle_BM1X = _picked(points_BNX, grouped.centres_BM)[:, :, None]
    away_BMKX = _picked(points_BNX, grouped.members_BMK) - middle_BM1X
    axes = (2, 3) if spread == "group" else (1, 2, 3)
    numbers = math.prod(away_BMKX.shape[axis] for axis in axes)
    deviation = (away_BMKX.square().sum(axes, keepdim=True) / max(numbers - 1, 1)).sqrt()
    r_BMKX = away_BMKX / (deviation + _SMALLEST)
    largest = r_BMKX.abs().amax((1, 2, 3), keepdim=True)
    scaled_BMKX = r_BMKX / torch.where(largest > 0, largest, 1)
    return scaled_BMKX.abs() if folded else scaled_BMKX


def corners(points_BNX: Tensor, grouped: Grouped) -> Tensor:
    """The least x, y and t of each group, [B, M, X]."""
    return _picked(points_BNX, grouped.members_BMK).amin(2)


def _picked(points_BNX: Tensor, numbers_B: Tensor) -> Tensor:
    """[B, ...] numbers of points -> [B, ..., X]."""
    flat_BLX = numbers_B.flatten(1)[..., None].expand(-1, -1, points_BNX.shape[-1])
    return points_BNX.gather(1, flat_BLX).view(*numbers_B.shape, -1)


@register_representation("groups")
@dataclass(frozen=True)
class Groups(Representation):
    """Groups of neighbouring events, [3, M, K+1] float32 in [0, 1].

    Along the last axis stand the K neighbours, and behind them the corner of the group. The first axis is x, y, t.
    The polarity is dropped. A recording without events gives zeros, which no rate coder makes a spike of.
    """

    field: ClassVar[str] = "groups"
    points: int = 1024  # N, drawn of each recording, with repetition where it has fewer events
    groups: int = 512  # M
    neighbours: int = 24  # K, the middle included
    duration: int | None = None  # microseconds that t = 1 stands for; None: from the first event to the last
    random_start: bool = True  # which point is chosen first; False: the earliest
    folded: bool = True  # |r|; False leaves the signs, so that a rate coder loses what is negative
    origin: Literal["corner", "centre", "none"] = (
        "corner"  # of a group, that the network is told; none: zeros
    )
    spread: Literal["group", "cloud"] = "group"  # whose standard deviation r is divided by

    def validate(self) -> None:
        self.require_positive("points", "groups", "neighbours")
        for name in ("groups", "neighbours"):
            self.require(
                getattr(self, name) <= self.points,
                f"{name} must be at most the {self.points} points, got {getattr(self, name)}",
            )
        self.require(
            self.duration is None or self.duration > 0, f"duration must be positive, got {self.duration}"
        )

    def __call__(self, events: Events, generator: Generator) -> Tensor:
        if not events.size:
            return torch.zeros(AXES, self.groups, self.neighbours + 1)
        points_1NX = self.sampled(events, generator)[None]
        first = torch.randint(self.points, (1,), generator=generator) if self.random_start else None
        grouped = group(points_1NX, self.groups, self.neighbours, first)
        relative_1MKX = relative(points_1NX, grouped, folded=self.folded, spread=self.spread)
        return torch.cat([relative_1MKX, self._origins(points_1NX, grouped)[:, :, None]], 2)[0].permute(
            2, 0, 1
        )

    def sampled(self, events: Events, generator: Generator) -> Tensor:
        """Points (x, y, t) in [0, 1], [N, 3], in the order of time."""
        cloud_N4 = point_cloud(events)
        if self.duration is not None:
            cloud_N4[:, 0] = (cloud_N4[:, 0] * (events.duration / self.duration)).clamp(max=1)
        chosen = torch.from_numpy(drawn(events.size, self.points, generator))
        return cloud_N4[chosen][:, [1, 2, 0]]

    def _origins(self, points_1NX: Tensor, grouped: Grouped) -> Tensor:
        if self.origin == "corner":
            return corners(points_1NX, grouped)
        centres_1MX = _picked(points_1NX, grouped.centres_BM)
        return centres_1MX if self.origin == "centre" else torch.zeros_like(centres_1MX)

    def model_values(self, height: int, width: int) -> dict[str, Any]:
        return {"points": self.points, "groups": self.groups, "neighbours": self.neighbours}
