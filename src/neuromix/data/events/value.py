"""Events: what an event camera saw, as plain arrays that are checked once, where they are made.

An event says that at time t the pixel (x, y) became brighter (p true, ON) or darker (p false, OFF).

Shapes: N events.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from neuromix.core.errors import DataError

LARGEST_SIDE = 8192  # of a sensor; a larger one is a damaged address, and frames of it would fill the memory
LATEST = (
    2**53
)  # microseconds, of which the clock of a computer has seen 2^51 since 1970; later is a damaged time

Mask = npt.NDArray[np.bool_]
Times = npt.NDArray[np.int64]
Addresses = npt.NDArray[np.int32]


class _EventFields(NamedTuple):
    t_N: Times  # microseconds in [0, LATEST), never falling
    x_N: Addresses  # column, in [0, width)
    y_N: Addresses  # row, in [0, height); row 0 is on top
    p_N: Mask  # True: brighter, ON; False: darker, OFF
    height: int
    width: int


class Events(_EventFields):
    """Events in the order of time, and the sensor that they are from.

    Args:
        t_N: times in microseconds: whole numbers, 0 or more, never falling.
        x_N, y_N: whole numbers, the column and the row (0 on top) of the pixel.
        p_N: polarity: booleans, 0 and 1, or -1 and 1.
        height, width: of the sensor; None for the smallest that has all the pixels.
        where: what the events are from, for messages: a file.
        sort: bring the events into the order of time instead of refusing those that are not.

    Raises:
        DataError: an event that breaks one of these rules; it is named by its number, from 0 on.

    Example:
        >>> events = Events([0, 40], [3, 5], [1, 1], [True, False], height=4, width=8)
        >>> events.size, events.duration
        (2, 40)
    """

    __slots__ = ()

    def __new__(
        cls,
        t_N: npt.ArrayLike,
        x_N: npt.ArrayLike,
        y_N: npt.ArrayLike,
        p_N: npt.ArrayLike,
        height: int | None = None,
        width: int | None = None,
        *,
        where: str = "events",
        sort: bool = False,
    ) -> Events:
        arrays = {name: _whole(name, values, where) for name, values in _named(t_N, x_N, y_N, p_N).items()}
        if len({len(array) for array in arrays.values()}) > 1:
            lengths = ", ".join(f"{len(array)} {name}" for name, array in arrays.items())
            raise DataError(f"{where} has {lengths}; every event needs all four")
        t_N, x_N, y_N = (arrays[name].astype(np.int64, copy=False) for name in "txy")
        if sort:
            order = np.argsort(t_N, kind="stable")
            arrays = {name: array[order] for name, array in arrays.items()}
            t_N, x_N, y_N = t_N[order], x_N[order], y_N[order]
        _check_times(t_N, where)
        height = _checked_side("y", y_N, height, "high", where)
        width = _checked_side("x", x_N, width, "wide", where)
        p_N = _polarity(arrays["p"], where)
        return super().__new__(cls, t_N, x_N.astype(np.int32), y_N.astype(np.int32), p_N, height, width)

    @classmethod
    def none(cls, height: int, width: int) -> Events:
        """No events of such a sensor."""
        return cls([], [], [], [], height, width)

    @property
    def size(self) -> int:
        """Number of events N."""
        return len(self.t_N)

    @property
    def duration(self) -> int:
        """Microseconds from the first event to the last; 0 without any."""
        return int(self.t_N[-1] - self.t_N[0]) if self.size else 0

    def select(self, which: Mask | slice | npt.NDArray[np.intp]) -> Events:
        """Some of the events: by a mask [N], a slice, or ascending numbers."""
        columns = (self.t_N[which], self.x_N[which], self.y_N[which], self.p_N[which])
        return Events(*columns, self.height, self.width)


def _named(*columns: npt.ArrayLike) -> dict[str, npt.ArrayLike]:
    return dict(zip("txyp", columns, strict=True))


def _whole(name: str, values: npt.ArrayLike, where: str) -> npt.NDArray[Any]:
    """One column as an array [N] of integers or booleans."""
    array = np.asarray(values)
    if array.size == 0:
        array = array.astype(np.int64)  # an empty list is one of floats to NumPy
    if array.ndim != 1 or array.dtype.kind not in "iub":
        raise DataError(f"{where}: {name} is {array.dtype} {list(array.shape)}; expected whole numbers [N]")
    # What has no place in 63 bits must not come back as another number.
    return np.minimum(array, np.uint64(2**63 - 1)) if array.dtype == np.uint64 else array


def _check_times(t_N: Times, where: str) -> None:
    outside = (t_N < 0) | (t_N >= LATEST)
    if outside.any():
        i = int(outside.argmax())
        raise DataError(
            f"{where}: event {i} has the time {t_N[i]}; times are microseconds, 0 or more, below 2^53"
        )
    falls = np.flatnonzero(t_N[1:] < t_N[:-1])
    if falls.size:
        i = int(falls[0]) + 1
        raise DataError(
            f"{where}: event {i} is at {t_N[i]} and the one before at {t_N[i - 1]}; "
            "sort the events by time, or pass sort"
        )


def _checked_side(name: str, address_N: Times, side: int | None, extent: str, where: str) -> int:
    """The side of the sensor, which has all the addresses."""
    most = LARGEST_SIDE if side is None else side
    if not 1 <= most <= LARGEST_SIDE:
        raise DataError(f"{where}: a sensor is 1 to {LARGEST_SIDE} pixels {extent}; given {side}")
    outside = (address_N < 0) | (address_N >= most)
    if outside.any():
        i = int(outside.argmax())
        raise DataError(
            f"{where}: event {i} has {name} = {address_N[i]}; the sensor is {most} pixels {extent}"
        )
    return side if side is not None else int(address_N.max(initial=0)) + 1


def _polarity(p_N: npt.NDArray[Any], where: str) -> Mask:
    if p_N.dtype.kind == "b":
        return p_N
    odd = ~np.isin(p_N, (-1, 0, 1))
    if odd.any():
        i = int(odd.argmax())
        raise DataError(f"{where}: event {i} has the polarity {p_N[i]}; expected 0 and 1, or -1 and 1")
    on_N: Mask = p_N > 0
    return on_N
