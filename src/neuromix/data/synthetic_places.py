"""A made up street: textured landmarks, seen on traverses with other light, season, position and noise.

An image is a function of (seed, traverse, place).

Shapes: H W image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from neuromix.core.config import Config


@dataclass(frozen=True)
class Street(Config):
    """How made up places look, and how much traverses differ; the query differs by the full amount.

    The references, which were driven soon after one another, differ from the first look of the street by a third.
    """

    seed: int = 0  # of the street
    references: int = 2  # reference traverses
    height: int = 64  # of an image, in pixels; its width is the same
    overlap: float = 0.25  # share of an image that the next place's image shows as well, in [0, 1)
    landmarks: int = 8  # a place
    light: float = 0.4  # change of brightness over the image and of contrast, >= 0
    season: float = 0.2  # share of each texture that is replaced by another, in [0, 1]
    shift: float = 0.02  # sideways, as a share of the width
    noise: float = 0.03  # standard deviation of each pixel

    def validate(self) -> None:
        self.require_positive("references", "height", "landmarks")
        self.require_within(0, 1, "overlap")
        self.require(0 <= self.season <= 1, f"season must be in [0, 1], got {self.season}")
        for name in ("seed", "light", "shift", "noise"):
            self.require(getattr(self, name) >= 0, f"{name} must be 0 or more, got {getattr(self, name)}")


class SyntheticStreet:
    """The places of a street.

    Args:
        places: number P.
        street: how they look.
    """

    def __init__(self, places: int, street: Street) -> None:
        self.places, self.street = places, street
        self.traverses = (*(f"reference {i + 1}" for i in range(street.references)), "query")

    def read(self, traverse: int, place: int) -> Tensor:
        street, side = self.street, self.street.height
        amount = 1.0 if traverse == street.references else 1 / 3
        draw = _generator(street.seed, 1 + traverse, place)
        width = side * (1 - street.overlap)
        shift = street.shift * amount * side * (2 * float(torch.rand((), generator=draw)) - 1)
        panorama_HW = _panorama(street, self.places)
        season_HW = _panorama(street, self.places, 1 + traverse)
        left = min(max(round(place * width + shift) + side // 4, 0), panorama_HW.shape[1] - side)
        share = street.season * amount
        seen_HW = ((1 - share) * panorama_HW + share * season_HW)[:, left : left + side]
        lit_HW = seen_HW * self._light(traverse, amount)
        noisy_HW = lit_HW + street.noise * amount * torch.randn(side, side, generator=draw)
        return noisy_HW.clamp(0, 1)[None]

    def _light(self, traverse: int, amount: float) -> Tensor:
        """A ramp of brightness over the image, the same for all places of a traverse; [H, W]."""
        draw, side = _generator(self.street.seed, 1 + traverse), self.street.height
        angle, level = 2 * math.pi * torch.rand(2, generator=draw)
        axis = torch.linspace(-1, 1, side)
        ramp_HW = torch.cos(angle) * axis[:, None] + torch.sin(angle) * axis
        return 1 - self.street.light * amount * (0.5 + 0.25 * ramp_HW + 0.25 * torch.cos(level))


@lru_cache(maxsize=16)
def _panorama(street: Street, places: int, look: int = 0) -> Tensor:
    """The whole street [H, W]: rough and fine texture with landmarks in front; other looks have other textures."""
    side = street.height
    width = math.ceil(places * side * (1 - street.overlap)) + 2 * side
    texture, layout = _generator(street.seed, 0, look), _generator(street.seed, 0)
    street_HW = torch.full((side, width), 0.5)
    for cell, contrast in ((16, 0.2), (4, 0.1)):
        rough = torch.randn(1, 1, max(2, side // cell), max(2, width // cell), generator=texture)
        street_HW = street_HW + contrast * F.interpolate(rough, (side, width), mode="bicubic")[0, 0]
    rows, columns = torch.arange(side)[:, None], torch.arange(width)
    for _ in range(street.landmarks * places):
        x, y, w, h, level = torch.rand(5, generator=layout).tolist()
        inside = (columns - x * width).abs() < side * (0.03 + 0.1 * w)
        inside = inside & ((rows - y * side).abs() < side * (0.05 + 0.2 * h))
        street_HW = torch.where(inside, 0.4 * street_HW + 0.6 * level, street_HW)
    return street_HW.clamp(0, 1)


def _generator(seed: int, *key: int) -> torch.Generator:
    mixed = np.random.SeedSequence(seed, spawn_key=key).generate_state(1)[0]
    return torch.Generator().manual_seed(int(mixed))
