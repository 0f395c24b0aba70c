"""Jobs are given to a pool as it has places, and a signal ends them all."""

from __future__ import annotations

import os
import signal

import pytest

from neuromix.compare.pool import work_through
from neuromix.compare.process import Outcome
from neuromix.compare.watch import Watch
from neuromix.training.signals import Interrupted, StopSignals
from tests.compare.fake import FakePool, a_plan, a_result


class Diary(Watch):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.at_work: list[int] = []

    def started(self, what, job):
        self.lines.append(f"{what} {job.name}")

    def ended(self, what, job, outcome):
        self.lines.append(f"{job.name} {outcome.status}")

    def working(self, jobs):
        self.at_work.append(len(jobs))


@pytest.fixture(scope="module")
def jobs():
    return a_plan(seeds=range(5)).jobs()


def test_all_jobs_are_done_in_order(jobs, tmp_path):
    pool, diary = FakePool(tmp_path), Diary()
    with StopSignals() as signals:
        outcomes = work_through("train", jobs, pool, signals, diary)
    assert outcomes == {job.folder: Outcome("done") for job in jobs}
    assert pool.started == [("train", job.folder) for job in jobs]
    assert diary.lines[:3] == [
        "train tiny_test_net, seed 0",
        "tiny_test_net, seed 0 done",
        "train tiny_test_net, seed 1",
    ]
    assert pool.most == 1


def test_no_more_jobs_at_a_time_than_places(jobs, tmp_path):
    pool, diary = FakePool(tmp_path, places=3), Diary()
    with StopSignals() as signals:
        outcomes = work_through("train", jobs, pool, signals, diary)
    assert outcomes.keys() == {job.folder for job in jobs}
    assert pool.most == 3
    assert diary.at_work == [2, 2, 2, 1, 0]


def test_a_job_that_fails_does_not_end_the_others(jobs, tmp_path):
    bad = Outcome("failed", "the loss is not finite")
    pool = FakePool(tmp_path, lambda job: bad if job.seed == 1 else a_result())
    with StopSignals() as signals:
        outcomes = work_through("train", jobs, pool, signals, Watch())
    assert outcomes[jobs[1].folder] == bad
    assert [outcome.status for outcome in outcomes.values()].count("done") == 4


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_what_is_at_work_and_starts_nothing_more(jobs, tmp_path, number):
    class Stop(Diary):
        def ended(self, what, job, outcome):
            super().ended(what, job, outcome)
            if len(self.lines) == 5:
                os.kill(os.getpid(), number)

    pool, diary = FakePool(tmp_path, places=2), Stop()
    with (
        StopSignals() as signals,
        pytest.raises(Interrupted, match="the same command goes on where it was") as stop,
    ):
        work_through("train", jobs, pool, signals, diary)
    assert stop.value.number == number
    assert pool.stopped == 1
    assert len(pool.started) == 3
    assert diary.lines[-1] == "tiny_test_net, seed 0 stopped"


def test_no_jobs(tmp_path):
    with StopSignals() as signals:
        assert work_through("train", [], FakePool(tmp_path), signals, Watch()) == {}
