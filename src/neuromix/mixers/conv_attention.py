"""Causal attention whose queries, keys and values pass a short causal convolution first, as in Mamba-2 with attention.

Shapes: as in `causal_attention`; E = (H + 2 G) K rows of queries, keys and values, W width of the convolution.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from torch import Tensor

from neuromix.core import registry
from neuromix.core.config import Config
from neuromix.layers.short_conv import ShortConv
from neuromix.mixers.causal_attention import AttentionState, CausalAttention, CausalAttentionConfig
from neuromix.mixers.sequence import Tokens, require_tokens


@dataclass(frozen=True)
class ConvAttentionConfig(CausalAttentionConfig):
    """Config of ConvAttention."""

    d_conv: int = 4  # width of the convolution

    def validate(self) -> None:
        super().validate()
        self.require_positive("d_conv")


class ConvAttentionState(NamedTuple):
    """The last W inputs of the convolution, oldest first, and what attention keeps."""

    conv_BEW: Tensor
    k_BSGK: Tensor
    v_BSGK: Tensor
    mask_BS: Tensor


@registry.register("sequence-mixer", "conv_attention", tiny={"heads": 2, "kv_heads": 1})
class ConvAttention(CausalAttention):
    """CausalAttention with (q, k, v) = conv(qkv(x)); the state holds what goes into the convolution."""

    Config: ClassVar[type[Config]] = ConvAttentionConfig

    def __init__(self, config: ConvAttentionConfig, dim: int) -> None:
        super().__init__(config, dim)
        self.conv = ShortConv(self.qkv.out_features, config.d_conv, activation=None)

    def initial_state(self, like: Tensor) -> ConvAttentionState:  # type: ignore[override]
        return ConvAttentionState(self.conv.initial_state(like), *super().initial_state(like))

    def forward(
        self,
        x_BLD: Tensor,
        state: Any = None,
        *,
        tokens: Tokens | None = None,
        return_state: bool = False,
    ) -> Any:
        self.require_width(x_BLD)
        tokens = require_tokens(tokens, x_BLD)
        state = state if state is not None else self.initial_state(x_BLD.sum(1))
        qkv_BLE, conv_BEW = self.conv(self.qkv(x_BLD), state.conv_BEW, **tokens._asdict())
        y_BLD, after = self.attend(qkv_BLE, AttentionState(*state[1:]), tokens)
        return (y_BLD, ConvAttentionState(conv_BEW, *after)) if return_state else y_BLD
