"""Liquid: a recurrent layer of spiking neurons with random weights, of which none is trained.

Its weights are those of an array of resistive memory as it comes from the fab: the difference of two conductances,
normal with the measured mean and spread, times `const`. They are drawn from the seed by NumPy's frozen generator, so
that the same Config gives the same bits on every machine and in every version.

Shapes: T spike time, B batch, N inputs of a step, H neurons.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from neuromix.core.config import Config
from neuromix.core.state import Stateful
from neuromix.core.time import Repeat, fold
from neuromix.neurons.lif import LIF


@dataclass(frozen=True)
class LiquidConfig(Config):
    """Config of Liquid; conductances are in microsiemens. Default values: the paper's N-MNIST encoder."""

    hidden: int = 200  # H
    decay: float = 0.9  # of the membrane in a step, in [0, 1]
    v_threshold: float = 5.0  # > 0
    const: float = 0.07  # weight that a conductance difference of 1 stands for, > 0
    input_mean: float = 0.00156  # of the differences in the input layer
    input_std: float = 6.61329
    recurrent_mean: float = 0.00606  # and in the recurrent one
    recurrent_std: float = 6.67268
    bias: bool = False  # of both layers; they start at 0
    trainable: bool = False  # the baseline: the same start, trained through time
    lens: float = 0.25  # half the width of the surrogate's rectangle, > 0
    seed: int = 10  # of the weights

    def validate(self) -> None:
        self.require_positive("hidden", "v_threshold", "const", "input_std", "recurrent_std", "lens")
        self.require(0 <= self.decay <= 1, f"decay must be in [0, 1], got {self.decay}")
        self.require(0 <= self.seed < 2**32, f"seed must be in [0, 2^32), got {self.seed}")


class LiquidState(NamedTuple):
    """Spikes and membrane potential after the last step, [B, H] each."""

    spikes: Tensor
    v: Tensor


class RecurrentLIF(Stateful):
    """Leaky neurons that hear one another a step later: currents [T, B, H] to spikes [T, B, H].

    m[t] = decay * m[t-1] * (1 - s[t-1]) + i[t] + W s[t-1] + b;  s[t] = [m[t] > v_threshold]. Every neuron reaches every
    one, itself included. Backwards ds/dm = 1/(2 lens) where |m - v_threshold| < lens, and nothing is detached.
    """

    def __init__(self, config: LiquidConfig) -> None:
        super().__init__()
        self.recurrent = nn.Linear(config.hidden, config.hidden, bias=config.bias)
        self.neuron = LIF(
            decay=config.decay,
            v_threshold=config.v_threshold,
            v_reset=0.0,
            decay_input=False,
            detach_reset=False,
            surrogate=("rectangle", {"width": 2 * config.lens, "closed": False}),
            compare=">",
        )

    def initial_state(self, like: Tensor) -> LiquidState:
        return LiquidState(torch.zeros_like(like), self.neuron.initial_state(like).v)

    def step(self, x_t: Tensor, state: LiquidState) -> tuple[Tensor, LiquidState]:
        """Currents [B, H] of one step to its spikes [B, H]."""
        current_BH = x_t + self.recurrent(state.spikes)
        spikes_BH, membrane = self.neuron.step(current_BH, self.neuron.State(state.v))
        return spikes_BH, LiquidState(spikes_BH, membrane.v)

    def forward(self, x: Tensor, state: LiquidState | None = None, *, return_state: bool = False) -> Any:
        state = self.initial_state(x[0]) if state is None else state
        steps = []
        for x_t in x.unbind(0):
            spikes_BH, state = self.step(x_t, state)
            steps.append(spikes_BH)
        return (torch.stack(steps), state) if return_state else torch.stack(steps)


class Liquid(nn.Module):
    """Inputs x_TBN to spikes [T, B, H]; a single step x_1BN is shown for `time_steps` steps.

    The weights are parameters that nothing trains unless `trainable`. Checkpoints hold them although the seed brings
    them back: so weights that were measured on a chip, or given by someone else, are kept as well.
    """

    def __init__(self, config: LiquidConfig, inputs: int, time_steps: int) -> None:
        super().__init__()
        self.config = config
        synapses = nn.Linear(inputs, config.hidden, bias=config.bias)
        self.input = Repeat(time_steps, synapses)
        self.cell = RecurrentLIF(config)
        self._draw(synapses, self.cell.recurrent)
        self.requires_grad_(config.trainable)

    @torch.no_grad()
    def _draw(self, *layers: nn.Linear) -> None:
        """Sets the weights to const * N(mean, std), the input layer's first: the same for the same Config."""
        random, config = np.random.RandomState(self.config.seed), self.config
        statistics = (
            (config.input_mean, config.input_std),
            (config.recurrent_mean, config.recurrent_std),
        )
        for linear, (mean, std) in zip(layers, statistics, strict=True):
            difference = random.normal(mean, std, tuple(linear.weight.shape))
            linear.weight.copy_(torch.from_numpy(config.const * difference))
            if linear.bias is not None:
                linear.bias.zero_()

    def forward(self, x_TBN: Tensor) -> Tensor:
        is_static = x_TBN.shape[0] == 1
        current_TBH = self.input(x_TBN) if is_static else fold(self.input.stem, x_TBN)
        spikes_TBH: Tensor = self.cell(current_TBH)
        return spikes_TBH
