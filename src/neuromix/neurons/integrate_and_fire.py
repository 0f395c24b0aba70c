"""The base of the neurons that integrate their input into a membrane potential, and IF, the plainest of them.

Shapes: T spike time, B batch, then any neuron axes; C channels, one of these axes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from neuromix.core.config import Config, Spec
from neuromix.core.errors import ConfigError
from neuromix.core.registry import register_neuron
from neuromix.neurons.neuron import Dynamics, Neuron
from neuromix.neurons.surrogate import Surrogate, make_surrogate
from neuromix.ops._layout import arithmetic_dtype
from neuromix.ops.lif import Coefficient, LIFParameters, lif, lif_reference, over_channels
from neuromix.ops.rate import RateResponse, with_rate_gradient


class LIFState(NamedTuple):
    """Membrane potential after the last step, [B, ...]."""

    v: Tensor


@dataclass(frozen=True)
class MembraneConfig(Config):
    """What every neuron with a membrane potential can be told."""

    # Which coefficients are parameters; set requires_grad to False for one that only differs from channel to channel.
    learnable: tuple[str, ...] = ()
    channels: int | None = None  # learnable coefficients are [channels] instead of one number
    channel_axis: int = 1  # of a step [B, C, ...]

    LEARNABLE: ClassVar[tuple[str, ...]] = ()

    def validate(self) -> None:
        unknown = [name for name in self.learnable if name not in self.LEARNABLE]
        self.require(
            not unknown, f"learnable must be out of {', '.join(self.LEARNABLE) or 'nothing'}, got {unknown}"
        )
        self.require(
            self.channels is None or self.channels > 0, f"channels must be positive, got {self.channels}"
        )


@dataclass(frozen=True)
class IFConfig(MembraneConfig):
    """Config of IF; the neurons with a leak add to it."""

    v_threshold: float = 1.0  # > 0
    v_reset: float | None = 0.0  # None: soft reset, subtracts the threshold
    detach_reset: bool = True  # no gradient through the spike in the reset
    surrogate: Spec = Spec("sigmoid")
    compare: Literal[">=", ">"] = ">="  # when a membrane potential fires against the threshold
    fire_at: float = 1.0  # it fires at this fraction of the threshold, > 0; a reset still subtracts all of it
    reset: Literal["now", "next"] = "now"  # next: a soft reset one step later, which does not decay first
    v_init: float | Literal["reset"] = "reset"  # before the first step; "reset": v_reset, 0 with a soft reset
    height: float | Literal["threshold"] = 1.0  # the value of a spike
    height_scale: float = 1.0  # times this, > 0: 1/dt turns spikes of the height of the threshold into a rate
    # What the surrogate is a function of: h - threshold, or h / threshold - 1 (threshold: fire_at * v_threshold).
    surrogate_input: Literal["difference", "ratio"] = "difference"
    # Backward through each spike, or once for the whole sequence by the mean response of the neuron (ops.rate).
    gradient: Literal["surrogate", "rate"] = "surrogate"
    least_threshold: float | None = None  # what a learnt threshold is held at after an optimiser step, > 0

    LEARNABLE: ClassVar[tuple[str, ...]] = ("v_threshold",)

    def validate(self) -> None:
        super().validate()
        self.require_positive("v_threshold", "fire_at", "height_scale")
        self.require(
            self.least_threshold is None or 0 < self.least_threshold <= self.v_threshold,
            f"least_threshold must be in (0, v_threshold], got {self.least_threshold}",
        )
        self.require(
            self.gradient == "surrogate"
            or (
                self.v_reset is None and self.height == "threshold" and set(self.learnable) <= {"v_threshold"}
            ),
            'gradient "rate" needs v_reset None and height "threshold", and reaches no coefficient but v_threshold',
        )
        self.require(
            self.v_reset is None or self.v_reset < self.v_threshold,
            f"v_reset must be below v_threshold {self.v_threshold}, got {self.v_reset}",
        )
        self.require(
            self.reset == "now" or self.v_reset is None,
            f"reset 'next' subtracts the threshold: it needs v_reset None, got {self.v_reset}",
        )


class MembraneNeuron(Neuron):
    """Runs `ops.lif` with the coefficients of its config, of which some may be parameters."""

    State: ClassVar[Any] = LIFState
    surrogate: Surrogate

    def add_coefficients(self, **values: float) -> None:
        """Makes each an attribute: a parameter where the config says learnable, else a number."""
        for name, value in values.items():
            if name in self.config.learnable:
                shape = () if self.config.channels is None else (self.config.channels,)
                self.register_parameter(name, nn.Parameter(torch.full(shape, value)))
            else:
                setattr(self, name, value)

    def constants(self) -> LIFParameters:
        """What the recurrence runs with, parameters included."""
        raise NotImplementedError

    def initial_state(self, like: Tensor) -> Any:
        """The state before the first step. Neurons fed with less than float32 keep it in float32."""
        dtype = arithmetic_dtype(like.dtype)
        v = torch.full_like(like, self.constants().v_init, dtype=dtype)
        return self.State(v, *(torch.zeros_like(v) for _ in self.State._fields[1:]))

    def forward(self, x_T: Tensor, state: Any = None, *, return_state: bool = False) -> Any:
        """Input currents [T, B, ...] to spikes of the same shape and dtype.

        Raises:
            ShapeError: no step, a dtype that is not floating point, a state or coefficient that does not fit.
        """
        y_T, last = self.run(x_T, state, return_state=return_state)
        return (y_T, self.State(*last)) if return_state else y_T

    def run(self, x_T: Tensor, state: Any, *, return_state: bool) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Spikes, and the state after the last step (empty unless `return_state`)."""
        return lif(x_T, state, self.constants(), self.surrogate, return_state=return_state)

    def dynamics(self, x_T: Tensor, state: Any = None) -> Dynamics:
        trace = lif_reference(x_T, state, self.constants(), self.surrogate)
        return Dynamics(trace.spikes, trace.membrane, trace.membrane_after_reset, self.State(*trace.state))


class FiringNeuron(MembraneNeuron):
    """A neuron with a threshold: everything but what happens between two spikes."""

    v_threshold: Coefficient

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.surrogate = make_surrogate(self.config.surrogate)
        self.add_coefficients(v_threshold=self.config.v_threshold)
        if self.config.gradient == "rate":
            self.rate_response()  # refuses a neuron that has none

    def run(self, x_T: Tensor, state: Any, *, return_state: bool) -> tuple[Tensor, tuple[Tensor, ...]]:
        if self.config.gradient == "surrogate" or not torch.is_grad_enabled():
            return super().run(x_T, state, return_state=return_state)
        with torch.no_grad():
            y_T, last = super().run(x_T, state, return_state=return_state)
        threshold = over_channels(x_T, self.constants()).v_threshold
        return with_rate_gradient(x_T, torch.as_tensor(threshold).to(y_T), y_T, self.rate_response()), last

    def rate_response(self) -> RateResponse:
        """How the neuron passes a mean input on.

        Raises:
            ConfigError: it has no such response.
        """
        raise ConfigError(f'{type(self).__name__} has no mean response: gradient "rate" is for if and lif')

    def after_step(self) -> None:
        """Upkeep: holds a learnt threshold at `least_threshold`."""
        least = self.config.least_threshold
        if least is not None and isinstance(self.v_threshold, nn.Parameter):
            with torch.no_grad():
                self.v_threshold.clamp_(min=least)

    @property
    def height(self) -> Coefficient:
        """The value of a spike."""
        config = self.config
        unit: Coefficient = self.v_threshold if config.height == "threshold" else config.height
        return unit if config.height_scale == 1 else unit * float(config.height_scale)

    def with_threshold(self, decay: Coefficient, gain: Coefficient) -> LIFParameters:
        """The constants of a neuron whose membrane decays by `decay` and takes in `gain` times its input."""
        config = self.config
        rest = config.v_reset or 0.0
        return LIFParameters(
            decay=decay,
            gain=gain,
            offset=rest * (1 - decay) if rest else 0.0,
            v_threshold=self.v_threshold,
            v_reset=config.v_reset,
            detach_reset=config.detach_reset,
            strict=config.compare == ">",
            fire_at=config.fire_at,
            height=self.height,
            reset=config.reset,
            ratio=config.surrogate_input == "ratio",
            v_init=rest if config.v_init == "reset" else config.v_init,
            channel_axis=config.channel_axis,
        )


@register_neuron("if")
class IF(FiringNeuron):
    """Integrate-and-fire without leak: h[t] = v[t-1] + x[t]; fires and resets as LIF does."""

    Config: ClassVar[type[Config]] = IFConfig

    def __init__(
        self,
        v_threshold: float = 1.0,
        v_reset: float | None = 0.0,
        detach_reset: bool = True,
        surrogate: Spec | str | tuple[Any, ...] = "sigmoid",
        **options: Any,
    ) -> None:
        super().__init__(
            v_threshold=v_threshold,
            v_reset=v_reset,
            detach_reset=detach_reset,
            surrogate=surrogate,
            **options,
        )

    def constants(self) -> LIFParameters:
        return self.with_threshold(decay=1.0, gain=1.0)

    def rate_response(self) -> RateResponse:
        """Unweighted means: what comes in goes out, up to a spike at each step."""
        return RateResponse(decay=1.0, slope=self.config.height_scale, limit=1.0, closed=True)


def rate_decay(net: nn.Module) -> float:
    """With what weights the neurons of a net take means over time: decay^(T-t); 1 for those with no such response."""
    neurons = (module for module in net.modules() if isinstance(module, FiringNeuron))
    first = next((n for n in neurons if n.config.gradient == "rate"), None)
    return 1.0 if first is None else first.rate_response().decay
