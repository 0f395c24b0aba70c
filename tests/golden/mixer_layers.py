"""What the checks of Mamba's and Mamba-2's layers share: every form, a prefill and steps, states and gradients.

Shapes: B batch, L tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import neuromix
from neuromix.core.layout import Layout
from neuromix.mixers.sequence import SequenceMixer
from neuromix.models.language.mamba import mixer_rules
from tests.golden.compare import assert_close
from tests.golden.fixtures import Fixture

# A state of ours -> the authors' tensors, by the name that a fixture has for them.
States = Callable[[Any], dict[str, Tensor]]


def check_layer(fixture: Fixture, states: States) -> None:
    mixer = neuromix.from_reference(fixture.slug, fixture.config, fixture.state, fixture.kind).double()
    assert isinstance(mixer, SequenceMixer)
    length = fixture.inputs["x"].shape[1]
    for form in mixer.forms:
        for size in (1, 4, 7, length) if form == "chunk" else (64,):
            mixer.form, mixer.chunk_size = form, size
            _check_whole(mixer, fixture, states)
    _check_steps(mixer, fixture, states)


def _check_whole(mixer: SequenceMixer, fixture: Fixture, states: States) -> None:
    x_BLD = fixture.inputs["x"].clone().requires_grad_()
    y_BLD, state = mixer(x_BLD, return_state=True)
    where = f"{mixer.form} {mixer.chunk_size}"
    assert_close(y_BLD, fixture.outputs["y"], name=f"y, {where}")
    _check_states(state, "final", fixture, states)
    names, parameters = zip(*mixer.named_parameters(), strict=True)
    x_grad, *grads = torch.autograd.grad((y_BLD * fixture.inputs["w"]).sum(), [x_BLD, *parameters])
    ours = dict(zip(names, grads, strict=True))
    theirs = {"x": x_grad, **Layout(*mixer_rules("", "")).to_theirs(ours)}
    for name, expected in fixture.grads.items():
        assert_close(theirs[name], expected, name=f"gradient of {name}, {where}")


def _check_steps(mixer: SequenceMixer, fixture: Fixture, states: States) -> None:
    x_BLD, prefill = fixture.inputs["x"], fixture.config.get("prefill", 1)
    with torch.no_grad():
        y_BLD, state = mixer(x_BLD[:, :prefill], return_state=True)
        _check_states(state, "after_prefill", fixture, states)
        outputs = [y_BLD]
        for x_BD in x_BLD[:, prefill:].unbind(1):
            y_BD, state = mixer.step(x_BD, state)
            outputs.append(y_BD[:, None])
    assert_close(torch.cat(outputs, 1), fixture.outputs["y"], name="prefill and steps")
    _check_states(state, "final", fixture, states)


def _check_states(state: Any, when: str, fixture: Fixture, states: States) -> None:
    for name, found in states(state).items():
        stored = f"{name}_{when}"
        if stored in fixture.outputs:
            assert_close(found, fixture.outputs[stored], name=stored)
    known = {f"{name}_{when}" for name in states(state) for when in ("after_prefill", "final")}
    unknown = sorted(fixture.outputs.keys() - known - {"y"})
    assert not unknown, f"no check for {unknown}"
