"""Routing attention: some heads look around a token, the others inside clusters of content (Roy et al., TACL 2021).

Shapes: B batch, L tokens, D width, H heads, K width of a head; the local heads come first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from neuromix.core import registry
from neuromix.core.config import Config
from neuromix.core.errors import ConfigError, ShapeError
from neuromix.layers.chance import Dropout
from neuromix.mixers.block_attention import inverse_frequencies, turn_pairs
from neuromix.mixers.local_attention import LocalHeads, LocalState
from neuromix.mixers.routing_heads import RoutingHeads, RoutingHeadsConfig, RoutingState
from neuromix.mixers.sequence import NO_TOKENS, SequenceMixer, Tokens, require_tokens
from neuromix.mixers.token_places import token_places


@dataclass(frozen=True)
class RoutingAttentionConfig(RoutingHeadsConfig):
    """Config of RoutingAttention; the fields that it adds to those of the routing heads."""

    heads: int = 8
    local_heads: int = 4  # of the heads
    head_dim: int | None = None  # K; None: width / heads
    local_window: int | None = None  # tokens of a block of the local heads; None: window
    look_back: int = 1  # blocks before its own that a token sees
    rotary: bool = True  # turn queries, keys and values of routing heads by their positions
    local_relative: int = (
        0  # distance up to which learned relative positions tell local heads; 0: rotary ones
    )
    local_bias: bool = True  # of the queries, keys and values of local heads
    out_dropout: float = 0.0  # in [0, 1), of the output

    def validate(self) -> None:
        super().validate()
        self.require_positive("heads")
        self.require(0 <= self.local_heads <= self.heads, "local_heads must be in 0..heads")
        self.require(self.look_back >= 0, f"look_back must be 0 or more, got {self.look_back}")
        for name in ("head_dim", "local_window"):
            if getattr(self, name) is not None:
                self.require_positive(name)
        self.require_within(0, 1, "out_dropout")

    def width(self, dim: int) -> int:
        """K."""
        if self.head_dim is None and dim % self.heads:
            raise ConfigError(
                f"routing attention of {self.heads} heads needs a width that they divide, got {dim}"
            )
        return self.head_dim or dim // self.heads


class RoutingAttentionState(NamedTuple):
    """What the strict way remembers of the tokens so far: `count_B` of them; None for heads that there are none of."""

    count_B: Tensor
    local: LocalState | None
    routing: RoutingState | None


@registry.register(
    "sequence-mixer",
    "routing",
    tiny={"heads": 4, "local_heads": 2, "clusters": 3, "window": 2, "local_window": 3},
)
class RoutingAttention(SequenceMixer):
    """Local heads and routing heads side by side.

    By default strict, and then it can be stepped. With strict=False it has the published clusters, which the whole row
    decides on: it is not causal, has no step form and takes no packed rows.
    """

    Config: ClassVar[type[Config]] = RoutingAttentionConfig

    def __init__(self, config: RoutingAttentionConfig, dim: int) -> None:
        super().__init__(config, dim)
        self.causal = config.strict  # type: ignore[misc]
        self.heads, self.width = config.heads, config.width(dim)
        self.local = self.routing = None
        if self.width % 2 and (config.rotary or not config.local_relative):
            raise ConfigError(f"rotary positions need heads of an even width, got {self.width}")
        if config.local_heads:
            self.local = LocalHeads(
                self.width,
                window=config.local_window or config.window,
                look_back=config.look_back,
                causal=config.causal,
                relative=config.local_relative,
                dropout=config.dropout,
            )
            self.local_qkv = nn.Linear(dim, 3 * config.local_heads * self.width, bias=config.local_bias)
        routed = config.heads - config.local_heads
        if routed:
            self.routing = RoutingHeads(config, routed, self.width)
            self.q = nn.Linear(dim, routed * self.width, bias=False)
            self.v = nn.Linear(dim, routed * self.width, bias=False)
            if not config.shared_qk:
                self.k = nn.Linear(dim, routed * self.width, bias=False)
        self.out = nn.Linear(config.heads * self.width, dim, bias=False)
        self.dropout = Dropout(config.out_dropout)
        self.register_buffer("inverse_R", inverse_frequencies(self.width), persistent=False)
        # Rows of (sin, cos) that take the place of computed ones, for weights that were trained with them.
        self.register_buffer("table", torch.zeros(0, 2 * len(self.inverse_R)), persistent=False)

    inverse_R: Tensor
    table: Tensor

    def initial_state(self, like: Tensor) -> RoutingAttentionState:
        heads = like.new_zeros(len(like), self.heads, self.width)
        local, routed = heads[:, : self.config.local_heads], heads[:, self.config.local_heads :]
        return RoutingAttentionState(
            torch.zeros(len(like), dtype=torch.int64, device=like.device),
            None if self.local is None else self.local.initial_state(local),
            None if self.routing is None else self.routing.initial_state(routed),
        )

    def forward(
        self,
        x_BLD: Tensor,
        state: RoutingAttentionState | None = None,
        *,
        tokens: Tokens | None = None,
        return_state: bool = False,
    ) -> Any:
        self.require_width(x_BLD)
        tokens = require_tokens(tokens, x_BLD)
        if not self.config.strict:
            return self._whole(x_BLD, state, tokens, return_state)
        if not x_BLD.numel():
            state = state or self.initial_state(x_BLD.sum(1))
            return (x_BLD, state) if return_state else x_BLD
        count_B = torch.zeros(len(x_BLD), dtype=torch.int64, device=x_BLD.device)
        count_B = count_B if state is None else state.count_B
        places = token_places(count_B, x_BLD.shape[1], tokens)
        heads, local, routing = [], None, None
        if self.local is not None:
            o_BLHK, local = self._local(x_BLD, None if state is None else state.local, tokens)
            heads.append(o_BLHK)
        if self.routing is not None:
            q_BLHK, _, v_BLHK = self._routed(x_BLD, places.position_BL)
            past = None if state is None else state.routing
            o_BLHK, routing = self.routing.go_on(q_BLHK, v_BLHK, past, count_B, tokens)
            heads.append(o_BLHK)
        y_BLD = self._together(heads)
        return (y_BLD, RoutingAttentionState(places.count_B, local, routing)) if return_state else y_BLD

    def _whole(self, x_BLD: Tensor, state: Any, tokens: Tokens, return_state: bool) -> Tensor:
        """The published way."""
        if state is not None or return_state or tokens.segments_BL is not None:
            raise ShapeError(
                "routing attention with strict=False works on whole rows of one sequence: it has no state and takes "
                "no segments; set strict=True"
            )
        heads = []
        if self.local is not None:
            heads.append(self.local(*self._split(self.local_qkv(x_BLD), 3), tokens.mask_BL))
        if self.routing is not None:
            place_1L = torch.arange(x_BLD.shape[1], device=x_BLD.device)[None]
            heads.append(self.routing(*self._routed(x_BLD, place_1L), tokens.mask_BL))
        return self._together(heads)

    def _local(self, x_BLD: Tensor, state: LocalState | None, tokens: Tokens) -> tuple[Tensor, LocalState]:
        assert self.local is not None
        q_BLHK, k_BLHK, v_BLHK = self._split(self.local_qkv(x_BLD), 3)
        if state is None and tokens == NO_TOKENS:
            return self.local(q_BLHK, k_BLHK, v_BLHK), self.local.state_after(k_BLHK, v_BLHK)
        state = state or self.local.initial_state(q_BLHK[:, 0])
        return self.local.go_on(q_BLHK, k_BLHK, v_BLHK, state, tokens)

    def _routed(self, x_BLD: Tensor, position_BL: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """Queries, keys (None: the queries) and values of the routing heads."""
        maps = (self.q, self.v) if self.config.shared_qk else (self.q, self.v, self.k)
        heads = [f(x_BLD).unflatten(-1, (-1, self.width)) for f in maps]
        if self.config.rotary:
            sin, cos = self._angles(position_BL, x_BLD.dtype)
            heads = [turn_pairs(x_BLHK, sin, cos) for x_BLHK in heads]
        return heads[0], (None if self.config.shared_qk else heads[2]), heads[1]

    def _angles(self, position_BL: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        wide = torch.float64 if self.inverse_R.dtype == torch.float64 else torch.float32
        angles = position_BL[..., None].to(wide) * self.inverse_R.to(wide)
        rows = torch.cat([angles.sin(), angles.cos()], -1)
        known = len(self.table)
        if known:
            kept = self.table[position_BL.clamp(max=known - 1)].to(wide)
            rows = torch.where((position_BL < known)[..., None], kept, rows)
        sin, cos = rows.to(dtype)[..., None, :].chunk(2, -1)
        return sin, cos

    def _split(self, x_BLE: Tensor, parts: int) -> tuple[Tensor, ...]:
        return torch.unflatten(x_BLE, -1, (parts, -1, self.width)).unbind(2)

    def _together(self, heads: list[Tensor]) -> Tensor:
        y_BLD: Tensor = self.dropout(self.out(torch.cat(heads, 2).flatten(2)))
        return y_BLD
