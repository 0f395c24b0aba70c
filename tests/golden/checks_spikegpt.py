"""Checks of the SpikeGPT fixtures: logits, spikes and gradients of whole models, and the WKV op.

Shapes: B batch, L tokens, C channels.
"""

from __future__ import annotations

from contextlib import ExitStack

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import neuromix
from neuromix.core.model import Model
from neuromix.ops.wkv import FORMS, WkvState, wkv, wkv_step
from tests.golden.compare import assert_close, assert_equal
from tests.golden.fixtures import Fixture


def check_model(fixture: Fixture) -> None:
    model = neuromix.from_reference(fixture.slug, fixture.config, fixture.state, kind=fixture.kind).double()
    assert isinstance(model, Model)
    seen, ids_BL = _run(model.train(), fixture.inputs["idx"])
    seen["loss"] = F.cross_entropy(seen["logits"].flatten(0, 1), fixture.inputs["target"].flatten())
    for name, expected in fixture.outputs.items():
        compare = assert_equal if name.startswith("spike_") else assert_close
        compare(seen[name], expected, name=name)
    seen["loss"].backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    ours = model.layouts(model.config)["authors"].to_theirs(gradients)
    assert ours.keys() == fixture.grads.keys()
    for name, gradient in fixture.grads.items():
        assert_close(ours[name], gradient, name=f"gradient of {name}")
    _check_steps(model.eval(), ids_BL, fixture.outputs["logits"])


def _run(model: Model, ids_BL: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """The outputs by the authors' names."""
    seen: dict[str, Tensor] = {}

    def keep(module: nn.Module, name: str):
        return module.register_forward_hook(lambda _, __, y: seen.update({name: y}))

    with ExitStack() as stack:
        for i, block in enumerate(model.blocks):
            parts = {
                "block": block,
                "spike_att": block.time.branch.neuron,
                "spike_ffn": block.channel.branch.neuron,
            }
            for name, part in parts.items():
                stack.callback(keep(part, f"{name}.{i}").remove)
        seen["logits"] = model(ids_BL)
    return seen, ids_BL


def _check_steps(model: Model, ids_BL: Tensor, logits_BLV: Tensor) -> None:
    session = neuromix.stream(model).session()
    with torch.no_grad():
        stepped = torch.stack([session.step(ids_B) for ids_B in ids_BL.unbind(1)], 1)
    assert_close(stepped, logits_BLV, name="logits, token by token")


def check_wkv(fixture: Fixture) -> None:
    """`wkv` starts from nothing and calls the last sums p, q, o; `wkv4` starts from sums and calls them a, b, p."""
    upstream = fixture.inputs["gy" if "gy" in fixture.inputs else "w"].double()
    names = ("p", "q", "o") if "y" in fixture.outputs else ("a", "b", "p")
    output = "y" if "y" in fixture.outputs else "o"
    checked = {output, *names}
    assert checked == set(fixture.outputs), sorted(fixture.outputs)
    for form in FORMS:
        for size in (3, 64):
            x = {name: tensor.double().clone().requires_grad_() for name, tensor in fixture.inputs.items()}
            state = WkvState(x["a"], x["b"], x["p"]) if "a" in x else None
            decay_C = -x["time_decay"].exp()
            y_BLC, last = wkv(x["k"], x["v"], decay_C, x["time_first"], state, form=form, chunk_size=size)
            assert_close(y_BLC, fixture.outputs[output], name=f"y of {form}")
            for name, found in zip(names, last, strict=True):
                assert_close(found, fixture.outputs[name], name=f"{name} of {form}")
            (y_BLC * upstream).sum().backward()
            for name, gradient in fixture.grads.items():
                found = x[name].grad
                assert found is not None
                assert_close(found, gradient, name=f"gradient of {name} of {form}")
    _check_wkv_steps(fixture, fixture.outputs[output])


def _check_wkv_steps(fixture: Fixture, expected: Tensor) -> None:
    x = {name: tensor.double() for name, tensor in fixture.inputs.items()}
    nothing = torch.zeros_like(x["k"][:, 0])
    state = WkvState(x["a"], x["b"], x["p"]) if "a" in x else WkvState(nothing, nothing, nothing - 1e38)
    for t, (k_BC, v_BC) in enumerate(zip(x["k"].unbind(1), x["v"].unbind(1), strict=True)):
        y_BC, state = wkv_step(k_BC, v_BC, -x["time_decay"].exp(), x["time_first"], state)
        assert_close(y_BC, expected[:, t], name=f"y of step {t}")


CHECKS = {
    ("spikegpt", "lm"): check_model,
    ("spikegpt", "wkv"): check_wkv,
    ("_sequence-ops", "wkv4"): check_wkv,
}
