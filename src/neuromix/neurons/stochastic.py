"""Integrate-and-fire with chance: the nearer to the threshold, the likelier a spike.

Shapes: T spike time, B batch, then any neuron axes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from neuromix.core.config import Config
from neuromix.core.observe import Noise
from neuromix.core.registry import register_neuron
from neuromix.neurons.integrate_and_fire import LIFState, MembraneConfig, MembraneNeuron
from neuromix.neurons.neuron import Dynamics
from neuromix.ops._layout import arithmetic_dtype, require_steps
from neuromix.ops.lif import Coefficient, LIFParameters, over_channels, reset


@dataclass(frozen=True)
class StochasticIFConfig(MembraneConfig):
    """Config of StochasticIF."""

    v_threshold: float = 1.0  # where it fires with probability 1/2, > 0
    v_reset: float | None = 0.0  # None: soft reset, subtracts the threshold
    detach_reset: bool = True  # no gradient through the spike in the reset
    width: float = 0.25  # of the range in which chance decides, > 0

    LEARNABLE: ClassVar[tuple[str, ...]] = ("v_threshold",)

    def validate(self) -> None:
        super().validate()
        self.require_positive("v_threshold", "width")


@register_neuron("stochastic_if")
class StochasticIF(MembraneNeuron):
    """h[t] = v[t-1] + x[t]; fires with probability p = sigmoid((h - v_threshold)/width); resets as LIF does.

    The gradient of a spike is that of its probability. Draws come step by step from its `noise`, so that stepping
    and running at once take the same ones.
    """

    Config: ClassVar[type[Config]] = StochasticIFConfig
    v_threshold: Coefficient

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.noise = Noise()
        self.add_coefficients(v_threshold=self.config.v_threshold)

    def constants(self) -> LIFParameters:
        config = self.config
        rest = config.v_reset or 0.0
        return LIFParameters(
            decay=1.0,
            gain=1.0,
            offset=0.0,
            v_threshold=self.v_threshold,
            v_reset=config.v_reset,
            detach_reset=config.detach_reset,
            v_init=rest,
            channel_axis=config.channel_axis,
        )

    def forward(self, x_T: Tensor, state: LIFState | None = None, *, return_state: bool = False) -> Any:
        """Input currents [T, B, ...] to spikes of the same shape and dtype."""
        run = self.dynamics(x_T, state)
        return (run.spikes, run.state) if return_state else run.spikes

    def dynamics(self, x_T: Tensor, state: LIFState | None = None) -> Dynamics:
        require_steps(x_T)
        (v,) = self.initial_state(x_T[0]) if state is None else state
        p = over_channels(x_T, self.constants())
        steps = []
        for x in x_T.to(arithmetic_dtype(x_T.dtype)).unbind(0):
            h = v + x
            s = self._fire(h - p.v_threshold)
            v = reset(h, s.detach() if p.detach_reset else s, p)
            steps.append((s, h, v))
        s_T, h_T, v_T = (torch.stack(each).to(x_T.dtype) for each in zip(*steps, strict=True))
        return Dynamics(s_T, h_T, v_T, LIFState(v))

    def _fire(self, u: Tensor) -> Tensor:
        p = torch.sigmoid(u / self.config.width)
        s = (self.noise.uniform(tuple(u.shape), u) < p).to(u.dtype)
        return s + (p - p.detach())
