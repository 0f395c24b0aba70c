"""A folder holds one comparison, and nothing in it is lost or mixed up."""

from __future__ import annotations

import json

import pytest

from neuromix.compare.budget import Budget
from neuromix.compare.folder import Folder
from neuromix.compare.job import JOB, RESULT, TIMING
from neuromix.core.errors import RunError
from neuromix.core.files import write_json
from tests.compare.fake import SPIKING, TINY, a_plan, a_result, a_timing


@pytest.fixture(scope="module")
def plan():
    return a_plan()


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path / "out")


def put(folder, job, result):
    """What the process of a job leaves."""
    write_json(folder.path / job.folder / JOB, job.to_dict())
    write_json(folder.path / job.folder / RESULT, result)


def test_a_new_folder(folder, plan):
    with folder.opened(plan):
        assert json.loads((folder.path / "plan.json").read_text())["seeds"] == [0, 1]
        assert folder.result(plan.jobs()[0]) is None
        with pytest.raises(RunError, match="is at work in"), folder.opened(plan):
            pass


def test_what_is_done_is_kept(folder, plan):
    one, other = plan.jobs()
    with folder.opened(plan):
        put(folder, one, a_result(91))
        put(folder, other, {"status": "failed", "error": "bad luck"})
        write_json(folder.path / one.folder / TIMING, a_timing())
    with folder.opened(plan):
        assert folder.result(one)["test"]["accuracy"] == 0.91
        assert folder.result(other) is None
        assert folder.timing(one)["throughput"] == 800.0
        assert folder.timing(other) is None
        folder.forget_timings(plan.jobs())
        assert folder.timing(one) is None


def test_epochs_of_a_job_at_work(folder, plan):
    job = plan.jobs()[0]
    assert (folder.epochs_done(job), folder.epochs(job)) == (0, 30)
    (folder.path / job.folder).mkdir(parents=True)
    (folder.path / job.folder / "metrics.jsonl").write_text("{}\n{}\n")
    assert folder.epochs_done(job) == 2
    timed = a_plan(budget=Budget(minutes=1)).jobs()[0]
    assert folder.epochs(timed) is None
    write_json(folder.path / timed.folder / "config.json", {"train": {"epochs": 17}})
    assert folder.epochs(timed) == 17


def test_another_plan_is_refused(folder, plan):
    with folder.opened(plan):
        pass
    before = (folder.path / "plan.json").read_bytes()
    with (
        pytest.raises(
            RunError,
            match=r"was asked for otherwise: train.lr \(was 0.005, now 0.1\); --overwrite replaces it",
        ),
        folder.opened(a_plan(train={"lr": 0.1})),
    ):
        pass
    assert (folder.path / "plan.json").read_bytes() == before
    with folder.opened(plan):  # the lock was let go
        pass


def test_models_that_are_left_out_are_remembered(folder, plan):
    with folder.opened(plan):
        pass
    with folder.opened(a_plan([SPIKING])):
        pass
    with (
        pytest.raises(RunError, match=r"tiny_test_net\.width"),
        folder.opened(a_plan([(TINY, {"width": 3})])),
    ):
        pass


def test_overwriting_deletes_the_comparison_and_nothing_else(folder, plan):
    with folder.opened(plan):
        for job in plan.jobs():
            put(folder, job, a_result())
    mine = folder.path / "runs" / "mine" / "config.json"
    write_json(mine, {})
    (folder.path / "notes.txt").touch()
    for name in ("comparison.json", "index.html"):
        (folder.path / name).touch()
    other = a_plan([SPIKING], train={"lr": 0.1})
    with folder.opened(other, overwrite=True):
        assert json.loads((folder.path / "plan.json").read_text())["models"] == [SPIKING]
        assert sorted(p.name for p in folder.path.iterdir()) == [
            "compare.lock",
            "notes.txt",
            "plan.json",
            "runs",
        ]
        assert mine.exists()
        assert not (folder.path / "runs" / TINY).exists()


def test_a_damaged_plan_can_be_overwritten(folder, plan):
    with folder.opened(plan):
        pass
    (folder.path / "plan.json").write_text("{")
    with pytest.raises(RunError, match=r"plan\.json is damaged"), folder.opened(plan):
        pass
    with folder.opened(plan, overwrite=True):
        pass


def test_a_run_that_is_not_ours_is_not_touched(folder, plan):
    run = folder.path / plan.jobs()[0].folder
    write_json(run / "config.json", {"format": 1})
    with pytest.raises(RunError, match="seed0 holds a run that is of no comparison"), folder.opened(plan):
        pass
    with (
        pytest.raises(RunError, match="seed0 holds a run that is of no comparison"),
        folder.opened(plan, overwrite=True),
    ):
        pass
    assert [file.name for file in run.iterdir()] == ["config.json"]


def test_the_runs_of_a_plan_that_was_lost(folder, plan):
    with folder.opened(plan):
        put(folder, plan.jobs()[0], a_result())
    (folder.path / "plan.json").unlink()
    with folder.opened(plan):
        assert folder.result(plan.jobs()[0]) is not None
    (folder.path / "plan.json").unlink()
    other = a_plan(train={"lr": 0.1})
    with pytest.raises(RunError, match="holds another run; --overwrite replaces it"), folder.opened(other):
        pass
    with folder.opened(other, overwrite=True):
        assert folder.result(other.jobs()[0]) is None


def test_a_file_in_the_place_of_the_folder(tmp_path, plan):
    (tmp_path / "out").touch()
    with (
        pytest.raises(RunError, match="is a file; a comparison needs a folder"),
        Folder(tmp_path / "out").opened(plan),
    ):
        pass
    with (
        pytest.raises(RunError, match="cannot make the folder"),
        Folder(tmp_path / "out" / "in").opened(plan),
    ):
        pass


def test_what_an_older_version_wrote(folder, plan):
    """It knew neither a field of a model nor one of the training loop."""
    job = plan.jobs()[0]
    with folder.opened(plan):
        put(folder, job, a_result())
    for file in (folder.path / "plan.json", folder.path / job.folder / JOB):
        values = json.loads(file.read_text())
        for recipe in [values["recipe"]] if "recipe" in values else values["recipes"]:
            del recipe["model"][1]["gain"], recipe["train"]["ema"]
        file.write_text(json.dumps(values))
    with folder.opened(plan):
        assert folder.result(job) is not None
