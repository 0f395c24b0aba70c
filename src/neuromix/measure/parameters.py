"""Counting parameters."""

from __future__ import annotations

from torch import nn


def count_parameters(model: nn.Module, *, trainable_only: bool = True) -> int:
    """Number of parameters, each counted once however often it is used.

    Args:
        trainable_only: leave out the frozen ones (`requires_grad` False). Buffers are never counted.
    """
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trainable_only)


def parameters_by_module(model: nn.Module, *, trainable_only: bool = True) -> dict[str, int]:
    """Number of parameters that each module holds itself, without its children; modules of none are left out.

    A parameter that several modules share counts where it is found first, so that the sum is that of the model.
    """
    found: dict[str, int] = {}
    for name, p in model.named_parameters():
        if p.requires_grad or not trainable_only:
            path = name.rpartition(".")[0]
            found[path] = found.get(path, 0) + p.numel()
    return found
