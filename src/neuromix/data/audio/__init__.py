"""Sounds: WAV files and recorded spikes, an artificial ear, spectrograms and data sets."""

from neuromix.data.audio.cochlea import cochlea
from neuromix.data.audio.dataset import AudioDataset, open_audio
from neuromix.data.audio.representations import (
    AudioRepresentation,
    binned,
    register_audio_representation,
)
from neuromix.data.audio.spectrogram import log_mel
from neuromix.data.audio.wav import Sound, read_wav

__all__ = [
    "AudioDataset",
    "AudioRepresentation",
    "Sound",
    "binned",
    "cochlea",
    "log_mel",
    "open_audio",
    "read_wav",
    "register_audio_representation",
]
