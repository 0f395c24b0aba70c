"""WAV files of every kind, made from the description of the format."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

RATE = 8000


def tone(hertz: float, seconds: float = 0.2, rate: int = RATE, loudness: float = 0.5) -> np.ndarray:
    return loudness * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


def write_wav(
    path: Path, samples: np.ndarray, rate: int = RATE, bits: int = 16, floats: bool = False
) -> Path:
    """samples in [-1, 1], [N] or [N, channels]."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = samples if samples.ndim == 2 else samples[:, None]
    if floats:
        data = frames.astype(f"<f{bits // 8}").tobytes()
    elif bits == 8:
        data = np.round(frames * 127 + 128).astype(np.uint8).tobytes()
    else:
        whole = np.round(frames * (2.0 ** (bits - 1) - 1)).astype("<i8")
        data = whole.reshape(-1, 1).view(np.uint8)[:, : bits // 8].tobytes()
    width = frames.shape[1] * bits // 8
    kind = struct.pack("<HHIIHH", 3 if floats else 1, frames.shape[1], rate, rate * width, width, bits)
    chunks = b"WAVEfmt " + struct.pack("<I", 16) + kind + b"data" + struct.pack("<I", len(data)) + data
    path.write_bytes(b"RIFF" + struct.pack("<I", len(chunks)) + chunks)
    return path


def write_spoken(
    folder: Path, digits: int = 2, numbers: int = 12, speakers: tuple[str, ...] = ("ann",)
) -> Path:
    """A small FSDD: each digit is a note of its own."""
    for digit in range(digits):
        for speaker in speakers:
            for number in range(numbers):
                samples = tone(300 * (digit + 1), 0.1 + 0.01 * number)
                write_wav(folder / f"{digit}_{speaker}_{number}.wav", samples)
    return folder
