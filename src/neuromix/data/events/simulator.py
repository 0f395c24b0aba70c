"""simulate: what an event camera sends of moving light (after ESIM, Rebecq et al., 2018, and v2e, Hu et al., 2021).

A pixel keeps in memory a level M of the logarithm of its light, L(t) = ln(dark + I(t)). As soon as L has risen by
the threshold c_on above M, it sends an ON event, and M becomes M + c_on; as soon as L has fallen by c_off below M,
it sends an OFF event, and M becomes M - c_off. Between two pictures L is a straight line, so that an event has its
time exactly. The rest is what makes real pixels differ from this:

- thresholds: c = threshold * (1 + spread * z), with z from a normal distribution, drawn for each pixel and either
  polarity; at least a tenth of the threshold;
- leak: charge leaks into the memory, as if L rose by leak_rate * c_on a second. So a pixel in still light sends
  leak_rate ON events a second;
- shot noise: events of either polarity at random times, shot_rate * (1 - 0.75 I) a second with I the pixel's mean
  light: four times as many in the dark as in full light. They leave the memory as it is;
- rest: for `refractory` microseconds after an event a pixel sends nothing. What it would have sent is lost.

Before the first picture the light has been rising and falling: M lies anywhere in (L - c_on, L + c_off).

Shapes: K pictures, N events, H W sensor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from neuromix.core.config import Config
from neuromix.core.errors import ShapeError
from neuromix.data.events.value import Events, Mask

Floats = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Camera(Config):
    """A simulated event camera."""

    threshold_on: float = 0.25  # rise of log intensity that makes an event, > 0
    threshold_off: float = 0.25  # fall of log intensity, > 0
    spread: float = (
        0.05  # standard deviation of the thresholds over the pixels, as a share of them, in [0, 1)
    )
    refractory: int = 500  # microseconds
    leak_rate: float = 0.1  # ON events a second and pixel
    shot_rate: float = 0.5  # noise events a second and pixel, in the dark
    dark: float = 0.1  # light that is added to I in [0, 1] before the logarithm, > 0

    def validate(self) -> None:
        self.require_positive("threshold_on", "threshold_off", "dark")
        self.require_within(0, 1, "spread")
        for name in ("refractory", "leak_rate", "shot_rate"):
            self.require(getattr(self, name) >= 0, f"{name} must be 0 or more, got {getattr(self, name)}")


class _Found(NamedTuple):
    t: Numbers  # [N]
    pixel: Numbers  # y * W + x
    on: Mask


def simulate(light_KHW: Tensor, t_K: Numbers, camera: Camera, chance: np.random.Generator) -> Events:
    """The events of K pictures.

    Args:
        light_KHW: intensities in [0, 1], K >= 2.
        t_K: microseconds, rising, when each was seen; so close that between two the light changes evenly.
        camera: which camera.
        chance: the source of everything random.

    Raises:
        ShapeError: fewer than two pictures, light below 0, or times that do not fit.

    Example:
        >>> light_KHW = torch.linspace(0, 1, 11).reshape(-1, 1, 1)
        >>> events = simulate(light_KHW, np.arange(11) * 1000, Camera(shot_rate=0), np.random.default_rng(0))
        >>> bool(events.p_N.all())
        True
    """
    if (
        light_KHW.dim() != 3
        or len(light_KHW) < 2
        or t_K.shape != (len(light_KHW),)
        or (np.diff(t_K) <= 0).any()
    ):
        raise ShapeError(
            f"a simulation needs two pictures or more, [K, H, W], and K rising times; "
            f"got {list(light_KHW.shape)} and {list(t_K.shape)}"
        )
    if not (light_KHW >= 0).all():
        raise ShapeError(f"light is 0 or more; the least that is given is {float(light_KHW.min()):g}")
    height, width = light_KHW.shape[1:]
    intensity_KHW, t_K = light_KHW.numpy().astype(np.float64), t_K.astype(np.int64)
    parts = [_crossings(intensity_KHW, t_K, camera, chance), _shot_noise(intensity_KHW, t_K, camera, chance)]
    t, pixel, on = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    order = np.argsort(t, kind="stable")
    t, pixel, on = t[order], pixel[order], on[order]
    sent = _outside_rest(t, pixel, camera.refractory)
    return Events(t[sent], pixel[sent] % width, pixel[sent] // width, on[sent], height, width)


def _crossings(intensity_KHW: Floats, t_K: Numbers, camera: Camera, chance: np.random.Generator) -> _Found:
    """Events of light that changes, and of the leak."""
    shape = intensity_KHW.shape[1:]
    on_HW, off_HW = (
        c * np.maximum(1 + camera.spread * chance.standard_normal(shape), 0.1)
        for c in (camera.threshold_on, camera.threshold_off)
    )
    level_KHW = np.log(camera.dark + intensity_KHW)
    level_KHW += camera.leak_rate * 1e-6 * (t_K - t_K[0])[:, None, None] * on_HW
    memory_HW = level_KHW[0] + off_HW - chance.random(shape) * (on_HW + off_HW)
    # Events of a pixel since the picture before, below 0 for OFF, and its memory when that one was seen.
    steps_KHW, memory_KHW = np.zeros(level_KHW.shape, np.int32), np.empty_like(level_KHW)
    for k in range(1, len(t_K)):
        memory_KHW[k] = memory_HW
        change_HW = level_KHW[k] - memory_HW
        up_HW = np.floor(np.maximum(change_HW, 0) / on_HW)
        down_HW = np.floor(np.maximum(-change_HW, 0) / off_HW)
        memory_HW = memory_HW + up_HW * on_HW - down_HW * off_HW
        steps_KHW[k] = up_HW - down_HW
    return _timed(level_KHW, memory_KHW, steps_KHW, on_HW, off_HW, t_K)


def _timed(
    level_KHW: Floats,
    memory_KHW: Floats,
    steps_KHW: npt.NDArray[np.int32],
    on_HW: Floats,
    off_HW: Floats,
    t_K: Numbers,
) -> _Found:
    """One event for each step, when the straight line from picture to picture reaches its level."""
    k, y, x = np.nonzero(steps_KHW)
    steps = steps_KHW[k, y, x]
    counts = np.abs(steps)
    of = np.repeat(np.arange(len(k)), counts)  # which of these changes an event is of, and its number in it
    number = np.arange(len(of)) - np.repeat(np.cumsum(counts) - counts, counts) + 1
    k, y, x, is_on = k[of], y[of], x[of], steps[of] > 0
    threshold = np.where(is_on, on_HW[y, x], -off_HW[y, x])
    before, after = level_KHW[k - 1, y, x], level_KHW[k, y, x]
    # Rounding may leave a pixel exactly one threshold behind, which it then makes up for in still light.
    way = np.where(after == before, 1, after - before)
    done = (memory_KHW[k, y, x] + number * threshold - before) / way
    t = t_K[k - 1] + np.rint(done.clip(0, 1) * (t_K[k] - t_K[k - 1])).astype(np.int64)
    return _Found(t, y * on_HW.shape[1] + x, is_on)


def _shot_noise(intensity_KHW: Floats, t_K: Numbers, camera: Camera, chance: np.random.Generator) -> _Found:
    seconds = (t_K[-1] - t_K[0]) * 1e-6
    rate_HW = camera.shot_rate * (1 - 0.75 * intensity_KHW.mean(0).clip(0, 1))
    pixel = np.repeat(np.arange(rate_HW.size), chance.poisson(rate_HW.ravel() * seconds))
    t = chance.integers(t_K[0], t_K[-1], len(pixel))
    return _Found(t, pixel, chance.random(len(pixel)) < 0.5)


def _outside_rest(t: Numbers, pixel: Numbers, refractory: int) -> Mask:
    """Which events are sent, [N], if a pixel rests after each that it sends; t is in order."""
    order = np.argsort(pixel, kind="stable")
    t, pixel = t[order], pixel[order]
    is_first = np.diff(pixel, prepend=-1) != 0
    if not (~is_first[1:] & (np.diff(t) < refractory)).any():  # as it mostly is
        return np.ones(len(t), bool)
    starts = np.flatnonzero(is_first)
    lengths = np.diff(starts, append=len(t))
    sent = np.ones(len(t), bool)
    last = t[starts]
    # The n-th event of every pixel at once: whether it is sent depends on those before it.
    for n in range(1, int(lengths.max())):
        has = lengths > n
        at = starts[has] + n
        sent[at] = t[at] - last[has] >= refractory
        last[has] = np.where(sent[at], t[at], last[has])
    restored = np.empty_like(sent)
    restored[order] = sent
    return restored
