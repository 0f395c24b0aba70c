"""Neuron: the base of all spiking neurons."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple, Self

from torch import Tensor

from neuromix.core import registry
from neuromix.core.config import Config, Spec
from neuromix.core.state import Stateful


class Dynamics(NamedTuple):
    """What a neuron did at each step, [T, B, ...] each, and its state after the last."""

    spikes: Tensor
    membrane: Tensor  # before the reset
    membrane_after_reset: Tensor
    state: Any


class Neuron(Stateful):
    """A stateful leaf that turns input currents x_T [T, B, ...] into spikes of the same shape.

    Built from the fields of its Config as keyword arguments.

    Attributes:
        levels: the largest value it sends: 1 for binary spikes, D for integers 0..D (in units of the height of a
            spike), 0 for the real numbers of a read-out that never spikes.
    """

    Config: ClassVar[type[Config]] = Config
    time_axis = 0
    levels: int = 1

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.config: Any = self.Config.from_dict(options)

    @classmethod
    def from_config(cls, config: Any) -> Self:
        """Builds the neuron; what the registry calls."""
        return cls(**{name: getattr(config, name) for name in config.to_dict()})

    @property
    def height(self) -> Tensor | float:
        """The value of one spike; of an integer neuron, that of the integer 1."""
        return 1.0

    def dynamics(self, x_T: Tensor, state: Any = None) -> Dynamics:
        """A run that keeps every membrane potential: for rasters, alignment losses and attacks."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        return ", ".join(f"{key}={value}" for key, value in self.config.to_dict().items())


def make_neuron(spec: Spec | str) -> Neuron:
    """The neuron that a spec names: "lif" or ("lif", {"tau": 2.0})."""
    neuron: Neuron = registry.build("neuron", spec)
    return neuron
