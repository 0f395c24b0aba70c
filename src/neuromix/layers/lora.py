"""LoRA: frozen layers with a trained correction of low rank beside them (Hu et al., ICLR 2022), as an edit.

    y = W x + b + right (left^T x),    left starts standard normal, right at zero, so that at first nothing changes.

Shapes: I inputs, O outputs, R rank, V vocabulary, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuromix.core.config import Config
from neuromix.core.edits import register_edit
from neuromix.core.errors import ConfigError
from neuromix.core.model import Model


class LoRALinear(nn.Linear):
    """A linear layer with a correction right [O, R] left [I, R]^T."""

    def __init__(self, layer: nn.Linear, rank: int, generator: torch.Generator | None = None) -> None:
        super().__init__(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
        self.weight, self.bias = layer.weight, layer.bias
        self.left, self.right = _correction(
            layer.in_features, layer.out_features, rank, layer.weight, generator
        )

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight, self.bias) + input @ self.left @ self.right.mT

    def fused(self) -> nn.Linear:
        """The plain layer with the same outputs."""
        layer = nn.Linear(self.in_features, self.out_features, self.bias is not None, device="meta")
        layer.weight = nn.Parameter((self.weight + self.right @ self.left.mT).detach())
        layer.bias = None if self.bias is None else nn.Parameter(self.bias.detach().clone())
        return layer


class LoRAEmbedding(nn.Embedding):
    """An embedding with a correction left [V, R] right [D, R]^T."""

    def __init__(self, layer: nn.Embedding, rank: int, generator: torch.Generator | None = None) -> None:
        super().__init__(layer.num_embeddings, layer.embedding_dim, device="meta")
        self.weight = layer.weight
        size = (layer.num_embeddings, layer.embedding_dim)
        self.left, self.right = _correction(*size, rank, layer.weight, generator)

    def forward(self, input: Tensor) -> Tensor:
        return F.embedding(input, self.weight) + F.embedding(input, self.left) @ self.right.mT


@dataclass(frozen=True)
class LoRAConfig(Config):
    """Config of the edit "lora"."""

    rank: int = 16
    layers: tuple[str, ...] = ("*",)  # globs over the paths of linear layers and embeddings
    seed: int = 0  # of the corrections

    def validate(self) -> None:
        self.require_positive("rank")


@register_edit("lora", LoRAConfig)
def lora(model: Model, config: LoRAConfig) -> Model:
    """Freezes all weights of the model, and gives linear layers and embeddings trained corrections.

    Raises:
        ConfigError: no layer matches.
    """
    generator = torch.Generator().manual_seed(config.seed)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    plain = {nn.Linear: LoRALinear, nn.Embedding: LoRAEmbedding}
    chosen = [
        (path, module)
        for path, module in model.named_modules()
        if type(module) in plain and any(fnmatchcase(path, glob) for glob in config.layers)
    ]
    if not chosen:
        raise ConfigError(f"lora: no linear layer or embedding matches {', '.join(config.layers)}")
    for path, module in chosen:
        parent, _, name = path.rpartition(".")
        corrected = plain[type(module)](module, config.rank, generator)
        setattr(model.get_submodule(parent), name, corrected.train(module.training))
    return model


def _correction(
    inputs: int, outputs: int, rank: int, like: Tensor, generator: torch.Generator | None
) -> tuple[nn.Parameter, nn.Parameter]:
    left = torch.randn(inputs, rank, generator=generator).to(like)
    return nn.Parameter(left), nn.Parameter(torch.zeros(outputs, rank).to(like))
