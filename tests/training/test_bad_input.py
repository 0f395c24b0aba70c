"""What a user can get wrong in training: one clear line, nothing written, nothing lost."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import torch

from neuromix.core.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    NeuromixError,
    RunError,
    ShapeError,
    UnknownNameError,
)
from neuromix.training import run_folder
from neuromix.training.api import evaluate_run, train
from neuromix.training.observer import Observer
from neuromix.training.snapshot import Snapshot
from tests.training.tiny import tensors


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        (
            {"model": "tiny_test_ent"},
            UnknownNameError,
            "unknown model 'tiny_test_ent'; did you mean tiny_test_net",
        ),
        ({"model": None}, ConfigError, "a new run needs a model"),
        ({"task": None}, ConfigError, "a new run needs a task"),
        ({"task": "digit"}, UnknownNameError, "unknown task 'digit'; did you mean digits?"),
        ({"task": "image-classification"}, ConfigError, "needs data: --data digits, or --data FOLDER"),
        ({"model": "tiny_text_net"}, ConfigError, "made for language, not for image-classification"),
        ({"method": "bbtt"}, UnknownNameError, "unknown method 'bbtt'; did you mean bptt"),
        ({"method": ["bptt", "bptt"]}, ConfigError, "a method comes twice"),
        ({"method_config": {"lambda": 1}}, UnknownNameError, "unknown key of method bptt 'lambda'"),
        ({"model_config": {"widht": 4}}, UnknownNameError, "'widht'; did you mean width"),
        ({"model_config": {"width": -1}}, ConfigError, "width must be positive, got -1"),
        ({"model_config": {"time_steps": 0}}, ConfigError, "time_steps must be positive, got 0"),
        ({"model_config": {"num_classes": 3}}, ShapeError, "set num_classes=10"),
        (
            {"model_config": {"in_channels": 3}},
            ShapeError,
            r"expected a floating-point tensor \[B, 3, H, W\]",
        ),
        ({"task_config": {"sise": 8}}, UnknownNameError, "'sise'; did you mean size"),
        ({"task_config": {"size": 0}}, ConfigError, "size"),
        ({"task_config": {"augmentation": "digit"}}, UnknownNameError, "'digit'; did you mean digits"),
        ({"task_config": {"label_smoothing": 1.0}}, ConfigError, "label_smoothing"),
        ({"task_config": {"mixup": -1}}, ConfigError, "mixup must be 0 or more"),
        ({"task_config": {"data": "diggits"}}, DataError, "diggits"),
        ({"lrr": 1}, UnknownNameError, "unknown TrainConfig key 'lrr'; did you mean lr"),
        ({"epochs": 0}, ConfigError, "epochs must be positive, got 0"),
        ({"epochs": 1.5}, ConfigError, "epochs must be int, got 1.5"),
        ({"lr": float("nan")}, ConfigError, "lr must be float, got nan"),
        ({"warmup": 1.0}, ConfigError, "warmup"),
        ({"precision": "8-bit"}, ConfigError, "precision must be one of 'auto'"),
        ({"seed": -1}, ConfigError, "seed must be 0 or more"),
        ({"clip_norm": 0}, ConfigError, "clip_norm must be positive"),
        ({"final_lr": 2}, ConfigError, "final_lr"),
    ],
    ids=str,
)
def test_refused_before_anything_is_written(tmp_path, changes, kind, message):
    arguments = {"model": "tiny_test_net", "task": "digits", "out": tmp_path / "run", **changes}
    with pytest.raises(kind, match=message) as error:
        train(**arguments)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="no cuda device is available here"):
        train("tiny_test_net", "digits", tmp_path / "run", device="cuda")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_holds_a_run_is_kept(run_tiny, tmp_path):
    run_tiny(max_steps=1, seed=1)
    before = {path: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    with pytest.raises(
        RunError, match="already holds a run; --resume goes on with it, --overwrite replaces it"
    ):
        run_tiny(max_steps=1)
    with pytest.raises(NeuromixError):  # a mistake does not cost the old run
        run_tiny(max_steps=1, overwrite=True, model_config={"width": 0})
    assert {path: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before
    (tmp_path / "run" / "notes.txt").write_text("mine")
    run_tiny(max_steps=1, seed=2, overwrite=True)
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"
    assert (tmp_path / "run" / "config.json").read_bytes() != before[tmp_path / "run" / "config.json"]


def test_a_file_in_the_place_of_the_folder(run_tiny, tmp_path):
    (tmp_path / "run").write_text("mine")
    with pytest.raises(RunError, match="run is a file; a run needs a folder"):
        run_tiny()
    assert (tmp_path / "run").read_text() == "mine"


def test_resume_needs_the_folder(tmp_path):
    with pytest.raises(ConfigError, match="needs the folder of the run"):
        train("tiny_test_net", "digits", resume=True)
    with pytest.raises(ConfigError, match="does not go with overwrite"):
        train("tiny_test_net", "digits", tmp_path, resume=True, overwrite=True)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(run_tiny, tmp_path):
    last = tmp_path / "run" / "last.safetensors"
    with pytest.raises(RunError, match=r"not finite at step 6 \(epoch 1\)") as error:
        run_tiny(model_config={"blows_up": True})
    assert f"the last good checkpoint is {last}" in str(error.value)
    assert Snapshot.load(last).state["step"] == 3
    assert all(value.isfinite().all() for value in tensors(last).values())


def test_a_loss_that_is_not_finite_before_any_checkpoint(run_tiny, tmp_path):
    with pytest.raises(RunError, match=r"at step 1 \(epoch 1\).* no checkpoint yet"):
        run_tiny(model_config={"gain": 1e38})
    assert not list(tmp_path.iterdir())


class Fill(Observer):
    """Fills the disk after a step."""

    def __init__(self, folder: Path, step: int) -> None:
        self.folder, self.step = folder, step

    def batch(self, done: int, loss: float) -> None:
        if done == self.step:
            with open(self.folder / "ballast", "wb", buffering=0) as file:
                try:
                    for size in (4096, 1):
                        while file.write(b"x" * size) == size:
                            pass
                except OSError:
                    pass


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of 200 KB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(disk)]
    if os.name != "posix" or os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting needs privileges that this process does not have")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize(("step", "file"), [(4, "last.safetensors"), (8, "metrics.jsonl")])
def test_a_full_disk_costs_nothing_that_was_saved(tiny_disk, step, file):
    run = tiny_disk / "run"
    options = {"epochs": 2, "batch_size": 128, "checkpoint_steps": 3}
    whole = train("tiny_test_net", "digits", tiny_disk / "whole", **options)
    with pytest.raises(RunError, match=rf"cannot write {run}/{file}: .*No space left on device") as error:
        train("tiny_test_net", "digits", run, observer=Fill(tiny_disk, step), **options)
    assert "\n" not in str(error.value)
    assert not list(run.glob(".*"))
    (tiny_disk / "ballast").unlink()
    resumed = train(out=run, resume=True)
    assert (resumed.test, resumed.validation) == (whole.test, whole.validation)


def test_a_full_disk_without_a_disk(run_tiny, tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"cannot write .*config.json: No space left on device"):
        run_tiny()
    assert not (tmp_path / "run").exists()


def test_a_line_of_metrics_is_written_as_a_whole_or_not_at_all(run_tiny, tmp_path, monkeypatch):
    run_tiny(max_steps=1)
    lines = tmp_path / "run" / "metrics.jsonl"
    before, write = lines.read_bytes(), os.write

    def half(descriptor: int, data: bytes) -> int:
        if len(data) < 10:
            raise OSError(28, "No space left on device")
        return write(descriptor, data[: len(data) // 2])

    monkeypatch.setattr(run_folder.os, "write", half)
    with pytest.raises(RunError, match=r"cannot write .*metrics.jsonl: No space left on device"):
        run_folder.RunFolder(tmp_path / "run").append({"stage": "train", "epoch": 2})
    monkeypatch.undo()
    assert lines.read_bytes() == before


def test_evaluating_what_is_not_there(run_tiny, tmp_path):
    with pytest.raises(RunError, match="holds no run"):
        evaluate_run(tmp_path)
    run_tiny(max_steps=1)
    with pytest.raises(UnknownNameError, match="unknown split 'tset'"):
        evaluate_run(tmp_path / "run", "tset")
    weights = tmp_path / "run" / "best.safetensors"
    weights.write_bytes(weights.read_bytes()[:50])
    with pytest.raises(CheckpointError, match="is damaged"):
        evaluate_run(tmp_path / "run")
    weights.unlink()
    with pytest.raises(RunError, match="has not finished an epoch yet"):
        evaluate_run(tmp_path / "run")
