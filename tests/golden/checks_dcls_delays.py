"""Checks of the DCLS-Delays fixtures: kernels, membranes with smooth and with whole delays, loss and gradients."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

import neuromix
from neuromix.core.checkpoint import rebuild
from neuromix.core.edits import apply_edit
from neuromix.core.model import Model
from neuromix.layers.delay import Delay
from tests.golden.compare import assert_close, assert_equal
from tests.golden.fixtures import Fixture


def check_model(fixture: Fixture) -> None:
    model = neuromix.from_reference(fixture.slug, fixture.config, fixture.state).double().eval()
    assert isinstance(model, Model)
    smooth = rebuild(model, round_delays=False).double().eval()
    smooth.load_state_dict(model.state_dict())  # a net is built in float32
    seen = _layers(model)
    x = fixture.inputs["x"].double()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        seen["eval_gauss_v"] = smooth.forward_steps(smooth.encode(x))
        seen["eval_discrete_v"] = model.forward_steps(model.encode(x))
        seen["eval_discrete_score"] = model(x)
        gathered = apply_edit(model, "discretise").double().eval()
        assert_close(gathered(x), fixture.outputs["eval_discrete_score"], name="score, one tap a synapse")
        assert_close(_stepped(model, x), fixture.outputs["eval_discrete_v"], name="membranes, step by step")
        assert_close(_stepped(gathered, x), fixture.outputs["eval_discrete_v"], name="gathered step by step")
    for name, tensor in model.state_dict().items():
        assert_equal(tensor, before[name], name=f"{name}, which evaluation must not change")
    seen["train_v"] = model.train().forward_steps(model.encode(x))
    loss = F.cross_entropy(model.readout(seen["train_v"]), fixture.inputs["y"])
    seen["train_loss"] = loss
    assert fixture.outputs.keys() <= seen.keys(), sorted(fixture.outputs.keys() - seen.keys())
    for name, expected in fixture.outputs.items():
        assert_close(seen[name], expected, name=name)
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    theirs = model.layouts(model.config)["authors"].to_theirs(gradients)
    for name, gradient in fixture.grads.items():
        assert_close(theirs[name], gradient, name=f"gradient of {name}")


def _layers(model: Model) -> dict[str, Tensor]:
    """What each layer is in itself: its kernels and its whole positions."""
    found = {}
    for i, layer in enumerate(module for module in model.modules() if isinstance(module, Delay)):
        found[f"kernel_gauss/{i}"] = layer.kernel(smooth=True)
        found[f"kernel_max/{i}"] = layer.kernel(smooth=False)
        found[f"P_round/{i}"] = layer.rounded[None]
    return found


def _stepped(model: Model, x_T: Tensor) -> Tensor:
    session = neuromix.stream(model).session()
    return torch.cat([torch.stack([session.step(x) for x in x_T]), session.drain()])


CHECKS = {("dcls-delays", "model"): check_model}
