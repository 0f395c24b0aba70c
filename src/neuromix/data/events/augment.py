"""Augmentation of events: functions of (events, generator), as those of images are in `data.augment`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Generator

from neuromix.core.errors import UnknownNameError
from neuromix.data.events.transforms import mirrored, shifted
from neuromix.data.events.value import Events

Augment = Callable[[Events, Generator], Events]


def random_shift(events: Events, generator: Generator, share: float = 0.1) -> Events:
    """Moves the events by up to `share` of height and width to either side, in whole pixels."""
    most = (round(share * events.height), round(share * events.width))
    down, right = (int(torch.randint(2 * m + 1, (), generator=generator)) - m for m in most)
    return shifted(events, down, right)


def random_flip(events: Events, generator: Generator, p: float = 0.5) -> Events:
    """Exchanges left and right with probability p."""
    return mirrored(events) if float(torch.rand((), generator=generator)) < p else events


@dataclass(frozen=True)
class Compose:
    """Several augmentations, one after another. (A class, because workers may have to pickle it.)"""

    steps: tuple[Augment, ...]

    def __call__(self, events: Events, generator: Generator) -> Events:
        for step in self.steps:
            events = step(events, generator)
        return events


POLICIES: Mapping[str, tuple[Augment, ...]] = {
    "none": (),
    "shift": (random_shift,),
    "shift-flip": (random_shift, random_flip),  # not where left and right mean something: digits, gestures
}


def policy(name: str) -> Augment:
    """The augmentation called `name`, one of `POLICIES`.

    Raises:
        UnknownNameError: no such policy.
    """
    if name not in POLICIES:
        raise UnknownNameError("augmentation of events", name, POLICIES)
    return Compose(POLICIES[name])
