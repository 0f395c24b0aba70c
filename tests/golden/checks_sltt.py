"""Checks of the SLTT fixtures: the three nets, and their gradients by SLTT, SLTT-K and BPTT.

Shapes: T spike time, B batch, K classes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor

import neuromix
from neuromix.core.batch import Batch
from neuromix.core.model import Model
from neuromix.core.stream import stream
from neuromix.methods.segments import in_segments, unrolled
from neuromix.methods.sltt import Step, sltt
from neuromix.methods.step_loss import StepLossConfig, mean_losses, mixed_with_mse, outputs_of_steps
from neuromix.training.task import Losses, total
from tests.golden.compare import assert_close
from tests.golden.fixtures import Fixture

RULES = ("sltt", "sltt_k", "bptt")


def check_model(fixture: Fixture) -> None:
    model = neuromix.from_reference(fixture.slug, fixture.config, fixture.state).double()
    assert isinstance(model, Model)
    _require_known_names(model, fixture)
    if "n_params" in fixture.config:
        assert model.num_parameters() == fixture.config["n_params"]
    _check_eval(model, fixture)
    _check_sltt(copy.deepcopy(model), fixture)
    _check_sltt_k(copy.deepcopy(model), fixture)
    for checkpoint in (False, True):
        _check_bptt(copy.deepcopy(model), fixture, checkpoint)


def _require_known_names(model: Model, fixture: Fixture) -> None:
    known = {"eval_logits", "train_logits", "train_step_loss", "bptt_loss"}
    known |= {f"after_train/{name}" for name in _theirs(model, dict(model.named_buffers()))}
    assert fixture.outputs.keys() <= known, f"no check for {sorted(fixture.outputs.keys() - known)}"
    parameters = _theirs(model, dict(model.named_parameters()))
    known = {f"{rule}/{name}" for rule in RULES for name in parameters}
    assert fixture.grads.keys() <= known, f"no check for {sorted(fixture.grads.keys() - known)}"


def _check_eval(model: Model, fixture: Fixture) -> None:
    x_T = _input(model, fixture)
    with torch.no_grad():
        whole = model.forward_steps(x_T)
        stepped = torch.cat([step.output[None] for step in sltt(stream(model), x_T, _no_loss, chosen=())])
    for name, logits in (("multi-step", whole), ("step by step", stepped)):
        _compare(fixture, "eval_logits", logits, name)


def _check_sltt(model: Model, fixture: Fixture) -> None:
    steps = _run_sltt(model, fixture, None)
    _compare(fixture, "train_logits", torch.stack([step.output for step in steps]))
    losses = torch.stack([total(step.losses) for step in steps])
    _compare(fixture, "train_step_loss", losses / len(steps))  # what the authors add up
    for name, value in _theirs(model, dict(model.named_buffers())).items():
        _compare(fixture, f"after_train/{name}", value)
    _compare_gradients(model, fixture, "sltt")


def _check_sltt_k(model: Model, fixture: Fixture) -> None:
    if not any(name.startswith("sltt_k/") for name in fixture.grads):
        return
    _run_sltt(model, fixture, fixture.config["k_steps"])
    _compare_gradients(model, fixture, "sltt_k")


def _check_bptt(model: Model, fixture: Fixture, checkpoint: bool) -> None:
    model.train()
    with in_segments(model, 1, checkpoint=checkpoint) as seen:
        model(fixture.inputs["x"])
        outputs = outputs_of_steps(model, seen[-1])
        loss = total(mean_losses([_loss(fixture)(output) for output in outputs]))
    loss.backward()
    _compare(fixture, "bptt_loss", loss)
    _compare_gradients(model, fixture, "bptt")
    for name, value in _theirs(model, dict(model.named_buffers())).items():
        _compare(
            fixture, f"after_train/{name}", value
        )  # backward runs the steps again and must not count them


def _run_sltt(model: Model, fixture: Fixture, chosen: Collection[int] | None) -> list[Step]:
    return list(sltt(stream(model.train()), _input(model, fixture), _loss(fixture), chosen=chosen))


def _input(model: Model, fixture: Fixture) -> Tensor:
    return unrolled(model, model.encode(fixture.inputs["x"]))


def _loss(fixture: Fixture) -> Callable[[Any], Losses]:
    """(1 - lambda) * cross-entropy + lambda * squared error to 1, to another constant, or to the one-hot label."""
    label = fixture.inputs["y"]
    target = str(fixture.config.get("mse_target", "constant 1.0"))
    config = StepLossConfig(
        mse=float(fixture.config.get("loss_lambda", 0.05)),
        mse_target="one_hot" if "hot" in target else float(target.split()[-1]),
    )

    def loss(logits_BK: Tensor) -> Losses:
        cross_entropy = torch.nn.functional.cross_entropy(logits_BK, label)
        return mixed_with_mse({"ce": cross_entropy}, logits_BK, Batch({"label": label}), config)

    return loss


def _no_loss(output: Any) -> Losses:
    raise AssertionError("no step was to learn")


def _compare(fixture: Fixture, name: str, actual: Tensor, how: str = "") -> None:
    if name in fixture.outputs:
        assert_close(actual, fixture.outputs[name], name=f"{name} {how}")


def _compare_gradients(model: Model, fixture: Fixture, rule: str) -> None:
    theirs = _theirs(model, {name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    expected = {n.removeprefix(f"{rule}/"): g for n, g in fixture.grads.items() if n.startswith(f"{rule}/")}
    for name, gradient in expected.items():
        assert_close(theirs[name], gradient, name=f"gradient of {name} by {rule}", rtol=1e-5)


def _theirs(model: Model, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return model.layouts(model.config)["authors"].to_theirs(tensors)


CHECKS = {("sltt", "model"): check_model}
