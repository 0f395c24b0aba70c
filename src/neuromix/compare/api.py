"""compare: trains and measures all candidates of a plan, and tells what each costs and which differences are real."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

from neuromix.compare.cluster import RayPool
from neuromix.compare.environment import environment
from neuromix.compare.folder import RECORD, Folder
from neuromix.compare.job import Job
from neuromix.compare.plan import Plan
from neuromix.compare.pool import LocalPool, Pool, work_through
from neuromix.compare.process import Outcome
from neuromix.compare.record import Found, make_record
from neuromix.compare.watch import Watch
from neuromix.core.errors import ConfigError
from neuromix.core.files import write_json
from neuromix.training.signals import StopSignals


def compare(
    plan: Plan,
    out: str | Path,
    *,
    workers: int | None = None,
    address: str | None = None,
    overwrite: bool = False,
    command: str = "",
    watch: Watch | None = None,
) -> dict[str, Any]:
    """Does what is not yet done of a plan, and writes the record.

    A run that was stopped in any way goes on exactly where it was, and one that failed is tried again. When all are
    trained, one after the other is timed, while nothing else runs.

    Args:
        plan: what `make_plan` gives.
        out: the folder of the comparison.
        workers: runs at a time; more than 1 needs Ray.
        address: of a Ray cluster whose machines all see `out`; without `workers` it has as many runs at a time as
            it has room for.
        overwrite: put this comparison in the place of the one in `out`.
        command: for the record.
        watch: is told how it goes.

    Returns:
        The record, which `out/comparison.json` holds. A run that failed is in it, with the reason.

    Raises:
        RunError: `out` holds other runs, another process is at work there, or it cannot be written.
        MissingExtraError: Ray is needed and not installed.
        Interrupted: a signal came; the runs at work have saved what they had.

    Example:
        plan = make_plan(["meta_spikeformer_nano", "poolformer_nano"], "digits", seeds=(0, 1, 2))
        record = compare(plan, "report")
    """
    if workers is not None and workers < 1:
        raise ConfigError(f"workers is 1 or more, got {workers}")
    folder, watch = Folder(Path(out).absolute()), watch or Watch()
    with folder.opened(plan, overwrite=overwrite), StopSignals() as signals:
        outcomes = _train(plan, folder, workers, address, signals, watch)
        done = [job for job in plan.jobs() if folder.result(job) is not None]
        outcomes |= _time(done, folder, plan.threads, signals, watch)
        found = {job.folder: _found(job, folder, outcomes) for job in plan.jobs()}
        record = make_record(plan, found, command)
        write_json(folder.path / RECORD, record)
    return record


def _train(
    plan: Plan, folder: Folder, workers: int | None, address: str | None, signals: StopSignals, watch: Watch
) -> dict[str, Outcome]:
    jobs = plan.jobs()
    waiting = [job for job in jobs if folder.result(job) is None]
    watch.begin("train", waiting, [job for job in jobs if job not in waiting])
    if not waiting:
        return {}
    pool: Pool = LocalPool(folder.path)
    if address is not None or (workers or 1) > 1:
        pool = RayPool(
            folder.path, workers=workers, address=address, threads=plan.threads, device=plan.device
        )
    with closing(pool):
        return work_through("train", waiting, pool, signals, watch)


def _time(
    jobs: list[Job], folder: Folder, threads: int, signals: StopSignals, watch: Watch
) -> dict[str, Outcome]:
    """All in one pass on one machine at rest; else times of other days or machines would stand side by side."""
    here, timings = environment(threads), [folder.timing(job) for job in jobs]
    if all(timing is not None and timing["environment"] == here for timing in timings):
        return {}
    folder.forget_timings(jobs)
    watch.begin("time", jobs, [])
    with closing(LocalPool(folder.path)) as pool:
        outcomes = work_through("time", jobs, pool, signals, watch)
    for job in jobs:
        if outcomes[job.folder].status == "failed":
            watch.note(f"{job.name} has no latency: {outcomes[job.folder].error}")
    return outcomes


def _found(job: Job, folder: Folder, outcomes: dict[str, Outcome]) -> Found:
    result = folder.result(job)
    if result is None:
        return Found(None, error=outcomes[job.folder].error or f"{job.folder} holds no result")
    return Found(result, folder.timing(job))
