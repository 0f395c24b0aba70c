"""Spiking neurons and their surrogate gradients."""

from neuromix.neurons.lif import IF, LIF
from neuromix.neurons.neuron import Dynamics, Neuron
from neuromix.neurons.surrogate import Surrogate, make_surrogate

__all__ = ["IF", "LIF", "Dynamics", "Neuron", "Surrogate", "make_surrogate"]
