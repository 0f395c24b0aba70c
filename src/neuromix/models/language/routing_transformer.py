"""Routing Transformer: half of the heads look around a token, half inside clusters of content (Roy et al., TACL 2021).

With k = sqrt(L) clusters of sqrt(L) tokens attention costs L^1.5. The variants named after data sets are the authors'
(normalise="layernorm", relative positions); by default the numbers are those of the PyTorch release (normalise="l2",
rotary positions). The clusters of both look at whole rows, so that the past depends a little on the future; with
`strict` the model is causal and can be stepped.

Shapes: B batch, L tokens, D width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuromix.core.batch import Batch
from neuromix.core.config import Spec
from neuromix.core.errors import ShapeError
from neuromix.core.model import Field, Model, ModelConfig
from neuromix.core.observe import Noise
from neuromix.core.registry import Paper, register_model
from neuromix.layers.activation import make_activation
from neuromix.layers.chance import Dropout
from neuromix.layers.part_shift import PartShift
from neuromix.mixers.routing_heads import Normalise
from neuromix.mixers.sequence import SequenceMixer, Tokens, make_sequence_mixer
from neuromix.models.language.decoder import require_ids

PAPER = Paper(
    "Efficient Content-Based Sparse Attention with Routing Transformers",
    2021,
    "TACL",
    "https://arxiv.org/abs/2003.05997",
)


@dataclass(frozen=True)
class RoutingTransformerConfig(ModelConfig):
    """Config of RoutingTransformer."""

    vocab_size: int = 256
    dim: int = 128  # width D
    embedding_dim: int | None = None  # width of embedding and head; None: dim
    depth: int = 4
    heads: int = 4
    local_heads: tuple[int, ...] = (2,)  # of each layer; one number is that of all
    head_dim: int | None = None  # None: dim / heads
    max_length: int = 512  # L at most, unless strict; clusters = max_length / window
    window: int = 64  # tokens of a cluster
    local_window: int | None = None  # tokens of a block of the local heads; None: window
    look_back: int = 1  # blocks before its own that a token sees
    causal: bool = True
    strict: bool = False  # causal in its clusters too, so that it can be stepped
    shared_qk: bool | None = None  # routing heads have no keys but their queries; None: if causal
    normalise: Normalise = "l2"
    relative: int = 0  # distance up to which learned relative positions tell; 0: rotary ones
    memory_slots: int = 0  # of each cluster
    decay: float = 0.999  # of the centres of clusters
    commitment: float = 1e-4  # weight of the distance of tokens to their centres
    ffn_ratio: float = 4.0  # hidden units for each of the width
    glu: bool = False  # activation(a) * b, both of so many hidden units
    ffn_bias: bool = True
    activation: Spec = Spec("gelu")
    local_bias: bool = True
    norm: Literal["layer", "scale", "rezero"] = (
        "layer"  # scale: one length; rezero: none, a factor from 0 behind
    )
    token_shift: bool = False  # part of the features come from the token before (and from the one after)
    reversible: bool = False  # two streams that add to each other in turn, their mean at the end
    share_layers: bool = False  # all layers have the same weights
    tied: bool = False  # the head has the weights of the embedding
    head: bool = True  # false: gives what would enter the head
    attention_dropout: float = 0.0  # of the weights; all in [0, 1)
    out_dropout: float = 0.0  # of what attention gives
    ffn_dropout: float = 0.0
    embedding_dropout: float = 0.0
    layer_dropout: float = 0.0  # of whole layers

    def validate(self) -> None:
        self.require_positive("vocab_size", "dim", "depth", "heads", "max_length", "window", "ffn_ratio")
        self.require(
            self.max_length % self.window == 0,
            f"window must divide max_length, got {self.window} and {self.max_length}",
        )
        self.require(len(self.local_heads) in (1, self.depth), f"local_heads needs 1 or {self.depth} numbers")
        self.require(
            not self.share_layers or len(set(self.local_heads)) == 1,
            "layers that are shared have the same local_heads",
        )
        self.require(
            self.head or (self.embedding_dim or self.dim) == self.dim, "no head: no embedding_dim either"
        )
        self.require_within(
            0, 1, "attention_dropout", "out_dropout", "ffn_dropout", "embedding_dropout", "layer_dropout"
        )

    @property
    def local_heads_of(self) -> tuple[int, ...]:
        """Local heads of each layer."""
        return self.local_heads * (self.depth if len(self.local_heads) == 1 else 1)

    @property
    def embedding_width(self) -> int:
        """Width of the embedding."""
        return self.embedding_dim or self.dim

    def attention(self, layer: int) -> Spec:
        """The mixer of a layer."""
        options = {
            "heads": self.heads,
            "local_heads": self.local_heads_of[layer],
            "head_dim": self.head_dim,
            "clusters": self.max_length // self.window,
            "window": self.window,
            "local_window": self.local_window,
            "look_back": self.look_back,
            "causal": self.causal,
            "strict": self.strict,
            "shared_qk": self.causal if self.shared_qk is None else self.shared_qk,
            "normalise": self.normalise,
            "relative": self.relative,
            "local_relative": self.relative,
            "rotary": self.relative == 0,
            "memory_slots": self.memory_slots,
            "decay": self.decay,
            "commitment": self.commitment,
            "local_bias": self.local_bias,
            "dropout": self.attention_dropout,
            "out_dropout": self.out_dropout,
        }
        return Spec("routing", options)


class ScaleNorm(nn.Module):
    """x / |x| * scale, with one scale."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=-1, eps=1e-5) * self.scale


class RoutingFeedForward(nn.Module):
    """contract(activation(expand(x))), or with `glu` contract(activation(a) * b), (a, b) the halves of expand(x)."""

    def __init__(self, config: RoutingTransformerConfig) -> None:
        super().__init__()
        hidden = int(config.dim * config.ffn_ratio)
        self.glu = config.glu
        self.expand = nn.Linear(config.dim, hidden * (2 if config.glu else 1), bias=config.ffn_bias)
        self.activation = make_activation(config.activation)
        self.dropout = Dropout(config.ffn_dropout)
        self.contract = nn.Linear(hidden, config.dim, bias=config.ffn_bias)

    def forward(self, x: Tensor) -> Tensor:
        h = self.expand(x)
        if self.glu:
            a, b = h.chunk(2, -1)
            h = self.activation(a) * b
        else:
            h = self.activation(h)
        y: Tensor = self.contract(self.dropout(h))
        return y


class Part(nn.Module):
    """What one half of a layer adds: factor * branch(shift(norm(x)))."""

    def __init__(self, branch: nn.Module, config: RoutingTransformerConfig) -> None:
        super().__init__()
        norms: dict[str, Any] = {"layer": lambda: nn.LayerNorm(config.dim), "scale": ScaleNorm}
        self.norm = norms.get(config.norm, nn.Identity)()
        self.shift = PartShift(causal=config.causal) if config.token_shift else None
        self.branch = branch
        self.factor = nn.Parameter(torch.zeros(1)) if config.norm == "rezero" else None

    def forward(self, x_BLD: Tensor, tokens: Tokens) -> Tensor:
        x_BLD = self.norm(x_BLD)
        if self.shift is not None:
            x_BLD = self.shift(x_BLD, tokens=tokens)
        mixes = isinstance(self.branch, SequenceMixer)
        y_BLD: Tensor = self.branch(x_BLD, tokens=tokens) if mixes else self.branch(x_BLD)
        return y_BLD if self.factor is None else y_BLD * self.factor


class RoutingLayer(nn.Module):
    """Attention, then the feed-forward network, each added to what entered it."""

    def __init__(self, config: RoutingTransformerConfig, layer: int) -> None:
        super().__init__()
        self.attention = Part(make_sequence_mixer(config.attention(layer), config.dim), config)
        self.ffn = Part(RoutingFeedForward(config), config)

    def forward(self, x_BLD: Tensor, tokens: Tokens) -> Tensor:
        x_BLD = x_BLD + self.attention(x_BLD, tokens)
        x_BLD = x_BLD + self.ffn(x_BLD, tokens)
        return x_BLD

    def in_two_streams(self, x_BLD: Tensor, z_BLD: Tensor, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Attention of the second stream goes to the first, the network of the first to the second."""
        x_BLD = x_BLD + self.attention(z_BLD, tokens)
        return x_BLD, z_BLD + self.ffn(x_BLD, tokens)


_OFFICIAL: dict[str, Any] = {
    "dim": 1024,
    "ffn_ratio": 3.0,
    "glu": True,
    "ffn_bias": False,
    "local_bias": False,
    "normalise": "layernorm",
    "relative": 256,
    "local_window": 256,
}
_ENWIK8 = {**_OFFICIAL, "depth": 12, "heads": 8, "local_heads": (4,)}
_WIKITEXT = {
    **_OFFICIAL,
    "vocab_size": 267_735,
    "heads": 16,
    "local_heads": (8,),
    "embedding_dim": 256,
    "window": 512,
    "attention_dropout": 0.4,
    "out_dropout": 0.4,
    "ffn_dropout": 0.4,
}


@register_model(
    "routing_transformer",
    paper=PAPER,
    tasks=("language-modelling",),
    family="sequence",
    provenance="authors' code",
    variants={
        "routing_transformer_enwik8_8k": {**_ENWIK8, "max_length": 8192, "window": 512},
        "routing_transformer_enwik8_12k": {**_ENWIK8, "max_length": 12_288, "window": 256},
        "routing_transformer_wikitext103_4k": {
            **_WIKITEXT,
            "depth": 14,
            "max_length": 4096,
            "embedding_dropout": 0.25,
        },
        "routing_transformer_wikitext103_1k": {**_WIKITEXT, "depth": 20, "max_length": 1024},
        "routing_transformer_pg19_8k": {
            **_OFFICIAL,
            "vocab_size": 32_768,
            "dim": 1032,
            "ffn_ratio": 4096 / 1032,
            "depth": 22,
            "heads": 8,
            "local_heads": (8,) * 21 + (6,),
            "max_length": 8192,
            "window": 512,
        },
        # Ours, for a text of a few megabytes; causal all through.
        "routing_transformer_nano": {"strict": True, "glu": True, "ffn_ratio": 8 / 3, "tied": True},
    },
    tiny={
        "vocab_size": 31,
        "dim": 16,
        "depth": 2,
        "heads": 4,
        "max_length": 24,
        "window": 4,
        "strict": True,
    },
)
class RoutingTransformer(Model):
    """ids [B, L] to logits [B, L, V]; the taps "aux_loss" carry the clustering loss of each layer.

    Without `strict` it is given rows of up to `max_length` tokens, of one sequence each, and cannot be stepped.
    """

    Config: ClassVar[type[ModelConfig]] = RoutingTransformerConfig
    inputs: ClassVar[tuple[Field, ...]] = (
        Field("ids", "BL"),
        Field("mask", "BL", optional=True),
        Field("segments", "BL", optional=True),
    )

    def __init__(self, config: RoutingTransformerConfig) -> None:
        super().__init__(config)
        self.stream_axis = 1 if config.strict else None
        width = config.embedding_width
        self.embedding = nn.Embedding(config.vocab_size, width)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.dropout = Dropout(config.embedding_dropout)
        projected = width != config.dim
        self.project_in = nn.Linear(width, config.dim) if projected else nn.Identity()
        layers = [RoutingLayer(config, i) for i in range(1 if config.share_layers else config.depth)]
        self.layers = nn.ModuleList(layers * (config.depth if config.share_layers else 1))
        self.project_out = nn.Linear(config.dim, width) if projected else nn.Identity()
        self.norm = nn.LayerNorm(width)
        self.head = (
            nn.Linear(width, config.vocab_size, bias=not config.tied) if config.head else nn.Identity()
        )
        if config.tied and config.head:
            self.head.weight = self.embedding.weight
        self.noise = Noise()

    def forward(  # type: ignore[override]
        self, ids_BL: Tensor, mask_BL: Tensor | None = None, segments_BL: Tensor | None = None
    ) -> Tensor:
        """Logits [B, L, V].

        Args:
            ids_BL: int64, in [0, vocab_size).
            mask_BL: bool, False at padding.
            segments_BL: int64, the sequence of each token, where a row holds several; with `strict` only.

        Raises:
            ShapeError: ids of another shape or dtype, rows that are too long, segments that are not taken.
        """
        return self.forward_steps(ids_BL, mask_BL, segments_BL)

    def forward_steps(
        self, ids_BL: Tensor, mask: Tensor | None = None, segments: Tensor | None = None
    ) -> Tensor:
        """As `forward`, which has nothing but steps."""
        self._require_length(require_ids(ids_BL))
        x_BLD = self.project_in(self.dropout(self.embedding(ids_BL)))
        tokens = Tokens(mask, segments)
        z_BLD = x_BLD
        for layer in self._kept(x_BLD):
            if self.config.reversible:
                x_BLD, z_BLD = layer.in_two_streams(x_BLD, z_BLD, tokens)
            else:
                x_BLD = layer(x_BLD, tokens)
        if self.config.reversible:
            x_BLD = (x_BLD + z_BLD) / 2
        logits_BLV: Tensor = self.head(self.norm(self.project_out(x_BLD)))
        return logits_BLV

    def _kept(self, like: Tensor) -> list[Any]:
        """The layers of this pass; in training each is left out with probability `layer_dropout`, but not all."""
        layers, rate = list(self.layers), self.config.layer_dropout
        if not self.training or rate == 0:
            return layers
        kept = (self.noise.uniform((len(layers),), like) >= rate).tolist()
        return [layer for layer, keep in zip(layers, kept, strict=True) if keep] or layers[:1]

    def _require_length(self, ids_BL: Tensor) -> None:
        config: RoutingTransformerConfig = self.config
        if not config.strict and ids_BL.shape[1] > config.max_length:
            raise ShapeError(
                f"{self.name or 'the model'} takes rows of up to {config.max_length} tokens, got {ids_BL.shape[1]}; "
                "cut them, or set max_length or strict=True"
            )

    def example(self, batch_size: int, generator: torch.Generator | None = None) -> Batch:
        ids_BL = torch.randint(self.config.vocab_size, (batch_size, 12), generator=generator)
        return Batch({"ids": ids_BL, "labels": ids_BL.roll(-1, 1)})

    @classmethod
    def layouts(cls, config: Any) -> Any:
        """Names of the PyTorch release."""
        from neuromix.models.language.routing_reading import layout

        return {"pytorch": layout(config)}
