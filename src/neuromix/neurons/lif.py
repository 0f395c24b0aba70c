"""Integrate-and-fire neurons, with and without leak.

Shapes: T spike time, B batch, then any neuron axes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from neuromix.core.config import Config, Spec
from neuromix.core.registry import register_neuron
from neuromix.neurons.neuron import Dynamics, Neuron
from neuromix.neurons.surrogate import make_surrogate
from neuromix.ops.lif import LIFParameters, lif, lif_reference


class LIFState(NamedTuple):
    """Membrane potential after the last step, [B, ...]."""

    v: Tensor


@dataclass(frozen=True)
class IFConfig(Config):
    """Config of IF."""

    v_threshold: float = 1.0  # > 0
    v_reset: float | None = 0.0  # None: soft reset, subtracts the threshold
    detach_reset: bool = True  # no gradient through the reset
    surrogate: Spec = Spec("sigmoid")
    compare: Literal[">=", ">"] = ">="  # when a membrane potential fires against the threshold
    learnable: tuple[Literal["v_threshold"], ...] = ()  # what is a parameter, one value a layer

    def validate(self) -> None:
        self.require_positive("v_threshold")
        self.require(
            self.v_reset is None or self.v_reset < self.v_threshold,
            f"v_reset must be below v_threshold {self.v_threshold}, got {self.v_reset}",
        )


@dataclass(frozen=True)
class LIFConfig(IFConfig):
    """Config of LIF."""

    tau: float = 2.0  # membrane time constant in steps, >= 1
    decay_input: bool = True  # scale the input by 1/tau

    def validate(self) -> None:
        super().validate()
        self.require(self.tau >= 1, f"tau must be at least 1, got {self.tau}")


class _IntegrateAndFire(Neuron):
    def __init__(self, config: IFConfig, decay: float, gain: float) -> None:
        super().__init__()
        self.config = config
        self.surrogate = make_surrogate(config.surrogate)
        self.v_threshold: float | nn.Parameter = config.v_threshold
        if "v_threshold" in config.learnable:
            self.v_threshold = nn.Parameter(torch.tensor(config.v_threshold))
        self._constants = LIFParameters(
            decay=decay,
            gain=gain,
            offset=(config.v_reset or 0.0) * (1 - decay),
            v_threshold=config.v_threshold,
            v_reset=config.v_reset,
            detach_reset=config.detach_reset,
            strict=config.compare == ">",
        )

    @property
    def constants(self) -> LIFParameters:
        """What the recurrence runs with, learnable values included."""
        return self._constants._replace(v_threshold=self.v_threshold)

    def initial_state(self, like: Tensor) -> LIFState:
        """Every membrane potential at rest: `v_reset`, or 0 with a soft reset."""
        return LIFState(torch.full_like(like, self.config.v_reset or 0.0))

    def forward(self, x_T: Tensor, state: LIFState | None = None, *, return_state: bool = False) -> Any:
        """Input currents [T, B, ...] to spikes of the same shape, 0 or 1.

        Raises:
            ShapeError: no step, a dtype that is not floating point, a state that does not fit.
        """
        v = self._membrane(x_T, state)
        spikes_T, v = lif(x_T, v, self.constants, self.surrogate.derivative)
        return (spikes_T, LIFState(v)) if return_state else spikes_T

    def dynamics(self, x_T: Tensor, state: LIFState | None = None) -> Dynamics:
        trace = lif_reference(x_T, self._membrane(x_T, state), self.constants, self.surrogate.derivative)
        return Dynamics(*trace, state=LIFState(trace.membrane_after_reset[-1]))

    def _membrane(self, x_T: Tensor, state: LIFState | None) -> Tensor:
        if state is None:
            state = self.initial_state(x_T[0] if len(x_T) else x_T.sum(0))
        return state.v

    def extra_repr(self) -> str:
        return ", ".join(f"{key}={value}" for key, value in self.config.to_dict().items())


@register_neuron("lif")
class LIF(_IntegrateAndFire):
    """Leaky integrate-and-fire.

    h[t] = (1 - 1/tau)*v[t-1] + gain*x[t] + v_reset/tau, gain = 1/tau if `decay_input` else 1;
    s[t] = [h[t] >= v_threshold]; v[t] = v_reset where s[t] else h[t], or h[t] - s[t]*v_threshold if `v_reset`
    is None (soft reset).

    Args:
        tau: membrane time constant in steps, >= 1.
        v_threshold: above which a neuron fires, > 0.
        v_reset: the potential after a spike; None subtracts the threshold.
        decay_input: scale the input by 1/tau.
        detach_reset: no gradient through the reset.
        surrogate: name, or (name, options), of the surrogate derivative.
        compare: ">=" or ">", how a potential is compared with the threshold.
        learnable: ("v_threshold",) makes the threshold a parameter.

    Example:
        spikes_TBC = LIF(tau=2.0)(x_TBC)
    """

    Config: ClassVar[type[Config]] = LIFConfig

    def __init__(
        self,
        tau: float = 2.0,
        v_threshold: float = 1.0,
        v_reset: float | None = 0.0,
        decay_input: bool = True,
        detach_reset: bool = True,
        surrogate: Spec | str | tuple[Any, ...] = "sigmoid",
        compare: Literal[">=", ">"] = ">=",
        learnable: tuple[Literal["v_threshold"], ...] = (),
    ) -> None:
        config = LIFConfig(
            v_threshold,
            v_reset,
            detach_reset,
            Spec.of(surrogate),
            compare,
            learnable,
            tau=tau,
            decay_input=decay_input,
        )
        super().__init__(config, decay=1 - 1 / tau, gain=1 / tau if decay_input else 1.0)


@register_neuron("if")
class IF(_IntegrateAndFire):
    """Integrate-and-fire without leak: h[t] = v[t-1] + x[t]; fires and resets as LIF does."""

    Config: ClassVar[type[Config]] = IFConfig

    def __init__(
        self,
        v_threshold: float = 1.0,
        v_reset: float | None = 0.0,
        detach_reset: bool = True,
        surrogate: Spec | str | tuple[Any, ...] = "sigmoid",
        compare: Literal[">=", ">"] = ">=",
        learnable: tuple[Literal["v_threshold"], ...] = (),
    ) -> None:
        config = IFConfig(v_threshold, v_reset, detach_reset, Spec.of(surrogate), compare, learnable)
        super().__init__(config, decay=1.0, gain=1.0)
