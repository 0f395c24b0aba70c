"""The page of a profile: what one inference of a model costs, layer by layer, and where the figures come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from neuromix.measure.energy import EnergyModel
from neuromix.measure.figures import LayerProfile, Profile
from neuromix.measure.published import PublishedFigure
from neuromix.measure.running import Running
from neuromix.report import charts, numbers
from neuromix.report.blocks import (
    Block,
    Chart,
    Choice,
    Code,
    Facts,
    Fold,
    Notice,
    Page,
    Section,
    Table,
    Tile,
    Tiles,
)
from neuromix.report.profile_words import (
    Column,
    count_of,
    layer_columns,
    left_out,
    published_row,
    short_names,
    shown_columns,
    sorted_layers,
)

MOST_BARS = 30


@dataclass(frozen=True)
class Profiled:
    """A profile and what belongs to it.

    Attributes:
        profile: the counts.
        notes: on what they depend: the input, the weights.
        published: figures of the paper, by key.
        running: seconds and bytes on this machine, if they were measured.
        energies: the tables behind the figures of energy.
        sort: the column of the table of layers that it is sorted by; None is the order of execution.
        command, environment: how and where it was made.
    """

    profile: Profile
    notes: Sequence[str]
    published: Mapping[str, PublishedFigure] = field(default_factory=dict)
    running: Running | None = None
    energies: Mapping[str, EnergyModel] = field(default_factory=dict)
    sort: str | None = None
    command: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)


def profile_page(given: Profiled) -> Page:
    """Lays out the page of `neuromix profile --html`.

    Raises:
        UnknownNameError: no column `given.sort`.
    """
    seen = given.profile
    return Page(
        title=f"What {seen.model} costs",
        kicker="neuromix profile",
        lead=_lead(given),
        sections=[
            Section("At a glance", [*_not_counted(seen), Tiles(_tiles(given))]),
            *_published(given),
            _energy(given),
            _layers(given),
            *_neurons(seen),
            *_running(given.running),
            _about(given),
        ],
        footer="Counted, not estimated: every op was watched with the values that entered it. Energy is counts times "
        "prices, and no forecast for a chip.",
    )


def _lead(given: Profiled) -> str:
    seen = given.profile
    of = f"the mean of {seen.batch_size} samples" if seen.batch_size > 1 else "one sample"
    notes = " ".join(f"{note[0].upper()}{note[1:]}." for note in given.notes)
    return f"One inference, through all its time steps; figures are of {of}. {notes}"


def _not_counted(seen: Profile) -> list[Block]:
    if not seen.not_counted:
        return []
    calls = ", ".join(f"{op} ({number} calls)" for op, number in seen.not_counted.items())
    return [
        Notice(
            "Not everything was counted",
            [f"These ops may multiply and are not understood, so their cost is missing below: {calls}."],
        )
    ]


def _tiles(given: Profiled) -> list[Tile]:
    seen, running = given.profile, given.running
    tiles = [
        Tile("Parameters", numbers.count(seen.parameters), f"{numbers.size(seen.footprint)} with buffers"),
        Tile("Multiply-adds", numbers.count(seen.macs_dense), "by the shapes, zeros included"),
        Tile("Synaptic operations", numbers.count(seen.synaptic_operations), "additions that spikes cause"),
        Tile("Firing rate", numbers.percent(seen.firing_rate), "of neurons and time steps"),
    ]
    name = next(iter(seen.energy), None)
    if name is not None:
        tiles.append(Tile("Energy", numbers.energy(seen.energy[name]), f"by {name}, for one inference"))
    if running is not None:
        threads = count_of(running.latency.threads, "thread")
        tiles += [
            Tile("Latency", numbers.duration(running.latency.median), f"one sample, {threads}"),
            Tile(
                "Peak memory",
                numbers.size(running.forward_memory),
                f"of a forward pass, {count_of(running.memory_batch_size, 'sample')}",
            ),
        ]
    return tiles


def _published(given: Profiled) -> list[Section]:
    if not given.published:
        return []
    rows = [published_row(key, figure) for key, figure in given.published.items()]
    table = Table(
        ["", "Published", "Counted", "Difference", ""],
        rows,
        caption=f"{given.profile.model} in its paper, and here",
        notes=["Parameters and multiply-adds are those of the published size, at the input of the paper."],
        values=[
            [label, figure.published, figure.counted, figure.difference, note]
            for (label, *_, note), figure in zip(rows, given.published.values(), strict=True)
        ],
    )
    return [Section("Published and counted", [table])]


def _energy(given: Profiled) -> Section:
    seen = given.profile
    rows = [
        (model, seen.energy.get(model), report.process, left_out(report, seen.traffic))
        for model, report in seen.energy_models.items()
    ]
    table = Table(
        ["Energy model", "Energy", "Made in", "Left out"],
        [[model, numbers.energy(energy), *words] for model, energy, *words in rows],
        caption="Energy models",
        notes=[
            f"{model}: {report.source}. {given.energies[model].notes if model in given.energies else ''}"
            for model, report in seen.energy_models.items()
        ],
        sortable=True,
        values=rows,
        export=f"{seen.model}-energy.csv",
    )
    return Section("Energy", [table, *_counts(seen)], intro=_ENERGY)


_ENERGY = (
    "A product that spikes enter costs additions, one wherever a spike arrives; any other one costs all its "
    "multiply-adds. A table of prices turns the counts into energy; tables differ by what they leave out."
)


def _counts(seen: Profile) -> list[Block]:
    counts = {"Operations that are charged": seen.operations, "Numbers that are moved": seen.traffic}
    return [
        Facts({name.replace("_", " "): numbers.count(n) for name, n in group.items()}, title=title)
        for title, group in counts.items()
        if group
    ]


def _layers(given: Profiled) -> Section:
    seen = given.profile
    blocks: list[Block] = []
    if seen.layers:
        shown = {"operations": [_operation_bars(seen)]}
        shown |= {f"energy, {model}": [_energy_bars(seen, model)] for model in seen.energy}
        blocks = [Choice("Bars show", shown)]
    return Section(
        "Layer by layer",
        [*blocks, _layer_table(given)],
        intro="A layer is a module that makes products itself. Bars shorten its path; the table has it whole.",
    )


def _operation_bars(seen: Profile) -> Chart:
    """Multiply-adds and additions."""
    shown, note = _largest(seen, lambda layer: sum(layer.operations.values()))
    totals = [sum(layer.operations.values()) for layer in shown]
    macs = [_of_kind("mac", layer) for layer in shown]
    parts = {"multiply-adds": macs, "additions": [a - b for a, b in zip(totals, macs, strict=True)]}
    unit, size = numbers.unit_of(totals, numbers.COUNT)
    return charts.stacked_bars(
        "Operations by layer",
        short_names([layer.path for layer in shown]),
        {part: [value / size for value in values] for part, values in parts.items() if any(values)},
        x_title=f"{unit} operations".strip(),
        note=note,
        span="full",
        height=130 + 26 * len(shown),
    )


def _energy_bars(seen: Profile, model: str) -> Chart:
    shown, note = _largest(seen, lambda layer: layer.energy[model])
    unit, size = numbers.unit_of([layer.energy[model] for layer in shown], numbers.ENERGY)
    return charts.bars(
        f"Energy by layer, {model}",
        short_names([layer.path for layer in shown]),
        [layer.energy[model] / size for layer in shown],
        x_title=unit,
        note=note,
        span="full",
        height=90 + 26 * len(shown),
    )


def _largest(seen: Profile, cost: Callable[[LayerProfile], float]) -> tuple[list[LayerProfile], str]:
    """The layers that cost most, in order of execution, and a note on the others."""
    largest = sorted(seen.layers, key=cost, reverse=True)[:MOST_BARS]
    paths = {layer.path for layer in largest}
    rest = sum(cost(layer) for layer in seen.layers if layer.path not in paths)
    everything = sum(cost(layer) for layer in seen.layers)
    if len(seen.layers) <= MOST_BARS or not everything:
        return list(seen.layers)[:MOST_BARS], ""
    note = f"The {MOST_BARS} layers with most; the other {len(seen.layers) - MOST_BARS} have "
    return [
        layer for layer in seen.layers if layer.path in paths
    ], f"{note}{numbers.percent(rest / everything)}."


def _of_kind(kind: str, layer: LayerProfile) -> float:
    return sum(number for name, number in layer.operations.items() if name.startswith(kind))


def _layer_table(given: Profiled) -> Table:
    """What matters most; its file holds every figure."""
    seen = given.profile
    columns = shown_columns(seen, given.sort)
    layers = sorted_layers(seen, given.sort)
    every = layer_columns(next(iter(seen.energy), None)) | {
        f"energy_{model}": Column(model, partial(_energy_of, model)) for model in seen.energy
    }
    return Table(
        [column.title for column in columns],
        [[column.written(layer) for column in columns] for layer in layers],
        caption="All layers",
        sortable=True,
        values=[[column.value(layer) for column in columns] for layer in layers],
        export=f"{seen.model}-layers.csv",
        sheet=[list(every), *([column.value(layer) for column in every.values()] for layer in layers)],
    )


def _energy_of(model: str, layer: LayerProfile) -> float:
    return layer.energy[model]


def _neurons(seen: Profile) -> list[Section]:
    """How often each neuron fires."""
    if not seen.neurons:
        return []
    shown = sorted(seen.neurons, key=lambda neuron: neuron.firing_rate, reverse=True)[:MOST_BARS]
    inside = [neuron for neuron in seen.neurons if neuron in shown]
    rest = len(seen.neurons) - len(inside)
    chart = charts.bars(
        "Firing rate",
        short_names([neuron.path for neuron in inside]),
        [neuron.firing_rate for neuron in inside],
        x_title="share of neurons and time steps that fire",
        x_format=".1%",
        note=f"The {MOST_BARS} that fire most; {rest} fire less." if rest else "",
        span="full",
    )
    table = Table(
        ["Neuron", "Type", "Neurons x steps", "Rate"],
        [
            [one.path, one.type, numbers.count(one.elements), numbers.percent(one.firing_rate)]
            for one in seen.neurons
        ],
        caption="All neurons",
        sortable=True,
        values=[[one.path, one.type, one.elements, one.firing_rate] for one in seen.neurons],
        export=f"{seen.model}-neurons.csv",
    )
    return [Section("How often neurons fire", [chart, Fold("All neurons", [table])])]


def _running(running: Running | None) -> list[Section]:
    if running is None:
        return []
    one, batch = running.latency, running.batch
    spread = f"{numbers.duration(one.low)} to {numbers.duration(one.high)}"
    failed = f"{numbers.NOTHING} ({running.training_failed})"
    training = numbers.size(running.training_memory) if running.training_memory is not None else failed
    seconds = Facts(
        {
            "latency, one sample": f"{numbers.duration(one.median)} ({spread})",
            "throughput": f"{numbers.significant(batch.throughput)} samples a second, {batch.batch_size} at a time",
            "threads": str(one.threads),
            "runs": f"{one.runs} after {one.warm_up}; of batches {batch.runs} after {batch.warm_up}",
        },
        title="Time",
    )
    memory = Facts(
        {
            "forward pass": numbers.size(running.forward_memory),
            "training step": training,
            "samples": str(running.memory_batch_size),
        },
        title="Peak memory of tensors",
    )
    return [
        Section(
            "On this machine",
            [seconds, memory],
            intro="Medians, with the 10th and 90th percentile. Memory is that of tensors made on the way - "
            "activations, and in training what the backward pass needs and the gradients - without parameters.",
        )
    ]


def _about(given: Profiled) -> Section:
    rule = {name.replace("_", " "): str(value) for name, value in given.profile.counting.items()}
    blocks: list[Block] = [Code(given.command)] if given.command else []
    return Section(
        "How this page was made",
        [*blocks, Facts(rule, title="Counting rule"), Facts(given.environment, title="Environment")],
    )
