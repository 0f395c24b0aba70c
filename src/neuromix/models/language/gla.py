"""GLA: a language model of gated linear attention and gated feed-forward networks (Yang et al., ICML 2024).

A Transformer of today in which attention is a recurrence: each layer keeps a matrix a head, of constant size, and
forgets each of its rows at a rate that the token sets. No positions: the decay tells what is far.

Shapes: see `decoder`. Default values: the 340M model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from neuromix.core.config import Spec
from neuromix.core.layout import Layout, Rule, rename
from neuromix.core.model import ModelConfig
from neuromix.core.registry import Paper, register_model
from neuromix.models.language.decoder import BlockSpec, Decoder, DecoderConfig


@dataclass(frozen=True)
class GLALMConfig(DecoderConfig):
    """Config of GLALM."""

    vocab_size: int = 32000
    dim: int = 1024
    norm_eps: float = 1e-6
    tied: bool = False
    layers: int = 24
    mixer: Spec = Spec("gla", {"norm_eps": 1e-6})
    ffn_ratio: float = 4.0  # of a plain network with as many weights as the gated one
    ffn_hidden: int | None = None  # its units; None: 2/3 ffn_ratio * dim, rounded up to a multiple of 256

    def validate(self) -> None:
        super().validate()
        self.require_positive("layers", "ffn_ratio")
        if self.ffn_hidden is not None:
            self.require_positive("ffn_hidden")

    def blocks(self) -> tuple[BlockSpec, ...]:
        hidden = self.ffn_hidden or 256 * math.ceil(int(self.dim * self.ffn_ratio * 2 / 3) / 256)
        return (BlockSpec(self.mixer, Spec("glu", {"hidden": hidden})),) * self.layers


@register_model(
    "gla",
    paper=Paper(
        "Gated Linear Attention Transformers with Hardware-Efficient Training",
        2024,
        "ICML",
        "https://arxiv.org/abs/2312.06635",
    ),
    tasks=("language-modelling",),
    family="sequence",
    provenance="authors' code",
    variants={
        "gla_340m": {},
        "gla_1_3b": {"dim": 2048},
        "gla_2_7b": {"dim": 2560, "layers": 32},
        "gla_nano": {
            "vocab_size": 256,
            "dim": 128,
            "layers": 4,
            "tied": True,
            "mixer": Spec("gla", {"heads": 2, "norm_eps": 1e-6}),
        },
    },
    tiny={
        "vocab_size": 29,
        "dim": 16,
        "layers": 2,
        "ffn_hidden": 24,
        "mixer": Spec("gla", {"heads": 2, "short_conv": 3, "norm_eps": 1e-6}),
    },
    published={
        "gla_340m": {"parameters": 374_475_776},
        "gla_1_3b": {"parameters": 1_365_514_240},
        "gla_2_7b": {"parameters": 2_703_587_840},
    },
)
class GLALM(Decoder):
    """The GLA language model. All weights start normal with deviation 0.02, biases at zero."""

    Config: ClassVar[type[ModelConfig]] = GLALMConfig

    def __init__(self, config: GLALMConfig) -> None:
        super().__init__(config)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv1d):
                nn.init.normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    @classmethod
    def layouts(cls, config: Any) -> Mapping[str, Layout]:
        """The maintained names, which released weights have, and those of the authors' first repository."""
        return {"maintained": Layout(*_MAINTAINED), "original": Layout(*_ORIGINAL)}


def mixer_rules(theirs: str, ours: str) -> tuple[Rule, ...]:
    """The maintained names of the parts of a mixer - linear attention of any kind - under two prefixes."""
    return (
        *(rename(f"{theirs}{name}_proj.*", f"{ours}{name}.*") for name in ("q", "k", "v")),
        *(rename(f"{theirs}{name}_conv1d.*", f"{ours}convs.{name}.conv.*") for name in ("q", "k", "v")),
        rename(f"{theirs}gk_proj.*", f"{ours}decay.*"),
        rename(f"{theirs}g_proj.*", f"{ours}gate.*"),
        rename(f"{theirs}g_norm_swish_gate.*", f"{ours}norm.*"),
        rename(f"{theirs}g_norm.*", f"{ours}norm.*"),  # where their norm and gate are two steps
        rename(f"{theirs}o_proj.*", f"{ours}out.*"),
    )


_MAINTAINED = (
    rename("lm_head.*", "head.*"),
    rename("model.embeddings.*", "embedding.*"),
    rename("model.norm.*", "norm.*"),
    rename("model.layers.{i}.attn_norm.*", "blocks.{i}.mixer.norm.*"),
    rename("model.layers.{i}.mlp_norm.*", "blocks.{i}.ffn.norm.*"),
    rename("model.layers.{i}.mlp.gate_proj.*", "blocks.{i}.ffn.branch.gate.*"),
    rename("model.layers.{i}.mlp.up_proj.*", "blocks.{i}.ffn.branch.up.*"),
    rename("model.layers.{i}.mlp.down_proj.*", "blocks.{i}.ffn.branch.contract.*"),
    *mixer_rules("model.layers.{i}.attn.", "blocks.{i}.mixer.branch."),
)
_ORIGINAL = (
    rename("lm_head.*", "head.*"),
    rename("transformer.wte.*", "embedding.*"),
    rename("transformer.ln_f.*", "norm.*"),
    rename("transformer.h.{i}.ln_1.*", "blocks.{i}.mixer.norm.*"),
    rename("transformer.h.{i}.ln_2.*", "blocks.{i}.ffn.norm.*"),
    rename("transformer.h.{i}.w1.*", "blocks.{i}.ffn.branch.gate.*"),
    rename("transformer.h.{i}.w2.*", "blocks.{i}.ffn.branch.contract.*"),
    rename("transformer.h.{i}.w3.*", "blocks.{i}.ffn.branch.up.*"),
    rename("transformer.h.{i}.attn.k_gate.*", "blocks.{i}.mixer.branch.decay.*"),
    rename("transformer.h.{i}.attn.out_proj.*", "blocks.{i}.mixer.branch.out.*"),
    *(
        rename(f"transformer.h.{{i}}.attn.{name}_proj.*", f"blocks.{{i}}.mixer.branch.{ours}.*")
        for name, ours in (("q", "q"), ("k", "k"), ("v", "v"), ("g", "gate"))
    ),
    # It has neither weights of the head norm nor convolutions; so that each name of ours has one of theirs:
    rename("transformer.h.{i}.attn.*", "blocks.{i}.mixer.branch.*"),
)
