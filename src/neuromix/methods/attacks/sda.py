"""SDA: a sparse attack on binary event frames, that flips as few pixels as it can (Lun et al., CVPR 2025).

Pixels are tried one by one where the gradient says that a flip may help, and kept if it does not hurt. Once the answer
is wrong, those that helped least are flipped back.

Shapes: N pixels (all values of a sample, over time, polarity and place), B copies of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from neuromix.core.errors import ConfigError
from neuromix.methods.attacks.attack import Attack, register_attack
from neuromix.methods.attacks.losses import margin
from neuromix.methods.attacks.victim import Victim


def certainty(logits_BK: Tensor, label_B: Tensor) -> Tensor:
    """J = max(0, z_y - max_{j != y} z_j): what is to fall to 0."""
    return (-margin(logits_BK, label_B)).clamp_min(0)


@register_attack("sda")
@dataclass(frozen=True)
class SDA(Attack):
    """Flips pixels of samples [T, ...] in {0, 1}, one sample after the other; one that resists comes back as it was."""

    pixels: int = 10  # more that are tried in each iteration: k = pixels * (iteration from 1)
    iterations: int = 500
    copies: int = 64  # of a sample, with one pixel flipped each, that run at once
    batch_size: ClassVar[int | None] = 8  # few at a time, as each takes long

    def validate(self) -> None:
        self.require_positive("pixels", "iterations", "copies")

    def __call__(self, victim: Victim, x: Tensor, label_B: Tensor, chance: torch.Generator) -> Tensor:
        self.check(victim, x)
        now = victim.sensitivity(x, label_B, certainty)
        if now.loss_B.any():
            victim.require_gradient(now.gradient)
        changed = x.clone()
        for i in now.loss_B.nonzero().flatten().tolist():  # the others are taken wrongly as they are
            changed[i : i + 1] = self._one(victim, x[i : i + 1], label_B[i : i + 1], chance)
        return changed

    def check(self, victim: Victim, x: Tensor) -> None:
        super().check(victim, x)
        others = x[(x != 0) & (x != 1)]
        if len(others):
            raise ConfigError(
                f"sda flips pixels that are 0 or 1, and there is {float(others[0]):g}: take the coding binary, which "
                "makes an event or more 1, or another attack"
            )

    def _one(self, victim: Victim, x: Tensor, label: Tensor, chance: torch.Generator) -> Tensor:
        effect_N = self.generate(victim, x, label, chance)
        return x if effect_N is None else flipped(x, self.reduce(victim, x, label, effect_N))

    def generate(self, victim: Victim, x: Tensor, label: Tensor, chance: torch.Generator) -> Tensor | None:
        """How much J rises by flipping each pixel, in the order of x laid flat; inf where it is better left alone.

        Flipping those that are not inf makes the answer wrong; None where that was not reached.

        Args:
            x: one sample, [1, ...] in {0, 1}; label [1].
        """
        effect_N = torch.full((x.numel(),), torch.inf, dtype=x.dtype, device=x.device)
        changed = x
        for n in range(self.iterations):
            loss, _, gradient = victim.sensitivity(changed, label, certainty)
            worth_N = self._worth(changed, gradient, chance).masked_fill(effect_N.isfinite(), -1)
            tried_K = worth_N.topk(min((n + 1) * self.pixels, int(effect_N.isinf().sum()))).indices
            if len(tried_K) == 0:
                break
            effect_N[tried_K] = self._losses(victim, changed, label, tried_K) - loss
            effect_N[effect_N > 0] = torch.inf
            changed = flipped(x, effect_N.isfinite())
            if victim.answers(changed) != label:
                return effect_N
        return None

    def reduce(self, victim: Victim, x: Tensor, label: Tensor, effect_N: Tensor) -> Tensor:
        """Which pixels to flip, [N] bool: those without the longest run of the least useful that can go."""
        chosen_N = effect_N.isfinite()
        count = int(chosen_N.sum())
        # Equal effects are common, and their order matters: this is that of the release, on a CPU.
        order = effect_N.abs().cpu().topk(count, largest=False).indices.to(x.device)
        best_N, low, high = chosen_N, 0, count - 1
        while low <= high:
            middle = (low + high) // 2
            fewer_N = chosen_N.clone()
            fewer_N[order[: middle + 1]] = False
            if victim.answers(flipped(x, fewer_N)) != label:
                best_N, low = fewer_N, middle + 1
            else:
                high = middle - 1
        return best_N

    def _worth(self, x: Tensor, gradient: Tensor, chance: torch.Generator) -> Tensor:
        """How promising a flip of each pixel is, [N] > 0: |gradient| where it lets J fall, else a chance below that."""
        after = x - gradient.sign()
        size_N = gradient.abs().where((after >= 0) & (after <= 1), 0.0).flatten()
        drawn_N = torch.rand(size_N.shape, generator=chance, dtype=x.dtype).to(x.device)
        least = size_N[size_N > 0].min() if size_N.any() else 1.0
        return torch.where(size_N > 0, size_N, drawn_N * least)

    def _losses(self, victim: Victim, x: Tensor, label: Tensor, tried_K: Tensor) -> Tensor:
        """J with each of these pixels flipped alone, [K]."""
        with torch.no_grad():
            return torch.cat(
                [
                    certainty(victim.logits(copies), label.expand(len(copies)))
                    for copies in _copies(x, tried_K, self.copies)
                ]
            )


def flipped(x: Tensor, chosen_N: Tensor) -> Tensor:
    """x with these pixels flipped."""
    return torch.where(chosen_N.view_as(x), 1 - x, x)


def _copies(x: Tensor, pixel_K: Tensor, at_once: int) -> Iterator[Tensor]:
    """Copies of x [1, ...], each with one pixel flipped, so many at a time."""
    for part in torch.split(pixel_K, at_once):
        copies = x.expand(len(part), *x.shape[1:]).flatten(1).clone()
        rows = torch.arange(len(part), device=x.device)
        copies[rows, part] = 1 - copies[rows, part]
        yield copies.view(-1, *x.shape[1:])
