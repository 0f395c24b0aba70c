"""Token shift: what each token is mixed with, the token before it (RWKV).

Shapes: B batch, L tokens, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from neuromix.ops._tokens import find_resets


def token_shift(
    x_BLD: Tensor, previous_BD: Tensor, *, mask_BL: Tensor | None = None, segments_BL: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The real token before each, zeros before the first of a segment; and the last real one, [B, D].

    Args:
        previous_BD: what stands before the first token, which is of the first segment.
        mask_BL: True at real tokens; the others are passed over.
        segments_BL: where the id changes, another sequence begins.
    """
    known_BSD = torch.cat([previous_BD[:, None], x_BLD], 1)  # S = 1 + L
    if mask_BL is None:
        before_BLD, last_BD = known_BSD[:, :-1], known_BSD[:, -1]
    else:
        place_L = torch.arange(1, known_BSD.shape[1], device=x_BLD.device)
        place_BS = F.pad(place_L.where(mask_BL, 0).cummax(1).values, (1, 0))
        real_BSD = known_BSD.gather(1, place_BS[..., None].expand_as(known_BSD))
        before_BLD, last_BD = real_BSD[:, :-1], real_BSD[:, -1]
    resets_BL = find_resets(mask_BL, segments_BL)
    if resets_BL is not None:
        before_BLD = before_BLD.masked_fill(resets_BL[..., None], 0.0)
    return before_BLD, last_BD
