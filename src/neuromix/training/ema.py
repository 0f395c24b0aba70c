"""Averaged weights: they often do better than the last ones, and move less from epoch to epoch."""

from __future__ import annotations

import copy

import torch

from neuromix.core.model import Model


class Ema:
    """An exponential moving average of a model's weights, and of the statistics of its norms.

    average = d*average + (1-d)*model, with d = min(decay, (1+n) / (10+n)) at update n, so that the start does
    not weigh on short runs.
    """

    def __init__(self, model: Model, decay: float) -> None:
        self.decay = decay
        self.model = copy.deepcopy(model).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, model: Model, n: int) -> None:
        """Takes in the weights after optimiser step n, counted from 0."""
        d = min(self.decay, (1 + n) / (10 + n))
        averages, values = self.model.state_dict(), model.state_dict()
        floating = [name for name, value in values.items() if value.is_floating_point()]
        torch._foreach_lerp_(
            [averages[name] for name in floating], [values[name] for name in floating], 1 - d
        )
        for name in values.keys() - set(floating):
            averages[name].copy_(values[name])
