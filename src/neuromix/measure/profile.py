"""profile: what one inference of a model costs - parameters, operations, firing rates, energy - by stated rules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from neuromix.core.edits import apply_edit
from neuromix.core.errors import ConfigError, ShapeError
from neuromix.core.model import Model, call
from neuromix.measure.energy import Counts, EnergyModel, energy_models, label
from neuromix.measure.parameters import count_parameters
from neuromix.measure.rules import CountingRule, charge, counting_rule
from neuromix.measure.sites import Site
from neuromix.measure.trace import Trace, trace
from neuromix.measure.untouched import untouched

Inputs: TypeAlias = Tensor | Sequence[Tensor] | Mapping[str, Any]
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
        energy: energy model -> mJ.
        energy_share: its part of the model's energy, in [0, 1], by the first energy model.
    """

    path: str
    type: str
    input: InputKind
    macs_dense: int
    firing_rate: float | None
    synaptic_operations: float
    energy: Mapping[str, float]
    energy_share: float


@dataclass(frozen=True)
class NeuronProfile:
    """What one spiking neuron layer sends.

    Attributes:
        elements: neurons times time steps, per sample.
        firing_rate: share of them that sent a spike.
    """

    path: str
    type: str
    elements: float
    firing_rate: float


@dataclass(frozen=True)
class Profile:
    """The cost of one inference (one sample through all its time steps).

    Attributes:
        model: its name.
        batch_size: samples that the figures are means of.
        counting: the rule by which it was counted, as plain values.
        parameters: trainable parameters.
        macs_dense: multiply-adds by the shapes, zeros and borders included.
        synaptic_operations: additions that spikes cause; what real numbers cost is in `operations` as mac.
        firing_rate: share of neurons and steps that fire, over all spiking neurons of the model; where it has none
            of the library's neurons, over the spikes that enter layers; None in a model without spikes.
        operations: what is charged: "mac32" -> number.
        energy: energy model -> mJ. A model that has no price for an operation is left out.
        layers: the modules that make products, in order of execution.
        neurons: the spiking neurons, in order of execution.
        not_counted: ops that may multiply and are not understood -> calls. Their cost is missing above.
    """

    model: str
    batch_size: int
    counting: Mapping[str, Any]
    parameters: int
    macs_dense: int
    synaptic_operations: float
    firing_rate: float | None
    operations: Mapping[str, float]
    energy: Mapping[str, float]
    layers: tuple[LayerProfile, ...]
    neurons: tuple[NeuronProfile, ...]
    not_counted: Mapping[str, int]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def profile(
    model: nn.Module,
    inputs: Inputs,
    counting: str | CountingRule = "exact",
    *,
    batch_size: int | None = None,
    energies: Mapping[str, EnergyModel] | None = None,
) -> Profile:
    """Runs a model once, in eval mode and without gradients, and counts what it computes.

    The model is left as it was: mode, gradients, buffers and random numbers.

    Args:
        model: a registered model, or any module.
        inputs: a Batch (the fields that the model names), the tensor that it takes, or several of them.
        counting: "exact", "paper", or a CountingRule.
        batch_size: samples in `inputs`; by default the size of the Batch, or of the batch axis of the first tensor
            (its first axis; the second one where a spiking Model is given frames [T, B, ...]).
        energies: energy models by name; by default all that are registered.

    Raises:
        ConfigError, UnknownNameError: no such rule; `structure="fused"` for a module that is not a Model.
        ShapeError: no sample, or a model whose tensors have no values (meta device).

    Example:
        >>> net = neuromix.create_model("meta_spikeformer_nano")
        >>> neuromix.profile(net, torch.rand(2, 1, 8, 8)).macs_dense
    """
    rule = counting_rule(counting, getattr(model, "name", ""))
    size = _batch_size(model, inputs) if batch_size is None else batch_size
    if size < 1:
        raise ShapeError("a profile needs at least one sample, got an empty batch")
    if any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())):
        raise ShapeError("a profile reads values; this model is on the meta device and has none")
    net = _in_structure(model, rule)
    with untouched(net):
        seen = trace(net, _run(net, inputs))
    tables = energy_models() if energies is None else energies
    return _Report(net, seen, rule, size, tables).profile(count_parameters(model))


class _Report:
    """Turns what a trace saw into a Profile."""

    def __init__(
        self,
        model: nn.Module,
        seen: Trace,
        rule: CountingRule,
        batch_size: int,
        energies: Mapping[str, EnergyModel],
    ) -> None:
        self.model, self.seen, self.rule, self.size = model, seen, rule, batch_size
        self.types = {path: type(module).__name__ for path, module in model.named_modules()}
        self.charges = [(site, charge(site, rule)) for site in seen.sites.values()]
        self.counts: Counts = _total(operations for _, operations in self.charges)
        self.energies = {name: table for name, table in energies.items() if table.prices(self.counts)}

    def profile(self, parameters: int) -> Profile:
        per_sample = {operation: number / self.size for operation, number in self.counts.items()}
        return Profile(
            model=getattr(self.model, "name", "") or type(self.model).__name__,
            batch_size=self.size,
            counting=self.rule.to_dict(),
            parameters=parameters,
            macs_dense=self._macs([site for site, _ in self.charges]),
            synaptic_operations=_of_kind("ac", per_sample),
            firing_rate=self._firing_rate(),
            operations={label(operation): number for operation, number in sorted(per_sample.items())},
            energy=self._energy(per_sample),
            layers=self._layers(),
            neurons=self._neurons(),
            not_counted=dict(self.seen.not_counted),
        )

    def _layers(self) -> tuple[LayerProfile, ...]:
        by_path: dict[str, list[tuple[Site, Counts]]] = {}
        for site, operations in self.charges:
            by_path.setdefault(site.path, []).append((site, operations))
        return tuple(self._layer(path, charges) for path, charges in by_path.items())

    def _layer(self, path: str, charges: list[tuple[Site, Counts]]) -> LayerProfile:
        sites = [site for site, _ in charges]
        operations = {op: n / self.size for op, n in _total(o for _, o in charges).items()}
        energy = self._energy(operations)
        return LayerProfile(
            path=path,
            type=self.types[path],
            input=_input_kind(sites),
            macs_dense=self._macs(sites),
            firing_rate=_rate_of_senders(sites),
            synaptic_operations=_of_kind("ac", operations),
            energy=energy,
            energy_share=self._share(energy),
        )

    def _share(self, energy: Mapping[str, float]) -> float:
        name = next(iter(energy), None)
        if name is None:
            return 0.0
        total = self.energies[name].millijoules(self.counts) / self.size
        return energy[name] / total if total else 0.0

    def _macs(self, sites: list[Site]) -> int:
        every_step = self.rule.static_stem == "every_step"
        return round(sum(site.macs * (site.copies if every_step else 1) for site in sites) / self.size)

    def _energy(self, operations: Counts) -> dict[str, float]:
        return {name: table.millijoules(operations) for name, table in self.energies.items()}

    def _neurons(self) -> tuple[NeuronProfile, ...]:
        return tuple(
            NeuronProfile(
                path, self.types[path], elements / self.size, nonzero / elements if elements else 0.0
            )
            for path, (elements, nonzero) in self.seen.neurons.items()
        )

    def _firing_rate(self) -> float | None:
        if not self.seen.neurons:
            return _rate_of_senders([site for site, _ in self.charges])
        elements = sum(elements for elements, _ in self.seen.neurons.values())
        return sum(nonzero for _, nonzero in self.seen.neurons.values()) / elements if elements else 0.0


def _batch_size(model: nn.Module, inputs: Inputs) -> int:
    if isinstance(inputs, Mapping):
        size = getattr(inputs, "size", None)
        return size if isinstance(size, int) else len(next(iter(inputs.values())))
    first = inputs if isinstance(inputs, torch.Tensor) else inputs[0]
    if first.dim() == 0:
        raise ShapeError("a profile needs inputs with a batch axis, got a single number")
    return first.shape[1] if _is_time_first(model, first) else len(first)


def _is_time_first(model: nn.Module, x: Tensor) -> bool:
    """Whether a model that takes [B, ...] is given one frame a step, [T, B, ...]."""
    return isinstance(model, Model) and model.stream_axis == 0 and x.dim() > len(model.inputs[0].axes)


def _run(model: nn.Module, inputs: Inputs) -> Callable[[], object]:
    if isinstance(inputs, Mapping):
        if not isinstance(model, Model):
            raise ConfigError(
                f"{type(model).__name__} names no inputs; give it tensors, not a batch of named fields"
            )
        return lambda: call(model, inputs)  # type: ignore[arg-type]
    tensors = (inputs,) if isinstance(inputs, torch.Tensor) else tuple(inputs)
    return lambda: model(*tensors)


def _in_structure(model: nn.Module, rule: CountingRule) -> nn.Module:
    if rule.structure == "as_built":
        return model
    if not isinstance(model, Model):
        raise ConfigError(f'structure "fused" needs a registered model, got {type(model).__name__}')
    fused = apply_edit(model, "fuse")
    fused.name = model.name
    return fused


def _total(charges: Any) -> Counter[Any]:
    total: Counter[Any] = Counter()
    for operations in charges:
        total.update(operations)
    return total


def _of_kind(kind: str, operations: Counts) -> float:
    return sum((number for (name, _), number in operations.items() if name == kind), 0.0)


def _input_kind(sites: list[Site]) -> InputKind:
    spiking = [any(operand.sends_spikes for operand in site.operands) for site in sites]
    return "spike" if all(spiking) else "mixed" if any(spiking) else "real"


def _rate_of_senders(sites: list[Site]) -> float | None:
    senders = [operand for site in sites for operand in site.operands if operand.sends_spikes]
    elements = sum(operand.elements for operand in senders)
    return sum(operand.nonzero for operand in senders) / elements if elements else None
