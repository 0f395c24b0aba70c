"""Checks of the Routing Transformer fixtures: routing heads of both codes, and the whole language model.

Shapes: B batch, H heads, L tokens, K width of a head; the fixtures have heads before tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import neuromix
from neuromix.core.model import Model
from neuromix.core.observe import record
from neuromix.mixers.routing_heads import RoutingHeads
from tests.golden.compare import assert_close, assert_equal
from tests.golden.fixtures import Fixture

LOSS_WEIGHT = {"attention": 1000.0, "core_layernorm": 100.0}
CLOSE = {"attention": {"rtol": 1e-8, "atol": 1e-9}, "core_layernorm": {"rtol": 1e-9, "atol": 1e-10}}


def check_heads(fixture: Fixture) -> None:
    inputs = {
        name: fixture.inputs[name].double().requires_grad_()
        for name in ("q", "k", "v")
        if name in fixture.inputs
    }
    kind, close = fixture.kind, CLOSE[fixture.kind]
    state = {**fixture.state}
    if kind == "core_layernorm":
        state |= {name: fixture.inputs[name] for name in ("means", "ema_count", "ema_means")}
    heads = neuromix.from_reference(fixture.slug, fixture.config, state, kind=kind).double().train()
    assert isinstance(heads, RoutingHeads)
    found: dict[str, Tensor] = {}
    if kind == "core_layernorm":
        with torch.no_grad():
            routed = heads.eval().centroids(inputs["q"])
            found |= {"dist": -routed.scores_BHLC, "nearest": routed.nearest_BHL}
            found["idx"] = heads.train().members(routed.scores_BHLC)
    with record(heads, "aux_loss") as seen:
        found["out"] = run(heads, inputs)
    (loss,) = [loss for losses in seen.values() for loss in losses]
    found |= {"aux_loss": loss, "loss": loss}
    ((found["out"] * fixture.inputs["w"]).sum() + LOSS_WEIGHT[kind] * loss).backward()
    grads = {name: x.grad for name, x in inputs.items()}
    grads |= {"mem_key": heads.memory_keys.grad, "mem_value": heads.memory_values.grad}
    if kind == "attention":
        found["new_means"] = heads.centroids.new_means.clone()
    with torch.no_grad():
        if "out_masked" in fixture.outputs:
            mask_BL = fixture.inputs["mask"].bool()
            key_mask_BL = fixture.inputs.get("key_mask", fixture.inputs["mask"]).bool()
            found["out_masked"] = run(heads.eval(), inputs, mask_BL, key_mask_BL)
    heads.centroids.after_step()
    found["means_after_update"] = heads.centroids.means
    found |= dict(heads.centroids.named_buffers()) if kind == "core_layernorm" else {}
    for name, expected in fixture.outputs.items():
        assert name in found, f"no check for {name}"
        if expected.is_floating_point():
            assert_close(found[name], expected, name=name, **close)
        else:
            assert_equal(found[name], expected, name=name)
    for name, expected in fixture.grads.items():
        if expected.numel():
            assert_close(grads[name], expected, name=f"gradient of {name}", **close)


def run(heads: RoutingHeads, inputs: dict[str, Tensor], *masks: Tensor) -> Tensor:
    q, v = inputs["q"].transpose(1, 2), inputs["v"].transpose(1, 2)
    shared = heads.config.shared_qk or "k" not in inputs
    return heads(q, None if shared else inputs["k"].transpose(1, 2), v, *masks).transpose(1, 2)


def check_model(fixture: Fixture) -> None:
    model = neuromix.from_reference(fixture.slug, fixture.config, fixture.state, kind=fixture.kind).double()
    assert isinstance(model, Model)
    close = {"rtol": 1e-8, "atol": 1e-9}
    ids = fixture.inputs["input_ids"]
    masks = [fixture.inputs[name].bool() for name in ("mask", "input_mask") if name in fixture.inputs]
    with record(model, "aux_loss") as seen:
        logits = model(ids, *masks)
    aux = sum((loss for losses in seen.values() for loss in losses), torch.zeros((), dtype=torch.float64))
    found = {"logits": logits, "aux_loss": aux.view(1), "out": logits}
    for name, expected in fixture.outputs.items():
        if name == "loss":
            continue
        assert name in found, f"no check for {name}"
        assert_close(found[name], expected.view_as(found[name]), name=name, **close)
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()) + aux
    if "loss" in fixture.outputs:
        assert_close(loss, fixture.outputs["loss"], name="loss", **close)
    loss.backward()
    grads = as_theirs(model, {name: p.grad for name, p in model.named_parameters(remove_duplicate=False)})
    for name, expected in fixture.grads.items():
        if expected.numel():
            assert_close(grads[name], expected, name=f"gradient of {name}", **close)


def as_theirs(model: nn.Module, tensors: dict[str, Tensor | None]) -> dict[str, Tensor]:
    given = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    return model.layouts(model.config)["pytorch"].to_theirs(given)


CHECKS = {
    ("routing-transformer", "attention"): check_heads,
    ("routing-transformer", "core_layernorm"): check_heads,
    ("routing-transformer", "lm"): check_model,
    ("routing-transformer", "model"): check_model,
}
