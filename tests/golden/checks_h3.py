"""Checks of the H3 fixtures: a layer with its kernels and states, and a hybrid language model.

Shapes: B batch, E channels of a head, H heads, N size of the states.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

import neuromix
from neuromix.core.layout import Layout
from neuromix.core.model import Model
from neuromix.models.language.h3 import h3_rules
from tests.golden.compare import assert_close
from tests.golden.decoders import check_decoder
from tests.golden.fixtures import Fixture

EXACT = {"rtol": 1e-9, "atol": 1e-10}
FORMS = (("fft", 64), ("direct", 64), ("chunk", 1), ("chunk", 5), ("chunk", 8), ("loop", 1))


def check_layer(fixture: Fixture) -> None:
    layer = neuromix.from_reference(fixture.slug, fixture.config, fixture.state, kind="layer").double()
    expected = dict(fixture.outputs)
    x, prefill = fixture.inputs["x"].clone().requires_grad_(), fixture.config.get("prefill", 1)
    length, y_expected = x.shape[1], expected.pop("y")

    def check_states(state, when: str) -> None:
        # Theirs has a row for every sample and pair of channels.
        states = {"shift": state.shift_BDN, "diag": state.diagonal_BEEHN2.flatten(0, 2)}
        for name, tensor in states.items():
            if f"{name}_state_{when}" in expected:
                assert_close(
                    tensor, expected.pop(f"{name}_state_{when}"), name=f"{name} state {when}", **EXACT
                )

    kernels = {"diag": layer.diagonal.kernel(length), "shift": layer.shift.kernel(length)}
    for name, kernel in kernels.items():
        if f"kernel_{name}" in expected:
            kernel = F.pad(kernel, (0, length - kernel.shape[-1]))
            assert_close(kernel, expected.pop(f"kernel_{name}"), name=f"kernel of {name}", **EXACT)
    y, state = layer(x, return_state=True)
    assert_close(y, y_expected, name="y", **EXACT)
    check_states(state, "final")
    (y * fixture.inputs["w"]).sum().backward()
    with torch.no_grad():
        for form, chunk_size in FORMS:
            layer.form, layer.chunk_size = form, chunk_size
            assert_close(layer(x), y_expected, name=f"y, {form} {chunk_size}", **EXACT)
        first, state = layer(x[:, :prefill], return_state=True)
        check_states(state, "after_prefill")
        outputs = [first]
        for x_BD in x[:, prefill:].unbind(1):
            y_BD, state = layer.step(x_BD, state)
            outputs.append(y_BD[:, None])
        assert_close(torch.cat(outputs, 1), y_expected, name="y, prefill and steps", **EXACT)
    assert not expected, f"no check for {sorted(expected)}"
    found = {name: p.grad for name, p in layer.named_parameters() if p.grad is not None}
    theirs = {name: gradient for name, gradient in fixture.grads.items() if name != "x"}
    for name, gradient in Layout(*h3_rules("", "")).to_ours(theirs).items():
        assert_close(found[name], gradient, name=f"gradient of {name}", **EXACT)
    if "x" in fixture.grads:
        assert_close(x.grad, fixture.grads["x"], name="gradient of x", **EXACT)


def check_lm(fixture: Fixture) -> None:
    model = neuromix.from_reference(fixture.slug, fixture.config, fixture.state, kind="hybrid_lm").double()
    assert isinstance(model, Model)
    check_decoder(model, fixture)


CHECKS = {("h3", "layer"): check_layer, ("h3", "hybrid_lm"): check_lm, ("h3", "lm"): check_lm}
