"""SpikeGPT: a language model whose tokens are the time steps of its neurons (Zhu et al., TMLR 2024).

RWKV-4 with spikes between its parts. The embedding is binarised, and each branch of a block ends in a LIF neuron that
runs along the tokens, so that a branch adds 0 or 1 to each channel of the residual stream. There is no further time
axis, and the state is 7 numbers for each channel and layer, however long the text.

The stream itself is not binary, and a LayerNorm stands before every matrix: on ordinary hardware all of its products
are multiplications. Default values: the 216M model, trained as the released script does.

Shapes: B batch, L tokens, D width, V vocabulary.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from neuromix.core.batch import Batch
from neuromix.core.config import Spec
from neuromix.core.errors import ConfigError
from neuromix.core.layout import Layout, Rule, rename, reshape
from neuromix.core.model import Field, Model, ModelConfig
from neuromix.core.reference import load_reference, reference
from neuromix.core.registry import Paper, register_model
from neuromix.layers.chance import Dropout
from neuromix.layers.logit_penalty import LogitPenalty
from neuromix.layers.residual import Residual
from neuromix.layers.token_neuron import TokenNeuron
from neuromix.mixers.sequence import SequenceMixer, Tokens, make_sequence_mixer
from neuromix.mixers.wkv import ChannelMixing, TimeMixing
from neuromix.models.language.decoder import require_ids
from neuromix.neurons.neuron import make_neuron
from neuromix.neurons.surrogate import Surrogate, make_surrogate
from neuromix.ops.spike import spike

PAPER = Paper(
    "SpikeGPT: Generative Pre-trained Language Model with Spiking Neural Networks",
    2024,
    "TMLR",
    "https://arxiv.org/abs/2302.13939",
)


@dataclass(frozen=True)
class SpikeGPTConfig(ModelConfig):
    """Config of SpikeGPT."""

    vocab_size: int = 50277
    dim: int = 768
    layers: int = 18
    # What stands first in block 0: time mixing, or a second channel mixing ("RWKV-ffnPre").
    first: Literal["wkv", "wkv_channel"] = "wkv"
    binary_embedding: bool = True  # False: the embedding itself goes in
    embedding_surrogate: Spec = Spec("atan", {"alpha": 2.0})
    neuron: Spec = Spec("lif", {"tau": 2.0, "detach_reset": False, "surrogate": ["atan", {"alpha": 2.0}]})
    dropout: float = 0.03  # in [0, 1), after each block
    norm_eps: float = 1e-5
    logit_penalty: float = 1e-4  # strength of layers.LogitPenalty in training, >= 0
    # How matrices start. rwkv: orthogonal or zero; the embedding so small that only its signs count.
    init: Literal["pytorch", "rwkv"] = "pytorch"
    form: str = "auto"  # of ops.wkv
    chunk_size: int = 64

    def validate(self) -> None:
        self.require_positive("vocab_size", "dim", "layers", "norm_eps", "chunk_size")
        self.require_within(0, 1, "dropout")
        self.require(self.logit_penalty >= 0, f"logit_penalty must be at least 0, got {self.logit_penalty}")

    def mixers(self, layer: int) -> tuple[Spec, Spec]:
        """What mixes the tokens and what mixes the channels of a layer."""
        place = {"layer": layer, "layers": self.layers}
        time = Spec("wkv", {**place, "form": self.form, "chunk_size": self.chunk_size})
        channel = Spec("wkv_channel", place)
        return (channel if layer == 0 and self.first == "wkv_channel" else time), channel


class BinaryStep(nn.Module):
    """1 where x >= 0, else 0; backward by a surrogate."""

    def __init__(self, surrogate: Surrogate) -> None:
        super().__init__()
        self.surrogate = surrogate

    def forward(self, x: Tensor) -> Tensor:
        return spike(x, self.surrogate.derivative)


class SpikingBranch(nn.Module):
    """neuron(mixer(x)): what a branch adds to the stream are spikes."""

    def __init__(self, mixer: SequenceMixer, neuron: TokenNeuron) -> None:
        super().__init__()
        self.mixer = mixer
        self.neuron = neuron

    def forward(self, x_BLD: Tensor, *, tokens: Tokens) -> Tensor:
        y_BLD: Tensor = self.neuron(self.mixer(x_BLD, tokens=tokens), **tokens._asdict())
        return y_BLD


class SpikeGPTBlock(nn.Module):
    """x + spikes of the time mixing, then x + spikes of the channel mixing, then dropout."""

    def __init__(self, config: SpikeGPTConfig, layer: int) -> None:
        super().__init__()
        self.time, self.channel = (
            Residual(
                SpikingBranch(make_sequence_mixer(spec, config.dim), TokenNeuron(make_neuron(config.neuron))),
                nn.LayerNorm(config.dim, eps=config.norm_eps),
            )
            for spec in config.mixers(layer)
        )
        self.dropout = Dropout(config.dropout)

    def forward(self, x_BLD: Tensor, tokens: Tokens) -> Tensor:
        y_BLD: Tensor = self.channel(self.time(x_BLD, tokens=tokens), tokens=tokens)
        y_BLD = self.dropout(y_BLD)
        return y_BLD


def _published(parameters: int, **figures: float) -> dict[str, Any]:
    return {"parameters": parameters, "scope": "trainable", **figures}


@register_model(
    "spikegpt",
    paper=PAPER,
    tasks=("language-modelling",),
    family="spiking",
    provenance="authors' code",
    variants={
        "spikegpt_216m": {},
        # The paper's 46M is that of another character set.
        "spikegpt_46m": {"dim": 512, "layers": 12, "vocab_size": 204},
        # Ours, for a text of a few hundred kilobytes.
        "spikegpt_nano": {"dim": 128, "layers": 2, "vocab_size": 256},
    },
    tiny={"dim": 16, "layers": 2, "vocab_size": 31},
    published={
        "spikegpt_216m": _published(215_399_424, parameters_m=216.0),
        "spikegpt_46m": _published(41_172_992, bits_per_character=1.283),
    },
)
class SpikeGPT(Model):
    """ids [B, L] to logits [B, L, V] of the token after each."""

    Config: ClassVar[type[ModelConfig]] = SpikeGPTConfig
    inputs: ClassVar[tuple[Field, ...]] = (
        Field("ids", "BL"),
        Field("mask", "BL", optional=True),
        Field("segments", "BL", optional=True),
    )
    stream_axis = 1

    def __init__(self, config: SpikeGPTConfig) -> None:
        super().__init__(config)
        self.embedding = nn.Embedding(config.vocab_size, config.dim)
        self.step = (
            BinaryStep(make_surrogate(config.embedding_surrogate))
            if config.binary_embedding
            else nn.Identity()
        )
        self.input_norm, self.norm = (nn.LayerNorm(config.dim, eps=config.norm_eps) for _ in range(2))
        self.blocks = nn.ModuleList(SpikeGPTBlock(config, layer) for layer in range(config.layers))
        self.head = nn.Linear(config.dim, config.vocab_size, bias=False)
        self.penalty = LogitPenalty(config.logit_penalty)
        if config.init == "rwkv":
            self.reset_as_rwkv()

    def features(self, ids_BL: Tensor, tokens: Tokens) -> Tensor:
        """The normed stream behind the last block, [B, L, D].

        Raises:
            ShapeError: ids of another shape or dtype.
        """
        x_BLD = self.input_norm(self.step(self.embedding(require_ids(ids_BL))))
        for block in self.blocks:
            x_BLD = block(x_BLD, tokens)
        y_BLD: Tensor = self.norm(x_BLD)
        return y_BLD

    def forward_steps(
        self, ids_BL: Tensor, mask: Tensor | None = None, segments: Tensor | None = None
    ) -> Tensor:
        """Logits [B, L, V].

        Args:
            ids_BL: int64, in [0, vocab_size).
            mask: bool [B, L], False at padding; None: all tokens are real.
            segments: int64 [B, L], the sequence of each token, where a row holds several.

        Raises:
            ShapeError: ids, mask or segments of another shape or dtype.
        """
        logits_BLV: Tensor = self.penalty(self.head(self.features(ids_BL, Tokens(mask, segments))))
        return logits_BLV

    def forward(  # type: ignore[override]
        self, ids_BL: Tensor, mask_BL: Tensor | None = None, segments_BL: Tensor | None = None
    ) -> Tensor:
        """As `forward_steps`: there is nothing but steps."""
        return self.forward_steps(ids_BL, mask_BL, segments_BL)

    def example(self, batch_size: int, generator: torch.Generator | None = None) -> Batch:
        ids_BL = torch.randint(self.config.vocab_size, (batch_size, 12), generator=generator)
        return Batch({"ids": ids_BL, "labels": ids_BL.roll(-1, 1)})

    @torch.no_grad()
    def reset_as_rwkv(self) -> None:
        """Matrices as RWKV-4 starts them: zero where a branch is closed by it, orthogonal elsewhere."""
        rows, dim = self.head.weight.shape
        nn.init.orthogonal_(self.embedding.weight, gain=1e-4 * math.sqrt(max(rows, dim)))
        nn.init.orthogonal_(self.head.weight, gain=0.5 * math.sqrt(max(rows / dim, 1)))
        for mixer in self.blocks.modules():
            if not isinstance(mixer, TimeMixing | ChannelMixing):
                continue
            for name, linear in mixer.named_children():
                assert isinstance(linear, nn.Linear)
                if name in mixer.closed:
                    nn.init.zeros_(linear.weight)
                else:
                    outputs, inputs = linear.weight.shape
                    nn.init.orthogonal_(linear.weight, gain=math.sqrt(max(outputs / inputs, 1)))

    @classmethod
    def layouts(cls, config: Any) -> Mapping[str, Layout]:
        first = _mixer_rules("blocks.0.ffnPre", "blocks.0.time") if config.first == "wkv_channel" else ()
        return {
            "authors": Layout(
                rename("emb.*", "embedding.*"),
                rename("blocks.0.ln0.*", "input_norm.*"),
                rename("ln_out.*", "norm.*"),
                rename("head.*", "head.*"),
                rename("blocks.{i}.ln1.*", "blocks.{i}.time.norm.*"),
                rename("blocks.{i}.ln2.*", "blocks.{i}.channel.norm.*"),
                *first,
                *_mixer_rules("blocks.{i}.att", "blocks.{i}.time"),
                *_mixer_rules("blocks.{i}.ffn", "blocks.{i}.channel"),
            )
        }


def _mixer_rules(theirs: str, ours: str) -> tuple[Rule, ...]:
    """Their mixes are [1, 1, D]."""
    ours = f"{ours}.branch.mixer"
    mixes = (
        reshape(f"{theirs}.time_mix_{x}", f"{ours}.mix_{x}", _flat, lambda mix_D: mix_D[None, None])
        for x in "kvr"
    )
    return (*mixes, rename(f"{theirs}.*", f"{ours}.*"))


def _flat(mix_11D: Tensor) -> Tensor:
    return mix_11D.flatten()


_MODEL_TYPES: dict[str, Literal["wkv", "wkv_channel"]] = {"RWKV": "wkv", "RWKV-ffnPre": "wkv_channel"}


def reference_config(theirs: Mapping[str, Any]) -> SpikeGPTConfig:
    """Our Config from the authors' constructor values; those of the neurons under spikingjelly's names.

    Raises:
        ConfigError: a model type or a surrogate that is not theirs.
    """
    kind = theirs.get("model_type", "RWKV")
    if kind not in _MODEL_TYPES:
        raise ConfigError(f"model_type must be one of {', '.join(_MODEL_TYPES)}, got {kind!r}")
    surrogate = _surrogate(theirs.get("surrogate", "ATan(alpha=2)"))
    known = ("tau", "v_threshold", "v_reset", "decay_input", "detach_reset")
    neuron = {"tau": 2.0, "detach_reset": False, **{name: theirs[name] for name in known if name in theirs}}
    return SpikeGPTConfig(
        vocab_size=theirs["vocab_size"],
        dim=theirs["n_embd"],
        layers=theirs["n_layer"],
        first=_MODEL_TYPES[kind],
        binary_embedding=theirs.get("binary_embedding", True),
        embedding_surrogate=surrogate,
        neuron=Spec("lif", {**neuron, "surrogate": [surrogate.name, dict(surrogate.options)]}),
        dropout=theirs.get("dropout", 0.03),
    )


def _surrogate(text: str) -> Spec:
    """ "ATan(alpha=2)" as a spec."""
    found = re.fullmatch(r"(ATan|Sigmoid)(?:\(alpha=([\d.]+)\))?", text)
    if found is None:
        raise ConfigError(f"surrogate must be ATan(alpha=...) or Sigmoid(alpha=...), got {text!r}")
    return Spec(found[1].lower(), {"alpha": float(found[2] or (2 if found[1] == "ATan" else 4))})


@reference("spikegpt", "lm")
@reference("spikegpt")
def _read(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> nn.Module:
    return load_reference("spikegpt", reference_config(config), state)
