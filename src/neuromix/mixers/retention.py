"""Retention: linear attention that forgets at a fixed rate, a slower one each head (Sun et al., "RetNet", 2023).

    gamma_h = 1 - 2^(-5-h)        S_t = gamma S_{t-1} + k_t v_t^T        o_t = S_t^T q_t / sqrt(K)

with q and k turned by their position, and values twice as wide as the model. In parallel form it is attention without a
softmax, whose mask is gamma^(t-s).

Shapes: see `linear_attention`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from neuromix.core import registry
from neuromix.core.config import Config
from neuromix.layers.time_step import wide
from neuromix.mixers.linear_attention import LinearAttention, LinearAttentionConfig


@dataclass(frozen=True)
class RetentionConfig(LinearAttentionConfig):
    """Config of Retention."""

    heads: int = 8
    expand_v: float = 2.0
    rotary: bool = True


def retention_log_decay(heads: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """log(1 - 2^(-5-h)) for each head h: [H]."""
    exponents = torch.arange(heads, dtype=torch.float64)
    return torch.log1p(-torch.exp2(-5 - exponents)).to(dtype)


@registry.register("sequence-mixer", "retention", tiny={"heads": 2})
class Retention(LinearAttention):
    """x_BLD -> y_BLD."""

    Config: ClassVar[type[Config]] = RetentionConfig

    def log_decay(self, x: Tensor) -> Tensor:
        return retention_log_decay(self.heads, wide(x).dtype).to(x.device)
