"""SPT's blocks: one layer of a pre-trained Transformer, as the paper measures fine-tuning on (Gui et al., 2023).

SPT is a way to fine-tune - the method "spt", the edit "spt" - and no network of its own. What its paper counts and
times is one block of OPT or of LLaMA. These are such blocks, and the edit converts them.

Shapes: B batch, L tokens, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from neuromix.core.batch import Batch
from neuromix.core.config import Spec
from neuromix.core.errors import ConfigError
from neuromix.core.layout import Layout, load_layout, rename
from neuromix.core.model import Field, Model, ModelConfig
from neuromix.core.reference import reference
from neuromix.core.registry import Paper, register_model
from neuromix.layers.ffn import FeedForward, FeedForwardConfig, GatedFeedForward, GatedFeedForwardConfig
from neuromix.layers.lora import LoRALinear
from neuromix.layers.product_quantiser import ProductQuantiser
from neuromix.layers.routed_ffn import RoutedConfig, RoutedFeedForward
from neuromix.mixers.sequence import NO_TOKENS, Tokens
from neuromix.models.language.decoder import Block, BlockSpec, DecoderConfig

PAPER = Paper(
    "SPT: Fine-Tuning Transformer-based Language Models Efficiently with Sparsification",
    2023,
    "arXiv",
    "https://arxiv.org/abs/2312.10365",
)


@dataclass(frozen=True)
class SPTBlockConfig(ModelConfig):
    """Config of SPTBlock."""

    dim: int = 1024  # width D
    heads: int = 16
    hidden: int | None = None  # units of the feed-forward network; None: 4 * dim
    family: Literal["opt", "llama"] = (
        "opt"  # layer norm, ReLU and biases; or RMS norm, SwiGLU, rotary, no biases
    )

    def validate(self) -> None:
        self.require_positive("dim", "heads")
        self.require(self.dim % self.heads == 0, f"heads must divide dim, got {self.heads} and {self.dim}")

    def block(self) -> BlockSpec:
        """The block."""
        hidden = self.hidden or 4 * self.dim
        if self.family == "opt":
            attention = {"heads": self.heads, "qkv_bias": True, "bias": True}
            return BlockSpec(
                Spec("attention", attention), Spec("mlp", {"hidden": hidden, "activation": "relu"})
            )
        attention = {"heads": self.heads, "rotary": self.dim // self.heads}
        return BlockSpec(Spec("attention", attention), Spec("glu", {"hidden": hidden}))


def _opt(dim: int, heads: int) -> dict[str, Any]:
    return {"dim": dim, "heads": heads}


def _llama(dim: int, heads: int, hidden: int) -> dict[str, Any]:
    return {"dim": dim, "heads": heads, "hidden": hidden, "family": "llama"}


def _counted(dim: int, millions: float) -> dict[str, Any]:
    return {"parameters": 12 * dim**2 + 13 * dim, "parameters_m": millions, "scope": "all"}


@register_model(
    "spt_block",
    paper=PAPER,
    family="sequence",
    provenance="reconstructed",
    variants={
        "spt_opt_1024": _opt(1024, 16),
        "spt_opt_2048": _opt(2048, 32),
        "spt_opt_2560": _opt(2560, 32),
        "spt_llama_2560": _llama(2560, 20, 6912),
        "spt_llama_4096": _llama(4096, 32, 11_008),
        "spt_llama_5120": _llama(5120, 32, 13_824),
    },
    tiny={"dim": 16, "heads": 2},
    published={
        "spt_opt_1024": _counted(1024, 12.6),
        "spt_opt_2048": _counted(2048, 50.4),
        "spt_opt_2560": _counted(2560, 78.7),
    },
)
class SPTBlock(Model):
    """Features [B, L, D] to the same shape: x + attention(norm(x)), then x + ffn(norm(x))."""

    Config: ClassVar[type[ModelConfig]] = SPTBlockConfig
    inputs: ClassVar[tuple[Field, ...]] = (Field("features", "BLD"), Field("mask", "BL", optional=True))
    stream_axis = 1

    def __init__(self, config: SPTBlockConfig) -> None:
        super().__init__(config)
        norm: Literal["layer", "rms"] = "layer" if config.family == "opt" else "rms"
        self.block = Block(config.block(), DecoderConfig(dim=config.dim, norm=norm))

    def forward(self, x_BLD: Tensor, mask_BL: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """[B, L, D].

        Args:
            mask_BL: bool, False at padding.
        """
        return self.forward_steps(x_BLD, mask_BL)

    def forward_steps(self, x_BLD: Tensor, mask: Tensor | None = None) -> Tensor:
        """As `forward`."""
        y_BLD: Tensor = self.block(x_BLD, NO_TOKENS if mask is None else Tokens(mask))
        return y_BLD

    def example(self, batch_size: int, generator: torch.Generator | None = None) -> Batch:
        return Batch({"features": torch.randn(batch_size, 12, self.config.dim, generator=generator)})


_ROUTED = {"fc1": "expand", "fc2": "contract", "gate": "gate", "side": "up", "down": "contract"}


def routed_layout() -> Layout:
    """The authors' names of a routed feed-forward network with LoRA."""
    rules = [rename("router.0.*", "router.*")]
    for theirs, ours in _ROUTED.items():
        rules += [
            rename(f"{theirs}.lora.left.weight", f"{ours}.left"),
            rename(f"{theirs}.lora.right.weight", f"{ours}.right"),
            rename(f"{theirs}.*", f"{ours}.*"),
        ]
    return Layout(*rules)


@reference("spt", "routed_ffn")
def read_routed_ffn(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> nn.Module:
    """A routed feed-forward network: plain, or gated where the weights have a gate; with LoRA where they have that."""
    hidden, width = config["d_feedforward"], config["d_model"]
    rank = next((t.shape[1] for name, t in state.items() if name.endswith("lora.left.weight")), None)
    if hidden % config["block_size"]:
        raise ConfigError(f"block_size={config['block_size']} does not divide d_feedforward={hidden}")
    activation = Spec(str(config.get("activation", "relu")).lower())
    ffn: FeedForward | GatedFeedForward
    if "gate.weight" in state:
        biased = "gate.bias" in state
        ffn = GatedFeedForward(
            GatedFeedForwardConfig(hidden=hidden, activation=activation, bias=biased), width
        )
    else:
        ffn = FeedForward(
            FeedForwardConfig(hidden=hidden, activation=activation, bias="fc1.bias" in state), width
        )
    if rank is not None:
        for name, layer in list(ffn.named_children()):
            if isinstance(layer, nn.Linear):
                setattr(ffn, name, LoRALinear(layer, rank))
    blocks = hidden // config["block_size"]
    routed = RoutedFeedForward(ffn, RoutedConfig(blocks=blocks, coefficients=rank is not None))
    load_layout(routed, {"authors": routed_layout()}, state)
    return routed


@reference("spt", "sparse_attention")
def read_quantiser(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> nn.Module:
    """The quantiser of a sparse attention."""
    quantiser = ProductQuantiser(config["n_subspaces"], config["n_codewords"], config["d_codeword"])
    load_layout(quantiser, {"authors": Layout(rename("weight", "weight"))}, state)
    return quantiser
