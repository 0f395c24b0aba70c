"""Comparison of tensors with what a fixture holds."""

from __future__ import annotations

import torch
from torch import Tensor

import neuromix
from neuromix.core.model import Model
from tests.golden.fixtures import Fixture


def assert_close(
    actual: Tensor, expected: Tensor, *, name: str = "", rtol: float = 1e-6, atol: float = 1e-9
) -> None:
    """|actual - expected| <= atol + rtol*|expected|, in float64. The floor is for gradients that are zero in theory."""
    torch.testing.assert_close(
        actual.detach().double(),
        expected.double(),
        rtol=rtol,
        atol=atol,
        msg=lambda message: f"{name}: {message}",
    )


def assert_equal(actual: Tensor, expected: Tensor, *, name: str = "") -> None:
    """Spikes and integers must be the same."""
    assert_close(actual, expected, name=name, rtol=0.0, atol=0.0)


def check_step_form(model: Model, fixture: Fixture) -> None:
    """The logits of a net that is shown an image at each step, step by step."""
    net, state, outputs = neuromix.stream(model), None, []
    with torch.no_grad():
        for _ in range(model.config.time_steps):
            output, state = net.step(fixture.inputs["x"], state)
            outputs.append(output)
    assert_close(torch.stack(outputs).mean(0), fixture.outputs["logits"], name="logits, step by step")
