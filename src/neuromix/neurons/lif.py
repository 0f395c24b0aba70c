"""Leaky integrate-and-fire neurons: with a fixed or a learnt leak, a synaptic current, an adapting threshold; and
the leaky integrator, which never fires.

Shapes: T spike time, B batch, then any neuron axes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

from torch import Tensor

from neuromix.core.config import Config, Spec
from neuromix.core.errors import ConfigError
from neuromix.core.registry import register_neuron
from neuromix.neurons.integrate_and_fire import FiringNeuron, IFConfig, MembraneConfig, MembraneNeuron
from neuromix.neurons.surrogate import Sigmoid
from neuromix.ops.lif import Coefficient, LIFParameters
from neuromix.ops.rate import RateResponse


@dataclass(frozen=True)
class LeakConfig(MembraneConfig):
    """How a membrane potential decays."""

    tau: float = 2.0  # membrane time constant in steps, >= 1: the decay a step is 1 - 1/tau
    decay: float | None = None  # the decay itself, in [0, 1], in place of tau
    decay_input: bool = True  # scale the input by 1 - decay
    # What a learnable decay is: the parameter, the parameter clamped to [0, 1], or its sigmoid.
    decay_form: Literal["itself", "clamped", "sigmoid"] = "itself"

    LEARNABLE: ClassVar[tuple[str, ...]] = ("decay",)

    def validate(self) -> None:
        super().validate()
        self.require(self.tau >= 1, f"tau must be at least 1, got {self.tau}")
        self.require(self.decay is None or 0 <= self.decay <= 1, f"decay must be in [0, 1], got {self.decay}")
        self.require(self.decay is None or self.tau == 2.0, "give tau or decay, not both")


def decay_of(config: LeakConfig) -> float:
    """The decay of a membrane potential in one step."""
    return 1 - 1 / config.tau if config.decay is None else config.decay


class LeakyNeuron(MembraneNeuron):
    """What the neurons with a leak share."""

    def add_decays(self, **values: float) -> None:
        """Makes each a coefficient; a learnable one in the form that the config says."""
        for name, decay in values.items():
            sigmoid = name in self.config.learnable and self.config.decay_form == "sigmoid"
            if sigmoid and not 0 < decay < 1:
                raise ConfigError(
                    f"{type(self).__name__}: a sigmoid reaches decays in (0, 1), {name} is {decay}"
                )
            self.add_coefficients(**{name: math.log(decay / (1 - decay)) if sigmoid else decay})

    def decay_named(self, name: str) -> Coefficient:
        """The decay itself, from the form in which it is learnt."""
        decay: Coefficient = getattr(self, name)
        if not isinstance(decay, Tensor) or self.config.decay_form == "itself":
            return decay
        return decay.sigmoid() if self.config.decay_form == "sigmoid" else decay.clamp(0, 1)

    def leak(self) -> tuple[Coefficient, Coefficient]:
        """Decay of the membrane potential, and gain of the input."""
        config, decay = self.config, self.decay_named("decay")
        if not config.decay_input:
            return decay, 1.0
        # 1/tau itself where it is known: 1 - (1 - 1/tau) is not always equal.
        exact = config.decay is None and not isinstance(decay, Tensor)
        return decay, 1 / config.tau if exact else 1 - decay


@dataclass(frozen=True)
class LIFConfig(LeakConfig, IFConfig):
    """Config of LIF."""

    LEARNABLE: ClassVar[tuple[str, ...]] = ("v_threshold", "decay")


@register_neuron("lif")
class LIF(LeakyNeuron, FiringNeuron):
    """Leaky integrate-and-fire.

    h[t] = decay*v[t-1] + gain*x[t] + v_reset*(1 - decay), decay = 1 - 1/tau, gain = 1/tau if `decay_input` else 1;
    s[t] = [h[t] >= v_threshold]; v[t] = v_reset where s[t] else h[t], or h[t] - s[t]*v_threshold if `v_reset`
    is None (soft reset).

    Args:
        tau: membrane time constant in steps, >= 1.
        v_threshold: above which a neuron fires, > 0.
        v_reset: the potential after a spike; None subtracts the threshold.
        decay_input: scale the input by 1/tau.
        detach_reset: no gradient through the spike in the reset.
        surrogate: name, or (name, options), of the surrogate derivative.
        options: the other fields of its config: `decay` in place of tau; `compare`, `fire_at`, `reset`, `v_init`,
            `height`, `surrogate_input`; `learnable` out of "v_threshold" and "decay", with `channels`.

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
        **options: Any,
    ) -> None:
        given = {"tau": tau, "v_threshold": v_threshold, "v_reset": v_reset, "decay_input": decay_input}
        super().__init__(**given, detach_reset=detach_reset, surrogate=surrogate, **options)
        self.add_decays(decay=decay_of(self.config))

    def constants(self) -> LIFParameters:
        return self.with_threshold(*self.leak())

    def rate_response(self) -> RateResponse:
        """Means that forget as the membrane does, decay = exp(-dt/tau): slope 1/tau for spikes of height threshold/dt.

        The gradient of the threshold is dt times, not 1/dt times, that of the clipped outputs, as in the authors' code.
        """
        config, decay = self.config, decay_of(self.config)
        if not 0 < decay < 1:
            raise ConfigError(
                f'gradient "rate" of {type(self).__name__} needs a decay in (0, 1), got {decay}'
            )
        # Where the input is not scaled by 1 - decay, the line is that much steeper.
        leak = -math.log(decay) / (1.0 if config.decay_input else 1 - decay)
        return RateResponse(decay, leak * config.height_scale, 1 / leak, 1 / config.height_scale)


@dataclass(frozen=True)
class PLIFConfig(LIFConfig):
    """Config of PLIF."""

    learnable: tuple[str, ...] = ("decay",)
    decay_form: Literal["itself", "clamped", "sigmoid"] = "sigmoid"


@register_neuron("plif")
class PLIF(LIF):
    """LIF with a learnt leak (Fang et al., ICCV 2021): decay = sigmoid(parameter), starting at 1 - 1/tau."""

    Config: ClassVar[type[Config]] = PLIFConfig


class CubaState(NamedTuple):
    """Membrane potential and synaptic current after the last step, [B, ...] each."""

    v: Tensor
    current: Tensor


@dataclass(frozen=True)
class CubaLIFConfig(LIFConfig):
    """Config of CubaLIF."""

    decay_input: bool = False
    synapse_decay: float = 0.5  # in [0, 1]

    LEARNABLE: ClassVar[tuple[str, ...]] = ("v_threshold", "decay", "synapse_decay")

    def validate(self) -> None:
        super().validate()
        self.require(
            0 <= self.synapse_decay <= 1, f"synapse_decay must be in [0, 1], got {self.synapse_decay}"
        )


@register_neuron("cuba_lif")
class CubaLIF(LIF):
    """Current-based LIF: i[t] = synapse_decay*i[t-1] + x[t] takes the place of x[t] in LIF.

    A learnable `synapse_decay` has the form that `decay_form` says, as the decay of the membrane.
    """

    Config: ClassVar[type[Config]] = CubaLIFConfig
    State = CubaState

    def __init__(self, decay_input: bool = False, **options: Any) -> None:
        super().__init__(decay_input=decay_input, **options)
        self.add_decays(synapse_decay=self.config.synapse_decay)

    def constants(self) -> LIFParameters:
        return super().constants()._replace(extra="synapse", extra_decay=self.decay_named("synapse_decay"))

    rate_response = FiringNeuron.rate_response  # has none


class AdaptiveState(NamedTuple):
    """Membrane potential and adaptation after the last step, [B, ...] each."""

    v: Tensor
    adaptation: Tensor


@dataclass(frozen=True)
class AdaptiveLIFConfig(LIFConfig):
    """Config of AdaptiveLIF."""

    v_reset: float | None = None
    decay_input: bool = False
    adaptation_decay: float = 0.95  # in [0, 1]
    adaptation_strength: float = 0.1  # how much a spike raises the threshold, >= 0

    LEARNABLE: ClassVar[tuple[str, ...]] = ("v_threshold", "decay", "adaptation_decay", "adaptation_strength")

    def validate(self) -> None:
        super().validate()
        self.require(
            0 <= self.adaptation_decay <= 1,
            f"adaptation_decay must be in [0, 1], got {self.adaptation_decay}",
        )
        self.require(
            self.adaptation_strength >= 0,
            f"adaptation_strength must not be negative, got {self.adaptation_strength}",
        )
        self.require(
            self.reset == "now", "an adapting neuron resets now: what fired a step ago had another threshold"
        )


@register_neuron("adaptive_lif")
class AdaptiveLIF(LIF):
    """LIF whose threshold rises with every spike (Bellec et al., NeurIPS 2018, as in e-prop).

    It fires where h[t] >= v_threshold + adaptation_strength*a[t-1]; a[t] = adaptation_decay*a[t-1] + s[t]. A soft
    reset subtracts v_threshold. A learnable `adaptation_decay` has the form that `decay_form` says.
    """

    Config: ClassVar[type[Config]] = AdaptiveLIFConfig
    State = AdaptiveState
    adaptation_strength: Coefficient

    def __init__(self, v_reset: float | None = None, decay_input: bool = False, **options: Any) -> None:
        super().__init__(v_reset=v_reset, decay_input=decay_input, **options)
        self.add_decays(adaptation_decay=self.config.adaptation_decay)
        self.add_coefficients(adaptation_strength=self.config.adaptation_strength)

    def constants(self) -> LIFParameters:
        return (
            super()
            .constants()
            ._replace(
                extra="adaptation",
                extra_decay=self.decay_named("adaptation_decay"),
                strength=self.adaptation_strength,
            )
        )

    rate_response = FiringNeuron.rate_response  # has none


@dataclass(frozen=True)
class LeakyIntegratorConfig(LeakConfig):
    """Config of LeakyIntegrator."""

    v_init: float = 0.0


@register_neuron("leaky_integrator")
class LeakyIntegrator(LeakyNeuron):
    """A read-out that never fires: v[t] = decay*v[t-1] + gain*x[t] is its output, with decay and gain as in LIF."""

    Config: ClassVar[type[Config]] = LeakyIntegratorConfig
    levels = 0
    surrogate = Sigmoid()  # of no use: nothing fires

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.add_decays(decay=decay_of(self.config))

    def constants(self) -> LIFParameters:
        decay, gain = self.leak()
        config = self.config
        return LIFParameters(
            decay, gain, offset=0.0, fires=False, v_init=config.v_init, channel_axis=config.channel_axis
        )
