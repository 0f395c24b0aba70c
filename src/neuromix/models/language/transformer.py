"""Transformer: causal softmax attention and gated feed-forward networks, what the other language models are held to.

An ordinary decoder of today: RMSNorm before each part, rotary positions, SwiGLU, no biases, a tied head. Its state
grows with every token.

Shapes: see `decoder`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from neuromix.core.config import Spec
from neuromix.core.model import ModelConfig
from neuromix.core.registry import register_model
from neuromix.models.language.decoder import BlockSpec, Decoder, DecoderConfig


@dataclass(frozen=True)
class TransformerConfig(DecoderConfig):
    """Config of Transformer."""

    layers: int = 4
    attention: Spec = Spec("attention", {"heads": 4, "rotary": 32})
    ffn: Spec = Spec("glu", {"ratio": 8 / 3})

    def validate(self) -> None:
        super().validate()
        self.require_positive("layers")

    def blocks(self) -> tuple[BlockSpec, ...]:
        return (BlockSpec(self.attention, self.ffn),) * self.layers


@register_model(
    "transformer",
    tasks=("language-modelling",),
    family="sequence",
    variants={
        "transformer_nano": {"dim": 144, "attention": Spec("attention", {"heads": 4, "rotary": 36})},
    },
    tiny={
        "dim": 16,
        "layers": 2,
        "vocab_size": 31,
        "attention": Spec("attention", {"heads": 2, "rotary": 8}),
    },
)
class Transformer(Decoder):
    """The Transformer; all linear maps start normal with deviation 0.02, those that end a branch by depth less."""

    Config: ClassVar[type[ModelConfig]] = TransformerConfig

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config)
        for name, module in self.blocks.named_modules():
            if isinstance(module, nn.Linear):
                ends = name.endswith(("out", "contract"))
                nn.init.normal_(module.weight, std=0.02 / (2 * config.layers) ** 0.5 if ends else 0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
