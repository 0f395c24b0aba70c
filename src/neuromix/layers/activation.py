"""Activations by name, as a Config names them: "gelu" or ("star_relu", {"scale": 0.8944, "bias": -0.4472})."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuromix.core import registry
from neuromix.core.config import Config, Spec


def make_activation(spec: Spec | str) -> nn.Module:
    """The activation that a spec names.

    Raises:
        UnknownNameError, ConfigError: no such activation, or options that do not fit.
    """
    activation: nn.Module = registry.build("activation", spec)
    return activation


def _register_plain(name: str, activation: Callable[[], nn.Module]) -> None:
    registry.register("activation", name, build=lambda config: activation())(activation)


_register_plain("gelu", nn.GELU)  # the exact one, by erf
_register_plain("gelu_tanh", lambda: nn.GELU("tanh"))  # its approximation, as GPT-2 has it
_register_plain("relu", nn.ReLU)
_register_plain("silu", nn.SiLU)
_register_plain("sigmoid", nn.Sigmoid)
_register_plain("tanh", nn.Tanh)


@registry.register("activation", "squared_relu", build=lambda config: SquaredReLU())
class SquaredReLU(nn.Module):
    """relu(x)^2."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x).square()


@dataclass(frozen=True)
class StarReLUConfig(Config):
    """Where the two numbers of StarReLU start.

    For a standard normal input, scale 0.8944 and bias -0.4472 give an output of mean 0 and variance 1.
    """

    scale: float = 1.0
    bias: float = 0.0


@registry.register("activation", "star_relu")
class StarReLU(nn.Module):
    """scale * relu(x)^2 + bias, with one learnable number each ("MetaFormer Baselines for Vision", eq. 5)."""

    Config: ClassVar[type[Config]] = StarReLUConfig

    def __init__(self, config: StarReLUConfig) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([config.scale]))
        self.bias = nn.Parameter(torch.tensor([config.bias]))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * F.relu(x).square() + self.bias
