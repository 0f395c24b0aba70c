"""Checks of the S-Mamba fixtures: tokens, layers, forecast, loss and gradients, also with the dead keys of a release.

Shapes: B batch, L look-back, N variates, F calendar features, M tokens, D width.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import neuromix
from neuromix.core.model import Model
from tests.golden.compare import assert_close
from tests.golden.fixtures import Fixture

DEAD = {"man.A_log": (11, 16), "man2.in_proj.weight": (44, 11), "a.query_projection.weight": (11, 11)}


def check_model(fixture: Fixture) -> None:
    model = neuromix.from_reference(fixture.slug, fixture.config, fixture.state).double()
    assert isinstance(model, Model)
    seen, loss = _run(model, fixture)
    assert fixture.outputs.keys() <= seen.keys(), sorted(fixture.outputs.keys() - seen.keys())
    for name, expected in fixture.outputs.items():
        assert_close(seen[name], expected, name=name)
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    theirs = model.layouts(model.config)["authors"].to_theirs(gradients)
    for name, gradient in fixture.grads.items():
        assert_close(theirs[name], gradient, name=f"gradient of {name}")
    _check_float32(fixture)
    _check_dead_keys(model, fixture)


def _run(model: Model, fixture: Fixture) -> tuple[dict[str, Tensor], Tensor]:
    """Everything that a fixture may hold of a forward pass, and the loss, in the dtype of the model."""
    dtype = next(model.parameters()).dtype
    inputs = {name: x.to(dtype) for name, x in fixture.inputs.items()}
    given = [inputs[name] for name in ("x_enc", "x_mark") if name in inputs]
    seen: dict[str, Tensor] = {}
    watched = {"tokens": model.embed, **{f"layer{i}": block for i, block in enumerate(model.blocks)}}
    handles = [_watch(module, name, seen) for name, module in watched.items()]
    seen["y_hat"] = model(*given)
    for handle in handles:
        handle.remove()
    seen["loss"] = F.mse_loss(seen["y_hat"], inputs["y"])
    return seen, seen["loss"]


def _watch(module: nn.Module, name: str, seen: dict[str, Tensor]):
    return module.register_forward_hook(lambda _, __, output: seen.update({name: output}))


def _check_float32(fixture: Fixture) -> None:
    """To 1e-5 also in single precision, gradients included."""
    state = {name: tensor.float() for name, tensor in fixture.state.items()}
    model = neuromix.from_reference(fixture.slug, fixture.config, state)
    seen, loss = _run(model, fixture)
    for name, expected in fixture.outputs.items():
        assert_close(seen[name], expected, name=f"{name} in float32", rtol=1e-5, atol=1e-5)
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    theirs = model.layouts(model.config)["authors"].to_theirs(gradients)
    for name, gradient in fixture.grads.items():
        assert_close(theirs[name], gradient, name=f"gradient of {name} in float32", rtol=1e-5, atol=1e-5)


def _check_dead_keys(model: Model, fixture: Fixture) -> None:
    layers = {m[1] for name in fixture.state if (m := re.match(r"(encoder\.attn_layers\.\d+)\.", name))}
    dead = {f"{layer}.{name}": torch.ones(shape) for layer in layers for name, shape in DEAD.items()}
    again = neuromix.from_reference(fixture.slug, fixture.config, {**fixture.state, **dead}).double()
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


CHECKS = {("s-mamba", "model"): check_model}
