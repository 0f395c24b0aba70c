"""Mamba-2: the language models of "Transformers are SSMs" (Dao & Gu, 2024), with or without a few attention layers.

As Mamba, with mixers that have one decay a head, so that most of the work is matrix products and the state can be
eight times as large.

Shapes: see `decoder`. Default values: mamba2-130m.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from neuromix.core.config import Spec
from neuromix.core.model import ModelConfig
from neuromix.core.registry import Paper, register_model
from neuromix.models.language.mamba import MambaLM, MambaLMConfig


@dataclass(frozen=True)
class Mamba2LMConfig(MambaLMConfig):
    """Config of Mamba2LM."""

    vocab_multiple: int = 16
    mixer: Spec = Spec("mamba2")


@register_model(
    "mamba2",
    paper=Paper(
        "Transformers are SSMs: Generalized Models and Efficient Algorithms Through Structured State Space Duality",
        2024,
        "ICML",
        "https://arxiv.org/abs/2405.21060",
    ),
    tasks=("language-modelling",),
    family="sequence",
    provenance="authors' code",
    variants={
        "mamba2_130m": {},
        "mamba2_370m": {"dim": 1024, "layers": 48},
        "mamba2_780m": {"dim": 1536, "layers": 48},
        "mamba2_1_3b": {"dim": 2048, "layers": 48},
        "mamba2_2_7b": {"dim": 2560, "layers": 64},
        "mamba2attn_2_7b": {
            "dim": 2560,
            "layers": 64,
            "attention": Spec("conv_attention", {"heads": 30, "head_dim": 128}),
            "attention_layers": (9, 18, 27, 36, 45, 56),
        },
        "mamba2_nano": {
            "vocab_size": 256,
            "dim": 128,
            "layers": 8,
            "mixer": Spec("mamba2", {"d_state": 64, "headdim": 32, "chunk_size": 64}),
        },
    },
    tiny={
        "vocab_size": 29,
        "dim": 16,
        "layers": 3,
        "mixer": Spec("mamba2", {"d_state": 4, "headdim": 4, "ngroups": 2}),
        "attention": Spec("conv_attention", {"heads": 2}),
        "attention_layers": (1,),
        "d_intermediate": 100,
    },
    published={
        "mamba2_130m": {"parameters": 128_989_632},
        "mamba2_370m": {"parameters": 368_346_624},
        "mamba2_780m": {"parameters": 780_161_280},
        "mamba2_1_3b": {"parameters": 1_343_757_312},
        "mamba2_2_7b": {"parameters": 2_702_599_680},
        "mamba2attn_2_7b": {"parameters": 2_697_590_880},
    },
)
class Mamba2LM(MambaLM):
    """The Mamba-2 language model."""

    Config: ClassVar[type[ModelConfig]] = Mamba2LMConfig
