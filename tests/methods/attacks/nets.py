"""Small victims, untrained or linear."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from neuromix.core.model import Model, ModelConfig
from neuromix.methods.attacks.victim import Victim
from neuromix.models.vision.pdsg_victims import PDSGResNet, PDSGResNetConfig


class Linear(Model):
    """Logits are linear in what lies on the input."""

    def __init__(self, weight_KN: Tensor) -> None:
        super().__init__(ModelConfig())
        self.weight_KN = nn.Parameter(weight_KN)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight_KN.T


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def linear(values: int, classes: int = 4, seed: int = 0) -> Victim:
    """A victim without neurons, whose best attack is known."""
    return Victim(Linear(normal(classes, values, seed=seed)), surrogate="keep")


def spiking(channels: int = 3, classes: int = 4, seed: int = 0, **options: object) -> Victim:
    """A small residual net."""
    torch.manual_seed(seed)
    config = {
        "blocks": (1, 1),
        "widths": (4, 8),
        "time_steps": 3,
        "in_channels": channels,
        "num_classes": classes,
    }
    net = PDSGResNet(PDSGResNetConfig.from_dict(config)).double().eval()
    return Victim(net, **options)  # type: ignore[arg-type]


def chance(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
