"""The pilot times steps, and plans as many epochs as fit."""

from __future__ import annotations

import pytest

from neuromix.compare import pilot
from neuromix.compare.budget import Budget
from neuromix.compare.pilot import Enough, Stopwatch, epochs_within
from tests.compare.fake import a_plan


@pytest.fixture
def clock(monkeypatch):
    """A clock that is set by hand: `clock[0]` is what it shows."""
    now = [0.0]
    monkeypatch.setattr(pilot.time, "perf_counter", lambda: now[0])
    return now


def test_a_stopwatch_ends_when_its_time_is_over(clock):
    watch = Stopwatch(10.0)
    with pytest.raises(Enough):
        for step in range(1, 1000):
            clock[0] += 100.0 if step == 2 else 1.0  # the first interval is slow
            watch.batch(step, 0.0)
    assert watch.intervals == [100.0, 1.0, 1.0, 1.0]
    assert watch.median() == 1.0


def test_a_stopwatch_that_is_told_of_every_tenth_step(clock):
    watch = Stopwatch(100.0)
    with pytest.raises(Enough):
        for step in range(10, 1000, 10):
            clock[0] += 20.0
            watch.batch(step, 0.0)
    assert set(watch.intervals) == {2.0}
    assert len(watch.intervals) == 6


def test_a_stopwatch_without_intervals(clock):
    watch = Stopwatch(1.0)
    assert watch.median() == 0.0
    watch.look(0)
    clock[0] += 3.0
    watch.look(1)
    assert watch.median() == 3.0


def test_epochs_that_fit(clock, tmp_path, monkeypatch):
    # 1100 images in batches of 32 are 34 steps, 197 are 7 batches: 34 + 3.5 s an epoch.
    monkeypatch.setattr(pilot, "_step_seconds", lambda job, folder, seconds: 1.0)
    monkeypatch.setattr(pilot, "_batch_seconds", lambda recipe, task, seconds: 0.5)
    job = a_plan(budget=Budget(minutes=5)).jobs()[0]
    assert epochs_within(5, job, tmp_path) == 8
    assert epochs_within(0.1, job, tmp_path) == 1


def test_a_pilot_leaves_nothing_behind(tmp_path):
    job = a_plan(budget=Budget(minutes=0.05), train={"max_steps": 2, "checkpoint_steps": 1}).jobs()[0]
    epochs = epochs_within(0.05, job, tmp_path)
    assert epochs >= 1
    assert not list(tmp_path.iterdir())
