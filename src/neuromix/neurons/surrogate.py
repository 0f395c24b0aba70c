"""Surrogate derivatives of the spike, as functions of u = membrane potential - threshold.

A new one is a frozen dataclass with its width as a field and a `derivative`, registered under a name:

    @register_surrogate("gaussian")
    @dataclass(frozen=True)
    class Gaussian(Surrogate):
        width: float = 1.0
        def derivative(self, u): return torch.exp(-(u / self.width).square())

Neurons run it in PyTorch; those below are also built into the fused kernels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, TypeVar

import torch
from torch import Tensor

from neuromix.core import registry
from neuromix.core.config import Config, Spec
from neuromix.ops.spike import Slope

S = TypeVar("S", bound="Surrogate")


@dataclass(frozen=True)
class Surrogate(Config):
    """Base: a Config that knows its derivative."""

    def derivative(self, u: Tensor) -> Tensor:
        """ds/du in place of the derivative of the step function; pointwise, shape and dtype of `u`."""
        raise NotImplementedError

    def fused(self) -> Slope | None:
        """The same for a fused kernel that knows it; None: neurons run in PyTorch."""
        return None


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


@dataclass(frozen=True)
class _Fused(Surrogate):
    """A derivative that the kernels have as well, times `scale`."""

    scale: float = field(default=1.0, kw_only=True)  # > 0
    kind: ClassVar[str]

    def validate(self) -> None:
        self.require_positive("scale", self._shape_name())

    def derivative(self, u: Tensor) -> Tensor:
        return self.scale * self.shape(u)

    def shape(self, u: Tensor) -> Tensor:
        """The derivative of scale 1."""
        raise NotImplementedError

    def fused(self) -> Slope:
        return Slope(self.kind, getattr(self, self._shape_name()), self.scale)

    def _shape_name(self) -> str:
        return "width" if hasattr(self, "width") else "alpha"


@register_surrogate("sigmoid")
@dataclass(frozen=True)
class Sigmoid(_Fused):
    """alpha * s * (1 - s) with s = sigmoid(alpha*u)."""

    alpha: float = 4.0  # > 0
    kind = "sigmoid"

    def shape(self, u: Tensor) -> Tensor:
        s = (self.alpha * u).sigmoid()
        return self.alpha * s * (1 - s)


@register_surrogate("atan")
@dataclass(frozen=True)
class Atan(_Fused):
    """alpha/2 / (1 + (pi/2 * alpha * u)^2)."""

    alpha: float = 2.0  # > 0
    kind = "atan"

    def shape(self, u: Tensor) -> Tensor:
        return self.alpha / 2 / (1 + (math.pi / 2 * self.alpha * u).square())


@register_surrogate("triangle")
@dataclass(frozen=True)
class Triangle(_Fused):
    """max(0, 1 - |u|/width) / width."""

    width: float = 1.0  # > 0
    kind = "triangle"

    def shape(self, u: Tensor) -> Tensor:
        return (1 - u.abs() / self.width).clamp_min(0) / self.width


@register_surrogate("rectangle")
@dataclass(frozen=True)
class Rectangle(_Fused):
    """1/width where |u| <= width/2 (< unless `closed`), else 0.

    Papers differ in the border, which a neuron without input meets where its threshold is width/2.
    """

    width: float = 1.0  # > 0
    closed: bool = True
    kind = "rectangle"

    def shape(self, u: Tensor) -> Tensor:
        half, distance = self.width / 2, u.abs()
        return (distance <= half if self.closed else distance < half).to(u.dtype) / self.width

    def fused(self) -> Slope:
        return super().fused()._replace(closed=self.closed)


@register_surrogate("fast_sigmoid")
@dataclass(frozen=True)
class FastSigmoid(_Fused):
    """1 / (1 + alpha*|u|)^2."""

    alpha: float = 25.0  # > 0
    kind = "fast_sigmoid"

    def shape(self, u: Tensor) -> Tensor:
        return (1 + self.alpha * u.abs()).square().reciprocal()


@register_surrogate("erf")
@dataclass(frozen=True)
class Erf(_Fused):
    """alpha/sqrt(pi) * exp(-(alpha*u)^2)."""

    alpha: float = 2.0  # > 0
    kind = "erf"

    def shape(self, u: Tensor) -> Tensor:
        return self.alpha / math.sqrt(math.pi) * torch.exp(-(self.alpha * u).square())
