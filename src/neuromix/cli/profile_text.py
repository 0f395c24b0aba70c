"""The text form of `neuromix profile`: tables and rows on standard output."""

from __future__ import annotations

from typing import TYPE_CHECKING

from neuromix.cli.console import print_rows
from neuromix.cli.tables import Table

if TYPE_CHECKING:
    from neuromix.report.profile_page import Profiled


def print_profile(given: Profiled, counting: str, most: int | None) -> None:
    """Prints layers, neurons, what the paper published, energy, and the sums.

    Args:
        counting: the rule as the user named it.
        most: rows of the tables of layers and of neurons; None shows all.
    """
    _print_layers(given, most)
    if given.profile.neurons:
        _print_neurons(given, most)
    if given.published:
        _print_published(given)
    _print_energy(given)
    print_rows([*_sums(given), *_running(given), _rule(given, counting)])


def _print_layers(given: Profiled, most: int | None) -> None:
    from neuromix.report.profile_words import shown_columns, sorted_layers

    shown = shown_columns(given.profile, given.sort)
    table = Table(
        *(column.title for column in shown), numbers=[column.title for column in shown if column.is_number]
    )
    layers = sorted_layers(given.profile, given.sort)
    for layer in layers[:most]:
        table.add(*(column.written(layer) for column in shown))
    table.print()
    _print_rest(len(layers), most)


def _print_rest(rows: int, most: int | None) -> None:
    if most is not None and most < rows:
        print(f"and {rows - most} more\n")


def _print_neurons(given: Profiled, most: int | None) -> None:
    from neuromix.report.numbers import count, percent

    table = Table("Neuron", "Type", "Elements", "Rate", numbers=("Elements", "Rate"))
    for neuron in given.profile.neurons[:most]:
        table.add(neuron.path, neuron.type, count(neuron.elements), percent(neuron.firing_rate))
    table.print()
    _print_rest(len(given.profile.neurons), most)


def _print_published(given: Profiled) -> None:
    from neuromix.report.profile_words import published_row

    figures = ("Published", "Counted", "Difference")
    table = Table(f"{given.profile.model} in its paper", *figures, "", numbers=figures)
    for key, figure in given.published.items():
        table.add(*published_row(key, figure))
    table.print()


def _print_energy(given: Profiled) -> None:
    from neuromix.report.numbers import energy
    from neuromix.report.profile_words import left_out

    table = Table("Energy model", "Energy", "Made in", "Left out", numbers=("Energy",))
    seen = given.profile
    for name, report in seen.energy_models.items():
        table.add(name, energy(seen.energy.get(name)), report.process, left_out(report, seen.traffic))
    table.print()


def _sums(given: Profiled) -> list[tuple[str, object]]:
    from neuromix.report.numbers import count, percent, size

    seen = given.profile
    return [
        ("model", seen.model),
        ("parameters", f"{seen.parameters:,}"),
        ("footprint", size(seen.footprint)),
        ("state between steps", size(seen.state_bytes)),
        ("MACs by the shapes", count(seen.macs_dense)),
        ("effective MACs, ACs", f"{count(seen.effective_macs)}, {count(seen.effective_acs)}"),
        ("synaptic operations", count(seen.synaptic_operations)),
        ("firing rate", percent(seen.firing_rate)),
        ("activation sparsity", percent(seen.activation_sparsity)),
        ("connection sparsity", percent(seen.connection_sparsity)),
        *((f"charged as {kind}", count(number)) for kind, number in seen.operations.items()),
    ]


def _running(given: Profiled) -> list[tuple[str, object]]:
    from neuromix.report.numbers import duration, significant, size
    from neuromix.report.profile_words import count_of

    running = given.running
    if running is None:
        return []
    one, batch = running.latency, running.batch
    samples = f"batch of {running.memory_batch_size}"
    training = f"{size(running.training_memory)}" + (
        running.training_failed and f" ({running.training_failed})"
    )
    return [
        (
            "latency",
            f"{duration(one.median)} ({duration(one.low)} to {duration(one.high)}, 10th to 90th percentile), one "
            f"sample, {count_of(one.threads, 'thread')}",
        ),
        ("throughput", f"{significant(batch.throughput)} samples/s, batch of {batch.batch_size}"),
        ("peak memory, forward", f"{size(running.forward_memory)}, {samples}"),
        ("peak memory, training", f"{training}, {samples}"),
    ]


def _rule(given: Profiled, counting: str) -> tuple[str, str]:
    fields = ", ".join(f"{key} {value}" for key, value in given.profile.counting.items())
    return "counted by", f"{counting}: {fields}"
