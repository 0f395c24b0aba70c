"""Checks of the Spikformer fixtures: classifiers of both versions, and the masked pre-training of the second."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import neuromix
from neuromix.core.edits import apply_edit
from neuromix.layers.visible import hidden_error, patch_targets
from neuromix.models.vision.spikformer import Spikformer
from neuromix.models.vision.spikformer_v2 import MaskedSpikformer
from neuromix.neurons import Neuron
from tests.golden.compare import assert_close, assert_equal, check_step_form
from tests.golden.fixtures import Fixture


def check_model(fixture: Fixture) -> None:
    model = neuromix.from_reference(fixture.slug, fixture.config, fixture.state).double()
    assert isinstance(model, Spikformer)
    if "n_params" in fixture.config:
        assert model.num_parameters(trainable_only=False) == fixture.config["n_params"]
    _check_eval(model, fixture)
    check_step_form(model, fixture)
    fused = apply_edit(model, "fuse")
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())
    with torch.no_grad():
        assert_close(fused(fixture.inputs["x"]), fixture.outputs["logits"], name="logits, fused", rtol=1e-8)
    if "train_loss" in fixture.outputs:
        _check_training(model, fixture)


def _check_eval(model: Spikformer, fixture: Fixture) -> None:
    seen: dict[str, Tensor] = {}
    rates: list[Tensor] = []
    _keep_output(model.stem, "stem", seen)
    _keep_output(model.blocks, "encoder", seen)
    for module in model.modules():
        if isinstance(module, Neuron):
            module.register_forward_hook(lambda _, __, spikes: rates.append(spikes.mean()))
    with torch.no_grad():
        seen["logits"] = model(fixture.inputs["x"])
    seen["firing_rate"] = torch.stack(rates)
    expected = {name: value for name, value in fixture.outputs.items() if not name.startswith("train_")}
    assert "logits" in expected
    for name, value in expected.items():
        assert_close(seen[name], value, name=name)


def _check_training(model: Spikformer, fixture: Fixture) -> None:
    x = fixture.inputs["x"].clone().requires_grad_()
    logits = model.train()(x)
    loss = F.cross_entropy(logits, fixture.inputs["labels"], label_smoothing=0.1)
    assert_close(logits, fixture.outputs["train_logits"], name="train_logits")
    assert_close(loss, fixture.outputs["train_loss"], name="train_loss")
    loss.backward()
    _check_gradients(model, fixture, x)


def check_pretraining(fixture: Fixture) -> None:
    model = neuromix.from_reference(fixture.slug, fixture.config, fixture.state, kind="pretrain").double()
    assert isinstance(model, MaskedSpikformer)
    if "n_params" in fixture.config:
        assert model.num_parameters(trainable_only=False) == fixture.config["n_params"]
    image, kept = fixture.inputs["img"].clone().requires_grad_(), fixture.inputs["ids_keep"]
    patches = model(image, kept)
    assert_close(patches, fixture.outputs["rec"], name="rec")
    # The target is not detached here, so that the gradient of the image goes through it as well.
    loss = hidden_error(patches, patch_targets(image, model.config.patch), kept)
    assert_close(loss, fixture.outputs["loss"], name="loss")
    loss.backward()
    _check_gradients(model, fixture, image)
    with torch.no_grad():
        assert_close(model.masked_stem(image, kept), fixture.outputs["stem"], name="stem")
        _check_no_leak(model, image, kept)


def _check_no_leak(model: MaskedSpikformer, image: Tensor, kept: Tensor) -> None:
    """Other numbers in the hidden patches change nothing in what the encoder gives."""
    pixels = torch.ones(1, 1, *image.shape[-2:], dtype=image.dtype)
    side, columns = model.config.patch, image.shape[-1] // model.config.patch
    hidden = pixels.expand(len(image), -1, -1, -1).clone()
    for sample, numbers in enumerate(kept.tolist()):
        for number in numbers:
            row, column = side * (number // columns), side * (number % columns)
            hidden[sample, :, row : row + side, column : column + side] = 0
    noise = torch.randn_like(image)
    tokens = model.visible_tokens(image, kept)
    assert_equal(model.visible_tokens(image + noise * hidden, kept), tokens, name="hidden pixels changed")
    changed = model.visible_tokens(image + noise * (1 - hidden), kept)
    assert not torch.equal(changed, tokens), "visible pixels changed"


def _check_gradients(model: nn.Module, fixture: Fixture, x: Tensor) -> None:
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    layout = next(iter(model.layouts(model.config).values()))
    theirs = {**layout.to_theirs(grads), "x": x.grad}
    for name, expected in fixture.grads.items():
        # Stored in float32: they are exact to 1e-6 of their largest entry.
        assert_close(theirs[name], expected.double(), name=name, atol=1e-6 * float(expected.abs().max()))


def _keep_output(module: nn.Module, name: str, store: dict[str, Tensor]) -> None:
    module.register_forward_hook(lambda _, __, output: store.__setitem__(name, output))


CHECKS = {
    ("spikformer-v2", "model"): check_model,
    ("spikformer-v2", "pretrain"): check_pretraining,
}
