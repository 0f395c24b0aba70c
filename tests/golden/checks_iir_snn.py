"""Checks of the IIR-SNN fixtures: the spiking net at several numbers of steps, its gradients, and input percentiles.

Shapes: T spike time, B batch, K classes.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor
from torch.nn import functional as F

import neuromix
from neuromix.core.checkpoint import rebuild
from neuromix.core.model import Model
from neuromix.methods.iir import input_percentiles
from tests.golden.compare import assert_close
from tests.golden.fixtures import Fixture


def check_model(fixture: Fixture) -> None:
    model = neuromix.from_reference(fixture.slug, fixture.config, fixture.state).double()
    assert isinstance(model, Model)
    if "n_params" in fixture.config:
        assert model.num_parameters() == fixture.config["n_params"]
    _check_logits(model, fixture)
    _check_percentiles(model, fixture)
    _check_gradients(model, fixture)


def _check_logits(model: Model, fixture: Fixture) -> None:
    x = fixture.inputs["x"].double()
    checked = {"loss"}
    for name, expected in fixture.outputs.items():
        match = re.fullmatch(r"logits_(?:eval|T(\d+))", name)
        if match:
            net = model if match[1] is None else _with_steps(model, int(match[1]))
            with torch.no_grad():
                assert_close(net(x), expected, name=name)
            checked.add(name)
    unknown = [
        n for n in fixture.outputs if n not in checked and not re.fullmatch(r"percentile[\d.]+_layer\d+", n)
    ]
    assert not unknown, f"no check for {sorted(unknown)}"


def _with_steps(model: Model, steps: int) -> Model:
    other = rebuild(model, time_steps=steps).double().eval()
    other.load_state_dict(model.state_dict())  # a net is built in float32
    return other


def _check_percentiles(model: Model, fixture: Fixture) -> None:
    with torch.no_grad():
        x_T = model.encode(fixture.inputs["x"].double())
    theirs = _layers(model)
    for name, expected in fixture.outputs.items():
        match = re.fullmatch(r"percentile([\d.]+)_layer(\d+)", name)
        if match:
            found = input_percentiles(model, x_T, float(match[1]))
            assert_close(
                torch.tensor([found[theirs[int(match[2])]]], dtype=torch.float64), expected.view(1), name=name
            )


def _check_gradients(model: Model, fixture: Fixture) -> None:
    # The fixtures have no dropout, and the net has no batch-norm: training and evaluation are the same.
    loss = F.cross_entropy(model(fixture.inputs["x"].double()), fixture.inputs["y"])
    if "loss" in fixture.outputs:
        assert_close(loss, fixture.outputs["loss"], name="loss")
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    ours = _to_theirs(model, gradients)
    for name, gradient in fixture.grads.items():
        assert_close(ours[name.removeprefix("module.")], gradient, name=f"gradient of {name}")


def _layers(model: Model) -> dict[int, str]:
    """The authors' number of each neuron layer -> our path."""
    thresholds = {name: p for name, p in model.named_parameters() if name.endswith(".v_threshold")}
    return {
        int(next(iter(_to_theirs(model, {name: p}))).removeprefix("threshold.t")): name.removesuffix(
            ".v_threshold"
        )
        for name, p in thresholds.items()
    }


def _to_theirs(model: Model, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return model.layouts(model.config)["authors"].to_theirs(tensors)


CHECKS = {("iir-snn", "model"): check_model}
