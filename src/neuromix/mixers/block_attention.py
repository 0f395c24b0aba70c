"""What attention within blocks of tokens is made of: neighbouring blocks, hidden pairs, positions.

Shapes: Z any leading axes, N blocks, I queries of a block, J keys that they may see, K width of a head, L tokens,
P different distances.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuromix.layers.chance import Dropout

# The logit of a token with itself where it may look at itself only if it sees nothing else.
OWN = -5e4


class PairAttention(nn.Module):
    """softmax(scale * q k^T + positions) v over the pairs that are not hidden.

    Args:
        width: K.
        scale: of the logits.
        relative: distance beyond which positions are alike; 0: no positions. Each distance has a vector that is
            added to the keys and one that is added to the values, shared by all heads.
        causal: distances are 0 and up.
        dropout: of the weights.
    """

    def __init__(
        self, width: int, *, scale: float, relative: int = 0, causal: bool = True, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.scale, self.farthest, self.causal = scale, relative, causal
        self.dropout = Dropout(dropout)
        distances = (relative + 1 if causal else 2 * relative + 1) if relative else 0
        if relative:
            self.relative_keys = nn.Parameter(width**-0.5 * torch.randn(distances, width))
            self.relative_values = nn.Parameter(width**-0.5 * torch.randn(distances, width))

    def forward(
        self,
        q_ZIK: Tensor,
        k_ZJK: Tensor,
        v_ZJK: Tensor,
        hidden_ZIJ: Tensor | None,
        *,
        own_ZIJ: Tensor | None = None,
        distance_ZIJ: Tensor | None = None,
    ) -> Tensor:
        """Outputs [Z, I, K]; a query all of whose pairs are hidden sees them all alike.

        Args:
            hidden_ZIJ: bool, the pairs that are not there.
            own_ZIJ: bool, the pairs of a token with itself, to be seen only if nothing else is.
            distance_ZIJ: int64, how many places the key is before the query; needed for relative positions.
        """
        logits_ZIJ = q_ZIK @ k_ZJK.mT * self.scale
        index_ZIJ = self._index(logits_ZIJ, distance_ZIJ)
        if index_ZIJ is not None:
            logits_ZIJ = logits_ZIJ + (q_ZIK @ self.relative_keys.mT).gather(-1, index_ZIJ)
        if hidden_ZIJ is not None:
            logits_ZIJ = logits_ZIJ.masked_fill(hidden_ZIJ, torch.finfo(logits_ZIJ.dtype).min)
        if own_ZIJ is not None:
            logits_ZIJ = logits_ZIJ.masked_fill(own_ZIJ, OWN)
        weights_ZIJ: Tensor = self.dropout(logits_ZIJ.softmax(-1))
        y_ZIK = weights_ZIJ @ v_ZJK
        if index_ZIJ is None:
            return y_ZIK
        by_distance = weights_ZIJ.new_zeros(*weights_ZIJ.shape[:-1], len(self.relative_values))
        return y_ZIK + by_distance.scatter_add(-1, index_ZIJ, weights_ZIJ) @ self.relative_values

    def _index(self, logits_ZIJ: Tensor, distance_ZIJ: Tensor | None) -> Tensor | None:
        if not self.farthest:
            return None
        assert distance_ZIJ is not None
        if self.causal:
            index_ZIJ = distance_ZIJ.clamp(0, self.farthest)
        else:
            index_ZIJ = distance_ZIJ.clamp(-self.farthest, self.farthest) + self.farthest
        return index_ZIJ.expand_as(logits_ZIJ)


def in_blocks(x: Tensor, axis: int, size: int, fill: float = 0) -> Tensor:
    """Cuts an axis into blocks [N, size], the last one filled up."""
    short = -x.shape[axis] % size
    if short:
        more = list(x.shape)
        more[axis] = short
        x = torch.cat([x, x.new_full(more, fill)], axis)
    return torch.unflatten(x, axis, (-1, size))


def with_neighbours(x_ZNJ: Tensor, axis: int, back: int, forward: int = 0, fill: float = 0) -> Tensor:
    """Each block (on `axis`, its elements on the next one) with those before and after it; `fill` beyond the ends."""
    blocks = x_ZNJ.shape[axis]
    padding = (0, 0) * (x_ZNJ.dim() - 1 - axis) + (back, forward)
    wide = F.pad(x_ZNJ, padding, value=fill)
    return torch.cat([wide.narrow(axis, i, blocks) for i in range(back + forward + 1)], axis + 1)


def inverse_frequencies(width: int) -> Tensor:
    """10000^(-2i / width) for each pair i of a head: float32 [width / 2]."""
    return 1.0 / (10000 ** (torch.arange(0, width, 2).float() / width))


def turn_halves(x: Tensor, sin: Tensor, cos: Tensor) -> Tensor:
    """Rotary positions on the pairs (x_i, x_{i + K/2}); sin and cos are [..., K/2]."""
    first, second = x.chunk(2, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


def turn_pairs(x: Tensor, sin: Tensor, cos: Tensor) -> Tensor:
    """Rotary positions on the pairs (x_2i, x_{2i+1}); sin and cos are [..., K/2]."""
    first, second = torch.unflatten(x, -1, (-1, 2)).unbind(-1)
    return torch.stack([first * cos - second * sin, second * cos + first * sin], -1).flatten(-2)
