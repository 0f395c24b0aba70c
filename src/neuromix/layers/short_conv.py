"""A short causal convolution of every channel over the tokens, as many sequence mixers have one before them.

Shapes: B batch, L tokens, C channels, W taps.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ShortConv(nn.Module):
    """y_t = activation(bias + sum over j < W of weight[W-1-j] * x_{t-j}), each channel by itself.

    The state is the last W inputs [B, C, W], the oldest first, zeros before the first.

    Args:
        channels: C.
        width: W, at least 1.
        bias: whether there is one.
        activation: "silu", or None.
    """

    def __init__(
        self, channels: int, width: int, *, bias: bool = True, activation: Literal["silu"] | None = "silu"
    ) -> None:
        super().__init__()
        self.channels, self.width, self.activation = channels, width, activation
        self.conv = nn.Conv1d(channels, channels, width, groups=channels, bias=bias)

    def initial_state(self, like: Tensor) -> Tensor:
        """Zeros [B, C, W] for a batch like `like` [B, ...]."""
        return like.new_zeros(len(like), self.channels, self.width)

    def forward(
        self,
        x_BLC: Tensor,
        state_BCW: Tensor | None = None,
        *,
        mask_BL: Tensor | None = None,
        segments_BL: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The outputs [B, L, C], zero where the mask is False, and the state after the last token.

        Tokens that the mask leaves out are passed over: a tap reads the real token before them.
        """
        state_BCW = self.initial_state(x_BLC) if state_BCW is None else state_BCW
        if not x_BLC.shape[1]:
            return x_BLC, state_BCW
        if mask_BL is None:
            return self._over_all(x_BLC, state_BCW, segments_BL)
        place_BL = mask_BL.cumsum(1) - 1  # of a real token among the real ones of its row
        length = x_BLC.shape[1]
        to_BL = torch.where(mask_BL, place_BL, length)  # all others go to a place behind the last one
        packed_BLC = _scatter(x_BLC, to_BL, length)
        if segments_BL is not None:
            segments_BL = _scatter(segments_BL[..., None], to_BL, length)[..., 0]
        y_BLC, _ = self._over_all(packed_BLC, state_BCW, segments_BL)
        y_BLC = _gather(y_BLC, place_BL.clamp(min=0)) * mask_BL[..., None]
        known_BCL = torch.cat([state_BCW, packed_BLC.mT], 2)
        last_BW = mask_BL.sum(1)[:, None] + torch.arange(self.width, device=x_BLC.device)
        after_BCW = known_BCL.gather(2, last_BW[:, None].expand(-1, self.channels, -1))
        if segments_BL is not None:
            same_BL = self._of_last(segments_BL, mask_BL.sum(1))
            after_BCW = after_BCW * same_BL.gather(1, last_BW)[:, None]
        return y_BLC, after_BCW

    def step(self, x_BC: Tensor, state_BCW: Tensor) -> tuple[Tensor, Tensor]:
        """One token: (y [B, C], state)."""
        state_BCW = torch.cat([state_BCW[:, :, 1:], x_BC[:, :, None]], 2)
        y_BC = (state_BCW * self.conv.weight[:, 0]).sum(2)
        return self._activated(y_BC if self.conv.bias is None else y_BC + self.conv.bias), state_BCW

    def _over_all(
        self, x_BLC: Tensor, state_BCW: Tensor, segments_BL: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        length = x_BLC.shape[1]
        if length == 1 and segments_BL is None:  # where a convolution would be most of the time of a step
            y_BC, after_BCW = self.step(x_BLC[:, 0], state_BCW)
            return y_BC[:, None], after_BCW
        known_BCL = torch.cat([state_BCW, x_BLC.mT], 2)
        after_BCW = known_BCL[:, :, length:]
        if segments_BL is None:
            return self._activated(self.conv(known_BCL[:, :, 1:]).mT), after_BCW
        ids_BL = self._with_state(segments_BL)
        y_BCL = torch.zeros_like(x_BLC.mT)
        for lag in range(self.width):
            begin = self.width - lag
            same_BL = ids_BL[:, begin : begin + length] == segments_BL
            tap_BCL = known_BCL[:, :, begin : begin + length] * same_BL[:, None]
            y_BCL = y_BCL + tap_BCL * self.conv.weight[:, :, self.width - 1 - lag]
        if self.conv.bias is not None:
            y_BCL = y_BCL + self.conv.bias[:, None]
        after_BCW = after_BCW * (ids_BL[:, length:] == ids_BL[:, -1:])[:, None]
        return self._activated(y_BCL.mT), after_BCW

    def _with_state(self, segments_BL: Tensor) -> Tensor:
        """The ids with those of the W inputs before, which are of the first segment."""
        return torch.cat([segments_BL[:, :1].expand(-1, self.width), segments_BL], 1)

    def _of_last(self, segments_BL: Tensor, count_B: Tensor) -> Tensor:
        """Which of the W inputs before and the L packed ones are of the last real token's segment: [B, W + L]."""
        ids_BL = self._with_state(segments_BL)
        last_B1 = ids_BL.gather(1, (count_B + self.width - 1)[:, None])
        same_BL: Tensor = ids_BL == last_B1
        return same_BL

    def _activated(self, y: Tensor) -> Tensor:
        return F.silu(y) if self.activation == "silu" else y


def _scatter(x_BLC: Tensor, to_BL: Tensor, length: int) -> Tensor:
    """x laid out by place: row t goes to to[t], of `length` places; what has no place is lost."""
    packed = x_BLC.new_zeros(len(x_BLC), length + 1, x_BLC.shape[2])
    return packed.scatter(1, to_BL[..., None].expand_as(x_BLC), x_BLC)[:, :length]


def _gather(x_BLC: Tensor, from_BL: Tensor) -> Tensor:
    return x_BLC.gather(1, from_BL[..., None].expand(-1, -1, x_BLC.shape[2]))
