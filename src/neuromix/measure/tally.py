"""Tally: turns what a trace saw into the figures of a Profile."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from torch import nn

from neuromix.measure.energy import EnergyModel
from neuromix.measure.figures import (
    ActivationProfile,
    EnergyReport,
    InputKind,
    LayerProfile,
    NeuronProfile,
    Profile,
)
from neuromix.measure.operations import Counts, label, total
from neuromix.measure.rules import CountingRule, charge
from neuromix.measure.sites import Site
from neuromix.measure.static import connection_sparsity, footprint
from neuromix.measure.trace import Trace
from neuromix.measure.traffic import neuron_traffic, site_traffic


class Charged(NamedTuple):
    """A site, and what is charged for it per sample."""

    site: Site
    operations: Counts
    traffic: Counts


class Tally:
    """The sums of one trace, by one rule.

    Args:
        net: the network that ran.
        batch_size: samples in the run.
        tables: energy models by name.
    """

    def __init__(
        self,
        net: nn.Module,
        seen: Trace,
        rule: CountingRule,
        batch_size: int,
        tables: Mapping[str, EnergyModel],
    ) -> None:
        self.net, self.seen, self.rule, self.size = net, seen, rule, batch_size
        self.modules = dict(net.named_modules())
        self.charged = [self._charge(site) for site in seen.sites.values()]
        self.neurons = {
            path: self._per_sample(neuron_traffic(sent, rule))
            for path, sent in seen.sent.items()
            if sent.spiking
        }
        self.operations = total(one.operations for one in self.charged)
        self.traffic = total([*(one.traffic for one in self.charged), *self.neurons.values()])
        self.tables = tables
        self.priced = {name: t for name, t in tables.items() if t.not_priced(self.operations) is None}

    def profile(self, parameters: int, state_bytes: int | None) -> Profile:
        """All figures; what a trace does not know is given."""
        sites = list(self.seen.sites.values())
        return Profile(
            model=getattr(self.net, "name", "") or type(self.net).__name__,
            batch_size=self.size,
            counting=self.rule.to_dict(),
            parameters=parameters,
            footprint=footprint(self.net),
            state_bytes=state_bytes,
            connection_sparsity=connection_sparsity(self.modules.values()),
            macs_dense=self._macs(sites),
            synaptic_operations=_of_kind("ac", self.operations),
            synaptic_operations_dense=sum(site.dense for site in sites) / self.size,
            effective_macs=sum(site.effective_macs for site in sites) / self.size,
            effective_acs=sum(site.effective_acs for site in sites) / self.size,
            firing_rate=self._firing_rate(),
            activation_sparsity=self._activation_sparsity(),
            operations=_labelled(self.operations),
            traffic=_labelled(self.traffic),
            energy=self._energy({**self.operations, **self.traffic}),
            energy_models={name: self._report(table) for name, table in self.tables.items()},
            layers=self._layers(),
            neurons=self._neurons(),
            activations=self._activations(),
            not_counted=dict(self.seen.not_counted),
        )

    def _charge(self, site: Site) -> Charged:
        charged = charge(site, self.rule)
        moved = site_traffic(site, charged, self.size)
        return Charged(site, self._per_sample(charged.counts), self._per_sample(moved))

    def _per_sample(self, counts: Counts) -> Counts:
        return {operation: number / self.size for operation, number in counts.items()}

    def _layers(self) -> tuple[LayerProfile, ...]:
        by_path: dict[str, list[Charged]] = {}
        for one in self.charged:
            by_path.setdefault(one.site.path, []).append(one)
        return tuple(self._layer(path, charged) for path, charged in by_path.items())

    def _layer(self, path: str, charged: list[Charged]) -> LayerProfile:
        sites = [one.site for one in charged]
        operations = total(one.operations for one in charged)
        traffic = total(one.traffic for one in charged)
        energy = self._energy({**operations, **traffic})
        return LayerProfile(
            path=path,
            type=type(self.modules[path]).__name__,
            input=_input_kind(sites),
            macs_dense=self._macs(sites),
            firing_rate=_rate_of_senders(sites),
            synaptic_operations=_of_kind("ac", operations),
            operations=_labelled(operations),
            traffic=_labelled(traffic),
            energy=energy,
            energy_share=self._share(energy),
            synaptic_operations_dense=sum(site.dense for site in sites) / self.size,
            effective_macs=sum(site.effective_macs for site in sites) / self.size,
            effective_acs=sum(site.effective_acs for site in sites) / self.size,
            connection_sparsity=connection_sparsity([self.modules[path]]),
            footprint=footprint(self.modules[path], recurse=False),
        )

    def _share(self, energy: Mapping[str, float]) -> float:
        name = next(iter(energy), None)
        if name is None:
            return 0.0
        whole = self.priced[name].millijoules({**self.operations, **self.traffic})
        return energy[name] / whole if whole else 0.0

    def _macs(self, sites: Iterable[Site]) -> int:
        every_step = self.rule.static_stem == "every_step"
        return round(sum(site.macs * (site.copies if every_step else 1) for site in sites) / self.size)

    def _energy(self, counts: Counts) -> dict[str, float]:
        return {name: table.millijoules(counts) for name, table in self.priced.items()}

    def _report(self, table: EnergyModel) -> EnergyReport:
        return EnergyReport(
            source=table.source,
            process=table.process,
            bits=table.bits,
            left_out=table.left_out(self.traffic),
            not_priced=table.not_priced(self.operations),
        )

    def _neurons(self) -> tuple[NeuronProfile, ...]:
        return tuple(
            NeuronProfile(
                path=path,
                type=type(self.modules[path]).__name__,
                elements=self.seen.sent[path].elements / self.size,
                firing_rate=_share(self.seen.sent[path].nonzero, self.seen.sent[path].elements),
                traffic=_labelled(traffic),
                energy=self._energy(traffic),
            )
            for path, traffic in self.neurons.items()
        )

    def _activations(self) -> tuple[ActivationProfile, ...]:
        return tuple(
            ActivationProfile(
                path=path,
                type=type(self.modules[path]).__name__,
                elements=sent.elements / self.size,
                sparsity=_share(sent.elements - sent.nonzero, sent.elements),
            )
            for path, sent in self.seen.sent.items()
        )

    def _firing_rate(self) -> float | None:
        neurons = [self.seen.sent[path] for path in self.neurons]
        if not neurons:
            return _rate_of_senders(list(self.seen.sites.values()))
        return _share(sum(sent.nonzero for sent in neurons), sum(sent.elements for sent in neurons))

    def _activation_sparsity(self) -> float | None:
        sent = self.seen.sent.values()
        elements = sum(one.elements for one in sent)
        return _share(elements - sum(one.nonzero for one in sent), elements) if elements else None


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _labelled(counts: Counts) -> dict[str, float]:
    return {label(operation): number for operation, number in sorted(counts.items())}


def _of_kind(kind: str, operations: Counts) -> float:
    return sum((number for (name, _), number in operations.items() if name == kind), 0.0)


def _input_kind(sites: list[Site]) -> InputKind:
    spiking = [any(operand.sends_spikes for operand in site.operands) for site in sites]
    return "spike" if all(spiking) else "mixed" if any(spiking) else "real"


def _rate_of_senders(sites: list[Site]) -> float | None:
    senders = [operand for site in sites for operand in site.operands if operand.sends_spikes]
    elements = sum(operand.elements for operand in senders)
    return sum(operand.nonzero for operand in senders) / elements if elements else None
