"""Multi-head self-attention over all places of a map.

Shapes: B batch, C channels, H W feature map, N = H*W tokens, h heads of K channels each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from neuromix.core.config import Config
from neuromix.core.errors import ConfigError
from neuromix.core.observe import Tap
from neuromix.core.registry import register_mixer
from neuromix.layers.init import truncated_normal
from neuromix.mixers.mixer import SpatialMixer


@dataclass(frozen=True)
class AttentionConfig(Config):
    """Config of Attention."""

    head_dim: int = 32  # channels of a head, divides the width
    width: int | None = None  # channels of q, k and v each; None: those of the map
    qkv_bias: bool = False
    proj_bias: bool = True

    def validate(self) -> None:
        self.require_positive("head_dim")
        self.require(self.width is None or self.width > 0, f"width must be positive, got {self.width}")


@register_mixer("attention")
class Attention(SpatialMixer):
    """proj(softmax(q k^T / sqrt(head_dim)) v) over the H*W places; one linear map gives [q, k, v][head][channel]."""

    Config: ClassVar[type[Config]] = AttentionConfig

    def __init__(self, config: AttentionConfig, dim: int, size: tuple[int, int] | None = None) -> None:
        super().__init__(config, dim, size)
        width = config.width or dim
        if width % config.head_dim:
            raise ConfigError(f"Attention: head_dim {config.head_dim} does not divide the width {width}")
        self.heads = width // config.head_dim
        self.qkv = truncated_normal(nn.Linear(dim, 3 * width, bias=config.qkv_bias))
        self.proj = truncated_normal(nn.Linear(width, dim, bias=config.proj_bias))
        self.taps = nn.ModuleList(Tap(role) for role in ("query", "key", "value"))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_BNC = x_BCHW.flatten(2).transpose(1, 2)
        qkv_BN3hK = self.qkv(x_BNC).unflatten(-1, (3, self.heads, self.config.head_dim))
        qkv_3BhNK = qkv_BN3hK.permute(2, 0, 3, 1, 4)
        q_BhNK, k_BhNK, v_BhNK = (tap(x) for tap, x in zip(self.taps, qkv_3BhNK.unbind(0), strict=True))
        y_BhNK = F.scaled_dot_product_attention(q_BhNK, k_BhNK, v_BhNK)
        y_BNC: Tensor = self.proj(y_BhNK.transpose(1, 2).flatten(2))
        return y_BNC.transpose(1, 2).reshape(x_BCHW.shape)
