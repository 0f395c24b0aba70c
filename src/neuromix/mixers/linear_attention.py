"""Linear attention: a sum of key-value products, read by queries, normalised and gated; what GLA and retention share.

    S_t = exp(log_decay_t) S_{t-1} + k_t v_t^T    o_t = S_t^T q_t / sqrt(K)    y_t = out(norm(o_t) * act(gate(x_t)))

for each head. Here nothing decays; a mixer that forgets says by how much in `log_decay`.

Shapes: B batch, L tokens, D model width, H heads, G heads of keys and values, K key width, V value width, C channels of
a convolution, W its taps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from neuromix.core import registry
from neuromix.core.config import Config, Spec
from neuromix.core.errors import ConfigError
from neuromix.layers.activation import make_activation
from neuromix.layers.rotary import rotary
from neuromix.layers.short_conv import ShortConv
from neuromix.layers.time_step import wide
from neuromix.mixers.sequence import FormConfig, SequenceMixer, Tokens, require_tokens
from neuromix.ops.recurrence import recurrence, recurrence_step
from neuromix.ops.runs import positions


@dataclass(frozen=True)
class LinearAttentionConfig(FormConfig):
    """Config of LinearAttention."""

    heads: int = 4
    kv_heads: int | None = None  # heads of keys and values, each shared by as many queries; None: as many
    expand_k: float = 1.0  # keys of all heads have int(expand_k * dim) numbers
    expand_v: float = 1.0  # and values int(expand_v * dim)
    feature_map: Spec | None = None  # an activation of q and k
    rotary: bool = False  # q and k are turned by their position
    short_conv: int = 0  # taps of a causal convolution after each of q, k and v; 0: none
    conv_bias: bool = False
    key_scale: float = 1.0  # a factor of k
    gate: Spec | None = Spec("silu")  # the activation of the output gate; None: no gate
    gate_bias: bool = False
    norm: Literal["rms", "layer"] = "rms"  # of each head's output
    norm_affine: bool = True
    norm_eps: float = 1e-5

    def validate(self) -> None:
        super().validate()
        self.require_positive("heads", "expand_k", "expand_v", "key_scale", "norm_eps")
        kv_heads = self.heads if self.kv_heads is None else self.kv_heads
        self.require(
            kv_heads > 0 and self.heads % kv_heads == 0,
            f"kv_heads must divide the {self.heads} heads, got {kv_heads}",
        )
        self.require(self.short_conv >= 0, f"short_conv must not be negative, got {self.short_conv}")

    def head_dims(self, dim: int) -> tuple[int, int]:
        """K and V for a model of width `dim`.

        Raises:
            ConfigError: the heads do not divide them.
        """
        widths = []
        for name in ("expand_k", "expand_v"):
            width = int(getattr(self, name) * dim)
            if width < 1 or width % self.heads:
                raise ConfigError(
                    f"{type(self).__name__}: {self.heads} heads do not divide the {width} numbers that {name} "
                    f"{getattr(self, name)} makes of width {dim}"
                )
            widths.append(width // self.heads)
        if self.rotary and widths[0] % 2:
            raise ConfigError(f"{type(self).__name__}: rotary needs an even key width, got {widths[0]}")
        return widths[0], widths[1]


class LinearAttentionState(NamedTuple):
    """What linear attention remembers.

    Attributes:
        memory_BHKV: S, in float32 or wider.
        position_B: int64, how many tokens there were in the sequence, for rotary q and k.
        convs: the last W inputs of the convolutions of q, k and v, [B, C, W] each, the oldest first; none without.
    """

    memory_BHKV: Tensor
    position_B: Tensor
    convs: tuple[Tensor, ...] = ()


@registry.register(
    "sequence-mixer", "linear_attention", tiny={"heads": 2, "feature_map": "silu", "rotary": True}
)
class LinearAttention(SequenceMixer):
    """x_BLD -> y_BLD. Padding leaves the state as it is and counts for no position."""

    Config: ClassVar[type[Config]] = LinearAttentionConfig
    forms: ClassVar[tuple[str, ...]] = ("auto", "loop", "parallel", "chunk")

    def __init__(self, config: LinearAttentionConfig, dim: int) -> None:
        super().__init__(config, dim)
        self.heads, self.kv_heads = config.heads, config.kv_heads or config.heads
        self.key_dim, self.value_dim = config.head_dims(dim)
        keys, values = self.kv_heads * self.key_dim, self.kv_heads * self.value_dim
        self.q = nn.Linear(dim, self.heads * self.key_dim, bias=False)
        self.k = nn.Linear(dim, keys, bias=False)
        self.v = nn.Linear(dim, values, bias=False)
        if config.short_conv:
            self.convs = nn.ModuleDict(
                {
                    name: ShortConv(channels, config.short_conv, bias=config.conv_bias, activation="silu")
                    for name, channels in (("q", self.heads * self.key_dim), ("k", keys), ("v", values))
                }
            )
        self.feature_map = make_activation(config.feature_map) if config.feature_map else nn.Identity()
        if config.norm == "rms":
            self.norm: nn.Module = nn.RMSNorm(self.value_dim, config.norm_eps, config.norm_affine)
        else:
            self.norm = nn.LayerNorm(self.value_dim, config.norm_eps, config.norm_affine)
        if config.gate is not None:
            self.gate = nn.Linear(dim, self.heads * self.value_dim, bias=config.gate_bias)
            self.activation = make_activation(config.gate)
        self.out = nn.Linear(self.heads * self.value_dim, dim, bias=False)

    def log_decay(self, x: Tensor) -> Tensor:
        """The natural logarithm of the decay, at most 0: [H] for constants, [..., H, K] for x [..., D]."""
        return wide(x).new_zeros(self.heads)

    def initial_state(self, like: Tensor) -> LinearAttentionState:
        memory_BHKV = wide(like).new_zeros(len(like), self.heads, self.key_dim, self.value_dim)
        convs = tuple(conv.initial_state(like) for conv in self._convs())
        return LinearAttentionState(memory_BHKV, memory_BHKV.new_zeros(len(like), dtype=torch.int64), convs)

    def forward(
        self,
        x_BLD: Tensor,
        state: LinearAttentionState | None = None,
        *,
        tokens: Tokens | None = None,
        return_state: bool = False,
    ) -> Any:
        self.require_width(x_BLD)
        tokens = require_tokens(tokens, x_BLD)
        before = state if state is not None else self.initial_state(x_BLD.sum(1))
        parts, convs = [self.q(x_BLD), self.k(x_BLD), self.v(x_BLD)], before.convs
        if convs:
            pairs = [
                conv(*io, **tokens._asdict()) for conv, *io in zip(self._convs(), parts, convs, strict=True)
            ]
            parts, convs = [y for y, _ in pairs], tuple(after for _, after in pairs)
        seen_B = None if state is None else state.position_B
        positions_BL = positions(x_BLD.shape[:2], seen_B, *tokens, x_BLD.device)
        q_BLHK, k_BLHK, v_BLHV = self._heads(parts, positions_BL)
        o_BLHV, memory_BHKV = recurrence(
            q_BLHK,
            k_BLHK,
            v_BLHV,
            self.log_decay(x_BLD),
            before.memory_BHKV,
            scale=self.key_dim**-0.5,
            **tokens._asdict(),
            form=self.form,
            chunk_size=self.chunk_size,
        )
        y_BLD = self._read_out(o_BLHV, x_BLD)
        position_B = positions_BL[:, -1] if x_BLD.shape[1] else before.position_B
        return (y_BLD, LinearAttentionState(memory_BHKV, position_B, convs)) if return_state else y_BLD

    def step(self, x_BD: Tensor, state: LinearAttentionState) -> tuple[Tensor, LinearAttentionState]:
        parts, convs = [self.q(x_BD), self.k(x_BD), self.v(x_BD)], state.convs
        if convs:
            pairs = [conv.step(*io) for conv, *io in zip(self._convs(), parts, convs, strict=True)]
            parts, convs = [y for y, _ in pairs], tuple(after for _, after in pairs)
        position_B = state.position_B + 1
        q_BLHK, k_BLHK, v_BLHV = self._heads([part[:, None] for part in parts], position_B[:, None])
        o_BHV, memory_BHKV = recurrence_step(
            q_BLHK[:, 0],
            k_BLHK[:, 0],
            v_BLHV[:, 0],
            self.log_decay(x_BD),
            state.memory_BHKV,
            scale=self.key_dim**-0.5,
        )
        return self._read_out(o_BHV, x_BD), LinearAttentionState(memory_BHKV, position_B, convs)

    def spread(self, x: Tensor) -> Tensor:
        """[..., G * width] as the heads of queries see it, each repeated for those that share it: [..., H, width]."""
        heads = x.reshape(*x.shape[:-1], self.kv_heads, x.shape[-1] // self.kv_heads)
        return heads.repeat_interleave(self.heads // self.kv_heads, -2)

    def _convs(self) -> list[ShortConv]:
        return list(self.convs.values()) if self.config.short_conv else []  # type: ignore[arg-type]

    def _heads(self, parts: list[Tensor], positions_BL: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = parts
        q_BLHK = self.feature_map(q.reshape(*q.shape[:-1], self.heads, self.key_dim))
        k_BLHK = self.feature_map(self.spread(k)) * self.config.key_scale
        if self.config.rotary:
            q_BLHK, k_BLHK = (rotary(each, positions_BL, self.key_dim) for each in (q_BLHK, k_BLHK))
        return q_BLHK, k_BLHK, self.spread(v)

    def _read_out(self, o: Tensor, x: Tensor) -> Tensor:
        y = self.norm(o).flatten(-2)
        y = y * self.activation(self.gate(x)) if self.config.gate is not None else y
        projected: Tensor = self.out(y)
        return projected
