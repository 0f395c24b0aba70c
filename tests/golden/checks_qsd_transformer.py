"""Checks of the QSD-Transformer fixtures: whole nets, and the distillation with the expansion of spikes."""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import neuromix
from neuromix.core.edits import apply_edit
from neuromix.layers.integer_weights import effective_weight
from neuromix.layers.lsq import LSQLayer, initial_step
from neuromix.methods.fgd import Features, fgd_loss
from neuromix.models.vision.qsd_transformer import QSDTransformer
from neuromix.neurons import IELIF, Neuron
from tests.golden.compare import assert_close, assert_equal
from tests.golden.fixtures import Fixture


def check_model(fixture: Fixture) -> None:
    model = neuromix.from_reference(fixture.slug, fixture.config, fixture.state).double()
    assert isinstance(model, QSDTransformer)
    if "n_params" in fixture.config:
        assert model.num_parameters(trainable_only=False) == fixture.config["n_params"]
    _check_eval(model, fixture)
    _check_weights(model, fixture)
    _check_deployed(model, fixture)
    if "train_loss" in fixture.outputs:
        _check_training(model, fixture)


def _check_eval(model: QSDTransformer, fixture: Fixture) -> None:
    rates: list[Tensor] = []
    for module in model.modules():
        if isinstance(module, Neuron):
            module.register_forward_hook(lambda _, __, sent: rates.append((sent != 0).double().mean()))
    with torch.no_grad():
        logits = model(fixture.inputs["x"])
    assert_close(logits, fixture.outputs["logits"], name="logits")
    if "rate_nonzero" in fixture.outputs:
        assert_close(torch.stack(rates), fixture.outputs["rate_nonzero"], name="rate_nonzero")


def _check_weights(model: QSDTransformer, fixture: Fixture) -> None:
    layout = model.layouts(model.config)["authors"]
    for name, expected in fixture.outputs.items():
        if name.startswith("alpha_init_"):
            layer = _layer(model, layout, name.removeprefix("alpha_init_"))
            # Computed in float32 by the authors.
            assert_close(initial_step(layer.weight, layer.bits), expected, name=name, rtol=1e-6)
        elif name.startswith("wq_"):
            theirs = re.sub(r"\.(q|k|v|proj)\.body\.", r".attn.\1_conv.0.body.", name.removeprefix("wq_"))
            layer = _layer(model, layout, theirs)
            assert_close(effective_weight(layer), expected, name=name)


def _layer(model: QSDTransformer, layout, theirs: str) -> LSQLayer:
    """The layer that the authors call `theirs`."""
    (ours,) = layout.to_ours({f"{theirs}.alpha": torch.zeros(1)})
    layer = model.get_submodule(ours.removesuffix(".alpha"))
    assert isinstance(layer, LSQLayer)
    return layer


def _check_deployed(model: QSDTransformer, fixture: Fixture) -> None:
    """Packed, fused and spike-driven, it gives the same answers."""
    x, expected = fixture.inputs["x"], fixture.outputs["logits"]
    with torch.no_grad():
        logits = model(x)
        assert_equal(apply_edit(model, "pack")(x), logits, name="logits, packed")
        fused = apply_edit(model, ("fuse", {"factored": True}))
        assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())
        assert_close(fused(x), expected, name="logits, fused", rtol=1e-8)
        driven = apply_edit(model, "binary_steps")
        spikes: list[Tensor] = []
        for module in driven.modules():
            if isinstance(module, Neuron):
                module.register_forward_hook(lambda _, __, sent: spikes.append(sent.unique()))
        assert_close(driven(x), expected, name="logits, spike-driven", rtol=1e-8)
    assert set(torch.cat(spikes).tolist()) == {0.0, 1.0}


def _check_training(model: QSDTransformer, fixture: Fixture) -> None:
    x = fixture.inputs["x"].clone().requires_grad_()
    logits = model.train()(x)
    loss = F.cross_entropy(logits, fixture.inputs["labels"], label_smoothing=0.1)
    assert_close(logits, fixture.outputs["train_logits"], name="train_logits")
    assert_close(loss, fixture.outputs["train_loss"], name="train_loss")
    loss.backward()
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    theirs = {**model.layouts(model.config)["authors"].to_theirs(grads), "x": x.grad}
    for name, expected in fixture.grads.items():
        # Stored in float32: they are exact to 1e-6 of their largest entry.
        assert_close(theirs[name], expected.double(), name=name, atol=1e-6 * float(expected.abs().max()))


def check_distillation(fixture: Fixture) -> None:
    levels, layers = fixture.config["levels"], range(fixture.config["layers"])
    neuron = IELIF(levels=levels)
    before = {
        name: x.clone().requires_grad_()
        for name, x in fixture.inputs.items()
        if name.startswith("student_pre_")
    }
    sent = {name.replace("_pre_", "_spike_"): neuron(x.unsqueeze(0)).squeeze(0) for name, x in before.items()}
    student = [Features(*(sent[f"student_spike_{layer}_{role}"] for role in "qkv")) for layer in layers]
    teacher = [Features(*(fixture.inputs[f"teacher_{layer}_{role}"] for role in "qkv")) for layer in layers]
    loss = fgd_loss(student, teacher)
    assert_close(loss, fixture.outputs["loss"], name="loss")
    loss.backward()
    for name, expected in fixture.grads.items():
        assert_close(before[name].grad, expected.double(), name=name, atol=1e-6 * float(expected.abs().max()))
    for name, expected in fixture.outputs.items():
        if name in sent:
            assert_equal(sent[name], expected, name=name)
        elif name.startswith("binary_expansion_"):
            steps = neuron.expand(
                sent[f"student_spike_{name.removeprefix('binary_expansion_')}"].unsqueeze(0)
            )
            assert_equal(steps, expected, name=name)
            weight = fixture.inputs["W"]
            assert_close((steps @ weight.T).mean(0), fixture.outputs["Wx"], name="Wx, by binary steps")


CHECKS = {
    ("qsd-transformer", "model"): check_model,
    ("qsd-transformer", "distillation"): check_distillation,
}
