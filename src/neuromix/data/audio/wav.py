"""WAV files as sound: any sample width and rate, mono or mixed to mono.

Shapes: N samples.
"""

from __future__ import annotations

import struct
import warnings
from math import gcd
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import signal
from scipy.io import wavfile

from neuromix.core.errors import DataError

Samples = npt.NDArray[np.float32]

RATES = (1_000, 768_000)  # samples a second; another rate is a damaged header
_BROKEN = (
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    EOFError,
    MemoryError,
    struct.error,
    NameError,
)


class Sound(NamedTuple):
    """A recording with one microphone: samples in [-1, 1], [N], and how many there are a second."""

    samples: Samples
    rate: int

    @property
    def seconds(self) -> float:
        """How long it is."""
        return len(self.samples) / self.rate

    def at_rate(self, rate: int) -> Sound:
        """The same sound with `rate` samples a second, low-passed where that is fewer."""
        if rate == self.rate:
            return self
        common = gcd(rate, self.rate)
        samples = signal.resample_poly(self.samples, rate // common, self.rate // common)
        return Sound(samples.astype(np.float32), rate)


def read_wav(path: str | Path) -> Sound:
    """Reads a WAV file: integers of 8 to 64 bits or floats; several channels become their mean.

    Raises:
        DataError: the file is missing, empty, cut off or damaged, holds no samples, or is compressed.
    """
    path = Path(path).expanduser()
    rate, data = _read(path)
    if not RATES[0] <= rate <= RATES[1]:
        raise DataError(f"{path} says {rate} samples a second; expected {RATES[0]} to {RATES[1]}")
    if data.size == 0:
        raise DataError(f"{path} holds no samples; record it again, or leave broken files out: --skip-broken")
    samples = _in_unit_range(data)
    if samples.ndim == 2:
        samples = samples.mean(1)
    if not np.isfinite(samples).all():
        raise DataError(f"{path} has samples that are not finite; it is damaged")
    return Sound(samples.astype(np.float32), rate)


def _read(path: Path) -> tuple[int, npt.NDArray[Any]]:
    try:
        if path.stat().st_size == 0:
            raise DataError(f"{path} is an empty file")
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            rate, data = wavfile.read(path)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except _BROKEN as error:
        raise DataError(f"{path} is no WAV file that can be read: {_one_line(error)}") from error
    if any("EOF" in str(warning.message) for warning in told):
        raise DataError(f"{path} is cut off: it ends before its header says; get it again")
    return int(rate), data


def _in_unit_range(data: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Integers as shares of the largest, unsigned ones about their middle; floats as they are."""
    values = data.astype(np.float64)
    if data.dtype.kind == "f":
        return values
    middle = 2.0 ** (8 * data.dtype.itemsize - 1)
    return (values - middle if data.dtype.kind == "u" else values) / middle


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
