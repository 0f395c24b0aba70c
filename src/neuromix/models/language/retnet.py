"""RetNet: a language model of multi-scale retention (Sun et al., 2023).

As GLA, with decays that are fixed and differ between heads, positions as rotations, and values of twice the width.

Shapes: see `decoder`. Default values: the 1.3B model as the maintained repository builds it, with a gated feed-forward
network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from neuromix.core.config import Spec
from neuromix.core.model import ModelConfig
from neuromix.core.registry import Paper, register_model
from neuromix.models.language.gla import GLALM, GLALMConfig


@dataclass(frozen=True)
class RetNetConfig(GLALMConfig):
    """Config of RetNet."""

    dim: int = 2048
    mixer: Spec = Spec("retention", {"norm_eps": 1e-6})
    ffn_ratio: float = 2.0


@register_model(
    "retnet",
    paper=Paper(
        "Retentive Network: A Successor to Transformer for Large Language Models",
        2023,
        "arXiv",
        "https://arxiv.org/abs/2307.08621",
    ),
    tasks=("language-modelling",),
    family="sequence",
    provenance="reconstructed",
    variants={
        "retnet_1_3b": {},
        "retnet_nano": {
            "vocab_size": 256,
            "dim": 128,
            "layers": 4,
            "tied": True,
            "mixer": Spec("retention", {"heads": 2, "norm_eps": 1e-6}),
        },
    },
    tiny={
        "vocab_size": 29,
        "dim": 16,
        "layers": 2,
        "ffn_hidden": 24,
        "mixer": Spec("retention", {"heads": 2, "norm_eps": 1e-6}),
    },
)
class RetNet(GLALM):
    """The RetNet language model; weights start as in GLA."""

    Config: ClassVar[type[ModelConfig]] = RetNetConfig
