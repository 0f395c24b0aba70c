"""The record of a comparison: plain values from what its jobs left, with intervals, differences and ranks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from neuromix.compare.environment import environment
from neuromix.compare.job import Job
from neuromix.compare.measured import COUNTING, PROFILED
from neuromix.compare.plan import Plan
from neuromix.compare.statistics import (
    Pair,
    holm,
    interval_of_difference,
    is_significant,
    p_over_samples,
    p_over_seeds,
    ranks,
    summary,
)
from neuromix.compare.timed import BATCH
from neuromix.core import registry
from neuromix.measure.energy import energy_models
from neuromix.training.task import Task

MILLI = 1e-3  # joules of a millijoule

_OF_RESULT = (
    "test", "validation", "train_seconds", "epochs", "curve", "parameters", "macs_dense", "synaptic_operations",
    "firing_rate", "energy", "peak_memory", "layers", "neurons", "not_counted", "confusion", "raster",
)  # fmt: skip
_SUMMARISED = (
    "latency", "throughput", "peak_memory", "parameters", "macs_dense", "synaptic_operations", "firing_rate",
    "train_seconds",
)  # fmt: skip


class Found(NamedTuple):
    """What a job left.

    Attributes:
        result: what it measured; None where it failed.
        timing: latency and throughput, where they were measured.
        error: why it failed, one line.
    """

    result: Mapping[str, Any] | None
    timing: Mapping[str, Any] | None = None
    error: str | None = None


def make_record(plan: Plan, found: Mapping[str, Found], command: str = "") -> dict[str, Any]:
    """The record that `comparison.json` holds, with `page` unset.

    Args:
        found: folder of each job of the plan -> what it left.
        command: with which it was made.
    """
    task: Task = registry.build("task", plan.recipes[0].task)
    models = [_model(plan, name, found) for name in plan.names]
    differences = _differences(plan, task, found)
    _rank(models, differences, task.higher_is_better)
    seen = {name for model in models for run in model["runs"] for name in run.get("energy", ())}
    more = {
        "device": plan.device,
        "counting": COUNTING,
        "test samples profiled": min(PROFILED, len(task.data("test"))),
        "batch size of throughput": BATCH,
    }
    record = {
        "command": command,
        "environment": environment(plan.threads, **more),
        "task": plan.task.name,
        "data": plan.task.options.get("data"),
        "score": task.score,
        "higher_is_better": task.higher_is_better,
        "class_names": list(task.class_names()),
        "budget": _budget(plan),
        "seeds": list(plan.seeds),
        "energy_models": {name: table.to_dict() for name, table in energy_models().items() if name in seen},
        "models": models,
        "differences": differences,
        "page": None,
    }
    known: dict[str, Any] = _known(record)
    return known


def _budget(plan: Plan) -> dict[str, Any]:
    given = plan.budget.given()
    return given if plan.budget.minutes is not None else {"epochs": plan.recipes[0].train.epochs, **given}


def _model(plan: Plan, name: str, found: Mapping[str, Found]) -> dict[str, Any]:
    runs = [_run(job, found[job.folder]) for job in plan.of_model(name)]
    spec = plan.models[plan.names.index(name)]
    return {
        "name": name,
        "config": dict(spec.options),
        "family": registry.find("model", name)[0].family,
        "runs": runs,
        "over_budget": _is_over(plan.budget.joules_per_inference, runs),
        "summary": _summaries([run for run in runs if run["status"] == "done"]),
        "rank": None,
    }


def _run(job: Job, found: Found) -> dict[str, Any]:
    result, timing = found.result, found.timing or {}
    about = {
        "seed": job.seed,
        "status": "failed" if result is None else "done",
        "error": found.error,
        "folder": job.folder,
        "command": job.command(job.recipe.train.epochs if result is None else result["epochs"]),
    }
    if result is None:
        return about
    times = {name: timing.get(name) for name in ("latency", "throughput")}
    return {**about, **{name: result[name] for name in _OF_RESULT}, **times}


def _is_over(joules: float | None, runs: Sequence[Mapping[str, Any]]) -> bool:
    """By the first energy model."""
    first = next(iter(energy_models()))
    used = [run["energy"][first] for run in runs if first in run.get("energy", ())]
    return joules is not None and bool(used) and float(np.mean(used)) * MILLI > joules


def _summaries(done: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of every figure of the runs that are done."""
    columns: dict[str, list[float | None]] = {}
    for run in done:
        latency = run["latency"]["median"] if run["latency"] is not None else None
        values = {**run["test"], **{f"energy {name}": value for name, value in run["energy"].items()}}
        values |= {name: run[name] for name in _SUMMARISED if name != "latency"} | {"latency": latency}
        for name, value in values.items():
            columns.setdefault(name, []).append(value)
    return {name: summary(values) for name, values in columns.items()}


def _differences(plan: Plan, task: Task, found: Mapping[str, Found]) -> list[dict[str, Any]]:
    """Every pair of models that have runs with the same seeds, tested on the score."""
    pairs: dict[Pair, dict[str, Any]] = {}
    p_seeds: dict[Pair, float | None] = {}
    p_samples: dict[Pair, float | None] = {}
    for a, b in itertools.combinations(plan.names, 2):
        runs = _paired(plan, a, b, found)
        if not runs:
            continue
        first, second = (
            np.array([run["test"][task.score] for run in side]) for side in zip(*runs, strict=True)
        )
        low, high = interval_of_difference(first, second) or (None, None)
        pairs[a, b] = {"a": a, "b": b, "difference": float((first - second).mean()), "low": low, "high": high}
        p_seeds[a, b] = p_over_seeds(first, second, _resolution(runs[0][0]))
        p_samples[a, b] = _p_samples(runs)
    p_seeds, p_samples = holm(p_seeds), holm(p_samples)
    return [
        {
            **about,
            "p_seeds": p_seeds[pair],
            "p_samples": p_samples[pair],
            "significant": is_significant(p_seeds[pair], p_samples[pair]),
        }
        for pair, about in pairs.items()
    ]


def _paired(
    plan: Plan, a: str, b: str, found: Mapping[str, Found]
) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """The results of both models, of the seeds with which both have one."""
    results = [
        (found[one.folder].result, found[other.folder].result)
        for one, other in zip(plan.of_model(a), plan.of_model(b), strict=True)
    ]
    return [(one, other) for one, other in results if one is not None and other is not None]


def _resolution(result: Mapping[str, Any]) -> float:
    """The step in which the score moves: 1 / N where each of N samples is right or wrong; else there is none."""
    scores = result["sample_scores"]
    return 1 / len(scores) if scores and set(scores) <= {0.0, 1.0} else 0.0


def _p_samples(runs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> float | None:
    """Over test samples, of which each has the mean score of all runs; None where samples have no score."""
    sides = [[result["sample_scores"] for result in side] for side in zip(*runs, strict=True)]
    if any(scores is None for side in sides for scores in side):
        return None
    first, second = (np.mean(side, axis=0) for side in sides)
    return p_over_samples(first, second)


def _rank(
    models: Sequence[dict[str, Any]], differences: Sequence[Mapping[str, Any]], higher_is_better: bool
) -> None:
    """Ranks the models that have a run and keep the budget."""
    better: dict[str, list[str]] = {}
    for pair in differences:
        if pair["significant"]:
            a_is_better = (pair["difference"] > 0) == higher_is_better
            winner, loser = (pair["a"], pair["b"]) if a_is_better else (pair["b"], pair["a"])
            better.setdefault(loser, []).append(winner)
    ranked = [model["name"] for model in models if model["summary"] and not model["over_budget"]]
    places = ranks(ranked, better)
    for model in models:
        model["rank"] = places.get(model["name"])


def _known(value: Any) -> Any:
    """Plain JSON: a number that is not finite is not known."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _known(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_known(item) for item in value]
    return value
