"""Representations of audio: how a recording becomes steps of channels, [T, N].

| name | of | gives |
| --- | --- | --- |
| `cochlea` | sounds | spikes of an artificial ear, counted in bins of time |
| `log-mel` | sounds | a log-mel spectrogram, in decibels above silence |
| `bins` | recorded spikes (SHD, SSC) | these, counted in bins of time, neighbouring channels added up |

Silence is 0 in each of them, so that zeros at the end of a recording are silence.

Shapes: T steps, N channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from torch import Tensor

from neuromix.core.config import Config
from neuromix.core.errors import ConfigError
from neuromix.core.registry import register
from neuromix.data.audio.cochlea import cochlea
from neuromix.data.audio.spectrogram import log_mel
from neuromix.data.audio.wav import Sound
from neuromix.data.events.value import Events

Heard = Sound | Events  # what a recording is: a waveform, or the spikes of an ear that has heard it


def binned(events: Events, bin_ms: float = 10.0, group: int = 1, since: int | None = None) -> Tensor:
    """Counts of the spikes of each channel in bins of time.

    x[k, n] = number of events of the channels group*n to group*n + group - 1 with floor((t - since) / bin) = k.

    Args:
        bin_ms: width of a bin, in milliseconds.
        group: neighbouring channels that are added up.
        since: microseconds at which bin 0 begins; None for the first event.

    Returns:
        [T, N], float32, up to the bin of the last event; N = channels / group, rounded up. Without events one bin.
    """
    start = since if since is not None else int(events.t_N[0]) if events.size else 0
    bin_N = ((events.t_N - start) // (bin_ms * 1000)).astype(np.int64)
    channels = -(-events.width // group)
    steps = int(bin_N.max(initial=0)) + 1
    counts = np.bincount(bin_N * channels + events.x_N // group, minlength=steps * channels)
    return torch.from_numpy(counts.astype(np.float32)).reshape(steps, channels)


@dataclass(frozen=True)
class AudioRepresentation(Config):
    """Base of the representations that a task can be given by name.

    Attributes:
        takes: what it is made of, Sound or Events.
    """

    takes: ClassVar[type[Any]] = Sound

    def __call__(self, heard: Any) -> Tensor:
        """A recording as [T, N], float32."""
        raise NotImplementedError(f"{type(self).__name__} does not say what it makes of a recording")

    def channels(self, recorded: int) -> int:
        """N, where an ear that made the recordings has so many channels (0: they are sounds)."""
        raise NotImplementedError


R = TypeVar("R", bound=type[AudioRepresentation])


def register_audio_representation(name: str) -> Callable[[R], R]:
    """Registers an AudioRepresentation, which is its own Config."""

    def decorate(kind: R) -> R:
        return register("audio-representation", name, config=kind, build=_itself)(kind)

    return decorate


def _itself(config: AudioRepresentation) -> AudioRepresentation:
    return config


@register_audio_representation("cochlea")
@dataclass(frozen=True)
class Cochlea(AudioRepresentation):
    """Spike counts of an artificial ear, from the start of the sound to its end; see `cochlea`."""

    bands: int = 70  # filters, and channels
    rate: int = 8000  # samples a second that sounds are brought to
    lowest: float = 100.0  # hertz
    tau: float = 2.0  # milliseconds
    threshold: float = 0.3  # of a neuron
    compression: float = 1 / 3  # exponent, in (0, 1]
    bin_ms: float = 10.0  # milliseconds of a step

    def validate(self) -> None:
        self.require_positive("bands", "rate", "lowest", "tau", "threshold", "bin_ms")
        self.require(0 < self.compression <= 1, f"compression must be in (0, 1], got {self.compression}")

    def __call__(self, heard: Sound) -> Tensor:
        spikes = cochlea(
            heard, self.bands, self.rate, self.lowest, self.tau, self.threshold, self.compression
        )
        steps = max(1, -(-int(heard.seconds * 1_000_000) // int(self.bin_ms * 1000)))
        counts = binned(spikes, self.bin_ms, since=0)[:steps]
        return torch.nn.functional.pad(counts, (0, 0, 0, steps - len(counts)))

    def channels(self, recorded: int) -> int:
        return self.bands


@register_audio_representation("log-mel")
@dataclass(frozen=True)
class LogMel(AudioRepresentation):
    """Log-mel spectrogram in decibels above silence; see `log_mel`."""

    bands: int = 40
    rate: int = 8000  # samples a second that sounds are brought to
    window: int = 256  # samples
    hop: int = 80  # samples: 10 ms
    lowest: float = 50.0  # hertz
    highest: float | None = None  # hertz; None: half the rate

    def validate(self) -> None:
        self.require_positive("bands", "rate", "hop")
        self.require(self.window >= 2, f"window must be 2 samples or more, got {self.window}")

    def __call__(self, heard: Sound) -> Tensor:
        options = (self.bands, self.rate, self.window, self.hop, self.lowest, self.highest)
        return torch.from_numpy(log_mel(heard, *options).astype(np.float32))

    def channels(self, recorded: int) -> int:
        return self.bands


@register_audio_representation("bins")
@dataclass(frozen=True)
class Bins(AudioRepresentation):
    """Recorded spikes, counted in bins; see `binned`."""

    takes: ClassVar[type[Any]] = Events
    bin_ms: float = 10.0  # milliseconds of a step
    group: int = 5  # neighbouring channels that are added up
    from_first: bool = True  # bins begin with the first spike; false: at time 0

    def validate(self) -> None:
        self.require_positive("bin_ms", "group")

    def __call__(self, heard: Events) -> Tensor:
        return binned(heard, self.bin_ms, self.group, since=None if self.from_first else 0)

    def channels(self, recorded: int) -> int:
        return -(-recorded // self.group)


def default_representation(takes: type[Any], channels: int) -> AudioRepresentation:
    """What recordings become where the user does not say: `cochlea` of sounds, `bins` of spikes.

    Channels are added up, and time counted from the first spike, where there are hundreds of them, as in SHD.
    """
    if takes is Events:
        return Bins() if channels >= 100 else Bins(group=1, from_first=False)
    return Cochlea()


def require_fit(representation: AudioRepresentation, takes: type[Any], data: str) -> None:
    """Refuses sounds for a representation of spikes, and the other way round.

    Raises:
        ConfigError: with the representations that fit.
    """
    if representation.takes is not takes:
        what, fitting = ("spikes", "bins") if takes is Events else ("sounds", "cochlea or log-mel")
        raise ConfigError(
            f"{data} holds {what}, and {type(representation).__name__} is not made of them; "
            f"set task.representation={fitting}"
        )
