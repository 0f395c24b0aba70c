"""Checks of the LMUFormer fixtures: nets in both modes and streamed, their memories, loss and gradients.

Shapes: T time, B batch, N features, D width, K classes.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import neuromix
from neuromix.core.model import Model
from neuromix.mixers.lmu import LegendreMemory
from neuromix.ops.legendre import (
    FORMS,
    LegendreSystem,
    impulse_response,
    legendre_delay,
    legendre_memory,
    legendre_step,
    legendre_system,
)
from tests.golden.compare import assert_close
from tests.golden.fixtures import Fixture

CLOSE = {"rtol": 1e-8, "atol": 1e-9}
EXACT = {"rtol": 1e-10, "atol": 1e-12}


def check_model(fixture: Fixture) -> None:
    model = neuromix.from_reference(fixture.slug, fixture.config, fixture.state).double().eval()
    assert isinstance(model, Model)
    x_BTN = fixture.inputs["x"].double()
    with torch.no_grad():
        seen = _watched(model, x_BTN)
        seen["logits_all_seq"] = model.forward_steps(model.encode(x_BTN))
        if model.stream_axis is not None:
            assert_close(_streamed(model, x_BTN), fixture.outputs["logits_all_seq"], name="streamed", **CLOSE)
    memory = next((m for m in model.modules() if isinstance(m, LegendreMemory)), None)
    if memory is not None:
        system = LegendreSystem(memory.A, memory.B)
        seen |= {"A": system.A_NN, "B": system.B_N[:, None]}
        seen["H"] = impulse_response(system, x_BTN.shape[1]).T
    seen["train_logits"] = model.train()(x_BTN)
    target_BK = F.one_hot(fixture.inputs["target"], seen["train_logits"].shape[1]).double()
    seen["train_loss"] = F.binary_cross_entropy_with_logits(seen["train_logits"], target_BK)
    assert fixture.outputs.keys() <= seen.keys(), sorted(fixture.outputs.keys() - seen.keys())
    for name, expected in fixture.outputs.items():
        assert_close(seen[name], expected, name=name, **(EXACT if name in "ABH" else CLOSE))
    seen["train_loss"].backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    theirs = model.layouts(model.config)["authors"].to_theirs(gradients)
    for name, gradient in fixture.grads.items():
        assert_close(theirs[name.removeprefix("module.")], gradient, name=f"gradient of {name}", **CLOSE)


def _watched(model: Model, x_BTN: Tensor) -> dict[str, Tensor]:
    """Outputs of parts under the authors' names; ours have time first."""
    seen: dict[str, Tensor] = {}
    parts = {
        r"embedding": ("patch_embed", (1, 2, 0)),
        r"blocks\.(\d+)": ("block.{}", (1, 2, 0)),
        r"blocks\.(\d+)\.mixer\.branch": ("block.{}.attn", (1, 2, 0)),
        r"blocks\.(\d+)\.mixer\.branch\.\d+": ("block.{}.attn.lmu.h", (1, 0, 2)),
    }

    def watch(name: str, axes: tuple[int, ...]) -> Any:
        return lambda _, __, y: seen.update({name: y.permute(axes)})

    handles = []
    for path, module in model.named_modules():
        for pattern, (name, axes) in parts.items():
            match = re.fullmatch(pattern, path)
            is_cell = hasattr(module, "memory") or hasattr(getattr(module, "mixer", None), "memory")
            if match and (not name.endswith(".h") or is_cell):
                handles.append(module.register_forward_hook(watch(name.format(*match.groups()), axes)))
    seen["logits"] = model(x_BTN)
    for handle in handles:
        handle.remove()
    return seen


def _streamed(model: Model, x_BTN: Tensor) -> Tensor:
    session = neuromix.stream(model).session()
    answers = [session.step(x_BN) for x_BN in x_BTN.unbind(1)]
    first = [answer[None] for answer in answers if answer is not None]
    return torch.cat([*first, session.drain()])


def check_memory(fixture: Fixture) -> None:
    order, theta = int(fixture.config["order"]), float(fixture.config["theta"])
    u_BLC = fixture.inputs["u"].double()
    system = legendre_system(order, theta)
    m, stepped = torch.zeros(len(u_BLC), u_BLC.shape[2], order, dtype=torch.float64), []
    for u_BC in u_BLC.unbind(1):
        m = legendre_step(u_BC, system, m)
        stepped.append(m)
    seen = {
        "A": legendre_delay(order, theta).A_NN,
        "B": legendre_delay(order, theta).B_N[:, None],
        "Abar": system.A_NN,
        "Bbar": system.B_N[:, None],
        "impulse": impulse_response(system, u_BLC.shape[1]),
        "m": torch.stack(stepped, 1),
    }
    assert fixture.outputs.keys() <= seen.keys(), sorted(fixture.outputs.keys() - seen.keys())
    for name, expected in fixture.outputs.items():
        assert_close(seen[name], expected, name=name, **EXACT)
    for form in FORMS:
        for size in (1, 3, 64):
            m, last = legendre_memory(u_BLC, order, theta, form=form, chunk_size=size)
            assert_close(m, fixture.outputs["m"], name=f"m, {form} {size}", **EXACT)
            assert_close(last, fixture.outputs["m"][:, -1], name=f"state, {form} {size}", **EXACT)


CHECKS = {("lmuformer", "model"): check_model, ("_sequence-ops", "lmu"): check_memory}
