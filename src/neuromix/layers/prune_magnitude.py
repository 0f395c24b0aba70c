"""The edit "prune_magnitude": the weights that are smallest in size are 0, and stay so whatever is trained after it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from neuromix.core.config import Config
from neuromix.core.edits import register_edit
from neuromix.core.errors import ConfigError
from neuromix.core.model import Model


class Kept(nn.Module):
    """weight * mask, in the place of a weight.

    Attributes:
        mask: bool, of the shape of the weight; False: pruned.
    """

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.mask


@dataclass(frozen=True)
class PruneMagnitudeConfig(Config):
    """Config of the edit "prune_magnitude"."""

    amount: float = 0.5  # share of the weights that are pruned, in [0, 1)
    scope: Literal["layer", "model"] = "layer"  # of each layer's weights, or of all together

    def validate(self) -> None:
        self.require_within(0, 1, "amount")


@register_edit("prune_magnitude", PruneMagnitudeConfig)
def prune_magnitude(model: Model, config: PruneMagnitudeConfig) -> Model:
    """Prunes the weights of linear layers and convolutions that are trained. Biases stay, and so do fixed weights.

    Raises:
        ConfigError: the model has no such layer, or is pruned already.
    """
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    layers = [m for m in model.modules() if isinstance(m, kinds) and m.weight.requires_grad]
    if any(parametrize.is_parametrized(layer) for layer in layers):
        raise ConfigError(
            f"{type(model).__name__} is pruned already; prune the dense model by another amount"
        )
    if not layers:
        raise ConfigError(f"{type(model).__name__} has no linear layer or convolution to prune")
    sizes = [layer.weight.detach().abs() for layer in layers]
    masks = [_largest(size, config.amount) for size in sizes]
    if config.scope == "model":
        whole = _largest(torch.cat([size.flatten() for size in sizes]), config.amount)
        parts = torch.split(whole, [size.numel() for size in sizes])
        masks = [part.view_as(size) for part, size in zip(parts, sizes, strict=True)]
    for layer, mask in zip(layers, masks, strict=True):
        parametrize.register_parametrization(layer, "weight", Kept(mask))
    return model


def _largest(size: Tensor, amount: float) -> Tensor:
    """All but the smallest `amount` of the elements, rounded to whole ones."""
    mask = torch.ones(size.numel(), dtype=torch.bool, device=size.device)
    mask[size.flatten().argsort(stable=True)[: round(amount * size.numel())]] = False
    return mask.view_as(size)
