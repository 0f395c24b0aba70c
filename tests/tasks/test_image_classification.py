"""The task image-classification: data, model fields, losses and scores."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from neuromix.core import registry
from neuromix.core.batch import Batch
from neuromix.core.config import Spec
from neuromix.core.errors import DataError, ShapeError
from neuromix.training.api import evaluate_run, train
from neuromix.training.observer import Observer
from tests.training.tiny import TinyConfig, TinyNet

Image = pytest.importorskip("PIL.Image")


def make(name: str = "digits", **options):
    return registry.build("task", Spec(name, options))


def image_folder(path: Path, classes: int = 2, images: int = 8, size: int = 8) -> Path:
    """Grey images whose brightness tells the class."""
    for label in range(classes):
        (path / f"class{label}").mkdir(parents=True)
        for number in range(images):
            pixels = Image.new("RGB", (size, size), (100 * label + number,) * 3)
            pixels.save(path / f"class{label}" / f"{number}.png")
    return path


def test_digits_is_image_classification_of_the_digits():
    task = make("digits")
    assert make("image-classification", data="digits").config == task.config
    assert [len(task.data(split)) for split in ("train", "validation", "test")] == [1100, 197, 500]


def test_a_model_takes_classes_channels_and_size_from_the_data(tmp_path):
    task = make("image-classification", data=str(image_folder(tmp_path, size=6)), size=12)
    assert task.prepare(TinyConfig()) == {"num_classes": 2, "in_channels": 3}
    sample = task.data("train").sample(0, torch.Generator())
    assert sample["image"].shape == (3, 12, 12)

    class Sized:
        input_size = None

    assert task.prepare(Sized()) == {"input_size": (12, 12)}


def test_only_training_data_are_augmented():
    task = make("digits")
    first, second = (
        task.data("train", augment=True).sample(0, torch.Generator().manual_seed(seed))["image"]
        for seed in (1, 2)
    )
    assert not torch.equal(first, second)
    plain = [task.data("train").sample(0, torch.Generator().manual_seed(seed))["image"] for seed in (1, 2)]
    assert torch.equal(*plain)
    off = (
        make("digits", augmentation="none").data("train", augment=True).sample(0, torch.Generator())["image"]
    )
    assert torch.equal(off, plain[0])


def test_loss_is_cross_entropy_with_smoothing_also_of_the_first_of_two_outputs():
    task = make("digits", label_smoothing=0.2)
    logits, label = torch.randn(5, 10), torch.arange(5)
    batch = Batch({"label": label})
    expected = F.cross_entropy(logits, label, label_smoothing=0.2)
    assert torch.equal(task.loss(logits, batch)["cross_entropy"], expected)
    assert torch.equal(task.loss((logits, logits * 2), batch)["cross_entropy"], expected)
    with pytest.raises(ShapeError, match=r"the model gives \[5, 7\], .* set num_classes=10"):
        task.loss(logits[:, :7], batch)


@pytest.mark.parametrize("mixes", [{"mixup": 0.5}, {"cutmix": 1.0}, {"mixup": 0.5, "cutmix": 1.0}])
def test_mixing_softens_labels_and_can_be_drawn_again(mixes):
    task = make("digits", **mixes)
    batch = Batch({"image": torch.rand(6, 1, 8, 8), "label": torch.arange(6)})
    mixed, again = (task.augment(batch, torch.Generator().manual_seed(3)) for _ in range(2))
    assert mixed.tensor("label").shape == (6, 10)
    torch.testing.assert_close(mixed.tensor("label").sum(1), torch.ones(6))
    assert torch.equal(mixed.tensor("image"), again.tensor("image"))
    model = TinyNet(TinyConfig())
    loss = task.objective(model, mixed, torch.Generator())["cross_entropy"]
    assert loss.isfinite()


def test_accuracy_and_top5():
    metrics = make("digits").metrics()
    scores = torch.eye(10)[[3, 3, 3, 3]] + torch.arange(10) / 100
    metrics.update(scores, Batch({"label": torch.tensor([3, 9, 0, 3])}))
    assert metrics.compute() == {"accuracy": 0.5, "top5_accuracy": 0.75}
    metrics.update(scores.bfloat16(), Batch({"label": torch.tensor([3, 3, 3, 3])}))
    assert metrics.compute()["accuracy"] == 0.75


def test_few_classes_have_no_top5(tmp_path):
    metrics = make("image-classification", data=str(image_folder(tmp_path))).metrics()
    metrics.update(torch.eye(2), Batch({"label": torch.tensor([0, 1])}))
    assert metrics.compute() == {"accuracy": 1.0}


class Listener(Observer):
    def __init__(self) -> None:
        self.heard: list[str] = []

    def note(self, text: str) -> None:
        self.heard.append(text)


def test_a_broken_image_is_named_or_left_out_and_counted(tmp_path):
    data = image_folder(tmp_path / "data", images=12)
    images = make("image-classification", data=str(data)).images
    Path(images.source.where(images.splits["train"][5])).write_bytes(b"not an image")
    options = {"task_config": {"data": str(data)}, "max_steps": 1, "batch_size": 4}
    with pytest.raises(DataError, match=r"/data/class\d/\d+.png is not a sound PNG or JPEG image"):
        train("tiny_test_net", "image-classification", tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()
    options["task_config"]["skip_broken"] = True
    listener = Listener()
    result = train("tiny_test_net", "image-classification", tmp_path / "run", observer=listener, **options)
    assert listener.heard == ["left out 1 broken image"]
    assert evaluate_run(result.run).scores == result.test


@pytest.mark.parametrize(("classes", "message"), [(0, "empty"), (1, "one class")])
def test_a_folder_without_classes_to_tell_apart(tmp_path, classes, message):
    (tmp_path / "data").mkdir()
    data = image_folder(tmp_path / "data", classes=classes)
    with pytest.raises(DataError, match=message):
        train("tiny_test_net", "image-classification", tmp_path / "run", task_config={"data": str(data)})
    assert not (tmp_path / "run").exists()


def test_small_sets_are_trained_in_small_batches_unless_told_otherwise(tmp_path):
    from neuromix.training.recipe import Request, new_recipe

    assert make("digits").training() == {"batch_size": 32, "lr": 5e-3, "threads": 1}
    recipe, _ = new_recipe(Request("tiny_test_net", "digits", train_config={"lr": 1e-3}))
    assert (recipe.train.batch_size, recipe.train.lr) == (32, 1e-3)
