"""A neuron whose spike time is the axis of tokens, with padding and packed sequences.

Shapes: B batch, L tokens, C channels.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from neuromix.core.state import State, Stateful
from neuromix.neurons.neuron import Neuron
from neuromix.ops._tokens import find_resets


class TokenNeuron(Stateful):
    """Runs a neuron over x_BLC, a token a step; its state is that of the neuron.

    A padded token leaves the state as it is, and where another segment begins the neuron starts anew.
    """

    time_axis: ClassVar[int] = 1

    def __init__(self, neuron: Neuron) -> None:
        super().__init__()
        self.neuron = neuron

    def initial_state(self, like: Tensor) -> State:
        state: State = self.neuron.initial_state(like)
        return state

    def forward(
        self,
        x_BLC: Tensor,
        state: Any = None,
        *,
        mask_BL: Tensor | None = None,
        segments_BL: Tensor | None = None,
        return_state: bool = False,
    ) -> Any:
        """Spikes of the shape of x_BLC, or (spikes, state after the last token)."""
        if mask_BL is not None or segments_BL is not None:
            y_BLC, state = self._in_pieces(x_BLC, state, mask_BL, segments_BL)
        elif return_state:
            y_BLC, state = self._run(x_BLC, state)
        else:
            return self.neuron(x_BLC.transpose(0, 1), state).transpose(0, 1)
        return (y_BLC, state) if return_state else y_BLC

    def _run(self, x_BLC: Tensor, state: Any) -> tuple[Tensor, Any]:
        y_LBC, state = self.neuron(x_BLC.transpose(0, 1), state, return_state=True)
        return y_LBC.transpose(0, 1), state

    def _in_pieces(
        self, x_BLC: Tensor, state: Any, mask_BL: Tensor | None, segments_BL: Tensor | None
    ) -> tuple[Tensor, Any]:
        """Piece by piece, within each of which no row begins or ends a sequence or its padding."""
        real_BL = torch.ones_like(x_BLC[..., 0], dtype=torch.bool) if mask_BL is None else mask_BL
        resets_BL = find_resets(mask_BL, segments_BL)
        begins_BL = torch.zeros_like(real_BL) if resets_BL is None else resets_BL
        changes_L = F.pad((real_BL.diff(dim=1) != 0).any(0), (1, 0)) | begins_BL.any(0)
        ends = [*changes_L.nonzero()[:, 0].tolist(), x_BLC.shape[1]]
        fresh = self.initial_state(x_BLC[:, 0])
        state, pieces, start = fresh if state is None else state, [], 0
        for end in ends:
            state = _chosen(begins_BL[:, start], fresh, state)
            y_BLC, after = self._run(x_BLC[:, start:end], state)
            state = _chosen(real_BL[:, start], after, state)
            pieces.append(y_BLC)
            start = end
        return torch.cat(pieces, 1), state


def _chosen(first_B: Tensor, one: Any, other: Any) -> Any:
    """The states of some samples from one, those of the others from the other."""
    return pytree.tree_map(
        lambda a, b: torch.where(first_B.view(-1, *(1,) * (a.dim() - 1)), a, b), one, other
    )
