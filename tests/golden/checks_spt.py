"""Checks of the SPT fixtures: sparse attention by product quantisation, and routed feed-forward networks with LoRA.

Shapes: B batch, L tokens, H heads, K width of a head, N = B * H rows, J kept keys.
"""

from __future__ import annotations

import torch
from torch import Tensor

import neuromix
from neuromix.core.observe import record
from neuromix.layers.product_quantiser import ProductQuantiser
from neuromix.layers.routed_ffn import RoutedFeedForward
from neuromix.mixers.pq_attention import code_matches, select_keys
from neuromix.models.language.spt import routed_layout
from neuromix.ops.selected_attention import selected_attention, selected_weights
from tests.golden.compare import assert_close, assert_equal
from tests.golden.fixtures import Fixture

CLOSE = {"rtol": 1e-9, "atol": 1e-10}


def check_attention(fixture: Fixture) -> None:
    quantiser = neuromix.from_reference(
        fixture.slug, fixture.config, fixture.state, kind=fixture.kind
    ).double()
    assert isinstance(quantiser, ProductQuantiser)
    inputs = {name: fixture.inputs[name].double().requires_grad_() for name in ("q", "k", "v")}
    q, k, v = (x.transpose(1, 2).flatten(0, 1) for x in inputs.values())
    batch, length = inputs["q"].shape[:2]
    found: dict[str, Tensor] = {"q_codes": quantiser.encode(q), "k_codes": quantiser.encode(k)}
    codes = found["q_codes"], found["k_codes"]
    found["matches"] = code_matches(*codes)
    index = select_keys(*codes, max(1, length // fixture.config.get("sparse_coeff", 8)))
    found["valid"] = (index >= 0).long()
    assert bool((index <= torch.arange(length)[:, None]).all())
    options = {"scale": q.shape[-1] ** -0.5, "clamp": 10.0}
    found["attn"] = selected_weights(q, k, index, **options)
    out = selected_attention(q, k, v, index, **options)
    found["out"] = out.unflatten(0, (batch, -1)).transpose(1, 2)
    found["pq_loss"] = quantiser.loss(q) + quantiser.loss(k)
    for name, expected in fixture.outputs.items():
        if name == "indices":
            kept = fixture.outputs["valid"].bool()
            assert_equal(index[kept], expected[kept], name=name)
            continue
        assert name in found, f"no check for {name}"
        compare = assert_close if expected.is_floating_point() else assert_equal
        compare(found[name], expected, name=name, **(CLOSE if compare is assert_close else {}))
    ((found["out"] * fixture.inputs["w"]).sum() + found["pq_loss"]).backward()
    grads = {**{name: x.grad for name, x in inputs.items()}, "weight": quantiser.weight.grad}
    for name, expected in fixture.grads.items():
        assert_close(grads[name], expected, name=f"gradient of {name}", **CLOSE)


def check_routed(fixture: Fixture) -> None:
    ffn = neuromix.from_reference(fixture.slug, fixture.config, fixture.state, kind=fixture.kind).double()
    assert isinstance(ffn, RoutedFeedForward)
    x = fixture.inputs["x"].double().requires_grad_()
    with record(ffn, "router") as seen:
        y = ffn(x)
    p = seen["probabilities"][0]
    blocks = ffn.chosen(p)
    found = {
        "y": y,
        "router_prob": p.view(*x.shape[:-1], -1),
        "blocks": blocks.view(*x.shape[:-1], -1),
    }
    for name, expected in fixture.outputs.items():
        assert name in found, f"no check for {name}"
        if expected.is_floating_point():
            assert_close(found[name], expected, name=name, **CLOSE)
        else:
            assert_equal(found[name], expected, name=name)
    (y * fixture.inputs["w"]).sum().backward()
    given = {name: parameter.grad for name, parameter in ffn.named_parameters() if parameter.grad is not None}
    grads = theirs(given, fixture) | {"x": x.grad}
    for name, expected in fixture.grads.items():
        assert_close(grads[name], expected, name=f"gradient of {name}", **CLOSE)


def theirs(tensors: dict[str, Tensor], fixture: Fixture) -> dict[str, Tensor]:
    """Under the names that the fixture uses; a plain and a gated network both have a last layer."""
    layout = routed_layout()
    return {
        name: tensors[ours]
        for name in fixture.grads
        if name != "x"
        for ours in layout.to_ours({name: tensors["router.bias"]})
    }


CHECKS = {
    ("spt", "sparse_attention"): check_attention,
    ("spt", "routed_ffn"): check_routed,
}
