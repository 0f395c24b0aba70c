"""compare from the plan to the record, with jobs that only pretend."""

from __future__ import annotations

import json

import pytest

from neuromix.compare import api
from neuromix.compare.job import TIMING, read
from neuromix.compare.process import Outcome
from neuromix.core.errors import ConfigError, MissingExtraError
from neuromix.core.files import write_json
from neuromix.training.signals import Interrupted
from tests.compare.fake import SPIKING, TINY, FakePool, a_plan, a_result, a_timing
from tests.compare.test_pool import Diary


@pytest.fixture(scope="module")
def plan():
    return a_plan()


@pytest.fixture
def pools(monkeypatch):
    """The pools that were made."""
    made = []

    def make(out, **about):
        made.append(FakePool(out, make.results))
        return made[-1]

    make.results = lambda job: a_result(80 + job.seed)
    monkeypatch.setattr(api, "LocalPool", make)
    made_by = make
    yield made, made_by


def work(pools):
    return [what for pool in pools[0] for what in pool.started]


def test_all_jobs_are_trained_and_then_timed(plan, pools, tmp_path):
    record = api.compare(plan, tmp_path / "out", command="the command")
    runs = [f"runs/{TINY}/seed{seed}" for seed in (0, 1)]
    assert work(pools) == [*(("train", run) for run in runs), *(("time", run) for run in runs)]
    assert json.loads((tmp_path / "out" / "comparison.json").read_text()) == record
    assert record["command"] == "the command"
    (model,) = record["models"]
    assert [run["test"]["accuracy"] for run in model["runs"]] == [0.80, 0.81]
    assert [run["latency"]["median"] for run in model["runs"]] == [0.002, 0.002]
    assert model["rank"] == 1
    assert [pool.closed for pool in pools[0]] == [1, 1]


def test_what_is_done_is_not_done_again(plan, pools, tmp_path):
    first = api.compare(plan, tmp_path)
    pools[0].clear()
    assert api.compare(plan, tmp_path) == first
    assert work(pools) == []


def test_added_seeds_and_models_are_trained_and_all_are_timed_again(plan, pools, tmp_path):
    api.compare(plan, tmp_path)
    pools[0].clear()
    record = api.compare(a_plan((TINY, SPIKING), (1, 2)), tmp_path)
    trained = [run for what, run in work(pools) if what == "train"]
    assert trained == [f"runs/{SPIKING}/seed1", f"runs/{TINY}/seed2", f"runs/{SPIKING}/seed2"]
    assert len([run for what, run in work(pools) if what == "time"]) == 4
    assert [run["seed"] for run in record["models"][0]["runs"]] == [1, 2]


def test_times_of_another_machine_are_not_kept(plan, pools, tmp_path):
    api.compare(plan, tmp_path)
    pools[0].clear()
    timing = a_timing()
    timing["environment"]["processor"] = "another one"
    write_json(tmp_path / plan.jobs()[0].folder / TIMING, timing)
    api.compare(plan, tmp_path)
    assert [what for what, _ in work(pools)] == ["time", "time"]
    assert read(tmp_path / plan.jobs()[0].folder / TIMING) == a_timing()


def test_a_failure_is_told_and_tried_again(plan, pools, tmp_path):
    pools[1].results = lambda job: Outcome("failed", "out of luck") if job.seed == 0 else a_result()
    diary = Diary()
    record = api.compare(plan, tmp_path, watch=diary)
    first, second = record["models"][0]["runs"]
    assert (first["status"], first["error"], second["status"]) == ("failed", "out of luck", "done")
    assert "tiny_test_net, seed 0 failed" in diary.lines
    pools[0].clear()
    pools[1].results = lambda job: a_result()
    record = api.compare(plan, tmp_path)
    assert [run["status"] for run in record["models"][0]["runs"]] == ["done", "done"]
    assert work(pools)[0] == ("train", plan.jobs()[0].folder)
    assert len(work(pools)) == 3


def test_all_runs_failed(plan, pools, tmp_path):
    pools[1].results = lambda job: Outcome("failed", "out of luck")
    record = api.compare(plan, tmp_path)
    assert record["models"][0]["rank"] is None
    assert record["differences"] == []
    assert json.loads((tmp_path / "comparison.json").read_text()) == record


def test_an_interrupted_pass_of_timing_is_done_again_as_a_whole(plan, pools, tmp_path):
    import os
    import signal

    class Stop(Diary):
        def ended(self, what, job, outcome):
            if what == "time":
                os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        api.compare(plan, tmp_path, watch=Stop())
    assert not (tmp_path / "comparison.json").exists()
    pools[0].clear()
    api.compare(plan, tmp_path)
    assert [what for what, _ in work(pools)] == ["time", "time"]


@pytest.mark.parametrize("about", [{"workers": 2}, {"address": "auto"}])
def test_several_runs_at_a_time_need_ray(plan, tmp_path, monkeypatch, about):
    import sys

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r'pip install "neuromix\[sweep\]"'):
        api.compare(plan, tmp_path, **about)


def test_workers(plan, tmp_path):
    with pytest.raises(ConfigError, match="workers is 1 or more, got 0"):
        api.compare(plan, tmp_path / "out", workers=0)
    assert not (tmp_path / "out").exists()
