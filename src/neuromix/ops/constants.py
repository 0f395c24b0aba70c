"""Constants that ops keep between calls, so that whoever looks on knows them from what is computed of the input."""

from __future__ import annotations

import weakref

from torch import Tensor

_kept: list[weakref.ref[Tensor]] = []


def keep_constant(tensor: Tensor) -> Tensor:
    """Notes that a tensor depends on no input, for as long as it lives; returns it."""
    _kept[:] = [*(reference for reference in _kept if reference() is not None), weakref.ref(tensor)]
    return tensor


def constants() -> list[Tensor]:
    """All that are kept at present."""
    return [tensor for reference in _kept if (tensor := reference()) is not None]
