"""What the checks of language models share: logits, loss and gradients in the authors' names, and the step form.

Shapes: B batch, L tokens, V vocabulary.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

import neuromix
from neuromix.core.layout import Layout
from neuromix.core.model import Model
from tests.golden.compare import assert_close
from tests.golden.fixtures import Fixture


def check_decoder(model: Model, fixture: Fixture) -> None:
    """Every output and gradient; the loss is the mean cross-entropy of the next token."""
    ids_BL = fixture.inputs["input_ids"]
    logits_BLV = model(ids_BL)
    loss = F.cross_entropy(logits_BLV[:, :-1].flatten(0, 1), ids_BL[:, 1:].flatten())
    found = {"logits": logits_BLV, "loss": loss}
    for name, expected in fixture.outputs.items():
        assert_close(found[name], expected, name=name)
    loss.backward()
    layout = layout_of(model, fixture)
    # A head that is tied to its embedding has both names.
    named = model.named_parameters(remove_duplicate=False)
    ours = {name: p.grad for name, p in named if p.grad is not None}
    theirs = layout.to_theirs(ours)
    for name, expected in fixture.grads.items():
        assert_close(theirs[name], expected, name=f"gradient of {name}")
    _check_steps(model, fixture)


def layout_of(model: Model, fixture: Fixture) -> Layout:
    """The layout that explains every weight of the fixture."""
    layouts = model.layouts(model.config).values()
    return next(layout for layout in layouts if not layout.unexplained(fixture.state))


def _check_steps(model: Model, fixture: Fixture) -> None:
    net, ids_BL = neuromix.stream(model), fixture.inputs["input_ids"]
    with torch.no_grad():
        logits_BLV, state = net.prefill(ids_BL[:, :5])
        outputs = [logits_BLV]
        for ids_B in ids_BL[:, 5:].unbind(1):
            logits_BV, state = net.step(ids_B, state)
            outputs.append(logits_BV[:, None])
    assert_close(torch.cat(outputs, 1), fixture.outputs["logits"], name="logits, step by step")
