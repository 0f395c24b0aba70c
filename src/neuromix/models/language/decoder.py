"""Decoder: the spine of the language models. Embedding, blocks of a sequence mixer and a feed-forward network, head.

A system is a Config whose `blocks()` says what stands in each block.

Shapes: B batch, L tokens, D width, V size of the vocabulary as the weights have it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from neuromix.core.batch import Batch
from neuromix.core.config import Spec
from neuromix.core.errors import ShapeError
from neuromix.core.model import Field, Model, ModelConfig
from neuromix.layers.chance import Dropout
from neuromix.layers.ffn import make_ffn
from neuromix.layers.residual import Residual
from neuromix.mixers.sequence import Tokens, make_sequence_mixer


class BlockSpec(NamedTuple):
    """What stands in a block: a sequence mixer, and after it a feed-forward network; either may be missing."""

    mixer: Spec | None = None
    ffn: Spec | None = None


@dataclass(frozen=True)
class DecoderConfig(ModelConfig):
    """The fields that all language models of this spine have."""

    vocab_size: int = 256  # of the tokens
    vocab_multiple: int = 1  # the weights have rows for a multiple of it
    dim: int = 128  # width D
    norm: Literal["rms", "layer"] = "rms"
    norm_eps: float = 1e-5
    tied: bool = True  # the head has the weights of the embedding
    dropout: float = 0.0  # in [0, 1), of the embedding

    def validate(self) -> None:
        self.require_positive("vocab_size", "vocab_multiple", "dim", "norm_eps")
        self.require_within(0, 1, "dropout")

    @property
    def rows(self) -> int:
        """Rows V of embedding and head."""
        return -(-self.vocab_size // self.vocab_multiple) * self.vocab_multiple

    def blocks(self) -> tuple[BlockSpec, ...]:
        """The blocks, the first one first."""
        raise NotImplementedError

    def make_norm(self) -> nn.Module:
        """One of its norms, over the width."""
        make = nn.RMSNorm if self.norm == "rms" else nn.LayerNorm
        return make(self.dim, eps=self.norm_eps)


class Block(nn.Module):
    """x + mixer(norm(x)), then x + ffn(norm(x)); each where it is asked for."""

    def __init__(self, spec: BlockSpec, config: DecoderConfig) -> None:
        super().__init__()
        self.mixer = self.ffn = None
        if spec.mixer is not None:
            self.mixer = Residual(make_sequence_mixer(spec.mixer, config.dim), config.make_norm())
        if spec.ffn is not None:
            self.ffn = Residual(make_ffn(spec.ffn, config.dim), config.make_norm())

    def forward(self, x_BLD: Tensor, tokens: Tokens) -> Tensor:
        if self.mixer is not None:
            x_BLD = self.mixer(x_BLD, tokens=tokens)
        return x_BLD if self.ffn is None else self.ffn(x_BLD)


class Decoder(Model):
    """ids [B, L] to logits [B, L, V] of the token after each; what it remembers is in the states of its mixers."""

    Config: ClassVar[type[ModelConfig]] = DecoderConfig
    inputs: ClassVar[tuple[Field, ...]] = (
        Field("ids", "BL"),
        Field("mask", "BL", optional=True),
        Field("segments", "BL", optional=True),
    )
    stream_axis = 1

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__(config)
        self.embedding = nn.Embedding(config.rows, config.dim)
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(spec, config) for spec in config.blocks())
        self.norm = config.make_norm()
        self.head = nn.Linear(config.dim, config.rows, bias=False)
        if config.tied:
            self.head.weight = self.embedding.weight
        nn.init.normal_(self.embedding.weight, std=0.02)

    def forward(  # type: ignore[override]
        self, ids_BL: Tensor, mask_BL: Tensor | None = None, segments_BL: Tensor | None = None
    ) -> Tensor:
        """Logits [B, L, V].

        Args:
            ids_BL: int64, in [0, vocab_size).
            mask_BL: bool, False at padding; None: all tokens are real.
            segments_BL: int64, the sequence of each token, where a row holds several.

        Raises:
            ShapeError: ids of another shape or dtype.
        """
        return self.forward_steps(ids_BL, mask_BL, segments_BL)

    def forward_steps(
        self, ids_BL: Tensor, mask: Tensor | None = None, segments: Tensor | None = None
    ) -> Tensor:
        """As `forward`, which has nothing but steps."""
        x_BLD = self.dropout(self.embedding(require_ids(ids_BL)))
        tokens = Tokens(mask, segments)
        for block in self.blocks:
            x_BLD = block(x_BLD, tokens)
        logits_BLV: Tensor = self.head(self.norm(x_BLD))
        return logits_BLV

    def example(self, batch_size: int, generator: torch.Generator | None = None) -> Batch:
        size = self.config.vocab_size
        ids_BL = torch.randint(size, (batch_size, 12), generator=generator)
        return Batch({"ids": ids_BL, "labels": ids_BL.roll(-1, 1)})


def require_ids(ids_BL: Tensor) -> Tensor:
    """The ids, checked.

    Raises:
        ShapeError: ids of another shape or dtype.
    """
    if ids_BL.dim() != 2 or ids_BL.dtype != torch.int64:
        raise ShapeError(f"expected token ids, int64 [B, L], got {ids_BL.dtype} {list(ids_BL.shape)}")
    return ids_BL
