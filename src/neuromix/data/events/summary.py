"""What a recording looks like: its figures, and a picture of its frames and of its events over time.

Shapes: T frames, P = 2 polarities, H W sensor, S stretches of time.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from neuromix.core.errors import MissingExtraError
from neuromix.core.files import replacing
from neuromix.data.events.representations import frames_by_time, time_bins
from neuromix.data.events.value import Events

if TYPE_CHECKING:
    from PIL.Image import Image

STRETCHES = 100  # of the time, in each of which events are counted

_ON, _OFF, _PAPER, _LINE = (0, 94, 184), (200, 62, 30), (255, 255, 255), (210, 210, 210)
_FRAME, _GAP, _STRIP = (
    160,
    8,
    90,
)  # pixels: side up to which frames are magnified, space between, height of bars
_ACROSS = 400  # pixels that the time of a sensor of one row is wide

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]


class Summary(NamedTuple):
    """The figures of a recording.

    Attributes:
        events: their number.
        duration: seconds from the first to the last.
        height, width: of the sensor.
        rate: events a second; None where the duration is 0.
        on_share: share of ON events; None without events.
    """

    events: int
    duration: float
    height: int
    width: int
    rate: float | None
    on_share: float | None


def summary(events: Events) -> Summary:
    """The figures of a recording."""
    seconds = events.duration * 1e-6
    return Summary(
        events=events.size,
        duration=seconds,
        height=events.height,
        width=events.width,
        rate=events.size / seconds if seconds else None,
        on_share=float(events.p_N.mean()) if events.size else None,
    )


def rates(events: Events, stretches: int = STRETCHES) -> tuple[Floats, Floats]:
    """OFF and ON events a second in equal stretches of the time.

    Returns:
        The middle of each stretch in seconds from the first event, [S], and the rates, [2, S], OFF first.
    """
    bins_N = time_bins(events, stretches)
    counts_PS = np.stack([np.bincount(bins_N[events.p_N == on], minlength=stretches) for on in (False, True)])
    stretch = (events.duration + 1) * 1e-6 / stretches
    middle_S = (np.arange(stretches, dtype=np.float64) + 0.5) * stretch
    return middle_S, counts_PS / stretch


def shades(events: Events, frames: int) -> torch.Tensor:
    """Frames of equal durations with values in [0, 1]: [T, 2, H, W], OFF first.

    1 is the count that 99% of the places with an event do not exceed. A sensor of one row, as that of an artificial
    ear, is one frame with the time to the right and the pixels upwards.
    """
    x_TPHW = (
        frames_by_time(events, frames)
        if events.height > 1
        else frames_by_time(_with_time_to_the_right(events), 1)
    )
    counted = x_TPHW[x_TPHW > 0]
    full = float(torch.quantile(counted[:: len(counted) // 100_000 + 1], 0.99)) if len(counted) else 1.0
    return (x_TPHW / full).clamp(max=1)


def _with_time_to_the_right(events: Events) -> Events:
    x_N, y_N = time_bins(events, _ACROSS), events.width - 1 - events.x_N
    return Events(events.t_N, x_N, y_N, events.p_N, events.width, _ACROSS)


def write_picture(path: Path, events: Events, frames: int) -> None:
    """Writes a PNG file, whole or not at all: frames of equal durations in a row, and the events over time below.

    ON is blue and upwards, OFF red and downwards.

    Raises:
        MissingExtraError: Pillow is not installed.
        RunError: the file cannot be written.
    """
    image = _picture(events, frames)
    with replacing(path) as temporary:
        image.save(temporary, "PNG")


def _picture(events: Events, frames: int) -> Image:
    try:
        from PIL import Image
    except ImportError:
        raise MissingExtraError("writing a PNG file", "vision") from None
    frames_TPHW = shades(events, frames).numpy()
    scale = max(1, _FRAME // max(frames_TPHW.shape[2:]))
    tiles = [np.kron(_coloured(one), np.ones((scale, scale, 1), np.uint8)) for one in frames_TPHW]
    gap = np.full((tiles[0].shape[0], _GAP, 3), _PAPER, np.uint8)
    row = np.concatenate([part for tile in tiles for part in (gap, tile)] + [gap], axis=1)
    bars = _bars(rates(events, row.shape[1])[1])
    space = np.full((_GAP, row.shape[1], 3), _PAPER, np.uint8)
    return Image.fromarray(np.concatenate([space, row, space, bars, space]))


def _coloured(x_PHW: Any) -> Pixels:
    """[H, W, 3]: paper where nothing happened, red for OFF, blue for ON, a mixture where both did."""
    ink = [np.subtract(_PAPER, colour) for colour in (_OFF, _ON)]
    dark_HW3 = sum(x[..., None] * taken for x, taken in zip(x_PHW, ink, strict=True))
    image_HW3: Pixels = np.clip(np.subtract(_PAPER, dark_HW3), 0, 255).astype(np.uint8)
    # A line round the frame, for most of it is paper.
    image_HW3[[0, -1]] = np.minimum(image_HW3[[0, -1]], _LINE)
    image_HW3[:, [0, -1]] = np.minimum(image_HW3[:, [0, -1]], _LINE)
    return image_HW3


def _bars(rates_PS: Floats) -> Pixels:
    """[2 * _STRIP, S, 3]: a column a stretch of time, ON up and OFF down from the middle."""
    image = np.full((2 * _STRIP, rates_PS.shape[1], 3), _PAPER, np.uint8)
    off_S, on_S = np.ceil(_STRIP * rates_PS / max(float(rates_PS.max()), 1e-9))
    rows = np.arange(_STRIP)[:, None]
    image[:_STRIP][::-1][rows < on_S] = _ON
    image[_STRIP:][rows < off_S] = _OFF
    return image
