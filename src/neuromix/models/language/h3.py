"""H3: a language model of two state spaces a layer, with a few layers of attention (Fu et al., ICLR 2023).

It is linear in all but the products between its state spaces, trains by FFT convolutions and writes by recurrence. With
two attention layers of twelve or more it is as good as a Transformer of its size; nothing else tells positions.

Shapes: see `decoder`. Default values: the 125M model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from neuromix.core.config import Spec
from neuromix.core.layout import Layout, Rule, drop, rename, reshape
from neuromix.core.model import ModelConfig
from neuromix.core.registry import Paper, register_model
from neuromix.models.language.decoder import BlockSpec, Decoder, DecoderConfig


def _attention(heads: int, rotary: int = 0) -> Spec:
    return Spec("attention", {"heads": heads, "rotary": rotary, "qkv_bias": True, "bias": True})


@dataclass(frozen=True)
class H3LMConfig(DecoderConfig):
    """Config of H3LM."""

    vocab_size: int = 50257
    vocab_multiple: int = 8
    dim: int = 768
    norm: Literal["rms", "layer"] = "layer"
    dropout: float = 0.1
    layers: int = 12
    mixer: Spec = Spec("h3")
    attention: Spec = _attention(12)
    attention_layers: tuple[int, ...] = (6,)  # blocks, from 0, that have `attention` in place of the mixer
    ffn_hidden: int | None = None  # units of the feed-forward networks; None: 4 dim
    init_std: float = 0.02  # of all weights at the start, > 0; a narrow net wants more, about dim^-0.5
    ssm_lr: float = 1.0  # learning rate of A, B and dt of the state spaces, as a share of the others'

    def validate(self) -> None:
        super().validate()
        self.require_positive("layers", "init_std", "ssm_lr")
        if self.ffn_hidden is not None:
            self.require_positive("ffn_hidden")
        self.require(
            all(0 <= i < self.layers for i in self.attention_layers),
            f"attention_layers must lie in 0 to {self.layers - 1}, got {list(self.attention_layers)}",
        )

    def blocks(self) -> tuple[BlockSpec, ...]:
        ffn = Spec("mlp", {"hidden": self.ffn_hidden or 4 * self.dim, "activation": "gelu_tanh"})
        return tuple(
            BlockSpec(self.attention if i in self.attention_layers else self.mixer, ffn)
            for i in range(self.layers)
        )


_2_7B = {"dim": 2560, "layers": 32, "attention": _attention(20), "attention_layers": (8, 16, 24)}


@register_model(
    "h3",
    paper=Paper(
        "Hungry Hungry Hippos: Towards Language Modeling with State Space Models",
        2023,
        "ICLR",
        "https://arxiv.org/abs/2212.14052",
    ),
    tasks=("language-modelling",),
    family="sequence",
    provenance="authors' code",
    variants={
        "h3_125m": {},
        "h3_355m": {"dim": 1024, "layers": 24, "attention": _attention(16), "attention_layers": (8, 16)},
        "h3_1_3b": {"dim": 2048, "layers": 24, "attention": _attention(16), "attention_layers": (8, 16)},
        "h3_2_7b": _2_7B,
        "h3_2_7b_rotary": {**_2_7B, "attention": _attention(20, rotary=64), "attention_layers": (10, 21)},
        "h3_nano": {
            "vocab_size": 256,
            "dim": 128,
            "layers": 4,
            "attention": _attention(4),
            "attention_layers": (2,),
            "dropout": 0.0,
        },
        # Ours, for tasks of recall: no attention, and no dropout, as their sequences are always new.
        "h3_recall": {
            "vocab_size": 16,
            "dim": 32,
            "layers": 2,
            "attention_layers": (),
            "dropout": 0.0,
            "init_std": 0.2,
        },
    },
    tiny={
        "vocab_size": 29,
        "dim": 16,
        "layers": 3,
        "attention": _attention(2),
        "attention_layers": (1,),
        "mixer": Spec("h3", {"d_state": 6}),
        "ffn_hidden": 24,
    },
    published={
        "h3_125m": {"parameters": 126_387_456, "parameters_m": 126.4},
        "h3_355m": {"parameters": 361_058_304},
        "h3_1_3b": {"parameters": 1_326_096_384},
        "h3_2_7b": {"parameters": 2_670_307_840},
        "h3_2_7b_rotary": {"parameters": 2_671_134_720},
    },
)
class H3LM(Decoder):
    """The H3 language model.

    Weights start normal with deviation `init_std`; what ends a branch of attention or of a feed-forward network, by the
    root of twice the number of layers less.
    """

    Config: ClassVar[type[ModelConfig]] = H3LMConfig

    def __init__(self, config: H3LMConfig) -> None:
        super().__init__(config)
        attention = tuple(f"{i}.mixer.branch.out" for i in config.attention_layers)
        end = config.init_std / math.sqrt(2 * config.layers)
        nn.init.normal_(self.embedding.weight, std=config.init_std)  # the head's too, if they are tied
        for name, module in self.blocks.named_modules():
            if isinstance(module, nn.Linear):
                ends_branch = name in attention or name.endswith(".contract")
                nn.init.normal_(module.weight, std=end if ends_branch else config.init_std)
                nn.init.zeros_(module.bias)

    def parameter_rules(self) -> dict[str, dict[str, float]]:
        """No weight decay of A, B and dt of the state spaces, and a learning rate of their own."""
        names = ("shift.B", "diagonal.B", "diagonal.A_imag", "diagonal.inv_A_real", "diagonal.log_dt")
        values = {"lr_scale": self.config.ssm_lr, "weight_decay": 0.0}
        return {f"*.branch.{name}": values for name in names}

    @classmethod
    def layouts(cls, config: Any) -> Mapping[str, Layout]:
        """The authors' names, and those of their older files.

        An older block ended with the norm of what comes next: its norm1 is our norm of the feed-forward network, its
        norm2 that of the next block's mixer, or the last of all. Of both kinds there are files that name the trunk
        `s4seq.encoder`, and training checkpoints with `model.` before every name.
        """
        mixers = [
            rule
            for i in range(config.layers)
            for rule in (_attention_rules if i in config.attention_layers else h3_rules)(
                f"layers.{i}.mixer.", f"blocks.{i}.mixer.branch."
            )
        ]
        norms = (
            rename("ln_f.*", "norm.*"),
            rename("norm.*", "norm.*"),
            rename("layers.{i}.norm1.*", "blocks.{i}.mixer.norm.*"),
            rename("layers.{i}.norm2.*", "blocks.{i}.ffn.norm.*"),
        )
        last = config.layers - 1
        shifted = (
            rename("ln_0.*", "blocks.0.mixer.norm.*"),
            rename("layers.{i}.norm1.*", "blocks.{i}.ffn.norm.*"),
            rename(f"layers.{last}.norm2.*", "norm.*"),
            *(rename(f"layers.{i}.norm2.*", f"blocks.{i + 1}.mixer.norm.*") for i in range(last)),
        )
        return {
            "authors": Layout(*_with_prefixes((*_TRUNK, *norms, *mixers)), *_HEADS),
            "authors, older": Layout(*_with_prefixes((*_TRUNK, *shifted, *mixers)), *_HEADS),
        }


def h3_rules(theirs: str, ours: str) -> tuple[Rule, ...]:
    """The parts of an H3 layer, under a prefix of theirs and one of ours; their C has an axis of channels in front."""

    def first(tensor: Tensor) -> Tensor:
        return tensor.squeeze(0)

    def back(tensor: Tensor) -> Tensor:
        return tensor.unsqueeze(0)

    return (
        *(rename(f"{theirs}{name}_proj.*", f"{ours}{name}.*") for name in ("q", "k", "v")),
        rename(f"{theirs}output_linear.*", f"{ours}out.*"),
        reshape(f"{theirs}ssm_k_kernel.kernel.C", f"{ours}shift.C", first, back),
        rename(f"{theirs}ssm_k_kernel.kernel.*", f"{ours}shift.*"),
        rename(f"{theirs}ssm_k_D", f"{ours}shift_D"),
        reshape(f"{theirs}kernel.kernel.C", f"{ours}diagonal.C", first, back),
        rename(f"{theirs}kernel.kernel.*", f"{ours}diagonal.*"),
        rename(f"{theirs}D", f"{ours}D"),
    )


def _attention_rules(theirs: str, ours: str) -> tuple[Rule, ...]:
    return (
        rename(f"{theirs}Wqkv.*", f"{ours}qkv.*"),
        rename(f"{theirs}out_proj.*", f"{ours}out.*"),
        drop(f"{theirs}rotary_emb.*"),  # constants
    )


_TRUNK = (
    rename("embeddings.word_embeddings.*", "embedding.*"),
    rename("layers.{i}.mlp.fc1.*", "blocks.{i}.ffn.branch.expand.*"),
    rename("layers.{i}.mlp.fc2.*", "blocks.{i}.ffn.branch.contract.*"),
)
_HEADS = tuple(
    rename(f"{prefix}{theirs}", ours)
    for prefix in ("", "model.")
    for theirs, ours in (("lm_head.*", "head.*"), ("embedding.*", "embedding.*"))
)


def _with_prefixes(rules: tuple[Rule, ...]) -> list[Rule]:
    """The rules of the trunk under each of the prefixes that files have; what is written has the first."""
    return [
        rule._replace(theirs=f"{before}{trunk}.{rule.theirs}")
        for before in ("", "model.")
        for trunk in ("backbone", "s4seq.encoder")
        for rule in rules
    ]
