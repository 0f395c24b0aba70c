"""Measured: what is known of one trained model, in plain numbers; pages are made of these and of nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Curve:
    """What was noted after each epoch."""

    epochs: Sequence[int]
    loss: Sequence[float | None]  # on training batches
    score: Sequence[float | None]  # on validation data


@dataclass(frozen=True)
class Measured:
    """One trained model. Operations and energy are those of one input, over all time steps.

    Attributes:
        model: registered name.
        role: how a page calls it: "Spiking", "Analog", or its name.
        accuracy: on the test split, in [0, 1].
        macs_dense: multiply-adds that it would take if every activation counted.
        synaptic_operations: additions that spikes cause, by counting rule.
        firing_rate: share of neurons and steps with a spike; None without neurons.
        energy: mJ by counting rule.
        multiplying: mJ of `energy` that multiply-accumulates take; the rest goes to additions.
        seconds: that training took.
        layers: firing rate by neuron layer, in the order in which they run.
    """

    model: str
    role: str
    accuracy: float
    parameters: int
    macs_dense: float
    synaptic_operations: Mapping[str, float]
    firing_rate: float | None
    energy: Mapping[str, float]
    multiplying: Mapping[str, float]
    seconds: float
    curve: Curve
    layers: Mapping[str, float] = field(default_factory=dict)
