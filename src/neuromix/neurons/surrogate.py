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
from neuromix.core.errors import ShapeError
from neuromix.ops.spike import Derivative, Slope, Steps

S = TypeVar("S", bound="Surrogate")


@dataclass(frozen=True)
class Surrogate(Config):
    """Base: a Config that knows its derivative.

    Attributes:
        looks_back: the derivative of a step depends on the steps before it; it is then given u_T [T, B, ...], all of
            them, and cannot be used step by step.
    """

    looks_back: ClassVar[bool] = False

    def derivative(self, u: Tensor) -> Tensor:
        """ds/du in place of the derivative of the step function; pointwise, shape and dtype of `u`."""
        raise NotImplementedError

    def fused(self) -> Slope | None:
        """The same for a fused kernel that knows it; None: neurons run in PyTorch."""
        return None

    def steps(self) -> Steps:
        """For one run along time: given the u of each step in turn, the derivative to use there."""
        return _Run(self).step if self.looks_back else lambda u: self.derivative


class _Run:
    """The steps of a run, whose derivatives are taken together when backward asks for the first of them."""

    def __init__(self, surrogate: Surrogate) -> None:
        self.surrogate = surrogate
        self.seen: list[Tensor] = []
        self.found_T: Tensor | None = None

    def step(self, u: Tensor) -> Derivative:
        t = len(self.seen)
        self.seen.append(u.detach())
        return lambda _: self.derivatives()[t]

    def derivatives(self) -> Tensor:
        if self.found_T is None:
            self.found_T = self.surrogate.derivative(torch.stack(self.seen))
        return self.found_T


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


@register_surrogate("quadratic_gate")
@dataclass(frozen=True)
class QuadraticGate(_Fused):
    """alpha - alpha^2*|u| where |u| < 1/alpha, else 0: the triangle of width 1/alpha, as BrainCog names it."""

    alpha: float = 2.0  # > 0
    kind = "triangle"

    def shape(self, u: Tensor) -> Tensor:
        return (self.alpha - self.alpha**2 * u.abs()).clamp_min(0)

    def fused(self) -> Slope:
        return super().fused()._replace(shape=1 / self.alpha)


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


@register_surrogate("pdsg")
@dataclass(frozen=True)
class PDSG(Surrogate):
    """A normal density with mean `shift` * sigma and deviation sigma, taken from the membranes themselves.

    Potential-dependent surrogate gradient (Lun et al., CVPR 2025): for attacks on nets whose training surrogate is not
    known. sigma at step t is the deviation (n - 1) of u[0..t], one number a channel; 1 where that is 0 or there is one
    value only.
    """

    shift: float = 0.5  # of the window to the right, in sigmas
    # Of a step [B, ...]. None, as the authors have it: 1 of a square map [B, C, H, W]; 2 of another step with four
    # axes, which is taken for tokens, and of [B, N, C]; else all axes but that of the batch.
    channel_axis: int | None = None
    looks_back = True

    def derivative(self, u: Tensor) -> Tensor:
        """ds/du of all steps from the first on; shape [T, B, ...] and dtype of `u`."""
        sigma = self.deviation(u)
        density = torch.exp(-((u - self.shift * sigma) / sigma).square() / 2)
        return density / (math.sqrt(2 * math.pi) * sigma)

    def deviation(self, u_T: Tensor) -> Tensor:
        """sigma of each step, of the axes of u_T, those that it is taken over being 1.

        Raises:
            ShapeError: steps without the channel axis.
        """
        axes = self._pooled(u_T[0])
        variance_T, mean_T = torch.var_mean(u_T, [axis + 1 for axis in axes], correction=0, keepdim=True)
        count = math.prod(u_T.shape[axis + 1] for axis in axes)
        # Moments of the steps are merged one after the other (Chan et al., 1979): equal values give exactly 0.
        mean, squares, found = torch.zeros_like(mean_T[0]), torch.zeros_like(mean_T[0]), []
        for t, (step_mean, variance) in enumerate(zip(mean_T, variance_T, strict=True)):
            delta = step_mean - mean
            squares = squares + count * (variance + delta.square() * (t / (t + 1)))
            mean = mean + delta / (t + 1)
            found.append((squares / (count * (t + 1) - 1)).sqrt())
        sigma_T = torch.stack(found)
        return torch.where(sigma_T > 0, sigma_T, 1.0)  # of one value it is 0/0

    def _pooled(self, step: Tensor) -> list[int]:
        """The axes of a step that sigma is taken over."""
        axes = range(step.dim())
        if self.channel_axis is not None:
            if self.channel_axis not in axes[1:]:
                raise ShapeError(f"PDSG: steps {list(step.shape)} have no channel axis {self.channel_axis}")
            return [axis for axis in axes if axis != self.channel_axis]
        if step.dim() not in (3, 4):
            return [0]
        is_map = step.dim() == 4 and step.shape[2] == step.shape[3]
        return [axis for axis in axes if axis != (1 if is_map else 2)]
