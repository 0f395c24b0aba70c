"""What is measured of a trained model is what it does on the test split."""

from __future__ import annotations

import json

import pytest
import torch

import neuromix
import tests.training.tiny  # noqa: F401 (registers the net)
from neuromix.compare.answers import answers
from neuromix.compare.measured import PROFILED, measured, raster, spaced_samples
from neuromix.core import registry
from neuromix.measure.profile import profile
from neuromix.training.config import TrainConfig
from neuromix.training.evaluate import evaluate

CONFIG = TrainConfig(batch_size=64, seed=3)


@pytest.fixture(scope="module")
def task():
    return registry.build("task", "digits")


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    return neuromix.create_model("tiny_test_net").eval()


@pytest.fixture(scope="module")
def found(tiny, task):
    return measured(tiny, task, CONFIG)


def test_it_is_plain(found):
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_answers_are_those_of_the_evaluation(found, tiny, task):
    accuracy = evaluate(tiny, task, "test", batch_size=64, seed=3)["accuracy"]
    scores = found["sample_scores"]
    assert set(scores) == {0.0, 1.0}
    assert sum(scores) / len(scores) == pytest.approx(accuracy)
    confusion = torch.tensor(found["confusion"])
    labels = [task.data("test").sample(i, torch.Generator())["label"] for i in range(500)]
    assert confusion.sum(1).tolist() == torch.bincount(torch.tensor(labels)).tolist()
    assert int(confusion.trace()) == sum(scores)
    right = [label for label, score in zip(labels, scores, strict=True) if score]
    assert confusion.diagonal().tolist() == torch.bincount(torch.tensor(right), minlength=10).tolist()


def test_costs_are_those_of_the_profile_on_spaced_samples(found, tiny, task):
    data = task.data("test")
    spaced = [data.sample(i * 500 // PROFILED, torch.Generator())["image"] for i in range(PROFILED)]
    cost = profile(tiny, torch.stack(spaced))
    assert found["energy"] == dict(cost.energy)
    assert found["synaptic_operations"] == cost.synaptic_operations
    assert [layer["path"] for layer in found["layers"]] == [layer.path for layer in cost.layers]
    assert found["neurons"][0].keys() == {"path", "type", "elements", "firing_rate"}
    assert found["peak_memory"] > 0


def test_samples_are_spaced_and_no_more_than_there_are(task):
    assert len(spaced_samples(task, 10_000).tensor("label")) == 500
    one = spaced_samples(task, 1)
    assert torch.equal(one.tensor("image")[0], task.data("test").sample(0, torch.Generator())["image"])


def test_a_raster_of_every_step(task):
    torch.manual_seed(0)
    net = neuromix.create_model("meta_spikeformer_nano", time_steps=3).eval()
    shown = raster(net, task)
    sample = spaced_samples(task, 1)
    assert shown["label"] == str(int(sample.tensor("label")))
    assert len(shown["predictions"]) == 3
    assert shown["predictions"][-1] == str(int(net(sample.tensor("image")).argmax()))
    first = neuromix.rebuild(net, time_steps=1).eval()(sample.tensor("image"))
    assert shown["predictions"][0] == str(int(first.argmax()))
    assert shown["trains"][-1]["name"] == "head"
    assert {len(train["spikes"]) for train in shown["trains"]} == {3}


def test_a_raster_of_a_net_without_steps(found):
    assert len(found["raster"]["predictions"]) == 1
    assert [train["name"] for train in found["raster"]["trains"]] == ["neuron"]
    assert found["raster"]["trains"][0]["neurons"] == 8 * 3 * 3


def test_no_raster_without_spikes(task):
    assert raster(neuromix.create_model("poolformer_nano").eval(), task) is None


def test_a_score_that_is_no_mean_has_no_scores_of_samples(tiny, task):
    class Odd(type(task)):
        def metrics(self):
            return OneMore(super().metrics())

    class OneMore:
        """An accuracy plus one for every ten samples."""

        def __init__(self, inner):
            self.inner, self.samples = inner, 0

        def to(self, device):
            self.inner.to(device)

        def update(self, prediction, batch):
            self.inner.update(prediction, batch)
            self.samples += batch.size

        def compute(self):
            return {"accuracy": self.inner.compute()["accuracy"] + self.samples // 10}

    found = answers(tiny, Odd(task.config), CONFIG)
    assert found.scores is None
    assert sum(map(sum, found.confusion)) == 500


def test_no_confusion_of_very_many_classes(tiny, task, monkeypatch):
    monkeypatch.setattr("neuromix.compare.answers.MOST_CLASSES", 9)
    assert answers(tiny, task, CONFIG).confusion is None
