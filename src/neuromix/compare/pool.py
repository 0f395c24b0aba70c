"""A pool starts jobs and tells which have ended; `work_through` gives it all jobs of a comparison."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from neuromix.compare.job import Job
from neuromix.compare.process import JobProcess, Outcome, What
from neuromix.compare.watch import Watch
from neuromix.training.signals import Interrupted, StopSignals

TICK = 0.2  # seconds between two looks at the jobs


class Pool(Protocol):
    """Where jobs run."""

    places: int  # jobs at a time

    def start(self, what: What, job: Job) -> None:
        """Begins a job, without waiting for it."""
        ...

    def ended(self, seconds: float) -> list[tuple[Job, Outcome]]:
        """Jobs that have ended since it was asked last; waits at most so long for the first."""
        ...

    def stop(self) -> None:
        """Asks all jobs to save and to end."""
        ...

    def close(self) -> None:
        """Ends whatever still works."""
        ...


def work_through(
    what: What, jobs: Sequence[Job], pool: Pool, signals: StopSignals, watch: Watch
) -> dict[str, Outcome]:
    """Has all jobs done, as many at a time as the pool has places.

    Returns:
        folder of the job -> how it ended.

    Raises:
        Interrupted: a signal came; the jobs have saved what they had.
    """
    waiting, working, outcomes = deque(jobs), dict[str, Job](), dict[str, Outcome]()
    stopping = False
    while waiting or working:
        if signals.received and not stopping:
            stopping = True
            waiting.clear()
            pool.stop()
        while waiting and len(working) < pool.places:
            job = waiting.popleft()
            watch.started(what, job)
            pool.start(what, job)
            working[job.folder] = job
        for job, outcome in pool.ended(TICK) if working else ():
            del working[job.folder]
            outcomes[job.folder] = outcome
            watch.ended(what, job, outcome)
        watch.working([*working.values()])
    if signals.received:
        raise Interrupted("stopped; the same command goes on where it was", signals.received)
    return outcomes


class LocalPool:
    """Jobs on this machine, one after the other."""

    places = 1

    def __init__(self, out: Path) -> None:
        self._out = out
        self._job: Job | None = None
        self._process: JobProcess | None = None

    def start(self, what: What, job: Job) -> None:
        self._job, self._process = job, JobProcess(what, self._out, job)

    def ended(self, seconds: float) -> list[tuple[Job, Outcome]]:
        assert self._job is not None and self._process is not None
        outcome = self._process.wait(seconds)
        if outcome is None:
            return []
        self._process = None
        return [(self._job, outcome)]

    def stop(self) -> None:
        if self._process is not None:
            self._process.stop()

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
