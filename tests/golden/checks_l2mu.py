"""Checks of the L2MU fixtures: spikes of all populations exactly, step by step and at once, loss and gradients."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

import neuromix
from neuromix.core.model import Model
from tests.golden.compare import assert_close, assert_equal
from tests.golden.fixtures import Fixture

POPULATIONS = {"spk_u": "spikes_u", "spk_m": "spikes_m", "spk_h": "spikes_h", "spk_out": "spikes_output"}


def check_model(fixture: Fixture) -> None:
    model = neuromix.from_reference(fixture.slug, fixture.config, fixture.state).double()
    assert isinstance(model, Model)
    x_TBN = fixture.inputs["x"].double()
    seen = _spikes(model, x_TBN)
    with torch.no_grad():
        session = neuromix.stream(model).session()
        stepped = torch.stack([session.step(x_BN) for x_BN in x_TBN])
        assert_equal(stepped, fixture.outputs["spk_out"], name="output, step by step")
    logits = model(x_TBN.transpose(0, 1))
    if "target" in fixture.inputs:
        seen["loss"] = F.cross_entropy(logits, fixture.inputs["target"])
    assert fixture.outputs.keys() <= seen.keys(), sorted(fixture.outputs.keys() - seen.keys())
    for name, expected in fixture.outputs.items():
        if name in POPULATIONS:
            assert_equal(seen[name], expected, name=name)
        else:
            assert_close(seen[name], expected, name=name, rtol=1e-8)
    if fixture.grads:
        seen["loss"].backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        theirs = model.layouts(model.config)["authors"].to_theirs(gradients)
        for name, gradient in fixture.grads.items():
            ours = theirs[name.removeprefix("model.")]
            assert_close(ours, gradient, name=f"gradient of {name}", rtol=1e-8)


def _spikes(model: Model, x_TBN: Tensor) -> dict[str, Tensor]:
    """What each population sent: [T, B, ...]."""
    sent: dict[str, list[Tensor]] = {name: [] for name in POPULATIONS}
    handles = [
        getattr(model.cell, ours).register_forward_hook(
            lambda _, __, output, store=sent[theirs]: store.append(output[0])
        )
        for theirs, ours in POPULATIONS.items()
    ]
    with torch.no_grad():
        model.forward_steps(x_TBN)
    for handle in handles:
        handle.remove()
    return {name: torch.cat(steps) for name, steps in sent.items()}


CHECKS = {("l2mu", "model"): check_model}
