"""How weights start."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

M = TypeVar("M", nn.Linear, nn.Conv2d)


def truncated_normal(module: M, std: float = 0.02) -> M:
    """Draws the weight from a normal distribution of this deviation, cut at +-2, and sets the bias to zero.

    Returns:
        the module itself.
    """
    nn.init.trunc_normal_(module.weight, std=std)
    if module.bias is not None:
        nn.init.zeros_(module.bias)
    return module
