"""Checks of the Transfer-for-DVS fixtures: one training forward with its losses and gradients, and evaluation.

Shapes: T spike time, B batch, P polarities, H W sensor, K classes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import neuromix
from neuromix.core.batch import Batch
from neuromix.core.model import Model
from neuromix.core.stream import stream
from neuromix.data.events.paired import replacement_probability, shown, value_channel
from neuromix.layers.alignment import linear_cka
from neuromix.layers.static_branch import branch_of, without_static_branch
from neuromix.methods.step_features import Steps, run_steps
from neuromix.methods.transfer_dvs import TransferDVSConfig, transfer_losses, two_branches
from neuromix.models.vision.transfer_dvs import WITH_BRANCH
from neuromix.training.task import total
from tests.golden.compare import assert_close, assert_equal
from tests.golden.fixtures import Fixture

TRAINING = {"logits_static_t", "logits_event_t", "mem_static_t", "mem_event_t", "cka_t"}
LOSSES = {"loss_domain", "loss_static", "loss_event", "loss_total"}
EVALUATION = {"eval_logits", "eval_logits_t", "eval_mem_t"}
DATA = {"value_channel", "source", "source_mixed", "sliding_P"}


def check_model(fixture: Fixture) -> None:
    unknown = fixture.outputs.keys() - (TRAINING | LOSSES | EVALUATION | DATA)
    assert not unknown, f"no check for {sorted(unknown)}"
    model = neuromix.from_reference(fixture.slug, fixture.config, fixture.state).double()
    assert isinstance(model, Model)
    if "n_params" in fixture.config:
        assert model.num_parameters() == fixture.config["n_params"]
    _check_sliding(fixture)
    mixed_BTPHW = _check_static_input(fixture)
    _check_evaluation(model, fixture)
    if TRAINING & fixture.outputs.keys():
        _check_training(model.train(), mixed_BTPHW, fixture)


def _check_sliding(fixture: Fixture) -> None:
    if "sliding_be" not in fixture.inputs:
        return
    config = fixture.config
    about = {"batches": config.get("sliding_batches", 1), "epochs": config.get("sliding_epochs", 300)}
    power = config.get("sliding_power", 3)
    found = [
        replacement_probability(batch, epoch, **about, power=power)
        for batch, epoch in fixture.inputs["sliding_be"].tolist()
    ]
    _compare(fixture, "sliding_P", torch.tensor(found, dtype=torch.float64))


def _check_static_input(fixture: Fixture) -> Tensor:
    events_BTPHW, replaced_B = fixture.inputs["dvs"].double(), fixture.inputs["replace_mask"].bool()
    value_BHW = value_channel(fixture.inputs["rgb"].double())
    source_BTPHW = shown(value_BHW, events_BTPHW)
    mixed_BTPHW = torch.where(replaced_B[:, None, None, None, None], events_BTPHW, source_BTPHW)
    for name, tensor in {
        "value_channel": value_BHW,
        "source": source_BTPHW,
        "source_mixed": mixed_BTPHW,
    }.items():
        _compare(fixture, name, tensor)
    return mixed_BTPHW


def _check_evaluation(model: Model, fixture: Fixture) -> None:
    plain, x_BTPHW = without_static_branch(model).eval(), fixture.inputs["dvs"].double()
    x_T = x_BTPHW.transpose(0, 1)
    with torch.no_grad():
        steps = run_steps(stream(plain), x_T, _aligned_at(plain))
        _compare(fixture, "eval_logits", plain(x_T))
        _compare(fixture, "eval_logits_t", plain.forward_steps(x_T))
    _compare(fixture, "eval_logits_t", steps.logits)
    _compare_features(fixture, "eval_mem_t", steps)
    assert_equal(model.eval()(x_T), plain(x_T), name="with and without the static branch")


def _check_training(model: Model, mixed_BTPHW: Tensor, fixture: Fixture) -> None:
    config = _method(fixture.config)
    label_B = fixture.inputs["labels"]
    source_BTPHW = mixed_BTPHW.clone().requires_grad_()
    events_BTPHW = fixture.inputs["dvs"].double().clone().requires_grad_()
    batch = Batch({"image": events_BTPHW, "label": label_B})
    static, event = two_branches(model, source_BTPHW, batch, at=_aligned_at(model))
    _compare(fixture, "logits_static_t", static.logits)
    _compare(fixture, "logits_event_t", event.logits)
    _compare_features(fixture, "mem_static_t", static)
    _compare_features(fixture, "mem_event_t", event)
    _compare(fixture, "cka_t", linear_cka(static.features, event.features))

    def loss(logits_BK: Tensor) -> Tensor:
        return F.cross_entropy(logits_BK, label_B)

    losses = transfer_losses(static, event, branch_of(model).coefficient_T(), loss, config)
    _compare(fixture, "loss_static", losses["static"])
    _compare(fixture, "loss_event", losses["event"])
    if "domain" in losses:
        _compare(fixture, "loss_domain", losses["domain"] / config.domain)
    _compare(fixture, "loss_total", total(losses))
    total(losses).backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    theirs: dict[str, Any] = model.layouts(model.config)[WITH_BRANCH].to_theirs(gradients)
    theirs |= {"source_mixed": source_BTPHW.grad, "dvs": events_BTPHW.grad}
    for name, expected in fixture.grads.items():
        assert_close(theirs[name], expected, name=f"gradient of {name}", **_stored_in(expected))


def _method(config: dict[str, Any]) -> TransferDVSConfig:
    """The authors' options; a positive `tsregular` is a fixed s."""
    fixed = float(config.get("tsregular", 0.0))
    learnt = "learnt" if config.get("regularization", True) else "off"
    return TransferDVSConfig(
        s=fixed if fixed > 0 else learnt,
        domain=config.get("domain_coefficient", 0.5),
        mse=config.get("lambda_tet", 1e-3),
        mse_target=config.get("tet_target", 0.5),
        power=config.get("sliding_power", 3),
        sliding=not config.get("no_sliding", False),
    )


def _aligned_at(model: Model) -> str | None:
    return getattr(model, "aligned_at", None)


def _stored_in(expected: Tensor) -> dict[str, float]:
    """Gradients are stored in float32: exact to 1e-6 of their largest entry."""
    return {"atol": max(1e-9, 1e-6 * float(expected.abs().max()))} if expected.dtype == torch.float32 else {}


def _compare(fixture: Fixture, name: str, actual: Tensor) -> None:
    if name in fixture.outputs:
        expected = fixture.outputs[name]
        assert actual.numel() == expected.numel(), name
        assert_close(actual.reshape(expected.shape), expected, name=name, rtol=1e-9)


def _compare_features(fixture: Fixture, name: str, steps: Steps) -> None:
    _compare(fixture, name, steps.features)


CHECKS = {("transfer-for-dvs", "model"): check_model}
