"""Which steps of a row are tokens, and at which of them the state starts from zero.

Shapes: B batch, L tokens.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from neuromix.core.errors import ShapeError, UnknownNameError


def check_tokens(batch: int, length: int, mask_BL: Tensor | None, segments_BL: Tensor | None) -> None:
    """Raises ShapeError unless the mask is bool [B, L] and the segments are whole numbers [B, L]."""
    if mask_BL is not None and (mask_BL.dtype != torch.bool or mask_BL.shape != (batch, length)):
        raise ShapeError(
            f"expected a bool mask [{batch}, {length}] (True: a token), got {mask_BL.dtype} {list(mask_BL.shape)}"
        )
    if segments_BL is None:
        return
    whole = not (segments_BL.is_floating_point() or segments_BL.is_complex())
    if not whole or segments_BL.shape != (batch, length):
        raise ShapeError(
            f"expected int64 segments [{batch}, {length}], got {segments_BL.dtype} {list(segments_BL.shape)}"
        )


def find_resets(mask_BL: Tensor | None, segments_BL: Tensor | None) -> Tensor | None:
    """[B, L], bool: tokens whose segment is not that of the token before them; None where there are no segments.

    The first token of a row is none of them: a state carried into the row belongs to its segment.
    """
    if segments_BL is None:
        return None
    if mask_BL is not None and mask_BL.shape[1]:
        segments_BL = _as_last_token(mask_BL, segments_BL)
    first_B1 = torch.zeros_like(segments_BL[:, :1], dtype=torch.bool)
    return torch.cat((first_B1, segments_BL[:, 1:] != segments_BL[:, :-1]), 1)


def check_form(form: str, known: Iterable[str]) -> None:
    if form not in known:
        raise UnknownNameError("form", form, known)


def check_chunk_size(chunk_size: int) -> None:
    if chunk_size < 1:
        raise ShapeError(f"a chunk has at least 1 step, got chunk_size={chunk_size}")


def wide_dtype(*tensors: Tensor | None) -> torch.dtype:
    """The dtype to compute in: the widest of those given, and float32 (or complex64) at least."""
    dtype = torch.float32
    for tensor in tensors:
        if tensor is not None:
            dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def _as_last_token(mask_BL: Tensor, segments_BL: Tensor) -> Tensor:
    """Segments where padding belongs to the token before it, and leading padding to the first token."""
    position_L = torch.arange(mask_BL.shape[1], device=mask_BL.device)
    last_BL = torch.where(mask_BL, position_L, -1).cummax(1).values
    first_B1 = mask_BL.int().argmax(1, keepdim=True)
    return segments_BL.gather(1, torch.where(last_BL < 0, first_B1, last_BL))
