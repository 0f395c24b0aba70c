"""The edit "binary_steps": a net of integer neurons as a net of binary spikes, D of them for each time step.

An integer n in 0..D is the sum of the spikes [n > d], d = 0..D-1. So the converted net runs T*D steps, and each
neuron turns the mean current of D steps into D spikes, as a neuron that integrates it and fires would: threshold 1,
soft reset, half a threshold to begin with. Whatever is linear between two neurons gives, in the mean over these D
steps, what it gave for the integer; the products of attention are taken one binary operand at a time.

Shapes: T spike time, D levels, B batch, then any neuron axes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from neuromix.core.config import Config
from neuromix.core.edits import register_edit, replace_modules
from neuromix.core.errors import ConfigError, ShapeError
from neuromix.core.model import Model
from neuromix.core.state import Stateful
from neuromix.core.time import Repeat
from neuromix.neurons.integer import ILIFConfig, IntegerNeuron, NoState
from neuromix.neurons.neuron import Neuron
from neuromix.ops.levels import binary_steps, integer_levels


def mean_of_steps(x_TD: Tensor, levels: int) -> Tensor:
    """The mean of each time step over its D sub-steps: [T*D, ...] to [T, ...].

    Raises:
        ShapeError: a time step is not whole.
    """
    if len(x_TD) % levels:
        raise ShapeError(f"{levels} sub-steps make a time step, got {len(x_TD)} of them")
    return x_TD.reshape(-1, levels, *x_TD.shape[1:]).mean(1)


class BinarySteps(Neuron):
    """What an integer neuron sends as D binary spikes a time step, of which `height` times their mean is the integer.

    It sees the D sub-steps of a time step at once, so it cannot be stepped through them.
    """

    Config: ClassVar[type[Config]] = ILIFConfig

    def __init__(self, neuron: IntegerNeuron) -> None:
        super().__init__(levels=neuron.levels)
        self.gain = neuron.gain

    def initial_state(self, like: Tensor) -> NoState:
        return NoState()

    def forward(self, x_T: Tensor, state: NoState | None = None, *, return_state: bool = False) -> Any:
        """Currents [T*D, B, ...] to spikes of the same shape, 0 or 1."""
        levels = self.config.levels
        integers = integer_levels(mean_of_steps(x_T, levels), levels, self.gain)
        spikes = binary_steps(integers, levels).flatten(0, 1)
        return (spikes, NoState()) if return_state else spikes


class HighSpikes(Stateful):
    """The spikes of a neuron times a constant."""

    def __init__(self, neuron: Neuron, height: float) -> None:
        super().__init__()
        self.neuron, self.height = neuron, height

    def initial_state(self, like: Tensor) -> Any:
        return self.neuron.initial_state(like)

    def forward(self, x_T: Tensor, state: Any = None, *, return_state: bool = False) -> Any:
        sent = self.neuron(x_T, state, return_state=return_state)
        return (sent[0] * self.height, sent[1]) if return_state else sent * self.height

    def extra_repr(self) -> str:
        return f"height={self.height}"


class SubSteps(Repeat):
    """A stem whose output is shown in each of the D sub-steps of its time step."""

    def __init__(self, repeat: Repeat, levels: int) -> None:
        super().__init__(repeat.times, repeat.stem)
        self.levels = levels

    def forward(self, x_T: Tensor, times: int | None = None) -> Tensor:
        return super().forward(x_T, times).repeat_interleave(self.levels, 0)


def binary_neuron(neuron: IntegerNeuron) -> nn.Module:
    """The neuron in binary steps, whose spikes are as high as D units of the integers."""
    height = neuron.unit * neuron.levels
    spikes = BinarySteps(neuron)
    return spikes if height == 1 else HighSpikes(spikes, height)


@dataclass(frozen=True)
class BinaryStepsConfig(Config):
    """Config of the edit "binary_steps": it has no choices."""


@register_edit("binary_steps", BinaryStepsConfig)
def to_binary_steps(model: Model, config: BinaryStepsConfig) -> Model:
    """The spike-driven form of a net of integer neurons whose output is a mean over time; for inference.

    A module that multiplies two activations knows its own form, `in_binary_steps(levels)`. The result cannot be
    stepped: the sub-steps of a time step go through a layer together.

    Raises:
        ConfigError: the neurons are not all integer ones with the same number of levels, or no static stem shows the
            image in time.
    """
    neurons = [module for module in model.modules() if isinstance(module, Neuron)]
    levels = {neuron.levels for neuron in neurons if isinstance(neuron, IntegerNeuron)}
    name = model.name or type(model).__name__
    if len(levels) != 1 or not all(isinstance(neuron, IntegerNeuron) for neuron in neurons):
        kinds = ", ".join(sorted({f"{type(n).__name__}({n.levels})" for n in neurons})) or "none"
        raise ConfigError(
            f"binary_steps needs integer neurons of one number of levels; those of {name}: {kinds}"
        )
    if not any(isinstance(module, Repeat) for module in model.modules()):
        raise ConfigError(f"binary_steps: {name} has no stem that shows its input over time")
    (number,) = levels

    def converted(module: nn.Module) -> nn.Module | None:
        form: Callable[[int], nn.Module] | None = getattr(module, "in_binary_steps", None)
        if form is not None:
            return form(number)
        if isinstance(module, Repeat):
            return SubSteps(module, number)
        return binary_neuron(module) if isinstance(module, IntegerNeuron) else None

    replace_modules(model, converted)
    model.stream_axis = None
    return model.eval()
