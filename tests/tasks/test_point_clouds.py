"""The tasks of point clouds, and E-3DSNN trained on them."""

from __future__ import annotations

import pytest
import torch

from neuromix.cli import main
from neuromix.core import registry
from neuromix.core.batch import Ragged
from neuromix.core.config import Spec
from neuromix.core.errors import ConfigError, ShapeError
from neuromix.data.dataset import sample_generator
from neuromix.training.api import evaluate_run, train
from neuromix.training.observer import Observer
from neuromix.training.task import total
from tests.training.tiny import assert_same_weights

FEW = {"views": {"points": 64, "voxel": 0.25}}
SMALL = {"stem_dim": 4, "dims": (4, 6), "depths": (1, 1)}


def make(name: str, **options):
    return registry.build("task", Spec(name, {**FEW, **options}))


def batch_of(task, count: int = 3):
    data = task.data("test")
    return task.collate([data.sample(index, sample_generator(0, 0, index)) for index in range(count)])


def test_classification():
    task = make("shapes")
    assert task.class_names() == ("sphere", "cube", "cone", "torus") and task.score == "accuracy"
    batch = batch_of(task)
    assert batch["label"].tolist() == [0, 1, 2] and batch["cloud"].size == 3
    config = registry.find("model", "e3dsnn_nano")[1]
    assert task.prepare(config) == {"num_classes": 4, "in_channels": 6}
    assert make("shapes", normals=False).prepare(config)["in_channels"] == 3
    train_data = task.data("train", augment=True)
    assert train_data.augment and train_data.fresh and not task.data("test").augment


def test_segmentation():
    task = make("scenes", views={"points": 200, "voxel": 0.3, "centre": False})
    assert task.class_names()[0] == "ground" and task.score == "miou"
    batch = batch_of(task)
    label = batch["label"]
    assert isinstance(label, Ragged) and label.offsets.tolist() == batch["cloud"].offsets.tolist()
    assert task.prepare(registry.find("model", "e3dsnn_seg_nano")[1]) == {"num_classes": 5, "in_channels": 4}
    perfect = Ragged(torch.eye(5)[label.values] * 50, label.offsets)
    assert float(total(task.loss(perfect, batch))) < 1e-6
    metrics, confusion = task.metrics(), task.confusion()
    for gathered in (metrics, confusion):
        gathered.update(perfect, batch)
    assert metrics.compute() == {"miou": 1.0, "accuracy": 1.0}
    assert torch.equal(confusion.compute().diagonal(), label.values.bincount(minlength=5))


def test_scores_of_voxels_by_hand():
    task = make("scenes", views={"points": 200, "voxel": 0.3, "centre": False})
    label = torch.tensor([0, 0, 1, 1, 2, -1])
    answer = torch.tensor([0, 1, 1, 1, 0, 3])
    offsets = torch.tensor([0, 6])
    batch = batch_of(task, 1).replace(label=Ragged(label, offsets))
    metrics = task.metrics()
    metrics.update(Ragged(torch.eye(5)[answer], offsets), batch)
    # Classes 0, 1, 2: 1 of 3, 2 of 3, 0 of 1; classes that are nowhere do not count, nor voxels of none.
    assert metrics.compute() == {"miou": pytest.approx(1 / 3, abs=1e-6), "accuracy": 0.6}
    logits = torch.randn(6, 5)
    expected = torch.nn.functional.cross_entropy(logits[:5], label[:5])
    torch.testing.assert_close(task.loss(Ragged(logits, offsets), batch)["cross_entropy"], expected)
    nothing = batch.replace(label=Ragged(torch.full((6,), -1), offsets))
    assert float(task.loss(Ragged(logits, offsets), nothing)["cross_entropy"]) == 0


def test_what_does_not_fit_is_told():
    for name in ("point-cloud-classification", "point-cloud-segmentation"):
        with pytest.raises(ConfigError, match="needs data"):
            registry.build("task", name)
    task = make("scenes", views={"points": 200, "voxel": 0.3, "centre": False})
    batch = batch_of(task)
    with pytest.raises(ShapeError, match="set num_classes=5"):
        task.loss(Ragged(torch.zeros(len(batch["cloud"].values), 3), batch["cloud"].offsets), batch)


class Stop(Observer):
    """Breaks a run off after two steps."""

    def batch(self, done: int, loss: float) -> None:
        if done == 2:
            raise RuntimeError("stopped")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "model"), [("shapes", "e3dsnn_nano"), ("scenes", "e3dsnn_seg_nano")])
def test_a_run_goes_on_where_it_was_stopped(name, model, tmp_path):
    arguments = {
        "model_config": {**SMALL, **({"decoder_dims": (4, 6)} if "seg" in model else {})},
        "task_config": {"views.points": 32, "views.voxel": 0.5},
        "batch_size": 4,
        "max_steps": 3,
        "checkpoint_steps": 1,
        "threads": 1,
    }
    whole = train(model, name, tmp_path / "whole", **arguments)
    assert 0 <= next(iter(whole.test.values())) <= 1
    with pytest.raises(RuntimeError, match="stopped"):
        train(model, name, tmp_path / "run", observer=Stop(), **arguments)
    resumed = train(out=tmp_path / "run", resume=True)
    assert resumed.test == whole.test
    assert_same_weights(tmp_path / "run" / "best.safetensors", tmp_path / "whole" / "best.safetensors")
    confusion = evaluate_run(whole.run, confusion=True).confusion
    assert confusion is not None and sum(map(sum, confusion)) > 0


def test_the_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = [
        f"--set={key}={value}" for key, value in {"stem_dim": 4, "dims": "[4,6]", "depths": "[1,1]"}.items()
    ]
    views = ["--set=task.views.points=32", "--set=train.max_steps=1"]
    assert main(["train", "--task", "shapes", "--model", "e3dsnn_nano", "--out", "run", *small, *views]) == 0
    assert "test accuracy" in capsys.readouterr().out
    assert main(["profile", "run"]) == 0
    told = capsys.readouterr()
    assert "SparseConv3d" in told.out and "cloud [" in told.err
    (tmp_path / "data" / "a").mkdir(parents=True)
    (tmp_path / "data" / "b").mkdir()
    for name in "ab":
        (tmp_path / "data" / name / "x.ply").write_text("ply\n")
    arguments = ["--task", "point-cloud-classification", "--data", "data", "--model", "e3dsnn_nano"]
    assert main(["train", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1


@pytest.mark.slow
def test_four_shapes_are_told_apart(tmp_path):
    result = train("e3dsnn_nano", "shapes", tmp_path / "run", epochs=3, threads=1)
    assert result.test["accuracy"] >= 0.95


@pytest.mark.slow
def test_scenes_are_learnt(tmp_path):
    views = {"views.points": 2048, "views.voxel": 0.12}
    result = train("e3dsnn_seg_nano", "scenes", tmp_path / "run", task_config=views, epochs=6, threads=1)
    assert result.test["miou"] > 0.3  # all ground: 0.1
