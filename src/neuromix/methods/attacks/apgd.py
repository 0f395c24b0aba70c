"""APGD: projected gradient steps that find their own size (Croce & Hein, ICML 2020).

Shapes: B batch; what there is one of a sample broadcasts over its values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from neuromix.methods.attacks.attack import register_attack
from neuromix.methods.attacks.losses import LOSSES
from neuromix.methods.attacks.signs import DenseAttack
from neuromix.methods.attacks.victim import Victim

MOMENTUM = 0.75  # the share of a new step in a move; the rest goes on as the last move went
RISES = 0.75  # the share of moves that must raise the loss, or the step is halved


class Place(NamedTuple):
    """Inputs, the loss of each, its gradient, and whether each is taken for something else."""

    x: Tensor
    loss_B: Tensor
    gradient: Tensor
    is_wrong_B: Tensor

    def where(self, chosen_B: Tensor, other: Place) -> Place:
        """These where chosen, else those of the other place."""
        return Place(*(torch.where(_over(chosen_B, a), a, b) for a, b in zip(self, other, strict=True)))


class Pace(NamedTuple):
    """The size of the steps of each sample, and what is needed to judge it at the next check point."""

    size_B: Tensor
    rises_B: Tensor  # moves since the last check point that raised the loss
    was_kept_B: Tensor  # the size was not halved there
    best_B: Tensor  # the largest loss there

    def judged(self, best_B: Tensor, moves: int) -> tuple[Pace, Tensor]:
        """The pace after a check point, `moves` after the last one, and which samples it was halved for."""
        stalled_B = (self.rises_B < RISES * moves) | (self.was_kept_B & (best_B <= self.best_B))
        size_B = torch.where(stalled_B, self.size_B / 2, self.size_B)
        return Pace(size_B, torch.zeros_like(self.rises_B), ~stalled_B, best_B), stalled_B


@register_attack("apgd")
@dataclass(frozen=True)
class APGD(DenseAttack):
    """Moves x[k+1] = P(x[k] + 0.75 (z - x[k]) + 0.25 (x[k] - x[k-1])) with z = P(x[k] + size * sign(gradient)).

    The size begins at 2 eps. At check points it is halved, sample by sample, where too few moves raised the loss or
    nothing has been gained since the last one, and the search goes on from the best input so far. A sample that was
    taken for something else on the way is given back as it was then.
    """

    steps: int = 50

    def validate(self) -> None:
        super().validate()
        self.require_positive("steps")

    def __call__(self, victim: Victim, x: Tensor, label_B: Tensor, chance: torch.Generator) -> Tensor:
        self.check(victim, x)
        now = self._look(victim, self.random_within(victim, x, chance), label_B)
        victim.require_gradient(now.gradient)
        before_x, best, wrong = now.x, now, now
        none_B = torch.zeros_like(now.is_wrong_B)
        pace = Pace(
            torch.full_like(now.loss_B, 2 * self.eps), torch.zeros_like(now.loss_B), none_B, now.loss_B
        )
        checks, last = check_points(self.steps), 0
        for k in range(1, self.steps + 1):
            moved = self._moved(victim, x, now, before_x, pace.size_B, MOMENTUM if k > 1 else 1.0)
            before_x, before_loss_B = now.x, now.loss_B
            now = self._look(victim, moved, label_B)
            pace = pace._replace(rises_B=pace.rises_B + (now.loss_B > before_loss_B))
            best = now.where(now.loss_B > best.loss_B, best)
            wrong = now.where(now.is_wrong_B, wrong)
            if k in checks:
                pace, stalled_B = pace.judged(best.loss_B, k - last)
                now, last = best.where(stalled_B, now), k
        return wrong.where(wrong.is_wrong_B, best).x

    def _look(self, victim: Victim, x: Tensor, label_B: Tensor) -> Place:
        loss_B, logits_BK, gradient = victim.sensitivity(x, label_B, LOSSES[self.loss])
        return Place(x, loss_B, gradient, logits_BK.argmax(1) != label_B)

    def _moved(
        self, victim: Victim, x: Tensor, now: Place, before: Tensor, size_B: Tensor, share: float
    ) -> Tensor:
        z = self.within(victim, x, now.x + _over(size_B, x) * now.gradient.sign())
        return self.within(victim, x, now.x + share * (z - now.x) + (1 - share) * (now.x - before))


def check_points(steps: int) -> set[int]:
    """After which moves the sizes are judged: at 22 % of them, then ever more often, at last every 6 %."""
    points, share, gap = set(), 0.22, 0.22
    while share < 1:
        points.add(max(1, round(share * steps)))
        gap = max(gap - 0.03, 0.06)
        share += gap
    return points


def _over(value_B: Tensor, x: Tensor) -> Tensor:
    """One number a sample, shaped to broadcast over x."""
    return value_B.view(-1, *[1] * (x.dim() - 1))
