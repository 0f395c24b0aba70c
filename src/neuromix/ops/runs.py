"""Runs: the real tokens of one sequence in a row of a batch, which may hold padding and several sequences.

What works on whole rows only, such as a convolution by FFT, is given a row for each run; padding is left out, also
where it stands between tokens.

Shapes: B batch, L tokens, R runs, M tokens of the longest run, D anything.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from neuromix.ops._tokens import find_resets


def positions(
    shape: torch.Size,
    before_B: Tensor | None,
    mask_BL: Tensor | None,
    segments_BL: Tensor | None,
    device: torch.device | None = None,
) -> Tensor:
    """How many tokens there were in the sequence of each token, itself counted: int64 [B, L].

    Args:
        shape: (B, L).
        before_B: int64, how many came before the first sequence of each row; None: none.
        mask_BL: bool, False at padding, which does not count.
        segments_BL: int64; another id than that of the token before begins another sequence.
    """
    if before_B is None:
        before_B = torch.zeros(shape[0], dtype=torch.int64, device=device)
    if mask_BL is None and segments_BL is None:
        return before_B[:, None] + torch.arange(1, shape[1] + 1, device=device)
    ones_BL = torch.ones(shape, dtype=torch.int64, device=device)
    count_BL = (ones_BL if mask_BL is None else ones_BL * mask_BL).cumsum(1)
    reset_BL = find_resets(mask_BL, segments_BL)
    if reset_BL is None or not shape[1]:
        return before_B[:, None] + count_BL
    # Before the first reset the sequence has begun -before tokens ago.
    begin_BL = torch.where(reset_BL, count_BL - 1, -1).cummax(1).values
    return count_BL - torch.where(begin_BL < 0, -before_B[:, None], begin_BL)


class Runs(NamedTuple):
    """Where each token of [B, L] stands in [R, M].

    Attributes:
        real_BL: bool, False at padding.
        run_BL, place_BL: int64.
        lengths_R: tokens of each run; a row without tokens has one run of 0.
        first_B, last_B: the runs that a row begins and ends with.
    """

    real_BL: Tensor
    run_BL: Tensor
    place_BL: Tensor
    lengths_R: Tensor
    first_B: Tensor
    last_B: Tensor

    @classmethod
    def of(cls, shape: torch.Size, mask_BL: Tensor | None, segments_BL: Tensor | None) -> Runs:
        """The runs of a batch of this shape (B, L), L at least 1. The number of runs is read off the device."""
        given = mask_BL if mask_BL is not None else segments_BL
        assert given is not None
        real_BL = torch.ones(shape, dtype=torch.bool, device=given.device) if mask_BL is None else mask_BL
        reset_BL = find_resets(mask_BL, segments_BL)
        changes_BL = torch.zeros_like(real_BL, dtype=torch.int64) if reset_BL is None else reset_BL.cumsum(1)
        last_B = (changes_BL[:, -1] + 1).cumsum(0) - 1
        first_B = last_B - changes_BL[:, -1]
        run_BL = first_B[:, None] + changes_BL
        place_BL = positions(shape, None, mask_BL, segments_BL, given.device) - 1
        runs = int(last_B[-1]) + 1 if shape[0] else 0
        lengths_R = torch.bincount(run_BL[real_BL], minlength=runs)
        return cls(real_BL, run_BL, place_BL, lengths_R, first_B, last_B)

    def split(self, x_BLD: Tensor) -> Tensor:
        """[B, L, D] to [R, M, D], each run at the front of its row, zeros behind it."""
        longest = int(self.lengths_R.max()) if len(self.lengths_R) else 0
        x_RMD = x_BLD.new_zeros(len(self.lengths_R), longest, *x_BLD.shape[2:])
        return x_RMD.index_put((self.run_BL[self.real_BL], self.place_BL[self.real_BL]), x_BLD[self.real_BL])

    def join(self, y_RMD: Tensor) -> Tensor:
        """[R, M, D] back to [B, L, D], zero at padding."""
        y_BLD = y_RMD.new_zeros(*self.real_BL.shape, *y_RMD.shape[2:])
        found = y_RMD[self.run_BL[self.real_BL], self.place_BL[self.real_BL]]
        return y_BLD.index_put(self.real_BL.nonzero(as_tuple=True), found)

    def enter(self, state_BD: Tensor) -> Tensor:
        """[B, D] to [R, D]: what each run begins with, the state for the first of a row and zero for the others."""
        zeros_RD = state_BD.new_zeros(len(self.lengths_R), *state_BD.shape[1:])
        return zeros_RD.index_put((self.first_B,), state_BD)

    def leave(self, state_RD: Tensor) -> Tensor:
        """[R, D] to [B, D]: what the last run of each row ended with."""
        return state_RD.index_select(0, self.last_B)
