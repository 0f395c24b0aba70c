"""The two mixers of RWKV-4, each over a token and the one before it (Peng et al., "RWKV", EMNLP 2023).

Time mixing: with x' = mix * x_t + (1 - mix) * x_{t-1}, one mix for each of key, value and receptance,
    y_t = W_o (sigmoid(r_t) * wkv(k, v)_t).
Channel mixing, in the place of a feed-forward network:
    y_t = sigmoid(r_t) * W_v relu(k_t)^2.

Shapes: B batch, L tokens, D width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from neuromix.core import registry
from neuromix.core.config import Config
from neuromix.layers.time_step import wide
from neuromix.layers.token_shift import token_shift
from neuromix.mixers.sequence import FormConfig, SequenceMixer, Tokens, require_tokens
from neuromix.ops.wkv import FORMS, WkvState, empty_state, wkv, wkv_step


@dataclass(frozen=True)
class DepthConfig(Config):
    """Where in a net a mixer stands, which says how it starts."""

    layer: int = 0  # in [0, layers)
    layers: int = 1

    def validate(self) -> None:
        super().validate()
        self.require_positive("layers")
        self.require_within(0, self.layers, "layer")

    @property
    def depth(self) -> float:
        """0 in the first layer, 1 in the last."""
        return self.layer / (self.layers - 1) if self.layers > 1 else 0.0

    @property
    def left(self) -> float:
        """1 in the first layer, 1/layers in the last."""
        return 1 - self.layer / self.layers


@dataclass(frozen=True)
class TimeMixingConfig(DepthConfig, FormConfig):
    """Config of TimeMixing."""


class TimeMixingState(NamedTuple):
    """The last input, and the sums of `ops.wkv` in float32 or wider: [B, D] each."""

    previous: Tensor
    a: Tensor
    b: Tensor
    p: Tensor


@registry.register("sequence-mixer", "wkv", tiny={"layer": 1, "layers": 3})
class TimeMixing(SequenceMixer):
    """The WKV mixer: decay -exp(time_decay) and bonus time_first of each channel are learnt.

    Attributes:
        closed: the matrices that RWKV starts at zero.
    """

    Config: ClassVar[type[Config]] = TimeMixingConfig
    forms: ClassVar[tuple[str, ...]] = tuple(FORMS)
    closed: ClassVar[tuple[str, ...]] = ("key", "receptance", "output")

    def __init__(self, config: TimeMixingConfig, dim: int) -> None:
        super().__init__(config, dim)
        self.time_decay, self.time_first = (nn.Parameter(torch.empty(dim)) for _ in range(2))
        self.mix_k, self.mix_v, self.mix_r = (nn.Parameter(torch.empty(dim)) for _ in range(3))
        self.key, self.value, self.receptance, self.output = (
            nn.Linear(dim, dim, bias=False) for _ in range(4)
        )
        self.reset_vectors()

    @torch.no_grad()
    def reset_vectors(self) -> None:
        """The vectors as RWKV-4 starts them: channels that reach far beside short ones."""
        config, channel = self.config, torch.arange(self.dim)
        place = channel / max(self.dim - 1, 1)
        self.time_decay.copy_(-5 + 8 * place ** (0.7 + 1.3 * config.depth))
        self.time_first.copy_(math.log(0.3) + 0.5 * ((channel + 1) % 3 - 1))
        share = (channel / self.dim) ** config.left
        self.mix_k.copy_(share)
        self.mix_v.copy_(share + 0.3 * config.depth)
        self.mix_r.copy_((channel / self.dim) ** (config.left / 2))

    def initial_state(self, like: Tensor) -> TimeMixingState:
        return TimeMixingState(torch.zeros_like(like), *empty_state(like))

    def forward(
        self,
        x_BLD: Tensor,
        state: TimeMixingState | None = None,
        *,
        tokens: Tokens | None = None,
        return_state: bool = False,
    ) -> Any:
        self.require_width(x_BLD)
        told = require_tokens(tokens, x_BLD)._asdict()
        previous_BD, *sums = self.initial_state(x_BLD.sum(1)) if state is None else state
        before_BLD, last_BD = token_shift(x_BLD, previous_BD, **told)
        k_BLD, v_BLD, r_BLD = self._project(x_BLD, before_BLD)
        decay_D, bonus_D = self._constants()
        y_BLD, after = wkv(
            k_BLD,
            v_BLD,
            decay_D,
            bonus_D,
            WkvState(*sums),
            **told,
            form=self.form,
            chunk_size=self.chunk_size,
        )
        y_BLD = self.output(r_BLD * y_BLD)
        return (y_BLD, TimeMixingState(last_BD, *after)) if return_state else y_BLD

    def step(self, x_BD: Tensor, state: TimeMixingState) -> tuple[Tensor, TimeMixingState]:
        k_BD, v_BD, r_BD = self._project(x_BD, state.previous)
        y_BD, after = wkv_step(k_BD, v_BD, *self._constants(), WkvState(*state[1:]))
        return self.output(r_BD * y_BD), TimeMixingState(x_BD, *after)

    def _project(self, x: Tensor, before: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        k, v, r = (torch.lerp(before, x, mix) for mix in (self.mix_k, self.mix_v, self.mix_r))
        return self.key(k), self.value(v), self.receptance(r).sigmoid()

    def _constants(self) -> tuple[Tensor, Tensor]:
        return -wide(self.time_decay).exp(), wide(self.time_first)


@dataclass(frozen=True)
class ChannelMixingConfig(DepthConfig):
    """Config of ChannelMixing."""

    ratio: int = 4  # hidden units for each of the width

    def validate(self) -> None:
        super().validate()
        self.require_positive("ratio")


class ChannelMixingState(NamedTuple):
    """The last input, [B, D]."""

    previous: Tensor


@registry.register("sequence-mixer", "wkv_channel", tiny={"layer": 1, "layers": 3})
class ChannelMixing(SequenceMixer):
    """A gated feed-forward network of squared ReLU units that also sees the token before.

    Attributes:
        closed: the matrices that RWKV starts at zero.
    """

    Config: ClassVar[type[Config]] = ChannelMixingConfig
    closed: ClassVar[tuple[str, ...]] = ("value", "receptance")

    def __init__(self, config: ChannelMixingConfig, dim: int) -> None:
        super().__init__(config, dim)
        hidden = config.ratio * dim
        self.mix_k, self.mix_r = (nn.Parameter(torch.empty(dim)) for _ in range(2))
        self.key = nn.Linear(dim, hidden, bias=False)
        self.value = nn.Linear(hidden, dim, bias=False)
        self.receptance = nn.Linear(dim, dim, bias=False)
        self.reset_vectors()

    @torch.no_grad()
    def reset_vectors(self) -> None:
        """The mixes as RWKV-4 starts them."""
        share = (torch.arange(self.dim) / self.dim) ** self.config.left
        self.mix_k.copy_(share)
        self.mix_r.copy_(share)

    def initial_state(self, like: Tensor) -> ChannelMixingState:
        return ChannelMixingState(torch.zeros_like(like))

    def forward(
        self,
        x_BLD: Tensor,
        state: ChannelMixingState | None = None,
        *,
        tokens: Tokens | None = None,
        return_state: bool = False,
    ) -> Any:
        self.require_width(x_BLD)
        told = require_tokens(tokens, x_BLD)._asdict()
        (previous_BD,) = self.initial_state(x_BLD.sum(1)) if state is None else state
        before_BLD, last_BD = token_shift(x_BLD, previous_BD, **told)
        y_BLD = self._mix(x_BLD, before_BLD)
        return (y_BLD, ChannelMixingState(last_BD)) if return_state else y_BLD

    def step(self, x_BD: Tensor, state: ChannelMixingState) -> tuple[Tensor, ChannelMixingState]:
        return self._mix(x_BD, state.previous), ChannelMixingState(x_BD)

    def _mix(self, x: Tensor, before: Tensor) -> Tensor:
        k, r = (torch.lerp(before, x, mix) for mix in (self.mix_k, self.mix_r))
        y: Tensor = self.receptance(r).sigmoid() * self.value(self.key(k).relu().square())
        return y
