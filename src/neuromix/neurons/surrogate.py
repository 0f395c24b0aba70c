"""Surrogate derivatives of the spike, as functions of u = membrane potential - threshold.

A new one is a frozen dataclass with its width as a field and a `derivative`, registered under a name.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from neuromix.core import registry
from neuromix.core.config import Config, Spec

S = TypeVar("S", bound="Surrogate")


@dataclass(frozen=True)
class Surrogate(Config):
    """Base: a Config that knows its derivative."""

    def derivative(self, u: Tensor) -> Tensor:
        """ds/du in place of the derivative of the step function; pointwise, shape and dtype of `u`."""
        raise NotImplementedError


def make_surrogate(spec: Spec | str) -> Surrogate:
    """The surrogate that a spec names: "sigmoid" or ("sigmoid", {"alpha": 4.0})."""
    surrogate: Surrogate = registry.build("surrogate", spec)
    return surrogate


def register_surrogate(name: str) -> Callable[[type[S]], type[S]]:
    """Decorator that registers a Surrogate class."""

    def decorate(cls: type[S]) -> type[S]:
        registry.register("surrogate", name, config=cls, build=lambda config: config)(cls)
        return cls

    return decorate


@register_surrogate("sigmoid")
@dataclass(frozen=True)
class Sigmoid(Surrogate):
    """alpha * s * (1 - s) with s = sigmoid(alpha*u)."""

    alpha: float = 4.0  # > 0

    def validate(self) -> None:
        self.require_positive("alpha")

    def derivative(self, u: Tensor) -> Tensor:
        s = (self.alpha * u).sigmoid()
        return self.alpha * s * (1 - s)


@register_surrogate("atan")
@dataclass(frozen=True)
class Atan(Surrogate):
    """alpha/2 / (1 + (pi/2 * alpha * u)^2)."""

    alpha: float = 2.0  # > 0

    def validate(self) -> None:
        self.require_positive("alpha")

    def derivative(self, u: Tensor) -> Tensor:
        return self.alpha / 2 / (1 + (math.pi / 2 * self.alpha * u).square())


@register_surrogate("triangle")
@dataclass(frozen=True)
class Triangle(Surrogate):
    """max(0, 1 - |u|/width) / width."""

    width: float = 1.0  # > 0

    def validate(self) -> None:
        self.require_positive("width")

    def derivative(self, u: Tensor) -> Tensor:
        return (1 - u.abs() / self.width).clamp_min(0) / self.width


@register_surrogate("rectangle")
@dataclass(frozen=True)
class Rectangle(Surrogate):
    """1/width where |u| <= width/2, else 0."""

    width: float = 1.0  # > 0

    def validate(self) -> None:
        self.require_positive("width")

    def derivative(self, u: Tensor) -> Tensor:
        return (u.abs() <= self.width / 2).to(u.dtype) / self.width


@register_surrogate("fast_sigmoid")
@dataclass(frozen=True)
class FastSigmoid(Surrogate):
    """1 / (1 + alpha*|u|)^2."""

    alpha: float = 25.0  # > 0

    def validate(self) -> None:
        self.require_positive("alpha")

    def derivative(self, u: Tensor) -> Tensor:
        return (1 + self.alpha * u.abs()).square().reciprocal()


@register_surrogate("erf")
@dataclass(frozen=True)
class Erf(Surrogate):
    """alpha/sqrt(pi) * exp(-(alpha*u)^2)."""

    alpha: float = 2.0  # > 0

    def validate(self) -> None:
        self.require_positive("alpha")

    def derivative(self, u: Tensor) -> Tensor:
        return self.alpha / math.sqrt(math.pi) * torch.exp(-(self.alpha * u).square())
