"""Neurons that send integers in training, which are binary spikes one after another when they run.

An integer n of D levels is the sum of D binary sub-steps [n > d], d = 0..D-1, so that W n is the sum of the W s_d:
additions only. Nothing passes from one time step to the next.

Shapes: T spike time, D levels, B batch, then any neuron axes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from torch import Tensor

from neuromix.core.config import Config
from neuromix.core.registry import register_neuron
from neuromix.neurons.neuron import Dynamics, Neuron
from neuromix.ops.levels import binary_steps, integer_levels, integer_levels_reference


class NoState(NamedTuple):
    """The state of a neuron that keeps none."""


@dataclass(frozen=True)
class ILIFConfig(Config):
    """Config of ILIF."""

    levels: int = 4  # the largest integer

    def validate(self) -> None:
        self.require_positive("levels")


class IntegerNeuron(Neuron):
    """floor(clamp(gain*x, 0, levels) + 1/2) * unit; gradients pass, times gain*unit, where 0 < gain*x < levels."""

    def __init__(self, gain: float, unit: float, **options: Any) -> None:
        super().__init__(**options)
        self.levels = self.config.levels
        self.gain, self.unit = gain, unit

    @property
    def height(self) -> float:
        return self.unit

    def initial_state(self, like: Tensor) -> NoState:
        return NoState()

    def forward(self, x_T: Tensor, state: NoState | None = None, *, return_state: bool = False) -> Any:
        """Input currents [T, B, ...] to integers, times `unit`, of the same shape and dtype.

        Raises:
            ShapeError: no step, or a dtype that is not floating point.
        """
        y_T = integer_levels(x_T, self.levels, self.gain, self.unit)
        return (y_T, NoState()) if return_state else y_T

    def dynamics(self, x_T: Tensor, state: NoState | None = None) -> Dynamics:
        y_T = integer_levels_reference(x_T, self.levels, self.gain, self.unit)
        return Dynamics(y_T, membrane=x_T, membrane_after_reset=x_T, state=NoState())

    def expand(self, y_T: Tensor) -> Tensor:
        """What it sends, y_T [T, B, ...], as binary sub-steps [T*D, B, ...], the D of a time step in a row.

        y_T is `unit` times the sum of the sub-steps of each time step.
        """
        return binary_steps(y_T / self.unit, self.levels).flatten(0, 1)


@register_neuron("i_lif")
class ILIF(IntegerNeuron):
    """Integer LIF (Luo et al., ECCV 2024): n = floor(clamp(x, 0, D) + 1/2), gradient 1 where 0 < x < D."""

    Config: ClassVar[type[Config]] = ILIFConfig

    def __init__(self, levels: int = 4) -> None:
        super().__init__(gain=1.0, unit=1.0, levels=levels)


@dataclass(frozen=True)
class IELIFConfig(ILIFConfig):
    """Config of IELIF."""

    height: float = 1.0  # of D levels together, > 0

    def validate(self) -> None:
        super().validate()
        self.require_positive("height")


@register_neuron("ie_lif")
class IELIF(IntegerNeuron):
    """Information-enhanced LIF (QSD-Transformer, ICLR 2025): y = floor(clamp(D*x, 0, D) + 1/2) * height/D.

    The gradient is `height` where 0 < x < 1. The paper's neuron inside the attention has height 2.
    """

    Config: ClassVar[type[Config]] = IELIFConfig

    def __init__(self, levels: int = 4, height: float = 1.0) -> None:
        super().__init__(gain=float(levels), unit=height / levels, levels=levels, height=height)
