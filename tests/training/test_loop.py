"""The training loop: what a run leaves behind, seeds, stages and hooks."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import nn

import neuromix
from neuromix.core.config import Config, Spec
from neuromix.core.errors import ConfigError
from neuromix.core.registry import register_method
from neuromix.training.api import evaluate_run, train
from neuromix.training.config import TrainConfig
from neuromix.training.devices import to_channels_last
from neuromix.training.ema import Ema
from neuromix.training.evaluate import evaluate
from neuromix.training.method import Method, Stack, Stage
from neuromix.training.optimiser import learning_rate, make_optimiser
from neuromix.training.run_folder import RunFolder
from tests.training.tiny import TinyConfig, TinyNet, assert_same_weights, tensors


def test_what_a_run_leaves_behind(run_tiny, tmp_path):
    result = run_tiny()
    assert result.run == tmp_path / "run"
    assert {path.name for path in result.run.iterdir()} == {
        *("config.json", "environment.json", "metrics.jsonl", "metrics.json"),
        *("best.safetensors", "last.safetensors"),
    }
    scores = json.loads((result.run / "metrics.json").read_text())
    assert scores["test"] == result.test and 0 <= result.test["accuracy"] <= 1
    records = RunFolder(result.run).records()
    assert [(r["epoch"], r["step"]) for r in records] == [(1, 8), (2, 16)]
    assert records[0].keys() == {
        *("stage", "epoch", "step", "train", "validation", "lr", "samples_per_second")
    }
    assert json.loads((result.run / "environment.json").read_text())["torch"] == torch.__version__
    for name in ("best", "last"):
        assert neuromix.load_checkpoint(result.run / f"{name}.safetensors").name == "tiny_test_net"


def test_eval_gives_the_numbers_of_train(run_tiny):
    result = run_tiny()
    assert evaluate_run(result.run).scores == result.test
    assert evaluate_run(result.run, "validation").scores == result.validation
    best = max(record["validation"]["accuracy"] for record in RunFolder(result.run).records())
    assert result.validation["accuracy"] == best


def test_the_seed_decides_everything_and_the_global_generator_nothing(run_tiny, tmp_path):
    torch.manual_seed(1)
    run_tiny("a", max_steps=3)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    run_tiny("b", max_steps=3)
    assert torch.equal(torch.get_rng_state(), before)
    run_tiny("c", max_steps=3, seed=1)
    assert_same_weights(tmp_path / "a" / "last.safetensors", tmp_path / "b" / "last.safetensors")
    a, c = (tensors(tmp_path / name / "last.safetensors")["conv.weight"] for name in "ac")
    assert not torch.equal(a, c)


def test_workers_change_nothing(run_tiny, tmp_path):
    run_tiny("a", max_steps=2)
    run_tiny("b", max_steps=2, workers=2)
    assert_same_weights(tmp_path / "a" / "best.safetensors", tmp_path / "b" / "best.safetensors")


def test_parts_of_a_batch_add_up_to_its_gradient(run_tiny, tmp_path):
    exact = {"max_steps": 1, "ema": 0.0, "model_config": {"dropout": 0.0}, "batch_size": 128}
    run_tiny("a", **exact)
    run_tiny("b", **exact, accumulate=2)
    a, b = (tensors(tmp_path / name / "last.safetensors") for name in "ab")
    # Batch-norm sees other statistics in parts; the classifier's gradient is close all the same.
    name = "extra/optimiser/classify.bias/exp_avg"
    torch.testing.assert_close(a[name], b[name], rtol=0.05, atol=1e-4)


def test_mixed_precision_trains(run_tiny):
    assert 0 <= run_tiny(max_steps=2, precision="bf16-mixed").test["accuracy"] <= 1


def test_channels_last_is_for_maps_and_leaves_volumes_alone():
    net = nn.Sequential(nn.Conv3d(2, 3, 3), nn.Flatten(0, 1), nn.LazyConv2d(4, 2)).double()
    x = torch.randn(1, 2, 4, 5, 6, dtype=torch.float64)
    before = net(x)
    to_channels_last(net)
    assert net[0].weight.is_contiguous() and net[2].weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(net(x), before)


def test_a_net_of_volumes_trains(run_tiny):
    assert RunFolder(run_tiny(max_steps=1, model_config={"volumes": True}).run).records()


def test_learning_rate_rises_and_falls():
    config = TrainConfig(lr=1.0, warmup=0.2, final_lr=0.1)
    rates = [learning_rate(config, step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(1 / 20)
    assert rates[19] == rates[20] == 1.0
    assert rates == sorted(rates[:20]) + sorted(rates[20:], reverse=True)
    assert rates[-1] == pytest.approx(0.1, abs=1e-3)
    assert learning_rate(TrainConfig(lr=1.0, warmup=0.0), 0, 1) == 1.0


def test_one_axis_parameters_do_not_decay_and_the_last_matching_rule_counts():
    model = TinyNet(TinyConfig())
    rules = {"classify.*": {"lr_scale": 0.1}, "*.bias": {"lr_scale": 0.5, "weight_decay": 0.3}}
    groups = make_optimiser(model, TrainConfig(weight_decay=0.2), rules).param_groups
    names = {parameter: name for name, parameter in model.named_parameters()}
    settings = {names[p]: (g["lr_scale"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert settings == {
        "conv.weight": (1.0, 0.2),
        "mix.weight": (1.0, 0.2),
        "mix.bias": (0.5, 0.3),
        "norm.weight": (1.0, 0.0),
        "norm.bias": (0.5, 0.3),
        "classify.weight": (0.1, 0.2),
        "classify.bias": (0.5, 0.3),
    }


def test_ema_follows_the_model():
    model = TinyNet(TinyConfig())
    ema = Ema(model, 0.9)
    before = ema.model.classify.weight.clone()
    with torch.no_grad():
        model.classify.weight += 1
        model.steps += 5
    ema.update(model, 10_000)
    torch.testing.assert_close(ema.model.classify.weight, before + 0.1)
    assert ema.model.steps == 5
    ema.update(model, 0)  # at the start it follows fast
    torch.testing.assert_close(ema.model.classify.weight, before + 0.1 + 0.9 * 0.9)


def test_evaluate_leaves_the_model_in_its_mode():
    from neuromix.core import registry

    task, model = registry.build("task", "digits"), TinyNet(TinyConfig()).train()
    scores = evaluate(model, task, "validation", batch_size=50)
    assert model.training and model.steps == 0
    assert scores == evaluate(model, task, "validation", batch_size=64)


def test_the_default_folder_is_a_new_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number in (1, 2):
        result = train("tiny_test_net", "digits", max_steps=1)
        assert str(result.run) == f"runs/tiny_test_net-digits-{number}"


# Methods of the tests


class CountConfig(Config):
    pass


@register_method("test-steps")
class Steps(Method):
    """Owns the step, and halves the gradients afterwards."""

    def step(self, run, batch):
        losses = run.losses(batch)
        run.backward(sum(losses.values()))
        return losses


@register_method("test-pull")
class Pull(Method):
    """Adds a loss on the output; remembers a number and a tensor."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.calls, self.mean = 0, torch.zeros(())
        self.heard: list[str] = []

    def losses(self, run, batch, output):
        self.mean = 0.9 * self.mean + 0.1 * output.detach().mean()
        return {"pull": 0.01 * output.square().mean() + 0 * self.mean}

    def before_step(self, run):
        self.heard.append("before_step")

    def after_backward(self, run):
        assert run.model.conv.weight.grad is not None
        self.heard.append("after_backward")

    def after_step(self, run):
        self.calls += 1
        self.heard.append("after_step")

    def after_epoch(self, run):
        self.heard.append("after_epoch")

    def state_dict(self):
        return {"calls": self.calls, "mean": self.mean}

    def load_state_dict(self, state):
        self.calls, self.mean = state["calls"], state["mean"]


@register_method("test-stages")
class Stages(Method):
    """Trains with two time steps, then with one; `finish` widens nothing but gives a new model."""

    def stage(self, i, run):
        if i == 2:
            return None
        model = neuromix.rebuild(run.model, time_steps=2 - i)
        return Stage(f"T={2 - i}", model, run.task, 1, rules={"conv.*": {"lr_scale": 0.5}})

    def finish(self, run):
        return neuromix.rebuild(run.model, time_steps=3)


def test_two_owners_of_a_hook_are_refused_by_name():
    with pytest.raises(ConfigError, match="bptt and test-steps cannot be stacked: each replaces the step"):
        Stack([Spec("bptt"), Spec("test-steps"), Spec("test-pull")])


def test_methods_add_losses_and_keep_what_they_remember(run_tiny, tmp_path):
    result = run_tiny(method=["bptt", "test-pull"], epochs=1)
    losses = RunFolder(result.run).records()[0]["train"]
    assert losses.keys() == {"loss", "cross_entropy", "pull"}
    assert losses["loss"] == pytest.approx(losses["cross_entropy"] + losses["pull"], abs=1e-5)
    saved = tensors(result.run / "last.safetensors")
    assert saved["extra/method/test-pull/mean"].abs() > 0
    assert json.loads(saved["extra/state"].numpy().tobytes())["methods"]["test-pull"] == {"calls": 8}


def test_stages_change_the_model_and_finish_gives_another(run_tiny):
    result = run_tiny(method="test-stages")
    assert [record["stage"] for record in RunFolder(result.run).records()] == ["T=2", "T=1"]
    steps = {
        name: neuromix.load_checkpoint(result.run / f"{name}.safetensors").config.time_steps
        for name in ("stage-1", "stage-2", "best", "final")
    }
    assert steps == {"stage-1": 2, "stage-2": 1, "best": 1, "final": 3}
    assert result.model().config.time_steps == 3
    assert evaluate_run(result.run).scores == result.test
