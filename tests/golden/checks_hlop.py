"""Checks of the HLOP fixtures: lateral weights, two tasks of a small net, neurons with rate gradients, a convolution.

Shapes: T spike time, B batch.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import neuromix
from neuromix.core.config import Spec
from neuromix.core.edits import apply_edit
from neuromix.core.model import Model
from neuromix.layers.hebbian import HebbianSubspace
from neuromix.layers.projected import ProjectedConfig, ProjectedConv2d, projectable
from neuromix.methods.hlop import learning
from neuromix.neurons.integrate_and_fire import IF
from neuromix.neurons.lif import LIF
from tests.golden.compare import assert_close
from tests.golden.fixtures import Fixture


def check_model(fixture: Fixture) -> None:
    _check_subspace(fixture)
    _check_tasks(fixture)
    _check_neurons(fixture)
    for side in ("weight", "input"):
        _check_conv(fixture, side)


def _check_subspace(fixture: Fixture) -> None:
    config, out = fixture.config, fixture.outputs
    rate, iterations = config.get("hlop_module_lr", 0.01), config.get("hlop_iterations", 5)
    subspace = _subspace(fixture.state["hlop/weight"])

    def learn(samples: Tensor, task: int) -> None:
        for x_Nn in samples.double():
            subspace.learn(x_Nn, rate, iterations=iterations, decay=config.get("momentum", 0.9))
        assert_close(subspace.weight, out[f"hlop/weight_task{task}"], name=f"lateral weights, task {task}")
        assert_close(subspace.momentum, out[f"hlop/momentum_task{task}"], name=f"momentum, task {task}")

    learn(fixture.inputs["hlop_x"], 1)
    subspace.merge()
    _append(subspace, fixture.state["hlop/weight_new"])
    learn(fixture.inputs["hlop_x2"], 2)
    x_Nn = fixture.inputs["hlop_x2"][0].double()
    assert_close(
        subspace.project(x_Nn, subspace.rows([0])), out["hlop/projection_task2_sub0"], name="projection"
    )
    subspace.spiking = (config.get("spiking_scale", 20.0), config.get("spiking_timesteps", 1000))
    assert_close(
        subspace.respond(4 * x_Nn, subspace.rows([0, 1])), out["hlop/spiking_inference"], name="spiking"
    )


def _subspace(weight: Tensor) -> HebbianSubspace:
    subspace = HebbianSubspace(weight.shape[1]).double()
    _append(subspace, weight)
    return subspace


def _append(subspace: HebbianSubspace, rows: Tensor) -> None:
    subspace.add(len(rows))
    subspace.weight[-len(rows) :] = rows.to(subspace.weight)


def _check_tasks(fixture: Fixture) -> None:
    config, out = fixture.config, fixture.outputs
    state = {n.removeprefix("mlp/"): t for n, t in fixture.state.items() if n.startswith("mlp/")}
    model = neuromix.from_reference(fixture.slug, config, state).double()
    assert isinstance(model, Model)
    paths = projectable(model)
    rates = dict(zip(paths, config.get("hlop_lr", [0.001, *[0.01] * (len(paths) - 1)]), strict=True))
    if "subspace" in config:
        assert [len(_lateral(model, path).weight) for path in paths] == config["subspace"]
    for task in (0, 1):
        if task:
            model = _grown(model, [fixture.state[f"mlp_new/hlop{i}"] for i in range(len(paths))])
        _check_step(fixture, model, rates, task)
        _descend(model, config.get("sgd_lr", 0.1), matrices_only=task > 0)
    with torch.no_grad():
        logits = model.eval()(fixture.inputs["x"][2].double())
    assert_close(logits, out["final_eval_logits"], name="final logits")


def _lateral(model: nn.Module, path: str) -> HebbianSubspace:
    subspace = model.get_submodule(path).subspace
    assert isinstance(subspace, HebbianSubspace)
    return subspace


def _grown(model: Model, rows: list[Tensor]) -> Model:
    """The net with a block of these rows more in each layer, through the edit."""
    paths = projectable(model)
    blocks = {
        path: [len(_lateral(model, path).weight), len(new)] for path, new in zip(paths, rows, strict=True)
    }
    model = apply_edit(model, Spec("projected", {"blocks": blocks}))
    for path, new in zip(paths, rows, strict=True):
        _lateral(model, path).weight[-len(new) :] = new.double()
    return model


def _check_step(fixture: Fixture, model: Model, rates: dict[str, float], task: int) -> None:
    out, x = fixture.outputs, fixture.inputs["x"][task].double()
    options: dict[str, Any] = {
        "iterations": fixture.config.get("hlop_iterations", 5),
        "momentum": fixture.config.get("momentum", 0.9),
    }
    model.train().zero_grad()
    with learning(model, len(x), rates, **options):
        logits = model(x)
    loss = F.cross_entropy(logits, fixture.inputs["y"][task])
    loss.backward()
    assert_close(logits, out[f"task{task}_logits"], name=f"logits, task {task}")
    assert_close(loss, out[f"task{task}_loss"], name=f"loss, task {task}")
    for number, path in enumerate(rates):
        assert_close(_lateral(model, path).weight, out[f"task{task}_hlop{number}"], name=f"lateral {number}")
    theirs = model.layouts(model.config)["authors"].to_theirs(
        {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    )
    expected = {
        n.removeprefix(f"task{task}/"): g for n, g in fixture.grads.items() if n.startswith(f"task{task}/")
    }
    assert expected
    for name, gradient in expected.items():
        assert_close(theirs[name], gradient, name=f"gradient of {name}, task {task}")


@torch.no_grad()
def _descend(model: Model, lr: float, *, matrices_only: bool) -> None:
    for parameter in model.parameters():
        if parameter.grad is not None and (parameter.dim() > 1 or not matrices_only):
            parameter -= lr * parameter.grad
    model.after_step()


def _check_neurons(fixture: Fixture) -> None:
    config = fixture.config
    common: dict[str, Any] = {
        "v_reset": None,
        "height": "threshold",
        "gradient": "rate",
        "learnable": ("v_threshold",),
    }
    delta_t = config.get("delta_t", 0.05)
    decay = math.exp(-delta_t / config.get("tau", 1.0))
    lif = LIF(
        v_threshold=config.get("Vth", 0.3),
        decay=decay,
        fire_at=config.get("alpha", 0.3),
        height_scale=1 / delta_t,
        **common,
    )
    plain = IF(v_threshold=config.get("Vth_if", 1.0), fire_at=config.get("alpha_if", 0.5), **common)
    for name, neuron, threshold in (
        ("lif", lif, config.get("Vth", 0.3)),
        ("if", plain, config.get("Vth_if", 1.0)),
    ):
        neuron.double()
        nn.init.constant_(neuron.v_threshold, threshold)  # a parameter begins in float32
        steps = config.get("timesteps", 20)
        x_TB = fixture.inputs[f"{name}_x"].double().unflatten(0, (steps, -1)).clone().requires_grad_()
        y_TB = neuron(x_TB)
        y_TB.backward(fixture.inputs[f"{name}_up"].double().unflatten(0, (steps, -1)))
        assert_close(y_TB.flatten(0, 1), fixture.outputs[f"{name}_y"], name=f"{name}: spikes")
        assert_close(
            x_TB.grad.flatten(0, 1), fixture.grads[f"{name}_x"], name=f"{name}: gradient of the input"
        )
        assert_close(
            neuron.v_threshold.grad, fixture.grads[f"{name}_Vth"], name=f"{name}: gradient of the threshold"
        )


def _check_conv(fixture: Fixture, side: str) -> None:
    weight, rows = fixture.state["conv/weight"].double(), fixture.state["conv/hlop"]
    x = fixture.inputs["conv_x"].double().clone().requires_grad_()
    kernel = weight.shape[-1]
    stride = _stride(x.shape[-1] - kernel + 2 * (kernel // 2), fixture.outputs["conv_y"].shape[-1])
    conv = ProjectedConv2d(weight.shape[1], len(weight), kernel, stride, kernel // 2, bias=False).double()
    conv.load_state_dict({"weight": weight})
    conv.prepare(ProjectedConfig(side=side))
    _append(conv.subspace, rows)
    conv.subspace.add(0)  # the last block learns, those before it are projected on
    y = conv(x)
    y.backward(fixture.inputs["conv_up"].double())
    assert_close(y, fixture.outputs["conv_y"], name="convolution")
    assert_close(x.grad, fixture.grads["conv_x"], name="convolution: gradient of the input")
    assert_close(
        conv.weight.grad, fixture.grads["conv_weight_projected"], name=f"projected gradient by {side}"
    )


def _stride(places: int, side: int) -> int:
    """The stride at which a kernel that fits `places` + 1 times gives a map of this side."""
    return next(stride for stride in range(1, places + 2) if places // stride + 1 == side)


CHECKS = {("hlop", "model"): check_model}
