"""Measuring: parameters, operations, firing rates and energy, counted one way for every model."""

from neuromix.measure.dense import dense_macs
from neuromix.measure.energy import (
    EnergyModel,
    energy_model,
    energy_models,
    load_energy_model,
    register_energy_model,
)
from neuromix.measure.figures import ActivationProfile, EnergyReport, LayerProfile, NeuronProfile, Profile
from neuromix.measure.fourier_products import FourierTransform
from neuromix.measure.memory import forward_memory, peak_memory, training_memory
from neuromix.measure.parameters import count_parameters, parameters_by_module
from neuromix.measure.products import counts
from neuromix.measure.profile import profile
from neuromix.measure.rules import CountingRule, counting_rule
from neuromix.measure.scan_products import Scan
from neuromix.measure.sparse_products import SparseConvolution
from neuromix.measure.spread_products import SpreadSpikes
from neuromix.measure.timing import Latency, latency, measure_latency, throughput

__all__ = [
    "profile",
    "Profile",
    "LayerProfile",
    "NeuronProfile",
    "ActivationProfile",
    "EnergyReport",
    "CountingRule",
    "counting_rule",
    "EnergyModel",
    "energy_model",
    "energy_models",
    "load_energy_model",
    "register_energy_model",
    "count_parameters",
    "parameters_by_module",
    "counts",
    "Latency",
    "latency",
    "measure_latency",
    "throughput",
    "peak_memory",
    "forward_memory",
    "training_memory",
    "dense_macs",
    "FourierTransform",
    "Scan",
]
