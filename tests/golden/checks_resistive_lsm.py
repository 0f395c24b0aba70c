"""Checks of the liquid state machine: spikes, rates, read-out, embeddings, losses, gradients of all that is trained.

Shapes: T spike time, B batch, H neurons.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

import neuromix
from neuromix.core.model import Model
from neuromix.layers.contrastive import contrastive_loss, same_class, similarity
from neuromix.models.events.resistive_contrastive import ResistiveContrastive
from tests.golden.compare import assert_close, assert_equal
from tests.golden.fixtures import Fixture

EXACT = {"rtol": 1e-8, "atol": 1e-10}


def check_model(fixture: Fixture) -> None:
    model = neuromix.from_reference(fixture.slug, fixture.config, fixture.state).double()
    assert isinstance(model, ResistiveContrastive)
    assert {name.partition(".")[0] for name, p in model.named_parameters() if p.requires_grad} <= {
        "head",
        "first",
    }
    made = _outputs(model, fixture.inputs)
    assert not fixture.outputs.keys() - made.keys()
    for name, expected in fixture.outputs.items():
        check = assert_equal if name.endswith("_spikes") else _assert_close
        check(made[name], expected, name=name)
    losses = {
        "contrastive": (made["contrastive_loss"], model),
        "readout_loss": (made["readout_loss"], model),
        "srnn_loss": _trained(fixture),
    }
    for kind, (loss, net) in losses.items():
        net.zero_grad()
        loss.backward(retain_graph=True)
        gradients = {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
        theirs = net.layouts(net.config)["recorded"].to_theirs(gradients)
        for name, expected in _under(fixture.grads, f"{kind}/").items():
            _assert_close(theirs[name], expected, name=f"gradient of {name}, {kind}")
    known = tuple(f"{kind}/" for kind in losses)
    assert all(name.startswith(known) for name in fixture.grads)


def _outputs(model: ResistiveContrastive, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    inputs = {name: x.double() if x.is_floating_point() else x for name, x in inputs.items()}
    visual, audio = inputs["vis"], inputs["aud"]
    first, second, temperature = model(visual, audio)
    logits = model.first(visual.transpose(0, 1))
    features = model.features(visual, audio)
    scores = similarity(first, second, temperature)
    positives = same_class(inputs["vis_label"], inputs["aud_label"])
    made = {
        "readout_logits": logits,
        "readout_loss": F.cross_entropy(logits, inputs["vis_label"]),
        "similarity": scores,
        "contrastive_loss": contrastive_loss(scores, positives),
    }
    for name, embedding, rate, (liquid, x_TBN) in zip(
        ("vis", "aud"), (first, second), features, model.encoders(visual, audio).values(), strict=True
    ):
        made[f"{name}_embed"], made[f"{name}_features"] = embedding, rate
        made[f"{name}_spikes"] = liquid(x_TBN).transpose(0, 1)
    return made


def _trained(fixture: Fixture) -> tuple[Tensor, Model]:
    """The baseline whose liquid learns, with the same weights, and its loss."""
    model = neuromix.from_reference(fixture.slug, fixture.config, fixture.state).double()
    assert isinstance(model, ResistiveContrastive)
    model.first.liquid.requires_grad_(True)
    logits = model.first(fixture.inputs["vis"].double().transpose(0, 1))
    return F.cross_entropy(logits, fixture.inputs["vis_label"]), model


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def _assert_close(actual: Tensor, expected: Tensor, *, name: str) -> None:
    assert_close(torch.as_tensor(actual), expected, name=name, **EXACT)


CHECKS = {("resistive-lsm", "model"): check_model}
