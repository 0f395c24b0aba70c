"""What a profile says: plain frozen records, which go into JSON as they are.

What each figure means is said in docs/measuring.md, as formulas.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

InputKind: TypeAlias = Literal["real", "spike", "mixed"]


@dataclass(frozen=True)
class LayerProfile:
    """What one module computes itself, per sample.

    Attributes:
        path: where it is in the model; "" is the model itself.
        type: its class.
        input: what enters its products: spikes, real numbers, or both in different products.
        macs_dense: multiply-adds by the shapes.
        firing_rate: share of non-zero elements among the spikes that enter; None without spikes.
        synaptic_operations: additions that spikes cause.
        operations, traffic: as of Profile.
        energy: energy model -> mJ.
        energy_share: its part of the model's energy, in [0, 1], by the first energy model.
        synaptic_operations_dense, effective_macs, effective_acs, connection_sparsity: as of Profile.
        footprint: bytes of its own parameters and buffers, without those of its children.
    """

    path: str
    type: str
    input: InputKind
    macs_dense: int
    firing_rate: float | None
    synaptic_operations: float
    operations: Mapping[str, float]
    traffic: Mapping[str, float]
    energy: Mapping[str, float]
    energy_share: float
    synaptic_operations_dense: float
    effective_macs: float
    effective_acs: float
    connection_sparsity: float | None
    footprint: int


@dataclass(frozen=True)
class NeuronProfile:
    """What one spiking neuron layer sends.

    Attributes:
        elements: neurons times time steps, per sample.
        firing_rate: share of them that sent a spike.
        traffic: what its state and its spikes move, as of Profile.
        energy: energy model -> mJ, that of the traffic.
    """

    path: str
    type: str
    elements: float
    firing_rate: float
    traffic: Mapping[str, float]
    energy: Mapping[str, float]


@dataclass(frozen=True)
class ActivationProfile:
    """What one activation gives: a ReLU, a Sigmoid or a spiking neuron.

    Attributes:
        elements: numbers that it gives, per sample.
        sparsity: share of them that are zero.
    """

    path: str
    type: str
    elements: float
    sparsity: float


@dataclass(frozen=True)
class EnergyReport:
    """What stands behind a figure of energy, or why there is none.

    Attributes:
        source, process, bits: as of EnergyModel.
        left_out: traffic of this network that the table does not price.
        not_priced: why `energy` has no figure of this table; None where it has one.
    """

    source: str
    process: str
    bits: int | None
    left_out: tuple[str, ...]
    not_priced: str | None


@dataclass(frozen=True)
class Profile:
    """The cost of one inference (one sample through all its time steps).

    Attributes:
        model: its name.
        batch_size: samples that the figures are means of.
        counting: the rule by which it was counted, as plain values.
        parameters: trainable parameters.
        footprint: bytes of parameters and buffers.
        state_bytes: what a streaming session of one sample must keep; None where the model cannot be stepped.
        connection_sparsity: share of zeros among the weights; None without layers that have connections.
        macs_dense: multiply-adds by the shapes, zeros and borders included.
        synaptic_operations: additions that spikes cause; what real numbers cost is in `operations` as mac.
        synaptic_operations_dense: multiply-adds by the shapes, without those at borders that meet padding.
        effective_macs, effective_acs: those of them in which neither factor is zero: of products with real
            activations, and of those where one takes only the values -1, 0 and 1 in a call.
        firing_rate: share of neurons and steps that fire, over all spiking neurons of the model; where it has none,
            over the spikes that enter layers; None in a model without spikes.
        activation_sparsity: share of zeros among what activations give; None without activations.
        operations: what is charged: "mac32" -> number.
        traffic: numbers that are read and written: "weight_read32" -> number.
        energy: energy model -> mJ. A table that has no price for an operation is not in it.
        energy_models: energy model -> where its prices come from, and what they leave out.
        layers: the modules that make products, in order of execution.
        neurons: the spiking neurons, in order of execution.
        activations: all activations, neurons among them, in order of execution.
        not_counted: ops that may multiply and are not understood -> calls. Their cost is missing above.
    """

    model: str
    batch_size: int
    counting: Mapping[str, Any]
    parameters: int
    footprint: int
    state_bytes: int | None
    connection_sparsity: float | None
    macs_dense: int
    synaptic_operations: float
    synaptic_operations_dense: float
    effective_macs: float
    effective_acs: float
    firing_rate: float | None
    activation_sparsity: float | None
    operations: Mapping[str, float]
    traffic: Mapping[str, float]
    energy: Mapping[str, float]
    energy_models: Mapping[str, EnergyReport]
    layers: tuple[LayerProfile, ...]
    neurons: tuple[NeuronProfile, ...]
    activations: tuple[ActivationProfile, ...]
    not_counted: Mapping[str, int]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)
