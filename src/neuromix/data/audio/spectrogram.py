"""Log-mel spectrogram: the energy of a sound in bands that are as wide as the ear's, a frame every few milliseconds.

Shapes: N samples, T frames, F frequencies, M mel bands.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import numpy.typing as npt

from neuromix.core.errors import ConfigError
from neuromix.data.audio.wav import Sound

Floats = npt.NDArray[np.float64]

FLOOR = 1e-10  # power that counts as silence


def log_mel(
    sound: Sound,
    bands: int = 40,
    rate: int = 8000,
    window: int = 256,
    hop: int = 80,
    lowest: float = 50.0,
    highest: float | None = None,
) -> Floats:
    """Decibels above silence: 10 log10(max(mel power, 1e-10) / 1e-10), so that silence is 0.

    The spectrogram is that of Hann windows about the times 0, hop, 2 hop, ... with the sound mirrored at its ends:
    T = 1 + N // hop. Power is |FFT|^2. The M filters are triangles on the scale mel(f) = 2595 log10(1 + f/700) from
    `lowest` to `highest`, 1 at their centre.

    Args:
        sound: brought to `rate`.
        bands: M.
        rate: samples a second.
        window, hop: in samples.
        lowest, highest: in hertz; highest None is half the rate. Bands above that hold no energy.

    Returns:
        [T, M], float64.

    Raises:
        ConfigError: the frequencies are in the wrong order.
    """
    top = rate / 2 if highest is None else highest
    if not 0 <= lowest < top:
        raise ConfigError(f"log-mel needs 0 <= lowest < highest; given {lowest} and {top}")
    x_N = sound.at_rate(rate).samples.astype(np.float64)
    half = window // 2
    padded = np.pad(x_N, half, mode="reflect" if len(x_N) > half else "constant")
    frames = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop][: 1 + len(x_N) // hop]
    hann = 0.5 - 0.5 * np.cos(2 * math.pi * np.arange(window) / window)
    power_TF = np.abs(np.fft.rfft(frames * hann, axis=1)) ** 2
    mel_TM = power_TF @ mel_filters(bands, rate, window, lowest, top)
    decibels: Floats = 10 * np.log10(np.maximum(mel_TM, FLOOR) / FLOOR)
    return decibels


@functools.lru_cache(maxsize=8)
def mel_filters(bands: int, rate: int, window: int, lowest: float, highest: float) -> Floats:
    """Triangles in frequency whose corners are evenly spaced in mel: [F, M]."""
    low, high = (2595 * math.log10(1 + f / 700) for f in (lowest, highest))
    corners = 700 * (10 ** (np.linspace(low, high, bands + 2) / 2595) - 1)
    f_F1 = np.fft.rfftfreq(window, 1 / rate)[:, None]
    left, centre, right = corners[:-2], corners[1:-1], corners[2:]
    triangles: Floats = np.clip(
        np.minimum((f_F1 - left) / (centre - left), (right - f_F1) / (right - centre)), 0, None
    )
    return triangles
