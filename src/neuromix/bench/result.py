"""What a benchmark found: ratios, measurements, and where it ran."""

from __future__ import annotations

import platform
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import torch

import neuromix
from neuromix.bench.contest import ALLOCATOR, Outcome
from neuromix.training.devices import processor_name


@dataclass
class BenchResult:
    """The result of one benchmark.

    Attributes:
        ratios: "A_over_B" with the set-up behind it: time of A over time of B; above 1, B is faster.
        measurements: set-up -> contestant -> median_s, best_s, peak_bytes.
        missing: contestants that did not take part, and why.
        layers: contestant -> where its time goes; see `neuromix.bench.layers`.
        environment: versions, processor, threads, allocator settings.
    """

    name: str
    environment: dict[str, Any]
    ratios: dict[str, float] = field(default_factory=dict)
    measurements: dict[str, dict[str, Any]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    layers: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def begin(cls, name: str, *, threads: int, rounds: int) -> BenchResult:
        """An empty result that knows where it runs."""
        environment = {
            "neuromix": neuromix.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "machine": platform.machine(),
            "processor": processor_name(),
            "threads": threads,
            "rounds": rounds,
            "allocator": ALLOCATOR,
        }
        return cls(name, environment)

    def add(self, set_up: str, outcome: Outcome, ratios: dict[str, float]) -> None:
        """Adds a contest under the name of its set-up."""
        self.measurements[set_up] = {name: m.to_dict() for name, m in outcome.measurements.items()}
        self.ratios |= {f"{ratio}_{set_up}": value for ratio, value in ratios.items()}
        self.missing |= outcome.missing

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "benchmark": self.name,
            "ratios": self.ratios,
            "measurements": self.measurements,
            "missing": self.missing,
            **({"layers": self.layers} if self.layers else {}),
            "environment": self.environment,
        }


def ratios(outcome: Outcome, ours: str, limits: Collection[str] = ("copy",)) -> dict[str, float]:
    """ "PEER_over_OURS" for every other contestant; for those that are limits, "OURS_over_LIMIT"."""
    found: dict[str, float] = {}
    for name in outcome.measurements:
        pair = (ours, name) if name in limits else (name, ours)
        ratio = outcome.ratio(*pair)
        if name != ours and ratio is not None:
            found["_over_".join(pair)] = round(ratio, 3)
    return found
