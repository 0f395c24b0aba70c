"""Part shift: a part of the features of each token are those of the token before it.

Shapes: B batch, L tokens, D width, P features of a part.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from neuromix.core.errors import ShapeError
from neuromix.core.state import Stateful
from neuromix.layers.token_shift import token_shift


class PartShiftState(NamedTuple):
    """The shifted part of the last token, [B, P]."""

    last_BP: Tensor


class PartShift(Stateful):
    """The second half of the features comes from the token before, zeros before the first.

    Without causality the first third comes from the token after, and the last third from the token before.
    """

    time_axis: ClassVar[int] = 1

    def __init__(self, *, causal: bool = True) -> None:
        super().__init__()
        self.causal = causal

    def initial_state(self, like: Tensor) -> PartShiftState:
        return PartShiftState(torch.zeros_like(like[:, : like.shape[1] // 2]))

    def forward(
        self, x_BLD: Tensor, state: Any = None, *, tokens: Any = None, return_state: bool = False
    ) -> Any:
        if not self.causal:
            return self._both_ways(x_BLD, state, return_state)
        mask_BL, segments_BL = tokens or (None, None)
        state = state or self.initial_state(x_BLD.sum(1))
        size = x_BLD.shape[2] // 2
        kept, part, rest = x_BLD[..., :size], x_BLD[..., size : 2 * size], x_BLD[..., 2 * size :]
        part, last_BP = token_shift(part, state.last_BP, mask_BL=mask_BL, segments_BL=segments_BL)
        y_BLD = torch.cat([kept, part, rest], -1)
        return (y_BLD, PartShiftState(last_BP)) if return_state else y_BLD

    def _both_ways(self, x_BLD: Tensor, state: Any, return_state: bool) -> Tensor:
        if state is not None or return_state:
            raise ShapeError("a shift that looks ahead has no state")
        size = x_BLD.shape[2] // 3
        after, kept, before, rest = torch.split(x_BLD, [size, size, size, x_BLD.shape[2] - 3 * size], -1)
        return torch.cat([F.pad(after, (0, 0, -1, 1)), kept, F.pad(before, (0, 0, 1, -1)), rest], -1)
