"""Comparisons without training: plans of tiny nets, results from made-up scores, and a pool that writes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tests.training.tiny  # noqa: F401 (registers the nets)
from neuromix.compare.environment import environment
from neuromix.compare.job import JOB, RESULT, TIMING, Job
from neuromix.compare.plan import Plan, make_plan
from neuromix.compare.process import Outcome, What
from neuromix.core.files import write_json

# Small nets that any process knows.
SPIKING, ANALOG = "meta_spikeformer_nano", "poolformer_nano"
TINY = "tiny_test_net"
SAMPLES = 100


def a_plan(models: Sequence[Any] = (TINY,), seeds: Sequence[int] = (0, 1), **about: Any) -> Plan:
    return make_plan(models, "digits", seeds=seeds, **about)


def samples(right: int) -> list[float]:
    """Scores of samples of which so many are right."""
    return [float(i < right) for i in range(SAMPLES)]


def a_result(right: int = 90, energy: float = 1e-3, **about: Any) -> dict[str, Any]:
    """What a job leaves that has so many of its samples right."""
    found = {
        "status": "done",
        "error": None,
        "test": {"accuracy": right / SAMPLES, "top5_accuracy": 1.0},
        "validation": {"accuracy": 0.5},
        "train_seconds": 2.5,
        "epochs": 3,
        "curve": {"epoch": [1, 2, 3], "loss": [2.0, 1.5, 1.0], "score": [0.2, 0.4, 0.5]},
        "parameters": 500,
        "macs_dense": 1000,
        "synaptic_operations": 200.0,
        "firing_rate": None,
        "energy": {"45nm": energy},
        "peak_memory": 4096,
        "layers": [],
        "neurons": [],
        "not_counted": {},
        "sample_scores": samples(right),
        "confusion": None,
        "raster": None,
    }
    return found | about


def a_timing(milliseconds: float = 2.0) -> dict[str, Any]:
    latency = dict.fromkeys(("median", "low", "high"), milliseconds / 1000)
    counts = {"runs": 30, "warm_up": 5, "threads": 1, "batch_size": 1}
    return {"latency": {**latency, **counts}, "throughput": 800.0, "environment": environment(1)}


class FakePool:
    """Does a job when it is asked whether one has ended, the one that was started last.

    Args:
        out: folder of the comparison.
        results: what a job finds; an Outcome of one that fails.
    """

    def __init__(
        self,
        out: Path,
        results: Callable[[Job], Mapping[str, Any] | Outcome] = lambda job: a_result(),
        places: int = 1,
    ) -> None:
        self.out, self.results, self.places = out, results, places
        self.working: list[tuple[What, Job]] = []
        self.started: list[tuple[What, str]] = []
        self.stopped = self.most = self.closed = 0

    def start(self, what: What, job: Job) -> None:
        self.working.append((what, job))
        self.started.append((what, job.folder))
        self.most = max(self.most, len(self.working))
        if what == "train":
            write_json(self.out / job.folder / JOB, job.to_dict())

    def ended(self, seconds: float) -> list[tuple[Job, Outcome]]:
        what, job = self.working.pop()
        if self.stopped:
            return [(job, Outcome("stopped"))]
        if what == "time":
            write_json(self.out / job.folder / TIMING, a_timing())
            return [(job, Outcome("done"))]
        result = self.results(job)
        if isinstance(result, Outcome):
            return [(job, result)]
        write_json(self.out / job.folder / RESULT, result)
        return [(job, Outcome("done"))]

    def stop(self) -> None:
        self.stopped += 1

    def close(self) -> None:
        self.closed += 1
