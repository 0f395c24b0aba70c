"""Rotary positions: pairs of numbers of a token are turned by angles that grow with its position.

Shapes: B batch, L tokens, H heads, K width of a head, R the numbers of it that are turned.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rotary(x_BLHK: Tensor, positions_L: Tensor, dims: int, *, base: float = 10000.0) -> Tensor:
    """x with its first `dims` numbers turned; pair i is (x_i, x_{i + dims/2}), its angle position * base^(-2i/dims).

    The product of two turned vectors depends on the difference of their positions only.

    Args:
        x_BLHK: floating point.
        positions_L: integers, [L] or [B, L].
        dims: R, even, at most K.
    """
    half = dims // 2
    inverse_R = base ** (-torch.arange(half, device=x_BLHK.device, dtype=torch.float64) / half)
    angles = positions_L[..., None].to(torch.float64) * inverse_R
    cos, sin = (f(angles)[..., None, :].to(x_BLHK.dtype) for f in (torch.cos, torch.sin))
    first, second, rest = x_BLHK[..., :half], x_BLHK[..., half:dims], x_BLHK[..., dims:]
    return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], -1)
