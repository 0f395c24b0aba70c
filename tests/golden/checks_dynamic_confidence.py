"""Checks of the Dynamic Confidence fixtures: the quantised net, the spiking one it becomes, and the exit policy.

Shapes: T spike time, B batch, K classes.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor
from torch.nn import functional as F

import neuromix
from neuromix.core.edits import apply_edit
from neuromix.core.model import Model
from neuromix.layers.quantised_relu import quantised_relu
from neuromix.measure.spikes import recorded_spikes
from neuromix.methods.dynamic_confidence import ExitPolicy, early_exit, exits, potential, summed_logits, sweep
from tests.golden.compare import assert_close, assert_equal
from tests.golden.fixtures import Fixture

THRESHOLDS = (0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)


def check_model(fixture: Fixture) -> None:
    model = neuromix.from_reference(fixture.slug, fixture.config, fixture.state).double()
    assert isinstance(model, Model)
    known = {"qann_logits", "qann_fc", "qann_train_loss", "snn_accumulated", "confidence", "prediction"}
    known |= {
        "exit_step",
        "exit_prediction",
        "spikes_per_neuron_full_T",
        "lsq_y",
        "policy_latency",
        "policy_accuracy",
    }
    known |= {"policy_oracle_latency", "policy_oracle_accuracy"}
    assert fixture.outputs.keys() <= known, f"no check for {sorted(fixture.outputs.keys() - known)}"
    _check_activation(fixture)
    _check_policy(fixture)
    if "x" in fixture.inputs:
        _check_quantised(model, fixture)
        _check_gradients(copy.deepcopy(model), fixture)
        _check_spiking(apply_edit(model, "ann_to_snn"), fixture)


def _check_activation(fixture: Fixture) -> None:
    if "lsq_x" not in fixture.inputs:
        return
    x = fixture.inputs["lsq_x"].double().requires_grad_()
    scale = torch.tensor([fixture.config["lsq_scale"]], dtype=torch.float64, requires_grad=True)
    y = quantised_relu(x, scale, _levels(fixture))
    y.backward(fixture.inputs["lsq_up"].double())
    _compare(fixture, "lsq_y", y)
    assert x.grad is not None and scale.grad is not None
    assert_close(x.grad, fixture.grads["lsq_x"], name="gradient of lsq_x")
    assert_close(scale.grad, fixture.grads["lsq_scale"], name="gradient of lsq_scale")


def _check_quantised(model: Model, fixture: Fixture) -> None:
    seen: list[Tensor] = []
    assert model.head is not None
    handle = model.head.register_forward_hook(lambda _, __, y: seen.append(y))
    with torch.no_grad():
        logits_BK = model(fixture.inputs["x"].double())
    handle.remove()
    _compare(fixture, "qann_fc", seen[0][0])
    _compare(fixture, "qann_logits", logits_BK)


def _check_gradients(model: Model, fixture: Fixture) -> None:
    if "qann_train_loss" not in fixture.outputs:
        return
    loss = F.cross_entropy(model.train()(fixture.inputs["x"].double()), fixture.inputs["y"])
    _compare(fixture, "qann_train_loss", loss)
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    theirs = model.layouts(model.config)["authors"].to_theirs(gradients)
    expected = {name: g for name, g in fixture.grads.items() if not name.startswith("lsq_")}
    assert expected.keys() <= theirs.keys()
    for name, gradient in expected.items():
        assert_close(theirs[name], gradient, name=f"gradient of {name}")


def _check_spiking(model: Model, fixture: Fixture) -> None:
    x, policy = fixture.inputs["x"].double(), _policy(fixture)
    sum_TBK = summed_logits(model, x)
    running_TBK = sum_TBK / policy.divisor
    _compare(fixture, "snn_accumulated", running_TBK)
    _compare(fixture, "confidence", policy.confidence_of(running_TBK))
    _compare(fixture, "prediction", running_TBK.argmax(-1), exactly=True)
    with torch.no_grad(), recorded_spikes(model) as spikes:
        _compare(
            fixture, "snn_accumulated", (model.forward_steps(model.encode(x)) / policy.divisor).cumsum(0)
        )
    if "spikes_per_neuron_full_T" in fixture.outputs:
        sent = sum(int(spikes_T.count_nonzero()) for spikes_T in spikes.values())
        neurons = sum(spikes_T[0].numel() for spikes_T in spikes.values())
        _compare(fixture, "spikes_per_neuron_full_T", torch.tensor(sent / neurons, dtype=torch.float64))
    alone = [early_exit(model, policy, image[None]) for image in x]
    for how in (early_exit(model, policy, x), exits(sum_TBK, policy)):
        _compare(fixture, "exit_step", how.steps, exactly=True)
        _compare(fixture, "exit_prediction", how.logits.argmax(-1), exactly=True)
        assert_equal(torch.cat([one.steps for one in alone]), how.steps, name="steps one by one")
        assert_close(torch.cat([one.logits for one in alone]), how.logits, name="logits one by one")


def _check_policy(fixture: Fixture) -> None:
    if "policy_logits" not in fixture.inputs:
        return
    logits_TBK, label_B = fixture.inputs["policy_logits"].double(), fixture.inputs["policy_labels"]
    thresholds = tuple(fixture.config.get("policy_thresholds", THRESHOLDS))
    points = sweep(logits_TBK, label_B, ExitPolicy(divisor=1.0), thresholds)
    best = potential(logits_TBK, label_B)
    for name, values in {
        "policy_latency": [point.steps for point in points],
        "policy_accuracy": [point.accuracy for point in points],
        "policy_oracle_latency": best.steps,
        "policy_oracle_accuracy": best.accuracy,
    }.items():
        _compare(fixture, name, torch.tensor(values, dtype=torch.float64))


def _policy(fixture: Fixture) -> ExitPolicy:
    config = fixture.config
    return ExitPolicy(
        threshold=config.get("confidence_threshold", 0.6), divisor=config.get("output_divisor", 30.0)
    )


def _levels(fixture: Fixture) -> int:
    return int(2 ** fixture.config.get("activation_bits", 2) - 1)


def _compare(fixture: Fixture, name: str, actual: Tensor, *, exactly: bool = False) -> None:
    if name in fixture.outputs:
        (assert_equal if exactly else assert_close)(actual, fixture.outputs[name], name=name)


CHECKS = {("dynamic-confidence", "model"): check_model}
