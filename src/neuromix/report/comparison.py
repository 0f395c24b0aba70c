"""Blocks that set models side by side; the pages of `demo` and of comparisons are made of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from neuromix.measure.spikes import stage
from neuromix.report import numbers
from neuromix.report.blocks import Chart, Table
from neuromix.report.charts import Series, bars, lines, stacked_bars
from neuromix.report.measured import Measured


def figures(models: Sequence[Measured], **about: Any) -> Table:
    """A column a model, a row a figure."""
    rules = list(dict.fromkeys(rule for m in models for rule in m.energy))
    rows = [
        ["Model", *(m.model for m in models)],
        ["Test accuracy", *(numbers.percent(m.accuracy) for m in models)],
        ["Parameters", *(numbers.count(m.parameters) for m in models)],
        ["Dense multiply-adds", *(numbers.count(m.macs_dense) for m in models)],
        ["Mean firing rate", *(numbers.percent(m.firing_rate) for m in models)],
    ]
    for rule in rules:
        operations = [numbers.count(m.synaptic_operations.get(rule)) for m in models]
        rows.append([f"Synaptic operations, {rule}", *operations])
    rows += [[f"Energy, {rule}", *(numbers.energy(m.energy.get(rule)) for m in models)] for rule in rules]
    rows.append(["Training time", *(numbers.seconds(m.seconds) for m in models)])
    if all(m.role == m.model for m in models):
        del rows[0]
    return Table(["", *(m.role for m in models)], rows, **about)


def score_curves(models: Sequence[Measured]) -> Chart:
    """Validation accuracy over epochs."""
    series = [Series(m.role, m.curve.epochs, m.curve.score) for m in models]
    return lines("Validation accuracy", series, x_title="epoch", y_title="", y_format=".0%")


def loss_curves(models: Sequence[Measured]) -> Chart:
    """Training loss over epochs."""
    series = [Series(m.role, m.curve.epochs, m.curve.loss) for m in models]
    return lines("Training loss", series, x_title="epoch", y_title="")


def energy(models: Sequence[Measured], note: str = "") -> Chart:
    """Energy of one image: a bar a model and counting rule, in its two kinds of operation."""
    cases = [(label, m, rule) for m in models for label, rule in _cases(m)]
    parts = {
        "multiply-accumulates": [1000 * m.multiplying[rule] for _, m, rule in cases],
        "additions": [1000 * (m.energy[rule] - m.multiplying[rule]) for _, m, rule in cases],
    }
    labels = [label for label, _, _ in cases]
    return stacked_bars("Energy per image", labels, parts, x_title="µJ", note=note, span="full")


def firing_rates(model: Measured) -> Chart:
    """Share of neurons and steps with a spike, layer by layer."""
    layers = {short_path(path): rate for path, rate in model.layers.items()}
    return bars(
        f"Firing rate of each neuron layer, {model.role.lower()} network",
        list(layers),
        list(layers.values()),
        x_title="share of neurons and time steps with a spike",
        x_format=".0%",
        groups=[stage(path) for path in model.layers],
        span="full",
    )


def _cases(model: Measured) -> list[tuple[str, str]]:
    """(label, rule) of each bar; one is enough where all rules agree."""
    if len(set(model.energy.values())) == 1:
        return [(model.role, next(iter(model.energy)))]
    return [(f"{model.role}, {rule}", rule) for rule in model.energy]


def short_path(path: str) -> str:
    """A module path without the words that every path has."""
    return ".".join(part for part in path.split(".") if part not in ("stages", "blocks", "branch"))
