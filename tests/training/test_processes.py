"""Several processes that share the batches of a run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from neuromix.core.errors import ConfigError
from neuromix.training.api import train
from neuromix.training.config import TrainConfig
from neuromix.training.devices import make_fabric
from neuromix.training.observer import Observer
from neuromix.training.run_folder import LAST, RunFolder
from neuromix.training.snapshot import Snapshot
from tests.training.tiny import assert_same_weights, tensors

ROOT = Path(__file__).parents[2]


def torchrun(module: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        "-m",
        module,
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, *map(str, arguments)], cwd=ROOT, env=environment, capture_output=True, text=True
    )


def test_two_processes_train_one_model_and_resume_it(tmp_path):
    """One start of two processes does it all: see `two.py`."""
    done = torchrun("tests.training.two", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Grad strides" not in done.stderr and "distributed" not in done.stderr
    # Both have the same weights and scores.
    scores = [json.loads((tmp_path / f"whole-{rank}.json").read_text()) for rank in (0, 1)]
    assert scores[0] == scores[1]
    first, second = (tensors(tmp_path / f"whole-{rank}.safetensors") for rank in (0, 1))
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name
    environment = json.loads((tmp_path / "whole" / "environment.json").read_text())
    assert environment["processes"] == 2
    # A run of which every weight but a spare one gets a gradient was trained as well.
    assert json.loads((tmp_path / "spare-0.json").read_text())["test"]
    # Where it is looked for such weights, one that only an auxiliary loss reaches is not taken for one of them.
    codes = [tensors(tmp_path / f"asking-{rank}.safetensors")["code"] for rank in (0, 1)]
    assert torch.equal(*codes) and not torch.equal(codes[0], torch.ones(10))
    # And the run that was stopped between two checkpoints goes on as the one that was not.
    assert (tmp_path / "stopped-1.txt").read_text().startswith("stopped in epoch 1; go on with")
    for name in ("best.safetensors", "last.safetensors"):
        assert_same_weights(tmp_path / "stopped" / name, tmp_path / "whole" / name)


def test_a_batch_that_cannot_be_shared(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="batch_size must be a multiple of 2 processes, got 65"):
        make_fabric(TrainConfig(batch_size=65, device="cpu"))


def test_another_number_of_processes_may_go_on_and_it_is_said(run_tiny):
    folder = RunFolder(run_tiny(max_steps=1).run)
    (folder.path / "metrics.json").unlink()
    snapshot = Snapshot.load(folder.path / LAST)
    folder.save(
        LAST, snapshot.model, Snapshot({**snapshot.state, "processes": 2}, {}, snapshot.model).packed()
    )
    listener = Listener()
    train(out=folder.path, resume=True, observer=listener)
    assert listener.heard == ["the run goes on with 1 instead of 2 processes: its numbers will differ"]


class Listener(Observer):
    def __init__(self) -> None:
        self.heard: list[str] = []

    def note(self, text: str) -> None:
        self.heard.append(text)
