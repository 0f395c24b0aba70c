"""A contest: several ways of doing one thing, each in its own process, measured in turn.

Ratios within one run are what counts: the machine may be shared, so every round gives each contestant one turn
before the next round begins, and the median over the rounds is taken. A turn is a warm-up and a few runs, of which
the median counts. A process each keeps their memory apart.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from neuromix.core.errors import RunError

# Large tensors stay in the process instead of being mapped anew each time; the same for every contestant.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 32)}


# Is told before each turn whose it is.
OnTurn: TypeAlias = Callable[[str], None]


def silent(name: str) -> None:
    """Tells nobody."""


@dataclass(frozen=True)
class Contestant:
    """One way of doing it.

    Attributes:
        name: what it is called in the result.
        prepare: "module:function"; the function takes `options` and gives a function without arguments, which
            is what is timed.
        options: JSON values.
    """

    name: str
    prepare: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Measurement:
    """What a contestant needed.

    Attributes:
        seconds: of each round.
        peak_bytes: by how much the resident memory of its process rose at most, above what it had when its
            libraries were imported.
    """

    seconds: tuple[float, ...]
    peak_bytes: int

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"median_s": self.median, "best_s": min(self.seconds), "peak_bytes": self.peak_bytes}


@dataclass(frozen=True)
class Outcome:
    """A contest that is over; `missing` tells why a contestant did not take part."""

    measurements: Mapping[str, Measurement]
    missing: Mapping[str, str]

    def ratio(self, slower: str, faster: str) -> float | None:
        """Time of `slower` over time of `faster`: above 1, `faster` is faster. None where one did not take part."""
        if slower in self.measurements and faster in self.measurements:
            return self.measurements[slower].median / self.measurements[faster].median
        return None


def contest(
    contestants: Sequence[Contestant],
    *,
    rounds: int,
    threads: int,
    on_turn: OnTurn = silent,
) -> Outcome:
    """Measures all contestants, `rounds` turns each after one that does not count.

    Args:
        threads: of PyTorch, in each process.
        on_turn: told before each turn whose it is.

    Raises:
        RunError: a contestant failed for another reason than a package that is not installed.
    """
    workers: dict[str, _Worker] = {}
    missing: dict[str, str] = {}
    try:
        for contestant in contestants:
            on_turn(contestant.name)
            worker = _Worker(contestant, threads)
            reason = worker.ask({"prepare": contestant.prepare, "options": dict(contestant.options)}).get(
                "missing"
            )
            if reason is None:
                workers[contestant.name] = worker
                worker.ask("go")
            else:
                missing[contestant.name] = reason
                worker.end()
        seconds: dict[str, list[float]] = {name: [] for name in workers}
        for _ in range(rounds):
            for name, worker in workers.items():
                on_turn(name)
                seconds[name].append(worker.ask("go")["seconds"])
        measured = {
            name: Measurement(tuple(seconds[name]), worker.ask("peak")["peak_bytes"])
            for name, worker in workers.items()
        }
    finally:
        for worker in workers.values():
            worker.end()
    return Outcome(measured, missing)


class _Worker:
    """The process of one contestant; speaks JSON, a line a message."""

    def __init__(self, contestant: Contestant, threads: int) -> None:
        self.name = contestant.name
        count = str(threads)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "neuromix.bench.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **ALLOCATOR, "OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count},
        )

    def ask(self, message: Any) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
            answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        except (BrokenPipeError, ValueError):
            raise RunError(f"contestant {self.name} failed: {self._last_words()}") from None
        return answer

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _last_words(self) -> str:
        _, errors = self._process.communicate()
        lines = [line for line in errors.splitlines() if line.strip()]
        return lines[-1] if lines else f"exit code {self._process.returncode}"
