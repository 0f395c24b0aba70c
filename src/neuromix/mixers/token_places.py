"""Where the tokens of padded and packed rows stand within their own sequences.

Shapes: B batch, L tokens.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from neuromix.mixers.sequence import Tokens
from neuromix.ops._tokens import find_resets
from neuromix.ops.runs import positions


class Places(NamedTuple):
    """Of each token.

    Attributes:
        real_BL: bool, not padding.
        sequence_BL: int64, which sequence of its row it belongs to; 0 is the one that a carried state belongs to.
        position_BL: int64, the real tokens of its sequence before it.
        count_B: int64, the real tokens so far of the sequence that each row ends in.
    """

    real_BL: Tensor
    sequence_BL: Tensor
    position_BL: Tensor
    count_B: Tensor


def token_places(count_B: Tensor, length: int, tokens: Tokens) -> Places:
    """Places of `length` tokens, at least 1, that follow `count_B` earlier ones."""
    shape = torch.Size((len(count_B), length))
    real_BL, resets_BL = tokens.mask_BL, find_resets(tokens.mask_BL, tokens.segments_BL)
    if real_BL is None:
        real_BL = torch.ones(shape, dtype=torch.bool, device=count_B.device)
    sequence_BL = torch.zeros_like(real_BL, dtype=torch.int64) if resets_BL is None else resets_BL.cumsum(1)
    count_BL = positions(shape, count_B, tokens.mask_BL, tokens.segments_BL, count_B.device)
    return Places(real_BL, sequence_BL, (count_BL - 1).clamp(min=0), count_BL[:, -1])
