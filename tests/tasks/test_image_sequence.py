"""Sequences of tasks made from images: what is in which task, which outputs count, and how they are scored."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from neuromix.core import registry
from neuromix.core.errors import ConfigError, NeuromixError
from neuromix.tasks.image_classification import ImageClassification, ImageClassificationConfig
from neuromix.tasks.image_sequence import ImageSequence, ImageSequenceConfig
from neuromix.training.evaluate import evaluate


def sequence(**options) -> ImageSequence:
    return ImageSequence(ImageSequenceConfig(**{"data": "digits", **options}))


def batch_of(task, split="train", count=24, start=0):
    data, chance = task.data(split), torch.Generator()
    return task.collate([data.sample(i, chance) for i in range(start, min(start + count, len(data)))])


def test_registered_names():
    permuted, split = (registry.build("task", name) for name in ("permuted-digits", "split-digits"))
    assert (len(permuted), permuted.scenario, permuted.classes) == (3, "domain", 10)
    assert (len(split), split.scenario, split.classes) == (5, "task", 10)
    assert split.task_names[1] == "classes 2, 3" and permuted.kind == "image-classification"


def test_permuted_pixels_are_the_same_pixels():
    plain = ImageClassification(ImageClassificationConfig(data="digits"))
    tasks = sequence()
    original = batch_of(plain)
    for number in range(3):
        batch = batch_of(tasks.stage(number))
        assert torch.equal(batch["label"], original["label"])
        assert batch["task"].unique().tolist() == [number]
        assert torch.equal(batch["image"], original["image"]) == (number == 0)
        torch.testing.assert_close(
            batch["image"].flatten(1).sort().values, original["image"].flatten(1).sort().values
        )
    again, other = sequence(), sequence(permutation_seed=1)
    assert torch.equal(batch_of(again.stage(1))["image"], batch_of(tasks.stage(1))["image"])
    assert not torch.equal(batch_of(other.stage(1))["image"], batch_of(tasks.stage(1))["image"])


@pytest.mark.parametrize(("scenario", "outputs"), [("task", [4, 5]), ("class", [4, 5]), ("domain", [0, 1])])
def test_split_classes(scenario, outputs):
    tasks = sequence(change="split", scenario=scenario)
    batch = batch_of(tasks.stage(2), count=400)
    assert batch["label"].unique().tolist() == outputs
    assert tasks.classes == (2 if scenario == "domain" else 10)
    assert sum(len(tasks.stage(i).data("test")) for i in range(5)) == len(tasks.data("test")) == 500


def test_permutations_may_have_heads_of_their_own():
    tasks = sequence(scenario="task", tasks=2)
    assert tasks.classes == 20 and batch_of(tasks.stage(1))["label"].min() >= 10


def test_parts():
    tasks = sequence(change="split")
    assert tasks.stage(3).whole is tasks.first(2).whole is tasks
    assert tasks.first(2).numbers == (0, 1) and tasks.stage(3).seen == 4
    few = tasks.first(2, per_class=3)
    assert len(few.data("train")) == 12 and len(few.data("test")) == len(tasks.first(2).data("test"))
    for wrong in (-1, 5):
        with pytest.raises(ConfigError, match=f"tasks 0 to 4, there is no task {wrong}"):
            tasks.stage(wrong)
    for wrong in (0, 6):
        with pytest.raises(ConfigError, match=f"has 5 tasks, the first {wrong} cannot be taken"):
            tasks.first(wrong)


@pytest.mark.parametrize(
    ("scenario", "columns"), [("task", [4, 5]), ("class", [0, 1, 2, 3, 4, 5]), ("domain", [0, 1])]
)
def test_the_loss_is_over_the_outputs_that_are_allowed(scenario, columns):
    stage = sequence(change="split", scenario=scenario).stage(2)
    batch = batch_of(stage)
    logits = torch.randn(
        batch.size, stage.classes, generator=torch.Generator().manual_seed(0), requires_grad=True
    )
    loss = stage.loss(logits, batch)["cross_entropy"]
    labels = batch["label"] - columns[0]
    expected = F.cross_entropy(logits[:, columns], labels, label_smoothing=stage.config.label_smoothing)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert logits.grad.abs().sum(0).nonzero()[:, 0].tolist() == columns


class Answers(torch.nn.Module):
    """Stands for a model that gives the right class a logit of 1, and output `always` one of 2."""

    def __init__(self, always):
        super().__init__()
        self.always, self.weight = always, torch.nn.Parameter(torch.zeros(1))


def predict(model, batch, generator):
    logits = F.one_hot(batch["label"], 10).float()
    logits[:, model.always] += 2.0
    return logits


def test_aware_and_agnostic_accuracies_differ():
    tasks = sequence(change="split")
    each = tasks.first(3).accuracies()
    scores = evaluate(Answers(5), tasks.first(3), "test", predict=predict, also=(each,))
    found = each.compute()
    share = float((batch_of(tasks.stage(2), "test", 500)["label"] == 5).float().mean())
    assert found["task_aware"] == pytest.approx([1, 1, share], abs=1e-5)
    assert found["task_agnostic"] == pytest.approx([0, 0, share], abs=1e-5)
    assert scores["accuracy"] == pytest.approx((2 + share) / 3, abs=1e-5)
    assert scores["task_agnostic_accuracy"] == pytest.approx(share / 3, abs=1e-5)
    # Before the task that output 5 belongs to, nobody can take a sample for it.
    each = tasks.first(2).accuracies()
    evaluate(Answers(5), tasks.first(2), "test", predict=predict, also=(each,))
    assert each.compute()["task_agnostic"] == [1, 1]


def test_shared_classes_have_one_score():
    scores = evaluate(Answers(3), sequence(tasks=2), "test", predict=predict)
    assert scores.keys() == {"accuracy"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"change": "split", "tasks": 6}, "10 classes make at most 5 tasks of 2 or more, not 6"),
        ({"change": "split", "scenario": "class", "tasks": 11}, "at most 10 tasks of 1 or more"),
        ({"change": "split", "scenario": "domain", "tasks": 3}, "cannot be split evenly among 3"),
        ({"tasks": 0}, "tasks must be positive"),
        ({"mixup": 0.2}, "leave them at 0"),
        ({"change": "shuffled"}, "must be one of 'permuted', 'split'"),
        ({"data": ""}, "needs data"),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(NeuromixError, match=message):
        sequence(**options)


def test_a_sequence_of_one_task():
    tasks = sequence(tasks=1)
    assert len(tasks) == 1 and torch.equal(batch_of(tasks)["image"], batch_of(tasks.stage(0))["image"])
