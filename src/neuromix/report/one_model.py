"""What is inside one model of a comparison: its layers, its neurons, its spikes and its errors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from neuromix.measure.spikes import SpikeTrain, stage
from neuromix.report import numbers
from neuromix.report.blocks import Block, Chart, Choice, Facts, Prose
from neuromix.report.charts import bars
from neuromix.report.comparison import short_path
from neuromix.report.contestants import (
    MACS,
    OPERATIONS,
    Contestant,
    Quantity,
    Record,
    energies_of,
)
from neuromix.report.heatmaps import confusion, raster

_MOST_BARS = 30
_MOST_CLASSES = 200  # of a confusion matrix


def one_model(model: Contestant, record: Record) -> list[Block]:
    """Everything that the record tells of a model beyond its summary."""
    found = [*_layers(model, record), *_neurons(model), *_raster(model), *_confusion(model, record)]
    return [
        _facts(model),
        *(found or [Prose(["The record says nothing of its layers, neurons and errors."])]),
    ]


def _facts(model: Contestant) -> Facts:
    config = model.record.get("config") or {}
    values = ", ".join(f"{key} = {value}" for key, value in config.items())
    return Facts(
        {
            "Family": str(model.record.get("family") or numbers.NOTHING),
            "Config": values or "as registered",
        },
        title=model.name,
        span="full",
    )


def _layers(model: Contestant, record: Record) -> list[Block]:
    """One chart a quantity: which layers it goes to."""
    options: dict[str, Sequence[Block]] = {}
    for quantity in (*energies_of(record), OPERATIONS, MACS):
        values = _by_path(model, "layers", quantity)
        if any(values.values()):
            options[quantity.heading] = [_layer_chart(quantity, values, len(model.runs))]
    return [Choice("Layer by layer", options)] if options else []


def _layer_chart(quantity: Quantity, values: Mapping[str, float], runs: int) -> Chart:
    x_title, size = quantity.axis([max(values.values())])
    shown, rest = _largest(values)
    labels = [*_labels(list(shown)), *([f"{rest} smaller layers"] if rest else [])]
    amounts = [*shown.values(), *([sum(values.values()) - sum(shown.values())] if rest else [])]
    return bars(
        f"{quantity.heading} of each layer",
        labels,
        [amount / size for amount in amounts],
        x_title=x_title,
        groups=[*(stage(path) for path in shown), *(["others"] if rest else [])],
        note=f"Of an inference{f', mean over {runs} runs' if runs > 1 else ''}.",
        span="full",
    )


def _neurons(model: Contestant) -> list[Block]:
    rates = _by_path(model, "neurons", Quantity("", "", ("firing_rate",)))
    if not rates:
        return []
    shown, rest = _largest(rates)
    note = "The share of its neurons that fire in a time step, on average."
    note += f" Left out, for they fire least: {rest} of {len(rates)} layers." if rest else ""
    return [
        bars(
            "Firing rate of each neuron layer",
            _labels(list(shown)),
            list(shown.values()),
            x_title="firing rate",
            x_format=".1~%",
            groups=[stage(path) for path in shown],
            note=note,
            span="full",
        )
    ]


def _raster(model: Contestant) -> list[Block]:
    """Spikes of one sample, from the first run that kept them."""
    kept = [(run, run["raster"]) for run in model.runs if run.get("raster")]
    if not kept:
        return []
    run, shown = kept[0]
    trains = [SpikeTrain(train["name"], train["neurons"], train["spikes"]) for train in shown["trains"]]
    answers = ", ".join(
        f"{answer} after {step}" for step, answer in enumerate(shown.get("predictions") or [], 1)
    )
    note = (
        f"A test sample of class {shown.get('label')}, seed {run['seed']}. Each panel is a layer, each row in it a "
        "neuron and each column a time step; a mark is a spike."
    )
    if answers:
        note += f" Answers by number of time steps: {answers}."
    return [raster("Spikes of one sample", trains, note=note, span="half")]


def _confusion(model: Contestant, record: Record) -> list[Block]:
    """The sum over the runs that have one."""
    found = [run["confusion"] for run in model.runs if run.get("confusion")]
    if not found:
        return []
    counts = [[sum(cells) for cells in zip(*rows, strict=True)] for rows in zip(*found, strict=True)]
    names = list(record.get("class_names") or []) or [str(index) for index in range(len(counts))]
    if len(counts) > _MOST_CLASSES:
        return [Prose([f"Its confusion matrix of {len(counts)} classes is in comparison.json."])]
    runs = f"{len(found)} runs" if len(found) > 1 else "one run"
    note = f"Sum over {runs}. A row is a true class, a column an answer; the colour is the share of the row."
    return [confusion("Confusion matrix", counts, names, note=note, span="half")]


def _by_path(model: Contestant, group: str, quantity: Quantity) -> dict[str, float]:
    """Means over runs, in the order in which layers run; those that no run knows are left out."""
    found: dict[str, list[float]] = {}
    for run in model.runs:
        for layer in run.get(group) or []:
            value = quantity.of_run(layer)
            if value is not None:
                found.setdefault(layer["path"], []).append(value)
    return {path: sum(values) / len(values) for path, values in found.items()}


def _largest(values: Mapping[str, float]) -> tuple[dict[str, float], int]:
    """The largest of many, in their order, and how many are left out."""
    if len(values) <= _MOST_BARS:
        return dict(values), 0
    kept = set(sorted(values, key=lambda path: -values[path])[:_MOST_BARS])
    return {path: value for path, value in values.items() if path in kept}, len(values) - _MOST_BARS


def _labels(paths: Sequence[str]) -> list[str]:
    """Short names, without an end that all share; the whole path where two would be the same."""
    short = [short_path(path) for path in paths]
    ends = {name.rpartition(".")[2] for name in short}
    if len(ends) == 1 and len(short) > 1 and all("." in name for name in short):
        short = [name.rpartition(".")[0] for name in short]
    number = Counter(short)
    return [name if number[name] == 1 else path for name, path in zip(short, paths, strict=True)]
