"""Checks of the GLA fixtures: the op in all forms, a layer with its states, and a language model.

Shapes: B batch, L tokens, H heads, K key width, V value width.
"""

from __future__ import annotations

import torch

import neuromix
from neuromix.core.layout import Layout
from neuromix.core.model import Model
from neuromix.models.language.gla import mixer_rules
from neuromix.ops.recurrence import recurrence
from tests.golden.compare import assert_close
from tests.golden.decoders import check_decoder
from tests.golden.fixtures import Fixture

FORMS = (("loop", 64), ("parallel", 64), ("chunk", 16), ("chunk", 64), ("chunk", 5), ("chunk", 1))


def check_op(fixture: Fixture) -> None:
    given = fixture.inputs
    for form, chunk_size in FORMS:
        named = {name: given[name].clone().requires_grad_() for name in fixture.grads}
        operands = {**given, **named}
        q, k, v, gk, state = (operands.get(name) for name in ("q", "k", "v", "gk", "initial_state"))
        o, last = recurrence(q, k, v, gk, state, scale=q.shape[-1] ** -0.5, form=form, chunk_size=chunk_size)
        where = f"{form} {chunk_size}"
        assert_close(o, fixture.outputs["o"], name=f"o, {where}", rtol=1e-9, atol=1e-11)
        assert_close(last, fixture.outputs["final_state"], name=f"state, {where}", rtol=1e-9, atol=1e-11)
        weighted = (o * given["w"]).sum()
        weighted = weighted + (last * given["wS"]).sum() if "wS" in given else weighted
        gradients = torch.autograd.grad(weighted, list(named.values()))
        for name, gradient in zip(named, gradients, strict=True):
            assert_close(gradient, fixture.grads[name], name=f"gradient of {name}, {where}", rtol=1e-8)
    assert fixture.outputs.keys() == {"o", "final_state"}


def check_layer(fixture: Fixture) -> None:
    layer = neuromix.from_reference(fixture.slug, fixture.config, fixture.state, kind="layer").double()
    x, prefill = fixture.inputs["x"].clone().requires_grad_(), fixture.config.get("prefill", 1)
    checked = {"y", "state_final", "state_after_prefill"} & fixture.outputs.keys()
    assert checked == fixture.outputs.keys()
    y, state = layer(x, return_state=True)
    assert_close(y, fixture.outputs["y"], name="y")
    if "state_final" in checked:
        assert_close(state.memory_BHKV, fixture.outputs["state_final"], name="final state")
    with torch.no_grad():
        first, state = layer(x[:, :prefill], return_state=True)
        if "state_after_prefill" in checked:
            assert_close(
                state.memory_BHKV, fixture.outputs["state_after_prefill"], name="state after prefill"
            )
        outputs = [first]
        for x_BD in x[:, prefill:].unbind(1):
            y_BD, state = layer.step(x_BD, state)
            outputs.append(y_BD[:, None])
        assert_close(torch.cat(outputs, 1), fixture.outputs["y"], name="y, prefill and steps")
    (y * fixture.inputs["w"]).sum().backward()
    found = {name: p.grad for name, p in layer.named_parameters() if p.grad is not None}
    ours = {**Layout(*mixer_rules("", "")).to_ours({n: g for n, g in fixture.grads.items() if n != "x"})}
    for name, gradient in ours.items():
        assert_close(found[name], gradient, name=f"gradient of {name}")
    if "x" in fixture.grads:
        assert_close(x.grad, fixture.grads["x"], name="gradient of x")


def check_lm(fixture: Fixture) -> None:
    model = neuromix.from_reference(fixture.slug, fixture.config, fixture.state, kind="lm").double()
    assert isinstance(model, Model)
    check_decoder(model, fixture)


CHECKS = {("gla", "op"): check_op, ("gla", "layer"): check_layer, ("gla", "lm"): check_lm}
