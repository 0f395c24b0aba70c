"""Gated linear attention: linear attention that forgets each key channel as the input says (Yang et al., ICML 2024).

    log alpha_t = log sigmoid(decay(x_t)) / 16    S_t = diag(alpha_t) S_{t-1} + k_t v_t^T    o_t = S_t^T q_t / sqrt(K)

The decay comes from a map of low rank. With its bias at zero alpha is 0.958, a memory of about 23 tokens, and learns to
be longer.

Shapes: see `linear_attention`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from neuromix.core import registry
from neuromix.core.config import Config
from neuromix.layers.time_step import wide
from neuromix.mixers.linear_attention import LinearAttention, LinearAttentionConfig


@dataclass(frozen=True)
class GLAConfig(LinearAttentionConfig):
    """Config of GLA."""

    expand_k: float = 0.5
    gate_rank: int = 16  # of the map that gives the decay
    gate_logit_normalizer: float = 16.0  # the logarithm of the decay is divided by it
    clamp_min: float | None = None  # the least logarithm of a decay, after that; at most 0

    def validate(self) -> None:
        super().validate()
        self.require_positive("gate_rank", "gate_logit_normalizer")
        self.require(not self.rotary, "rotary positions need one decay a head, and GLA has one a channel")
        self.require(
            self.clamp_min is None or self.clamp_min <= 0,
            f"clamp_min must be at most 0, got {self.clamp_min}",
        )


@registry.register("sequence-mixer", "gla", tiny={"heads": 2, "kv_heads": 1, "short_conv": 3, "gate_rank": 2})
class GLA(LinearAttention):
    """x_BLD -> y_BLD. The decay is taken from x itself, before any convolution."""

    Config: ClassVar[type[Config]] = GLAConfig

    def __init__(self, config: GLAConfig, dim: int) -> None:
        super().__init__(config, dim)
        keys = self.kv_heads * self.key_dim
        self.decay = nn.Sequential(
            nn.Linear(dim, config.gate_rank, bias=False), nn.Linear(config.gate_rank, keys)
        )

    def log_decay(self, x: Tensor) -> Tensor:
        log_alpha = F.logsigmoid(wide(self.decay(x))) / self.config.gate_logit_normalizer
        if self.config.clamp_min is not None:
            log_alpha = log_alpha.clamp(min=self.config.clamp_min)
        return self.spread(log_alpha)
