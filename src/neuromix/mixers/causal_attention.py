"""Causal softmax attention over a sequence: the yardstick of all that has a constant state.

Shapes: B batch, L tokens, S tokens that are attended to, D width, H heads, G heads of keys and values, K width of a
head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuromix.core import registry
from neuromix.core.config import Config
from neuromix.core.errors import ConfigError
from neuromix.layers.rotary import rotary
from neuromix.mixers.sequence import (
    NO_TOKENS,
    SequenceMixer,
    Tokens,
    of_last_segment,
    require_tokens,
    with_past,
)


@dataclass(frozen=True)
class CausalAttentionConfig(Config):
    """Config of CausalAttention."""

    heads: int = 4
    kv_heads: int | None = (
        None  # heads of keys and values, each shared by as many of the queries; None: as many
    )
    head_dim: int | None = None  # None: width / heads
    rotary: int = 0  # numbers of a head that tell of its position, even; 0: no positions
    rotary_base: float = 10000.0
    qkv_bias: bool = False
    bias: bool = False  # of the output
    window: int | None = None  # a token sees itself and the window - 1 before it; None: all before it

    def validate(self) -> None:
        self.require_positive("heads", "rotary_base")
        for name in ("kv_heads", "head_dim", "window"):
            if getattr(self, name) is not None:
                self.require_positive(name)
        self.require(self.heads % (self.kv_heads or self.heads) == 0, "kv_heads must divide heads")
        self.require(self.rotary >= 0 and self.rotary % 2 == 0, f"rotary must be even, got {self.rotary}")


class AttentionState(NamedTuple):
    """Keys and values of all tokens so far, and which of them are real.

    Attributes:
        k_BSGK, v_BSGK: keys, turned to their positions already, and values.
        mask_BS: bool.
    """

    k_BSGK: Tensor
    v_BSGK: Tensor
    mask_BS: Tensor


@registry.register("sequence-mixer", "attention", tiny={"heads": 2, "kv_heads": 1, "rotary": 4})
class CausalAttention(SequenceMixer):
    """o_t = sum over s <= t of softmax_s(q_t . k_s / sqrt(K)) v_s, by heads; `qkv` holds the rows q, k, v in turn."""

    Config: ClassVar[type[Config]] = CausalAttentionConfig
    constant_state: ClassVar[bool] = False

    def __init__(self, config: CausalAttentionConfig, dim: int) -> None:
        super().__init__(config, dim)
        if config.head_dim is None and dim % config.heads:
            raise ConfigError(f"attention of {config.heads} heads needs a width that they divide, got {dim}")
        self.heads, self.kv_heads = config.heads, config.kv_heads or config.heads
        self.head_dim = config.head_dim or dim // config.heads
        if config.rotary > self.head_dim:
            raise ConfigError(f"rotary={config.rotary} is more than the {self.head_dim} numbers of a head")
        self.qkv = nn.Linear(dim, (self.heads + 2 * self.kv_heads) * self.head_dim, bias=config.qkv_bias)
        self.out = nn.Linear(self.heads * self.head_dim, dim, bias=config.bias)

    def initial_state(self, like: Tensor) -> AttentionState:
        none = like.new_zeros(len(like), 0, self.kv_heads, self.head_dim)
        return AttentionState(none, none, none.new_zeros(none.shape[:2], dtype=torch.bool))

    def forward(
        self,
        x_BLD: Tensor,
        state: AttentionState | None = None,
        *,
        tokens: Tokens | None = None,
        return_state: bool = False,
    ) -> Any:
        self.require_width(x_BLD)
        tokens = require_tokens(tokens, x_BLD)
        state = state or self.initial_state(x_BLD.sum(1))
        y_BLD, after = self.attend(self.qkv(x_BLD), state, tokens)
        return (y_BLD, after) if return_state else y_BLD

    def attend(self, qkv_BLE: Tensor, state: AttentionState, tokens: Tokens) -> tuple[Tensor, AttentionState]:
        """y [B, L, D] and the state after the last token, from the rows q | k | v of the tokens."""
        q_BLHK, k_BSGK, v_BSGK = self._split(qkv_BLE, past=state.mask_BS.shape[1])
        real_BL = tokens.mask_BL
        if real_BL is None:
            real_BL = torch.ones(qkv_BLE.shape[:2], dtype=torch.bool, device=qkv_BLE.device)
        after = AttentionState(
            torch.cat([state.k_BSGK, k_BSGK], 1),
            torch.cat([state.v_BSGK, v_BSGK], 1),
            torch.cat([state.mask_BS, real_BL], 1),
        )
        ids_BS = with_past(tokens.segments_BL, state.mask_BS.shape[1])
        visible_B1LS = None
        if tokens != NO_TOKENS or state.mask_BS.shape[1] or self.config.window is not None:
            visible_B1LS = self._visible(qkv_BLE.shape[1], after.mask_BS, ids_BS)
        y_BLD: Tensor = self.out(self._attend(q_BLHK, after, visible_B1LS))
        if ids_BS is not None:
            after = after._replace(mask_BS=of_last_segment(ids_BS, after.mask_BS))
        return y_BLD, after

    def _split(self, qkv_BLE: Tensor, past: int) -> tuple[Tensor, Tensor, Tensor]:
        qkv_BLHK = torch.unflatten(qkv_BLE, -1, (-1, self.head_dim))
        q_BLHK, k_BLGK, v_BLGK = torch.split(qkv_BLHK, [self.heads, self.kv_heads, self.kv_heads], 2)
        if self.config.rotary:
            # Padding counts as well: only differences of positions matter.
            positions_L = torch.arange(past, past + qkv_BLE.shape[1], device=qkv_BLE.device)
            q_BLHK, k_BLGK = (
                rotary(x, positions_L, self.config.rotary, base=self.config.rotary_base)
                for x in (q_BLHK, k_BLGK)
            )
        return q_BLHK, k_BLGK, v_BLGK

    def _attend(self, q_BLHK: Tensor, known: AttentionState, visible_B1LS: Tensor | None) -> Tensor:
        """[B, L, H * K]; `visible` None: every token sees all before it."""
        o_BHLK = F.scaled_dot_product_attention(
            q_BLHK.transpose(1, 2),
            known.k_BSGK.transpose(1, 2),
            known.v_BSGK.transpose(1, 2),
            attn_mask=visible_B1LS,
            is_causal=visible_B1LS is None,
            enable_gqa=self.kv_heads != self.heads,
        )
        return o_BHLK.transpose(1, 2).flatten(2)

    def _visible(self, length: int, mask_BS: Tensor, ids_BS: Tensor | None) -> Tensor:
        """Which of the S known tokens each of the last L sees: bool [B, 1, L, S]. Each sees itself at least."""
        past = mask_BS.shape[1] - length
        known_S = torch.arange(mask_BS.shape[1], device=mask_BS.device)
        lag_LS = known_S[past:, None] - known_S
        seen_BLS = (lag_LS >= 0) & mask_BS[:, None]
        if self.config.window is not None:
            seen_BLS = seen_BLS & (lag_LS < self.config.window)
        if ids_BS is not None:
            seen_BLS = seen_BLS & (ids_BS[:, None] == ids_BS[:, past:, None])
        return (seen_BLS | (lag_LS == 0))[:, None]
