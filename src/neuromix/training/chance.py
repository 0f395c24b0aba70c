"""Where the chance of a step comes from: the seed and the place in the run, so that nothing has to be saved."""

from __future__ import annotations

import numpy as np
import torch

_STEP, _STAGE = 2, 3  # keep these streams apart from one another and from those of the data room (0 and 1)


def step_seed(seed: int, *place: int) -> int:
    """A seed of 32 bits for one step; seeds of neighbouring places are unrelated.

    Args:
        seed: of the run, >= 0.
        place: stage, epoch, batch and rank.
    """
    return _mixed(seed, _STEP, *place)


def stage_seed(seed: int, stage: int) -> int:
    """The seed of the data of a stage: that of the run for the first, unrelated ones for the others."""
    return seed if stage == 0 else _mixed(seed, _STAGE, stage)


def generator(seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh generator on a device."""
    return torch.Generator(device=device).manual_seed(seed)


def _mixed(seed: int, *key: int) -> int:
    return int(np.random.SeedSequence(seed, spawn_key=key).generate_state(1)[0])
