"""A run that is stopped in any way and resumed is, bit for bit, the run that was never stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from neuromix.core.errors import RunError
from neuromix.training.api import train
from neuromix.training.observer import Observer
from neuromix.training.run_folder import RunFolder
from neuromix.training.signals import Interrupted
from neuromix.training.snapshot import Snapshot
from tests.training.tiny import assert_same_weights

ROOT = Path(__file__).parents[2]


# An epoch has 8 steps; a checkpoint is written every 3, and at the end of an epoch.
KILLED = {
    "before_the_first_checkpoint": "step:1",
    "within_an_epoch": "step:5",
    "while_writing_a_checkpoint": "write:3",
    "between_epochs": "epoch:1",
    "in_the_last_epoch": "step:13",
}
SIGNALLED = {"sigint": "sigint:5", "sigterm": "sigterm:5"}
GROUP = {"group": "group:5"}


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """(folder, {name: (exit code, standard error)}) of runs that were stopped in all these ways, and of "whole"."""
    folder = tmp_path_factory.mktemp("stopped")
    ways = [f"{name}={when}" for name, when in {"whole": "epoch:99", **KILLED, **SIGNALLED, **GROUP}.items()]
    command = [sys.executable, "-m", "tests.training.killed", str(folder), *ways]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return folder, json.loads(done.stdout)


def assert_resumes(run: Path, whole: Path) -> None:
    """Resumes a run, after which it must equal the whole one in everything but its speed."""
    train(out=run, resume=True)
    for name in ("best.safetensors", "last.safetensors"):
        assert_same_weights(run / name, whole / name)
    fields = ("epoch", "step", "train", "validation", "lr")
    records = [[{k: r[k] for k in fields} for r in RunFolder(path).records()] for path in (run, whole)]
    assert records[0] == records[1]
    assert RunFolder(run).scores() == RunFolder(whole).scores()
    assert sorted(p.name for p in run.iterdir()) == sorted(p.name for p in whole.iterdir())


@pytest.mark.parametrize("name", KILLED)
def test_sigkill(stopped, name):
    folder, results = stopped
    assert results["whole"][0] == 0
    assert results[name][0] == -signal.SIGKILL
    assert (folder / name / "last.safetensors").exists() == (name != "before_the_first_checkpoint")
    assert_resumes(folder / name, folder / "whole")


@pytest.mark.parametrize("name", SIGNALLED)
def test_a_signal_saves_at_once_and_says_how_to_go_on(stopped, name):
    folder, results = stopped
    code, errors = results[name]
    assert code == 128 + signal.Signals[name.upper()]
    told = f"stopped in epoch 1; go on with: neuromix train --resume --out {folder / name}"
    assert errors.splitlines()[-1] == told
    assert Snapshot.load(folder / name / "last.safetensors").point == (
        0,
        0,
        6,
    )  # asked in step 5, done after the next
    assert_resumes(folder / name, folder / "whole")


def test_a_signal_that_ends_the_reading_processes_as_well(stopped):
    folder, results = stopped
    code, errors = results["group"]
    assert code == 128 + signal.SIGTERM
    assert errors.splitlines()[-1].startswith("stopped in epoch 1; go on with: neuromix train --resume --out")
    assert_resumes(folder / "group", folder / "whole")


def test_a_finished_run_is_not_trained_again(run_tiny, tmp_path):
    first = run_tiny(max_steps=2)
    before = (tmp_path / "run" / "last.safetensors").stat().st_mtime_ns
    assert run_tiny(max_steps=2, resume=True) == first
    assert (tmp_path / "run" / "last.safetensors").stat().st_mtime_ns == before


def test_a_changed_config_is_refused_by_key(run_tiny, tmp_path):
    run_tiny(max_steps=1)
    with pytest.raises(
        RunError, match=r"changed: model.width \(was 8, now 9\), train.epochs \(was 2, now 3\)$"
    ):
        run_tiny(max_steps=1, epochs=3, model_config={"width": 9}, resume=True)
    with pytest.raises(RunError, match=r"task\.size"):
        run_tiny(max_steps=1, task_config={"size": 9}, resume=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"format": 99}', "format 99 and this version of neuromix reads up to 1; update neuromix"),
        ("{", "config.json is damaged"),
        ("[1]", "config.json is damaged"),
        (
            '{"format": 1, "modle": 2}',
            "config.json is damaged: unknown Recipe key 'modle'; did you mean model",
        ),
    ],
)
def test_a_config_that_cannot_be_read(run_tiny, tmp_path, text, message):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(text)
    with pytest.raises(RunError, match=message):
        run_tiny(resume=True)
    with pytest.raises(RunError, match="already holds a run"):
        run_tiny()


def test_a_folder_without_a_run(run_tiny, tmp_path):
    with pytest.raises(RunError, match=r"holds no run: it has no config\.json"):
        run_tiny(resume=True)


def test_a_damaged_last_checkpoint(run_tiny, tmp_path):
    run_tiny(max_steps=1)
    folder = tmp_path / "run"
    (folder / "metrics.json").unlink()
    (folder / "last.safetensors").write_bytes((folder / "last.safetensors").read_bytes()[:-9])
    with pytest.raises(Exception, match=r"last\.safetensors is damaged"):
        run_tiny(max_steps=1, resume=True)
    (folder / "last.safetensors").write_bytes((folder / "best.safetensors").read_bytes())
    with pytest.raises(Exception, match="does not say where its run was"):
        run_tiny(max_steps=1, resume=True)


def test_a_torn_line_of_metrics_is_written_again(run_tiny, tmp_path):
    run_tiny(max_steps=1)
    folder = RunFolder(tmp_path / "run")
    records = folder.records()
    (folder.path / "metrics.json").unlink()
    with open(folder.path / "metrics.jsonl", "a") as lines:
        lines.write('{"stage": "tr')
    assert folder.records() == records
    run_tiny(max_steps=1, resume=True)
    assert (folder.path / "metrics.jsonl").read_text() == json.dumps(records[0]) + "\n"


def test_a_signal_while_the_trained_model_is_scored(run_tiny, tmp_path):
    class Stop(Observer):
        def evaluating(self, split: str, done: int, batches: int) -> None:
            if split == "test" and done == 1:
                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted, match="stopped after training; go on with") as stop:
        run_tiny(max_steps=1, observer=Stop())
    assert stop.value.number == signal.SIGTERM
    result = run_tiny(max_steps=1, resume=True)
    assert RunFolder(tmp_path / "run").scores()["test"] == result.test
