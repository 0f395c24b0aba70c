"""Tally: the losses of an epoch, summed where they are computed, so that nothing waits for a device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from neuromix.training.task import Losses, total

_NONE = torch.iinfo(torch.int64).max


class Tally:
    """Sums of losses over batches, and the first step whose numbers were not finite.

    Args:
        sums: of an epoch that is under way.
    """

    def __init__(self, device: torch.device, sums: Mapping[str, Tensor] | None = None) -> None:
        self.sums = {name: value.to(device) for name, value in (sums or {}).items()}
        self.last = torch.zeros((), device=device)
        self._bad = torch.full((), _NONE, dtype=torch.int64, device=device)

    @torch.no_grad()
    def add(self, parts: Sequence[tuple[float, Losses]], norm: Tensor | None, step: int) -> None:
        """Takes in one step.

        Args:
            parts: (share in the batch, losses) of each part of the batch.
            norm: of the gradient; None where it may be infinite.
            step: the optimiser step, counted from 1.
        """
        means = {"loss": _mean([(share, total(losses)) for share, losses in parts])}
        if len(parts[0][1]) > 1:
            means |= {name: _mean([(share, losses[name]) for share, losses in parts]) for name in parts[0][1]}
        for name, value in {**means, "batches": torch.ones_like(means["loss"])}.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.last = means["loss"]
        finite = self.last.isfinite() if norm is None else self.last.isfinite() & norm.isfinite()
        self._bad = torch.where(finite | (self._bad < _NONE), self._bad, step)

    @property
    def bad(self) -> Tensor:
        """Zero, or a number that is the larger the earlier the first bad step came: see `bad_step`."""
        return _NONE - self._bad

    @staticmethod
    def bad_step(bad: int) -> int | None:
        """The first step whose loss or gradient was not finite, from `bad`, the largest of all processes'."""
        return _NONE - bad if bad else None

    def means(self) -> dict[str, Tensor]:
        """The mean of each loss over the batches."""
        return {name: value / self.sums["batches"] for name, value in self.sums.items() if name != "batches"}


def _mean(parts: Sequence[tuple[float, Tensor]]) -> Tensor:
    return torch.stack([share * value.detach().float() for share, value in parts]).sum()
