"""Measuring: parameters, operations, firing rates and energy, counted one way for every model."""

from neuromix.measure.energy import EnergyModel, energy_models, register_energy_model
from neuromix.measure.parameters import count_parameters, parameters_by_module
from neuromix.measure.products import counts
from neuromix.measure.profile import LayerProfile, NeuronProfile, Profile, profile
from neuromix.measure.rules import CountingRule, counting_rule

__all__ = [
    "profile",
    "Profile",
    "LayerProfile",
    "NeuronProfile",
    "CountingRule",
    "counting_rule",
    "EnergyModel",
    "energy_models",
    "register_energy_model",
    "count_parameters",
    "parameters_by_module",
    "counts",
]
