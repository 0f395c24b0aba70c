"""Representations: how events become the tensors that a network takes.

The functions are the formulas; the classes below them are the same with their options in a Config, registered under
the names that a task is given. All frames have two channels, OFF and ON: x[:, 1] - x[:, 0] is signed, their sum
knows no polarity.

Times are counted from the first event of a recording, t_first, to its last, t_last.

Shapes: N events, T frames, P = 2 polarities, H W sensor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Generator, Tensor

from neuromix.core.batch import Ragged
from neuromix.core.config import Config
from neuromix.core.errors import ConfigError
from neuromix.core.registry import register
from neuromix.data.events.value import Events

CHANNELS = 2  # OFF and ON

Numbers = npt.NDArray[np.int64]


def frames_by_count(events: Events, frames: int) -> Tensor:
    """Counts in T frames of equal numbers of events.

    x[k, p, y, x] = number of events n at (p, y, x) with floor(n T / N) = k, for n in [0, N) in the order of time. The
    frames sum to N, and their own sums differ by at most one.

    Returns:
        [T, 2, H, W], float32.

    Raises:
        ConfigError: frames below 1.
    """
    _require_frames(frames)
    return _counted(events, np.arange(events.size) * frames // max(events.size, 1), frames)


def frames_by_time(events: Events, frames: int) -> Tensor:
    """Counts in T frames of equal durations.

    x[k, p, y, x] = number of events at (p, y, x) with floor((t - t_first) T / (t_last - t_first + 1)) = k; the 1 is
    the microsecond that the last event takes. The frames sum to N.

    Returns and raises as `frames_by_count`.
    """
    return _counted(events, time_bins(events, frames), frames)


def voxel_grid(events: Events, frames: int) -> Tensor:
    """Every event shared between the two frames that are nearest in time (Zhu et al., CVPR 2019).

    With s = (T - 1) (t - t_first) / (t_last - t_first), x[k, p, y, x] = sum of max(0, 1 - |k - s|) over the events at
    (p, y, x). The frames sum to N.

    Returns and raises as `frames_by_count`.
    """
    _require_frames(frames)
    since = events.t_N - events.t_N[:1]
    s_N = since.astype(np.float64) * ((frames - 1) / max(events.duration, 1))
    first_N = np.minimum(s_N.astype(np.int64), max(frames - 2, 0))
    late_N = s_N - first_N
    x = _counted(events, first_N, frames, 1 - late_N)
    return x + _counted(events, first_N + 1, frames, late_N) if frames > 1 else x


def time_surface(events: Events, frames: int, tau: float = 50_000.0) -> Tensor:
    """How long ago each pixel saw its last event, at T moments (after Lagorce et al., PAMI 2017).

    x[k, p, y, x] = exp(-(t_k - t_last(p, y, x)) / tau), 0 where nothing has happened yet. t_k = t_first +
    (t_last - t_first) (k + 1) / T is the end of the k-th of T equal durations; t_last(p, y, x) is the time of the
    last event there up to t_k.

    Args:
        tau: of the decay, in microseconds.

    Returns and raises as `frames_by_count`.
    """
    _require_frames(frames)
    seen = np.full(_cells(events, 1), -np.inf)
    x = np.empty((frames, seen.size), np.float32)
    at_N = _flat(events, np.zeros(events.size, np.int64))
    begin, start = 0, int(events.t_N[0]) if events.size else 0
    for k in range(frames):
        now = start + events.duration * (k + 1) / frames
        end = int(np.searchsorted(events.t_N, now, side="right"))
        seen[at_N[begin:end]] = events.t_N[begin:end]  # of several at one place the last one counts
        x[k], begin = np.exp((seen - now) / tau), end
    return torch.from_numpy(x).reshape(frames, CHANNELS, events.height, events.width)


def point_cloud(events: Events, points: int | None = None, generator: Generator | None = None) -> Tensor:
    """Events as points (t, x, y, p) in [0, 1]^4.

    t = (t - t_first) / (t_last - t_first), x = x / (W - 1), y = y / (H - 1), p 0 or 1; a coordinate that has one
    value only is 0.

    Args:
        points: draw so many events, each at most once, or with repetition where there are fewer; None: take all.
        generator: what they are drawn with.

    Returns:
        [N, 4], float32, in the order of time; [0, 4] where there are no events.
    """
    if points is not None and events.size:
        events = events.select(drawn(events.size, points, generator))
    since = events.t_N - events.t_N[:1]
    extents = (events.duration, events.width - 1, events.height - 1, 1)
    cloud_N4 = np.stack([since, events.x_N, events.y_N, events.p_N], axis=1) / np.maximum(extents, 1)
    return torch.from_numpy(cloud_N4.astype(np.float32))


def time_bins(events: Events, frames: int) -> Numbers:
    """The number of the frame of each event, [N], for T equal durations; see `frames_by_time`."""
    _require_frames(frames)
    bins_N: Numbers = (events.t_N - events.t_N[:1]) * frames // (events.duration + 1)
    return bins_N


def drawn(size: int, points: int, generator: Generator | None) -> npt.NDArray[np.intp]:
    if points <= size:
        chosen = torch.randperm(size, generator=generator)[:points]
    else:
        chosen = torch.randint(size, (points,), generator=generator)
    return chosen.sort().values.numpy()


def _counted(
    events: Events, frame_N: Numbers, frames: int, weight_N: npt.NDArray[np.float64] | None = None
) -> Tensor:
    """[T, 2, H, W]: the number of events in each cell, or the sum of their weights."""
    cells = np.bincount(_flat(events, frame_N), weight_N, minlength=_cells(events, frames))
    return torch.from_numpy(cells.astype(np.float32)).reshape(frames, CHANNELS, events.height, events.width)


def _flat(events: Events, frame_N: Numbers) -> Numbers:
    """The place of each event in [T, 2, H, W], laid end to end."""
    return ((frame_N * CHANNELS + events.p_N) * events.height + events.y_N) * events.width + events.x_N


def _cells(events: Events, frames: int) -> int:
    return frames * CHANNELS * events.height * events.width


def _require_frames(frames: int) -> None:
    if frames < 1:
        raise ConfigError(f"events need at least one frame; given {frames}")


@dataclass(frozen=True)
class Representation(Config):
    """Base of the representations that a task can be given by name.

    Attributes:
        field: of a batch, which holds what it makes.
    """

    field: ClassVar[str] = "image"

    def __call__(self, events: Events, generator: Generator) -> Tensor | Ragged:
        """What a network is given of one recording."""
        raise NotImplementedError(f"{type(self).__name__} does not say what it makes of events")

    def model_values(self, height: int, width: int) -> dict[str, Any]:
        """Fields of a model's Config that follow from it, on a sensor of this size."""
        return {}


@dataclass(frozen=True)
class Frames(Representation):
    """What all representations by frames have in common."""

    frames: int = 8  # T, time steps of the model

    def validate(self) -> None:
        self.require_positive("frames")

    def model_values(self, height: int, width: int) -> dict[str, Any]:
        return {"time_steps": self.frames, "in_channels": CHANNELS, "input_size": (height, width)}


R = TypeVar("R", bound=type[Representation])


def register_representation(name: str) -> Callable[[R], R]:
    """Registers a Representation, which is its own Config."""

    def decorate(kind: R) -> R:
        return register("representation", name, config=kind, build=_itself)(kind)

    return decorate


def _itself(config: Representation) -> Representation:
    return config


@dataclass(frozen=True)
class Counts(Frames):
    """Frames of counts."""

    most: int | None = None  # a larger count in a pixel becomes this; 1: whether there was an event

    def validate(self) -> None:
        super().validate()
        self.require(self.most is None or self.most > 0, f"most must be positive, got {self.most}")

    def limited(self, x_TPHW: Tensor) -> Tensor:
        """The counts, none above `most`."""
        return x_TPHW if self.most is None else x_TPHW.clamp(max=self.most)


@register_representation("count")
@dataclass(frozen=True)
class ByCount(Counts):
    """Frames of equal numbers of events."""

    def __call__(self, events: Events, generator: Generator) -> Tensor:
        return self.limited(frames_by_count(events, self.frames))


@register_representation("time")
@dataclass(frozen=True)
class ByTime(Counts):
    """Frames of equal durations."""

    def __call__(self, events: Events, generator: Generator) -> Tensor:
        return self.limited(frames_by_time(events, self.frames))


@register_representation("voxel")
@dataclass(frozen=True)
class Voxel(Frames):
    """Voxel grid."""

    def __call__(self, events: Events, generator: Generator) -> Tensor:
        return voxel_grid(events, self.frames)


@register_representation("surface")
@dataclass(frozen=True)
class Surface(Frames):
    """Time surfaces."""

    tau: float = 50_000.0  # microseconds

    def validate(self) -> None:
        super().validate()
        self.require_positive("tau")

    def __call__(self, events: Events, generator: Generator) -> Tensor:
        return time_surface(events, self.frames, self.tau)


@register_representation("cloud")
@dataclass(frozen=True)
class Cloud(Representation):
    """Points (t, x, y, p) in [0, 1]^4, as a ragged field."""

    field: ClassVar[str] = "cloud"
    points: int | None = None  # drawn of each recording; None: all of its events

    def validate(self) -> None:
        self.require(self.points is None or self.points > 0, f"points must be positive, got {self.points}")

    def __call__(self, events: Events, generator: Generator) -> Ragged:
        return Ragged.of([point_cloud(events, self.points, generator)])
