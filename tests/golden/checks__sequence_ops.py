"""Checks of the fixtures of the sequence operators: every form, several chunk sizes, outputs, states and gradients.

Shapes: B batch, L tokens, H heads, K key width, V value width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from neuromix.ops.recurrence import recurrence, recurrence_step
from tests.golden.compare import assert_close
from tests.golden.fixtures import Fixture

FORMS = [("loop", 1), ("parallel", 1), ("auto", 64), *(("chunk", size) for size in (1, 2, 3, 7, 16, 64))]


def check_recurrence(fixture: Fixture) -> None:
    names = ("q", "k", "v", "log_decay", "initial_state")
    inputs = {name: _read(fixture, name).requires_grad_() for name in names}
    scale = read_scale(fixture.config["scale"], inputs["q"].shape[-1])
    for form, size in FORMS:
        o, state = recurrence(*inputs.values(), scale=scale, form=form, chunk_size=size)
        where = f"{form} {size}"
        assert_close(o, fixture.outputs["o"], name=f"o, {where}", rtol=1e-10, atol=1e-12)
        _compare(state, fixture.outputs["final_state"], f"state, {where}")
        loss = (o * fixture.inputs["w"]).sum() + (state.real * fixture.inputs["wS"]).sum()
        grads = torch.autograd.grad(loss, list(inputs.values()))
        for name, grad in zip(names, grads, strict=True):
            _compare(grad, fixture.grads[name], f"gradient of {name}, {where}")
    _check_steps(inputs, scale, fixture)


def _check_steps(inputs: dict[str, Tensor], scale: float, fixture: Fixture) -> None:
    q, k, v, log_decay, state = (t.detach() for t in inputs.values())
    constant = log_decay.dim() < 3
    if log_decay.dim() == 2 and not log_decay.is_complex():
        log_decay = log_decay[None]  # a step takes two real axes for [B, H]
    for t, expected in enumerate(fixture.outputs["o"].unbind(1)):
        decay = log_decay if constant else log_decay[:, t]
        o, state = recurrence_step(q[:, t], k[:, t], v[:, t], decay, state, scale=scale)
        assert_close(o, expected, name=f"step {t}", rtol=1e-10, atol=1e-12)
    _compare(state, fixture.outputs["final_state"], "state after the last step")


def read_scale(text: str | float, K: int) -> float:
    """A number, or a power of the key width such as "K**-0.5"."""
    if not isinstance(text, str):
        return float(text)
    base, _, exponent = text.partition("**")
    assert base.strip() == "K", f"a scale of an unknown kind: {text!r}"
    return K ** float(exponent or 1)


def _read(fixture: Fixture, name: str) -> Tensor:
    """An input; pairs of real and imaginary parts, one axis more than it should have, as complex numbers."""
    tensor = (
        fixture.inputs[name].double().clone()
    )  # a file's memory is not aligned as complex numbers must be
    return torch.view_as_complex(tensor) if _is_complex(fixture, name) else tensor


def _is_complex(fixture: Fixture, name: str) -> bool:
    axes = {"q": 4, "k": 4, "v": 4, "initial_state": 4, "log_decay": 2}
    return fixture.config["decay"] == "state" and fixture.inputs[name].dim() == axes[name] + 1


def _compare(actual: Tensor, expected: Tensor, name: str) -> None:
    actual = torch.view_as_real(actual.resolve_conj()) if actual.is_complex() else actual
    assert_close(actual, expected, name=name, rtol=1e-9, atol=1e-11)


CHECKS = {("_sequence-ops", "recurrence"): check_recurrence}
