"""Spiking neurons and their surrogate gradients."""

from neuromix.neurons.integer import IELIF, ILIF
from neuromix.neurons.integrate_and_fire import IF
from neuromix.neurons.lif import LIF, PLIF, AdaptiveLIF, CubaLIF, LeakyIntegrator
from neuromix.neurons.neuron import Dynamics, Neuron, make_neuron
from neuromix.neurons.stochastic import StochasticIF
from neuromix.neurons.surrogate import Surrogate, make_surrogate, register_surrogate

__all__ = [
    "IF",
    "LIF",
    "PLIF",
    "CubaLIF",
    "AdaptiveLIF",
    "ILIF",
    "IELIF",
    "LeakyIntegrator",
    "StochasticIF",
    "Dynamics",
    "Neuron",
    "make_neuron",
    "Surrogate",
    "make_surrogate",
    "register_surrogate",
]
