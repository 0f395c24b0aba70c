"""An artificial ear: a sound as spikes of many channels, from low notes to high ones.

A bank of gammatone filters stands for the basilar membrane (Patterson et al., 1992), their places spaced evenly on
the scale of equivalent rectangular bandwidths (Glasberg and Moore, 1990). A difference before them raises high
notes, as the middle ear does. What each filter lets through is rectified and compressed, as hair cells do, and drives
a leaky integrate-and-fire neuron. Nothing in it is random.

Shapes: N samples, C channels.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import numpy.typing as npt
import torch
from scipy import signal

from neuromix.core.errors import ConfigError
from neuromix.data.audio.wav import Sound
from neuromix.data.events.value import Events
from neuromix.neurons.lif import LIF

Floats = npt.NDArray[np.float64]

TAPS = 0.05  # seconds that the response of a filter is followed for
HIGHEST = 0.45  # share of the sampling rate up to which filters lie
EMPHASIS = 0.95  # share of a sample that is taken off the next one
QUIET = 0.01  # a peak below this is not raised further: the noise of a silent room stays below a voice


def cochlea(
    sound: Sound,
    channels: int = 70,
    rate: int = 8000,
    lowest: float = 100.0,
    tau: float = 2.0,
    threshold: float = 0.3,
    compression: float = 1 / 3,
) -> Events:
    """The spikes of an ear that hears a sound.

    With g_c the gammatone response of channel c, I_c = max(0, (g_c * x)(t))^compression is the current of
    v_c <- v_c (1 - 1/(tau rate)) + I_c 1000/rate; v_c >= threshold is a spike, which subtracts the threshold.

    Args:
        sound: brought to `rate` and, after the emphasis, to a peak of 1 (no more than 100 times as loud).
        channels: C, number of filters.
        rate: samples a second.
        lowest: centre of the lowest filter, in hertz; the highest is at 0.45 of the rate.
        tau: of the membranes, in milliseconds.
        threshold: of the membranes, in current times milliseconds.
        compression: exponent, in (0, 1].

    Returns:
        Events on a sensor one pixel high and C wide: column c is channel c, all ON, times in microseconds from the
        start of the sound. A silent sound has none.
    """
    if not 0 < lowest < HIGHEST * rate:
        raise ConfigError(f"the lowest filter is at {lowest} Hz; expected between 0 and {HIGHEST * rate:g}")
    x_N = sound.at_rate(rate).samples.astype(np.float64)
    x_N[1:] -= EMPHASIS * x_N[:-1]
    x_N /= max(float(np.abs(x_N).max()), QUIET)
    heard_CN = signal.oaconvolve(x_N[None], gammatones(channels, rate, lowest), axes=1)[:, : len(x_N)]
    current_CN = np.maximum(heard_CN, 0.0) ** compression * (1000 / rate)
    current_N1C = torch.from_numpy(np.ascontiguousarray(current_CN.T, np.float32))[:, None]
    neuron = LIF(tau=max(1.0, tau * rate / 1000), v_threshold=threshold, v_reset=None, decay_input=False)
    with torch.no_grad():
        samples, _, column = neuron(current_N1C).nonzero(as_tuple=True)
    t = samples.numpy() * 1_000_000 // rate
    return Events(t, column.numpy(), np.zeros_like(t), np.ones(len(t), bool), 1, channels)


@functools.lru_cache(maxsize=8)
def gammatones(channels: int, rate: int, lowest: float) -> Floats:
    """Impulse responses of the filter bank, each with gain 1 at its centre: [C, TAPS * rate]."""
    t = np.arange(1, round(TAPS * rate) + 1) / rate
    responses = []
    for centre in centres(channels, lowest, HIGHEST * rate):
        shape = t**3 * np.exp(-2 * math.pi * 1.019 * bandwidth(centre) * t)
        gain = np.abs((shape * np.cos(2 * math.pi * centre * t)) @ np.exp(-2j * math.pi * centre * t))
        responses.append(shape * np.cos(2 * math.pi * centre * t) / gain)
    return np.stack(responses)


def centres(channels: int, lowest: float, highest: float) -> Floats:
    """Centre frequencies in hertz, evenly spaced on the ERB-rate scale E(f) = 21.4 log10(1 + 0.00437 f): [C]."""
    low, high = (21.4 * math.log10(1 + 0.00437 * f) for f in (lowest, highest))
    spaced: Floats = (10 ** (np.linspace(low, high, channels) / 21.4) - 1) / 0.00437
    return spaced


def bandwidth(centre: float) -> float:
    """The equivalent rectangular bandwidth at a frequency, in hertz: 24.7 (1 + 0.00437 f)."""
    return 24.7 * (1 + 0.00437 * centre)
