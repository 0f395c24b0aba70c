"""MovingDigits: handwritten digits of scikit-learn that slide over a canvas, in an endless number of clips.

The background stays as it is, and so does most of a frame.

Shapes: T frames, H W canvas.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from neuromix.core.config import Config
from neuromix.data.dataset import Sample, sample_generator
from neuromix.data.images import open_images

FIXED = 20251  # seed of the clips that are the same in every run; it never changes


@dataclass(frozen=True)
class Motion(Config):
    """How digits move."""

    frames: int = 8  # T
    size: int = 24  # side of the canvas, at least that of a digit
    speed: int = 1  # pixels that a digit may go along each axis from a frame to the next, >= 0
    stand: float = 0.25  # share of the frames in which it stands still, in [0, 1]
    clutter: float = 0.1  # share of the background's pixels that are not black, in [0, 1]

    def validate(self) -> None:
        self.require_positive("frames")
        self.require(self.size >= 8, f"size must be at least 8, the side of a digit, got {self.size}")
        self.require(self.speed >= 0, f"speed must be at least 0, got {self.speed}")
        for name in ("stand", "clutter"):
            share = getattr(self, name)
            self.require(0 <= share <= 1, f"{name} must be in [0, 1], got {share}")


class MovingDigits:
    """Clips of one part: a sample is image [T, 1, H, W] float32 in [0, 1], and its label.

    Args:
        part: "train", "validation" or "test", those of the digits.
        fresh: a new clip of each digit whenever it is asked for; else always the same one.
    """

    def __init__(self, motion: Motion | None = None, part: str = "train", fresh: bool = False) -> None:
        self.motion = Motion() if motion is None else motion
        images = open_images("digits")
        self.source, self.rows, self.fresh = images.source, images.splits[part], fresh
        self.classes = tuple(map(str, images.classes))

    def __len__(self) -> int:
        return len(self.rows)

    def sample(self, index: int, generator: torch.Generator) -> Sample:
        """A clip; its chance is drawn from the generator, or from the digit's own where clips are not fresh."""
        row = int(self.rows[index])
        generator = generator if self.fresh else sample_generator(FIXED, 0, row)
        digit_HW = self.source.read(row, 1)[0]
        return {"image": moving(digit_HW, self.motion, generator), "label": int(self.source.labels[row])}


def moving(picture_HW: Tensor, motion: Motion, generator: torch.Generator) -> Tensor:
    """A picture that slides over a canvas and is thrown back by its edges: [T, 1, size, size]."""
    size, room = motion.size, motion.size - torch.tensor(picture_HW.shape)
    place = (torch.rand(2, generator=generator) * (room + 1)).long()
    velocity = torch.randint(-motion.speed, motion.speed + 1, (2,), generator=generator)
    lit_HW = torch.rand(size, size, generator=generator) < motion.clutter
    canvas_HW = torch.where(lit_HW, 0.3 * torch.rand(size, size, generator=generator), 0.0)
    frames = []
    for _ in range(motion.frames):
        frame_HW = canvas_HW.clone()
        top, left = place.tolist()
        window_HW = frame_HW[top : top + picture_HW.shape[0], left : left + picture_HW.shape[1]]
        window_HW.copy_(torch.maximum(window_HW, picture_HW))
        frames.append(frame_HW)
        if float(torch.rand((), generator=generator)) >= motion.stand:
            beyond = (place + velocity < 0) | (place + velocity > room)
            velocity = torch.where(beyond, -velocity, velocity)
            place = (place + velocity).clamp(min=torch.zeros_like(room), max=room)
    return torch.stack(frames)[:, None]
