"""Mamba: a language model of selective state-space mixers alone (Gu & Dao, 2023).

No attention, no positions, no feed-forward network: each block is one mixer behind a norm. Its state is the same few
kilobytes a layer however long the text, so that a token costs the same at the start and at the end. Options put
attention in place of chosen mixers and a gated MLP after each.

Shapes: see `decoder`. Default values: mamba-130m.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from neuromix.core.config import Spec
from neuromix.core.layout import Layout, Rule, rename, reshape
from neuromix.core.model import ModelConfig
from neuromix.core.registry import Paper, register_model
from neuromix.layers.residual import Residual
from neuromix.models.language.decoder import BlockSpec, Decoder, DecoderConfig

# What ends the branch of a block: these weights start smaller the more branches there are.
BRANCH_ENDS = (".out_proj.weight", ".out.weight", ".contract.weight")


@dataclass(frozen=True)
class MambaLMConfig(DecoderConfig):
    """Config of MambaLM."""

    vocab_size: int = 50277
    vocab_multiple: int = 8
    dim: int = 768
    layers: int = 24
    mixer: Spec = Spec("mamba")
    d_intermediate: int = 0  # hidden units of a gated MLP after each mixer, rounded up to 128s; 0: no MLP
    attention: Spec = Spec("attention", {"heads": 12})
    attention_layers: tuple[int, ...] = ()  # blocks, from 0, that have `attention` in place of the mixer

    def validate(self) -> None:
        super().validate()
        self.require_positive("layers")
        self.require(self.d_intermediate >= 0, f"d_intermediate must be 0 or more, got {self.d_intermediate}")
        self.require(
            all(0 <= i < self.layers for i in self.attention_layers),
            f"attention_layers must lie in 0 to {self.layers - 1}, got {list(self.attention_layers)}",
        )

    def blocks(self) -> tuple[BlockSpec, ...]:
        hidden = math.ceil(self.d_intermediate / 128) * 128
        ffn = Spec("fused_glu", {"hidden": hidden}) if hidden else None
        return tuple(
            BlockSpec(self.attention if i in self.attention_layers else self.mixer, ffn)
            for i in range(self.layers)
        )


@register_model(
    "mamba",
    paper=Paper(
        "Mamba: Linear-Time Sequence Modeling with Selective State Spaces",
        2023,
        "COLM 2024",
        "https://arxiv.org/abs/2312.00752",
    ),
    tasks=("language-modelling",),
    family="sequence",
    provenance="authors' code",
    variants={
        "mamba_130m": {},
        "mamba_370m": {"dim": 1024, "layers": 48},
        "mamba_790m": {"dim": 1536, "layers": 48},
        "mamba_1_4b": {"dim": 2048, "layers": 48},
        "mamba_2_8b": {"dim": 2560, "layers": 64},
        "mamba_2_8b_slimpj": {"dim": 2560, "layers": 64},
        "mamba_nano": {"vocab_size": 256, "dim": 128, "layers": 8},
    },
    tiny={"vocab_size": 29, "dim": 16, "layers": 2, "mixer.d_state": 4},
    published={
        "mamba_130m": {"parameters": 129_135_360},
        "mamba_370m": {"parameters": 371_516_416},
        "mamba_790m": {"parameters": 793_204_224},
        "mamba_1_4b": {"parameters": 1_372_178_432},
        "mamba_2_8b": {"parameters": 2_768_345_600},
        "mamba_2_8b_slimpj": {"parameters": 2_768_345_600},
    },
)
class MambaLM(Decoder):
    """The Mamba language model.

    What ends a branch starts smaller by the root of the number of branches. (The authors mean that too; with an MLP
    their code counts half of them.)
    """

    Config: ClassVar[type[ModelConfig]] = MambaLMConfig

    def __init__(self, config: MambaLMConfig) -> None:
        super().__init__(config)
        branches = sum(isinstance(module, Residual) for module in self.blocks.modules())
        with torch.no_grad():
            for name, parameter in self.blocks.named_parameters():
                if name.endswith(BRANCH_ENDS):
                    parameter.div_(math.sqrt(branches))

    def parameter_rules(self) -> dict[str, dict[str, float]]:
        """No weight decay of what sets the time scales, nor of constant input and output weights."""
        return {f"*.branch.{name}": {"weight_decay": 0.0} for name in ("A_log", "D", "B", "C", "init_states")}

    @classmethod
    def layouts(cls, config: Any) -> Mapping[str, Layout]:
        """The authors' names, and those of checkpoints for Hugging Face transformers."""
        attention = [rule for i in config.attention_layers for rule in _attention_rules(i)]
        return {
            "authors": Layout(rename("backbone.embedding.*", "embedding.*"), *attention, *_RULES),
            "hf": Layout(rename("backbone.embeddings.*", "embedding.*"), *attention, *_RULES),
        }


def mixer_rules(theirs: str, ours: str) -> tuple[Rule, ...]:
    """The parts of a Mamba or Mamba-2 mixer, under a prefix of theirs and one of ours."""

    def transposed(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.mT.contiguous()

    return (
        rename(f"{theirs}conv1d.*", f"{ours}conv.conv.*"),
        reshape(f"{theirs}init_states", f"{ours}init_states", transposed, transposed),
        rename(f"{theirs}*", f"{ours}*"),
    )


def _attention_rules(i: int) -> tuple[Rule, ...]:
    theirs, ours = f"backbone.layers.{i}.mixer.", f"blocks.{i}.mixer.branch."
    return (
        rename(f"{theirs}in_proj.*", f"{ours}qkv.*"),
        rename(f"{theirs}conv1d.*", f"{ours}conv.conv.*"),
        rename(f"{theirs}out_proj.*", f"{ours}out.*"),
    )


_RULES = (
    rename("lm_head.*", "head.*"),
    rename("backbone.norm_f.*", "norm.*"),
    rename("backbone.layers.{i}.norm.*", "blocks.{i}.mixer.norm.*"),
    rename("backbone.layers.{i}.norm2.*", "blocks.{i}.ffn.norm.*"),
    rename("backbone.layers.{i}.mlp.fc1.*", "blocks.{i}.ffn.branch.expand.*"),
    rename("backbone.layers.{i}.mlp.fc2.*", "blocks.{i}.ffn.branch.contract.*"),
    *mixer_rules("backbone.layers.{i}.mixer.", "blocks.{i}.mixer.branch."),
)
