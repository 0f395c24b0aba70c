"""The edit "spt": attention becomes sparse, feed-forward networks are routed, and only what is new learns.

Fine-tuning by sparsification (SPT, Gui et al., 2023), for models whose mixers are causal attention. Weights stay as
they are, under the same names.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from neuromix.core.config import Config, field_types
from neuromix.core.edits import register_edit, replace_modules
from neuromix.core.errors import ConfigError
from neuromix.core.model import Model
from neuromix.layers.lora import LoRAConfig, LoRAEmbedding, LoRALinear, lora
from neuromix.layers.routed_ffn import RoutedConfig, RoutedFeedForward, routed_ffn
from neuromix.mixers.causal_attention import CausalAttention
from neuromix.mixers.pq_attention import PQAttention, PQAttentionConfig


@dataclass(frozen=True)
class SPTConfig(Config):
    """Config of the edit "spt"; for its fields see those of "lora", of "routed_ffn" and of "pq_attention"."""

    rank: int = 16
    blocks: int = 4
    active: int | None = None
    codewords: int = 16
    codeword_dim: int | None = None  # None: the largest one up to 8 that divides the width of a head
    keep: int | None = None
    share: int = 8
    clamp: float | None = 10.0
    loss_weight: float = 1e-2
    sparse: bool = (
        True  # false: attention stays dense while codewords are trained; the edit again makes it sparse
    )
    seed: int = 0

    def pq(self) -> dict[str, object]:
        """What attention is given in addition."""
        names = ("codewords", "keep", "share", "clamp", "loss_weight", "sparse")
        return {name: getattr(self, name) for name in names}

    def codeword(self, head_dim: int) -> int:
        """Numbers of a part of a head."""
        return self.codeword_dim or max(n for n in range(1, 9) if head_dim % n == 0)


@register_edit("spt", SPTConfig)
def spt(model: Model, config: SPTConfig) -> Model:
    """LoRA on all linear layers and embeddings, routed feed-forward networks, PQ attention; what is there stays.

    Raises:
        ConfigError: the model has no causal attention, or sizes do not divide.
    """
    kinds = {type(module) for module in model.modules()}
    if not kinds & {CausalAttention, PQAttention}:
        raise ConfigError("spt: the model has no causal attention (sequence mixer attention) to make sparse")
    if not kinds & {LoRALinear, LoRAEmbedding}:
        model = lora(model, LoRAConfig(config.rank, seed=config.seed))
    if RoutedFeedForward not in kinds:
        model = routed_ffn(model, RoutedConfig(config.blocks, config.active, seed=config.seed))
    _quantise_attention(model, config)
    return model


def _quantise_attention(model: Model, config: SPTConfig) -> None:
    generator = torch.Generator().manual_seed(config.seed + 1)

    def replace(module: nn.Module) -> nn.Module | None:
        if type(module) not in (CausalAttention, PQAttention):
            return None
        assert isinstance(module, CausalAttention)
        return sparse_attention(module, config, generator)

    replace_modules(model, replace)


def sparse_attention(old: CausalAttention, config: SPTConfig, generator: torch.Generator) -> PQAttention:
    """The same attention with a quantiser: a new one, or the one that it has."""
    known = {name: getattr(old.config, name) for name in field_types(type(old.config))}
    known |= {**config.pq(), "codeword_dim": config.codeword(old.head_dim)}
    with torch.device("meta"):
        new = PQAttention(PQAttentionConfig(**known), old.dim)
    new.qkv, new.out = old.qkv, old.out
    if isinstance(old, PQAttention):
        new.quantiser = old.quantiser
    else:
        shape = new.quantiser.weight.shape
        new.quantiser.weight = nn.Parameter(torch.randn(shape, generator=generator).to(old.out.weight))
    return new.train(old.training)
