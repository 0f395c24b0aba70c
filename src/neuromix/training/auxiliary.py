"""Losses that layers ask for themselves: how far tokens are from their clusters, the error of a quantiser.

A layer marks such a loss, with its weight in it, by a tap "aux_loss". Whoever runs a model in training does so within
`AuxiliaryLosses`, and adds what it found. A model without such taps runs as without it.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, Self

import torch
import torch.distributed
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from neuromix.core.observe import record
from neuromix.training.task import Losses

ROLE = "aux_loss"
NAME = "auxiliary"


class AuxiliaryLosses:
    """A context for forward passes: `with AuxiliaryLosses(model) as auxiliary: ...`, then `auxiliary.losses()`.

    It is closed before backward, where checkpointing would run parts of the model again and have them counted twice.
    Entered again, it begins anew. What ran without gradients asks for nothing.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model, self._open = model, ExitStack()
        self._seen: dict[str, list[Tensor]] = {}

    def __enter__(self) -> Self:
        self._seen = self._open.enter_context(record(self._model, ROLE))
        if self._seen and torch.distributed.is_available() and torch.distributed.is_initialized():
            tied = self._model.register_forward_hook(lambda _, __, output: _tied(output, self._found()))
            self._open.callback(tied.remove)
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def losses(self) -> Losses:
        """{"auxiliary": the sum over the taps of the mean of what passed each}, in float32 at least.

        A mean, so that a model that runs in segments of time, or twice a step, is asked for no more than one that
        runs as a whole. Zero where nothing passed, {} where the model has no such taps.
        """
        if not self._seen:
            return {}
        means = [torch.stack([_wide(x) for x in passed]).mean() for passed in self._learning() if passed]
        zero = torch.zeros((), device=next(self._model.parameters()).device)
        return {NAME: torch.stack(means).sum() if means else zero}

    def _learning(self) -> list[list[Tensor]]:
        return [[x for x in passed if x.requires_grad] for passed in self._seen.values()]

    def _found(self) -> list[Tensor]:
        return [x for passed in self._learning() for x in passed]


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _tied(output: Any, found: list[Tensor]) -> Any:
    """The output of a model, in whose graph these tensors are as well.

    Processes that share gradients look from the outputs for the weights that will get none, and would miss those that
    only an auxiliary loss reaches.
    """
    leaves, structure = pytree.tree_flatten(output)
    for i, leaf in enumerate(leaves):
        if found and isinstance(leaf, Tensor) and leaf.requires_grad:
            leaves[i] = _Tie.apply(leaf, *found)  # type: ignore[no-untyped-call]
            return pytree.tree_unflatten(leaves, structure)
    return output


class _Tie(torch.autograd.Function):
    """Identity in the first tensor; the others only join the graph, and get no gradient through it."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, *others: Tensor) -> Tensor:
        ctx.others = len(others)
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return (grad, *[None] * ctx.others)
