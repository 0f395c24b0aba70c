from __future__ import annotations

import json

import pytest
import torch

import neuromix
from neuromix.core.config import Spec
from neuromix.core.errors import ConfigError
from neuromix.core.registry import build
from neuromix.layers.delay import Delay
from neuromix.methods.dcls import narrow_once
from neuromix.training.api import train
from neuromix.training.config import TrainConfig
from neuromix.training.method import Stack
from neuromix.training.observer import Observer
from neuromix.training.recipe import Request, new_recipe
from neuromix.training.run import Point, Run

TINY = {"hidden": (6,), "max_delay": 5}


@pytest.mark.parametrize("epochs", [20, 150])
def test_widths_fall_exponentially_in_the_first_quarter_and_stay(epochs):
    model = neuromix.create_model("dcls", in_channels=4, hidden=(4,), num_classes=2, max_delay=25)
    (method,) = Stack([Spec("dcls")])
    run = Run(TrainConfig(epochs=epochs), None, None, None, model)
    layers = [module for module in model.modules() if isinstance(module, Delay)]
    for epoch in range(epochs):
        run.point = Point(0, epoch)
        method.after_epoch(run)
        expected = 12 * (0.23 / 12) ** (min(1, (epoch + 1) / (epochs // 4)))
        for layer in layers:
            torch.testing.assert_close(layer.width, torch.full_like(layer.width, expected), rtol=0.01, atol=0)


def test_a_width_that_is_narrow_already_stays():
    layer = Delay(2, 2, 9, width=0.1)
    narrow_once(layer, 5)
    assert (layer.width == torch.tensor(0.1)).all()


def test_the_model_brings_its_method_and_its_loss():
    recipe, task = new_recipe(Request("dcls_lags", "audio", task_config={"data": "lags"}))
    assert [method.name for method in recipe.methods] == ["dcls"]
    assert task.config.label_smoothing == 0 and recipe.model.options["num_classes"] == 8
    recipe, _ = new_recipe(Request("dcls_lags", "audio", methods=("bptt",), task_config={"data": "lags"}))
    assert [method.name for method in recipe.methods] == ["bptt"]


def test_other_models_are_refused():
    (method,) = Stack([Spec("dcls")])
    run = Run(TrainConfig(), None, None, None, neuromix.create_model("poolformer_nano"))
    with pytest.raises(ConfigError, match="learnt delays"):
        method.after_epoch(run)
    with pytest.raises(ConfigError, match="share"):
        build("method", ["dcls", {"share": 0.0}])


def short(out, **more):
    task = {"data": "lags"}
    return train(
        "dcls_lags", "audio", out, task_config=task, model_config=TINY, max_steps=24, epochs=1, **more
    )


@pytest.mark.slow
def test_a_run_that_is_resumed_ends_with_the_same_weights(tmp_path):
    config = {"epochs": 2, "task_config": {"data": "lags"}, "model_config": TINY, "batch_size": 125}
    whole = train("dcls_lags", "audio", tmp_path / "whole", **config)
    with Stopped(after=10) as stopped, pytest.raises(Stop):
        train("dcls_lags", "audio", tmp_path / "parts", observer=stopped, checkpoint_steps=5, **config)
    parts = train(out=tmp_path / "parts", resume=True)
    one, other = whole.model().state_dict(), parts.model().state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert whole.test == parts.test


class Stop(Exception):
    pass


class Stopped(Observer):
    def __init__(self, after):
        self.after = after

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def batch(self, done, loss):
        if done == self.after:
            raise Stop


@pytest.mark.slow
def test_the_one_line_trains_on_what_it_is_given(tmp_path):
    found = short(tmp_path / "run")
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 1 and "accuracy" in json.loads(lines[0])["validation"]
    assert found.test.keys() == {"accuracy", "top5_accuracy"}
    widths = [m.width for m in found.model().modules() if isinstance(m, Delay)]
    assert all(torch.allclose(width, torch.tensor(0.23)) for width in widths)
