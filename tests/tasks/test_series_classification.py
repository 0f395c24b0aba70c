"""The task of series with one class each, the method that prunes, and that nets learn it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from neuromix.core import registry
from neuromix.core.batch import Batch
from neuromix.core.checkpoint import load_checkpoint
from neuromix.core.errors import ConfigError
from neuromix.tasks.audio_classification import silenced
from neuromix.tasks.classification import Classification, ClassificationConfig
from neuromix.training.api import train


def write_waves(folder, count=40, length=20):
    """Series of two channels that swing fast or slowly."""
    chance, folder = np.random.RandomState(0), folder / "waves"
    folder.mkdir()
    for part in ("train", "test"):
        y = np.arange(count) % 2
        phase = chance.rand(count, 1) * 6
        x = np.sin(np.arange(length) * (0.5 + y[:, None]) + phase)
        np.save(folder / f"x_{part}.npy", np.stack([x, chance.randn(*x.shape)], 2))
        np.save(folder / f"y_{part}.npy", y)
    return str(folder)


def test_a_batch(tmp_path):
    task = registry.build("task", ["series-classification", {"data": write_waves(tmp_path)}])
    data = task.data("test")
    batch = task.collate([data.sample(i, torch.Generator()) for i in range(3)])
    assert batch.tensor("series").shape == (3, 20, 2) and batch.tensor("length").tolist() == [20] * 3
    assert task.class_names() == ("0", "1")
    config = registry.find("model", "l2mu_nano")[1]
    assert task.prepare(config) == {"num_classes": 2, "in_channels": 2}
    with pytest.raises(ConfigError, match="--data FOLDER"):
        registry.build("task", "series-classification")


def test_pruning_between_two_stages(tmp_path):
    result = train(
        "l2mu_nano",
        "series-classification",
        tmp_path / "run",
        task_config={"data": write_waves(tmp_path, 12, 6)},
        model_config={"hidden": 8, "memories": 4},
        method="prune_magnitude",
        method_config={"tuning_epochs": 1},
        epochs=1,
    )
    net = result.model()
    assert [spec.name for spec in net.edits] == ["prune_magnitude"]
    assert int((net.cell.w_h.weight == 0).sum()) == 32
    dense = load_checkpoint(tmp_path / "run" / "stage-1.safetensors")
    assert not dense.edits and (dense.cell.w_h.weight != 0).all()
    stages = [json.loads(line)["stage"] for line in (tmp_path / "run" / "metrics.jsonl").open()]
    assert stages == ["dense", "pruned"]


def test_binary_cross_entropy():
    logits, label = torch.randn(4, 3), torch.tensor([0, 2, 1, 1])
    task = Classification(ClassificationConfig(loss="bce", label_smoothing=0.3), "abc")
    target = torch.eye(3)[label] * 0.7 + 0.1
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, target)
    torch.testing.assert_close(task.loss(logits, Batch({"label": label}))["bce"], expected)
    torch.testing.assert_close(task.loss(logits, Batch({"label": torch.eye(3)[label]}))["bce"], expected)


def test_windows_of_silence():
    x, chance = torch.ones(200, 9, 7), torch.Generator().manual_seed(0)
    for axis in (1, 2):
        y = silenced(x, axis, 4, chance)
        hidden = (y == 0).all(3 - axis)
        assert torch.equal(hidden.unsqueeze(3 - axis).expand_as(y), y == 0)
        widths = hidden.sum(1)
        assert widths.unique().tolist() == [0, 1, 2, 3, 4]
        assert (hidden.int().diff(dim=1).abs().sum(1) <= 2).all()
        assert hidden[:, 0].any() and hidden[:, -1].any()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lmu_series_nano", "spiking_lmu_series_nano"])
def test_permuted_digits_are_learnt(tmp_path, name):
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    order, digits = np.random.RandomState(0).permutation(64), tmp_path / "digits"
    digits.mkdir()
    np.save(digits / "x_train.npy", pixels[:, order, None] / 16)
    np.save(digits / "y_train.npy", labels)
    found = train(
        name,
        "series-classification",
        tmp_path / "run",
        task_config={"data": str(digits)},
        epochs=30,
    )
    assert found.test["accuracy"] > (0.85 if name.startswith("spiking") else 0.9)
