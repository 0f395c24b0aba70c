"""The models of a comparison's record, and what was measured of each: read once, for all that the page shows of them.

A record holds null, or nothing, for what is not known; here that is None.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from neuromix.report import numbers
from neuromix.report.numbers import Units

Record: TypeAlias = Mapping[str, Any]


class Figure(NamedTuple):
    """A quantity over the seeds of a model."""

    mean: float | None = None
    std: float | None = None  # n - 1; None of one run
    n: int = 0


@dataclass(frozen=True)
class Quantity:
    """Something that is measured of every model.

    Attributes:
        key: in the summary of a model.
        title: at the head of its column.
        path: keys that lead to it in the record of a run.
        show: how a value is written.
        units: for axes.
        unit: of the values, for the export.
        exact: a property of the model, which no seed and no clock changes.
    """

    key: str
    title: str
    path: tuple[str, ...]
    show: Callable[[float | None], str] = numbers.count
    units: Units = numbers.COUNT
    unit: str = ""
    exact: bool = False

    @property
    def heading(self) -> str:
        """The title with a capital."""
        return self.title[:1].upper() + self.title[1:]

    def axis(self, values: Sequence[float]) -> tuple[str, float]:
        """Title of an axis for these values, with the unit that suits them, and the size of that unit."""
        unit, size = numbers.unit_of(values, self.units)
        return f"{self.title} ({unit})" if unit else self.title, size

    def of_run(self, run: Record) -> float | None:
        """Its value in a run; None where that is not known."""
        value: Any = run
        for key in self.path:
            value = (value or {}).get(key)
        found: float | None = value
        return found


@dataclass(frozen=True)
class Contestant:
    """One model of a comparison.

    Attributes:
        number: its place in the record, which gives it its look in all charts.
        record: as in the file.
    """

    number: int
    record: Record

    @property
    def name(self) -> str:
        return str(self.record["name"])

    @property
    def rank(self) -> int | None:
        rank: int | None = self.record.get("rank")
        return rank

    @property
    def runs(self) -> list[Record]:
        """Those that were finished."""
        return [run for run in self.record["runs"] if run["status"] == "done"]

    @property
    def failed(self) -> list[Record]:
        return [run for run in self.record["runs"] if run["status"] != "done"]

    def figure(self, quantity: Quantity) -> Figure:
        summary = (self.record.get("summary") or {}).get(quantity.key) or {}
        return Figure(summary.get("mean"), summary.get("std"), summary.get("n") or 0)

    def values(self, quantity: Quantity) -> list[float]:
        """One a run, of those that know it."""
        return [value for run in self.runs if (value := quantity.of_run(run)) is not None]

    def range(self, quantity: Quantity) -> tuple[float, float] | None:
        """Between what its values lie; None where they are too few to say so.

        A latency has a spread in every run, an exact quantity has none.
        """
        if quantity is LATENCY:
            timed = [run["latency"] for run in self.runs if run.get("latency")]
            values = [one[end] for one in timed for end in ("low", "high") if one.get(end) is not None]
        else:
            values = self.values(quantity)
        return (min(values), max(values)) if len(values) > 1 or (values and quantity.exact) else None


def contestants(record: Record) -> list[Contestant]:
    """In the order of the record."""
    return [Contestant(number, model) for number, model in enumerate(record["models"])]


def score_of(record: Record) -> Quantity:
    """What the models are ranked by."""
    name = record["score"]
    show = numbers.percent if is_share(name) else _decimal
    return Quantity(name, name.replace("_", " "), ("test", name), show, (("", 1.0),))


def is_share(score: str) -> bool:
    """Whether a score is a share of samples, so that it is written in percent."""
    return "accuracy" in score


def energies_of(record: Record) -> list[Quantity]:
    """The energy of an inference by each energy model."""
    return [
        Quantity(f"energy {name}", f"energy, {name}", ("energy", name), numbers.energy, numbers.ENERGY, "mJ")
        for name in record.get("energy_models") or {}
    ]


def _decimal(value: float | None) -> str:
    if numbers.is_unknown(value):
        return numbers.NOTHING
    assert value is not None
    return numbers.significant(value, 4)


def _rate(value: float | None) -> str:
    return numbers.NOTHING if numbers.is_unknown(value) else f"{numbers.count(value)}/s"


LATENCY = Quantity("latency", "latency", ("latency", "median"), numbers.duration, numbers.TIME, "s")
THROUGHPUT = Quantity("throughput", "throughput", ("throughput",), _rate, unit="samples/s")
MEMORY = Quantity("peak_memory", "peak memory", ("peak_memory",), numbers.size, numbers.SIZE, "bytes")
PARAMETERS = Quantity("parameters", "parameters", ("parameters",), exact=True)
MACS = Quantity("macs_dense", "dense MACs", ("macs_dense",), exact=True)
OPERATIONS = Quantity("synaptic_operations", "synaptic operations", ("synaptic_operations",))
FIRING_RATE = Quantity("firing_rate", "firing rate", ("firing_rate",), numbers.percent)
TRAINING = Quantity("train_seconds", "training time", ("train_seconds",), numbers.seconds, numbers.TIME, "s")


def quantities_of(record: Record) -> list[Quantity]:
    """All that is told of a model, in the order of the table's columns."""
    costs = [LATENCY, THROUGHPUT, MEMORY, PARAMETERS, MACS, OPERATIONS, FIRING_RATE, TRAINING]
    return [score_of(record), *energies_of(record), *costs]


def mean(values: Sequence[float | None]) -> float | None:
    """Of all of them; None where there are none, or one is not known."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None
