"""What a profile says in words and figures, on a page and in a terminal alike."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from neuromix.core.errors import UnknownNameError
from neuromix.measure.figures import EnergyReport, LayerProfile, Profile
from neuromix.measure.operations import ACCESSES, TRANSFERS
from neuromix.measure.published import PublishedFigure
from neuromix.report import numbers

# Key of a published figure, without its time steps -> what it is, and how it is written.
_FIGURES: Mapping[str, tuple[str, Callable[[float], str]]] = {
    "parameters": ("parameters", lambda n: f"{n:,.0f}"),
    "parameters_m": ("M parameters", lambda n: f"{n:.1f}"),
    "frozen_parameters": ("frozen parameters", lambda n: f"{n:,.0f}"),
    "gmacs": ("G multiply-adds", lambda n: f"{n:.4g}"),
    "gmacs_without_norms": ("G multiply-adds without norms", lambda n: f"{n:.4f}"),
    "mj": ("mJ", numbers.significant),
    "top1": ("top-1, %", lambda n: f"{n:.1f}"),
}


def count_of(number: int, thing: str) -> str:
    """(1, "sample") -> "one sample"; (8, "sample") -> "8 samples"."""
    return f"one {thing}" if number == 1 else f"{number} {thing}s"


def short_names(paths: Sequence[str]) -> list[str]:
    """Paths for the axis of a chart: all words but the last three by their first letter, where they still differ.

    Example:
        >>> short_names(["stages.0.blocks.1.mixer.branch.expand"])
        ['s.0.b.1.mixer.branch.expand']
    """

    def short(path: str) -> str:
        *first, a, b, c = ("", "", "", *path.split("."))
        return ".".join(
            [*(word[0] if word.isidentifier() else word for word in first if word), a, b, c]
        ).lstrip(".")

    names = [short(path) or "(the model itself)" for path in paths]
    return names if len(set(names)) == len(set(paths)) else list(paths)


def published_row(key: str, figure: PublishedFigure) -> list[str]:
    """What it is, as published, as counted, the relative difference, and a note."""
    stem, _, steps = key.partition("_t") if re.fullmatch(r"\w+_t\d+", key) else (key, "", "")
    label, show = _FIGURES.get(stem, (stem.replace("_", " "), lambda number: f"{number:g}"))
    difference = (
        numbers.NOTHING if figure.difference is None else f"{round(100 * figure.difference, 2) + 0.0:+.2f} %"
    )
    counted = numbers.NOTHING if figure.counted is None else show(figure.counted)
    return [
        label + (f" at T = {steps}" if steps else ""),
        show(figure.published),
        counted,
        difference,
        figure.note,
    ]


def left_out(report: EnergyReport, traffic: Collection[str]) -> str:
    """What a figure of energy leaves out of a network with this traffic, or why there is no figure.

    Data movement is counted in two ways, every access and each number once; a table that prices one of them leaves
    nothing out.
    """
    if report.not_priced is not None:
        return report.not_priced
    if len(report.left_out) == len(traffic):
        return "data movement, control"
    kinds = [re.sub(r"\d+$", "", name) for name in report.left_out]
    by_way = [[kind for kind in kinds if kind in way] for way in (ACCESSES, TRANSFERS)]
    fewest = min(by_way, key=len)
    return ", ".join([*(kind.replace("_", " ") for kind in fewest), "control"])


@dataclass(frozen=True)
class Column:
    """A column of the table of layers."""

    title: str
    value: Callable[[LayerProfile], str | float | None]
    show: Callable[[Any], str] = str

    @property
    def is_number(self) -> bool:
        """Whether its cells are figures."""
        return self.show is not str

    def written(self, layer: LayerProfile) -> str:
        """Its cell of a layer."""
        return self.show(self.value(layer))


def layer_columns(energy: str | None) -> dict[str, Column]:
    """The columns of the table of layers by their names in JSON.

    Args:
        energy: the energy model that it shows; None where no model has a price.
    """
    columns = {
        "path": Column("Layer", lambda layer: layer.path or "(the model itself)"),
        "type": Column("Type", lambda layer: layer.type),
        "input": Column("Input", lambda layer: layer.input),
        "macs_dense": Column("MACs", lambda layer: layer.macs_dense, numbers.count),
        "firing_rate": Column("Rate", lambda layer: layer.firing_rate, numbers.percent),
        "synaptic_operations": Column("Synaptic ops", lambda layer: layer.synaptic_operations, numbers.count),
        "effective_macs": Column("Effective MACs", lambda layer: layer.effective_macs, numbers.count),
        "effective_acs": Column("Effective ACs", lambda layer: layer.effective_acs, numbers.count),
        "footprint": Column("Weights", lambda layer: layer.footprint, numbers.size),
    }
    if energy is not None:
        columns["energy"] = Column(f"Energy, {energy}", lambda layer: layer.energy[energy], numbers.energy)
        columns["energy_share"] = Column("Share", lambda layer: layer.energy_share, numbers.percent)
    return columns


def shown_columns(seen: Profile, by: str | None) -> list[Column]:
    """The columns that a table has room for: those that matter most, and the one that it is sorted by."""
    columns = layer_columns(next(iter(seen.energy), None))
    return [column for name, column in columns.items() if name not in _ASIDE or name == by]


_ASIDE = ("effective_macs", "effective_acs", "footprint")


def sorted_layers(seen: Profile, by: str | None) -> list[LayerProfile]:
    """The layers of a profile in order of execution, or by a column: largest first, texts from a to z.

    Raises:
        UnknownNameError: no such column.
    """
    if by is None:
        return list(seen.layers)
    columns = layer_columns(next(iter(seen.energy), None))
    if by not in columns:
        raise UnknownNameError("column", by, columns)
    column = columns[by]
    known = [layer for layer in seen.layers if column.value(layer) is not None]
    unknown = [layer for layer in seen.layers if column.value(layer) is None]
    return [*sorted(known, key=column.value, reverse=column.is_number), *unknown]  # type: ignore[arg-type]
