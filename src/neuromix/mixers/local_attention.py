"""Local attention: the heads that look at the block of a token and at the blocks next to it.

Time is cut into blocks of `window` tokens. A token sees those of its own block and of `look_back` blocks before it
that come no later than itself; without causality also the rest, and as many blocks ahead.

Shapes: B batch, L tokens, H heads, K width of a head, N blocks, W tokens of a block, R tokens that are remembered.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuromix.mixers.block_attention import (
    PairAttention,
    in_blocks,
    inverse_frequencies,
    turn_halves,
    with_neighbours,
)
from neuromix.mixers.sequence import Tokens
from neuromix.mixers.token_places import token_places


class LocalState(NamedTuple):
    """The last R = (look_back + 1) * window tokens, the newest one last, zeros where there were fewer.

    Attributes:
        k_BRHK, v_BRHK: keys, turned to their positions, and values.
        count_B: int64, the tokens so far.
    """

    k_BRHK: Tensor
    v_BRHK: Tensor
    count_B: Tensor


class _Known(NamedTuple):
    """S tokens that may be looked at: keys, values, and where they stand."""

    k_BSHK: Tensor
    v_BSHK: Tensor
    position_BS: Tensor
    sequence_BS: Tensor
    real_BS: Tensor

    def newest(self, keep_BS: Tensor, number: int) -> _Known:
        """The last of those to be kept, in order; what is left over comes first and is not real."""
        index_BR = keep_BS.long().argsort(dim=1, stable=True)[:, -number:]
        k, v = (x.gather(1, index_BR[:, :, None, None].expand(-1, -1, *x.shape[2:])) for x in self[:2])
        position, sequence = (x.gather(1, index_BR) for x in self[2:4])
        return _Known(k, v, position, sequence, keep_BS.gather(1, index_BR))


class LocalHeads(nn.Module):
    """softmax(q k^T / sqrt(K)) v within blocks, q and k turned by rotary positions.

    Args:
        width: K.
        relative: distance up to which learned relative positions tell, in the place of rotary ones; 0: rotary.
    """

    inverse_R: Tensor

    def __init__(
        self,
        width: int,
        *,
        window: int,
        look_back: int = 1,
        causal: bool = True,
        relative: int = 0,
        scale: float | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.window, self.look_back, self.causal = window, look_back, causal
        self.rotary = not relative
        scale = width**-0.5 if scale is None else scale
        self.attend = PairAttention(width, scale=scale, relative=relative, causal=causal, dropout=dropout)
        self.register_buffer("inverse_R", inverse_frequencies(width), persistent=False)

    @property
    def remembered(self) -> int:
        """R."""
        return (self.look_back + 1) * self.window

    def initial_state(self, like_BHK: Tensor) -> LocalState:
        """The state before the first token."""
        none = like_BHK.new_zeros(len(like_BHK), self.remembered, *like_BHK.shape[1:])
        return LocalState(none, none, torch.zeros(len(none), dtype=torch.int64, device=none.device))

    def forward(
        self, q_BLHK: Tensor, k_BLHK: Tensor, v_BLHK: Tensor, mask_BL: Tensor | None = None
    ) -> Tensor:
        """[B, L, H, K], by whole blocks. A pair is there if both its tokens are real."""
        length, ahead = q_BLHK.shape[1], 0 if self.causal else self.look_back
        place_L = torch.arange(length, device=q_BLHK.device)
        q_BLHK, k_BLHK = self._turned(q_BLHK, place_L), self._turned(k_BLHK, place_L)
        q_BHNWK = in_blocks(q_BLHK.transpose(1, 2), 2, self.window)
        k_BHNJK, v_BHNJK = (
            with_neighbours(in_blocks(x.transpose(1, 2), 2, self.window), 2, self.look_back, ahead)
            for x in (k_BLHK, v_BLHK)
        )
        query_NW = in_blocks(place_L, 0, self.window, fill=-1)
        key_NJ = with_neighbours(query_NW, 0, self.look_back, ahead, fill=-1)
        distance_NWJ = query_NW[:, :, None] - key_NJ[:, None]
        hidden = (key_NJ < 0)[:, None].expand_as(distance_NWJ)
        if self.causal:
            hidden = hidden | (distance_NWJ < 0)
        if mask_BL is not None:
            real_BNW = in_blocks(mask_BL, 1, self.window)
            both = real_BNW[..., None] & with_neighbours(real_BNW, 1, self.look_back, ahead)[:, :, None]
            hidden = (hidden | ~both)[:, None]
        o_BHNWK: Tensor = self.attend(q_BHNWK, k_BHNJK, v_BHNJK, hidden, distance_ZIJ=distance_NWJ)
        return o_BHNWK.flatten(2, 3)[:, :, :length].transpose(1, 2)

    def state_after(self, k_BLHK: Tensor, v_BLHK: Tensor) -> LocalState:
        """What is remembered of whole rows without padding that began afresh."""
        length = k_BLHK.shape[1]
        k_BLHK = self._turned(k_BLHK, torch.arange(length, device=k_BLHK.device))
        k_BRHK, v_BRHK = (F.pad(x, (0, 0, 0, 0, self.remembered, 0))[:, length:] for x in (k_BLHK, v_BLHK))
        count_B = torch.full((len(k_BLHK),), length, dtype=torch.int64, device=k_BLHK.device)
        return LocalState(k_BRHK, v_BRHK, count_B)

    def go_on(
        self, q_BLHK: Tensor, k_BLHK: Tensor, v_BLHK: Tensor, state: LocalState, tokens: Tokens
    ) -> tuple[Tensor, LocalState]:
        """Output and state after tokens, 1 or more, that follow a state.

        A block of them is worked off at a time, so that memory is linear in L.
        """
        places = token_places(state.count_B, q_BLHK.shape[1], tokens)
        q_BLHK, k_BLHK = (self._turned(x, places.position_BL) for x in (q_BLHK, k_BLHK))
        slot_BR = state.count_B[:, None] + torch.arange(-self.remembered, 0, device=q_BLHK.device)
        known = _Known(state.k_BRHK, state.v_BRHK, slot_BR, torch.zeros_like(slot_BR), slot_BR >= 0)
        new = _Known(k_BLHK, v_BLHK, places.position_BL, places.sequence_BL, places.real_BL)
        outputs = []
        for first in range(0, q_BLHK.shape[1], self.window):
            part = slice(first, first + self.window)
            here = _Known(*(x[:, part] for x in new))
            known = _Known(*(torch.cat(pair, 1) for pair in zip(known, here, strict=True)))
            outputs.append(self._look(q_BLHK[:, part], here, known))
            known = known.newest(known.real_BS, self.remembered)
        last = known.newest(
            known.real_BS & (known.sequence_BS == places.sequence_BL[:, -1:]), self.remembered
        )
        real = last.real_BS[:, :, None, None]
        return torch.cat(outputs, 1), LocalState(last.k_BSHK * real, last.v_BSHK * real, places.count_B)

    def _look(self, q_BLHK: Tensor, here: _Known, known: _Known) -> Tensor:
        """What the tokens `here`, the last ones of those known, see."""
        distance_BLS = here.position_BS[:, :, None] - known.position_BS[:, None]
        block_BL, block_BS = here.position_BS // self.window, known.position_BS // self.window
        seen_BLS = (distance_BLS >= 0) & (block_BL[:, :, None] - block_BS[:, None] <= self.look_back)
        seen_BLS &= (here.sequence_BS[:, :, None] == known.sequence_BS[:, None]) & known.real_BS[:, None]
        o_BHLK: Tensor = self.attend(
            q_BLHK.transpose(1, 2),
            known.k_BSHK.transpose(1, 2),
            known.v_BSHK.transpose(1, 2),
            ~seen_BLS[:, None],
            distance_ZIJ=distance_BLS[:, None],
        )
        return o_BHLK.transpose(1, 2)

    def _turned(self, x_BLHK: Tensor, positions: Tensor) -> Tensor:
        if not self.rotary:
            return x_BLHK
        inverse_R = self.inverse_R if x_BLHK.dtype == torch.float64 else self.inverse_R.float()
        angles = (positions[..., None].to(inverse_R.dtype) * inverse_R)[..., None, :]
        return turn_halves(x_BLHK, angles.sin().to(x_BLHK.dtype), angles.cos().to(x_BLHK.dtype))
