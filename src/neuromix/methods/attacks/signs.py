"""FGSM and PGD: steps along the sign of the gradient, no value changed by more than eps.

Shapes: B batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from neuromix.core.errors import ConfigError
from neuromix.methods.attacks.attack import Attack, register_attack
from neuromix.methods.attacks.losses import LOSSES, LossName
from neuromix.methods.attacks.victim import Victim


@dataclass(frozen=True)
class DenseAttack(Attack):
    """What attacks within an eps-ball of the largest change (L-infinity) share."""

    eps: float = 8 / 255  # the most that a value changes, > 0; of images in [0, 1]
    loss: LossName = "ce"

    def validate(self) -> None:
        self.require_positive("eps")

    def check(self, victim: Victim, x: Tensor) -> None:
        super().check(victim, x)
        upper = victim.range.upper
        if upper is not None and self.eps > upper:
            raise ConfigError(
                f"eps is above 0 and at most {upper:g} for values in [0, {upper:g}], got {self.eps:g}"
            )

    def within(self, victim: Victim, x: Tensor, changed: Tensor) -> Tensor:
        """The nearest input to `changed` that is no more than eps from x, and in the range."""
        return victim.range.clipped(x + (changed - x).clamp(-self.eps, self.eps))

    def random_within(self, victim: Victim, x: Tensor, chance: torch.Generator) -> Tensor:
        """x with every value changed by uniform(-eps, eps)."""
        drawn = torch.rand(x.shape, generator=chance, dtype=x.dtype).to(x.device)
        return victim.range.clipped(x + self.eps * (2 * drawn - 1))


@register_attack("fgsm")
@dataclass(frozen=True)
class FGSM(DenseAttack):
    """x + eps * sign(gradient) (Goodfellow et al., ICLR 2015)."""

    def __call__(self, victim: Victim, x: Tensor, label_B: Tensor, chance: torch.Generator) -> Tensor:
        self.check(victim, x)
        gradient = victim.sensitivity(x, label_B, LOSSES[self.loss]).gradient
        victim.require_gradient(gradient)
        return victim.range.clipped(x + self.eps * gradient.sign())


@register_attack("pgd")
@dataclass(frozen=True)
class PGD(DenseAttack):
    """Steps of a fixed size along the sign of the gradient, each projected into the ball (Madry et al., ICLR 2018)."""

    steps: int = 10
    step: float | None = None  # size of a step; None: eps / 4
    random_start: bool = True

    def validate(self) -> None:
        super().validate()
        self.require_positive("steps")
        self.require(self.step is None or self.step > 0, f"step must be positive, got {self.step}")

    def __call__(self, victim: Victim, x: Tensor, label_B: Tensor, chance: torch.Generator) -> Tensor:
        self.check(victim, x)
        size = self.eps / 4 if self.step is None else self.step
        changed = self.random_within(victim, x, chance) if self.random_start else x
        for number in range(self.steps):
            gradient = victim.sensitivity(changed, label_B, LOSSES[self.loss]).gradient
            if number == 0:
                victim.require_gradient(gradient)
            changed = self.within(victim, x, changed + size * gradient.sign())
        return changed
