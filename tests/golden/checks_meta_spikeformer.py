"""Checks of the Meta-SpikeFormer fixtures: whole nets, and the attention cores with one RepConv."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import neuromix
from neuromix.core.config import Spec
from neuromix.core.edits import apply_edit
from neuromix.mixers.sdsa import SpikeAttention
from neuromix.models.vision.meta_spikeformer import Distilled, MetaSpikeFormer
from neuromix.neurons import Neuron
from tests.golden.compare import assert_close, assert_equal, check_step_form
from tests.golden.fixtures import Fixture

# Where the authors' blocks end in our net.
FEATURES = {
    "ConvBlock1_1.0": "stages.0",
    "ConvBlock1_2.0": "stages.1",
    "ConvBlock2_1.0": "stages.2.blocks.0",
    "ConvBlock2_2.0": "stages.2",
    **{f"block3.{j}": f"stages.3.blocks.{j}" for j in range(6)},
    **{f"block4.{j}": f"stages.4.blocks.{j}" for j in range(2)},
}


def check_model(fixture: Fixture) -> None:
    model = neuromix.from_reference(fixture.slug, fixture.config, fixture.state).double()
    assert isinstance(model, MetaSpikeFormer)
    if "n_params" in fixture.config:
        assert model.num_parameters() == fixture.config["n_params"]
    _check_eval(model, fixture)
    check_step_form(model, fixture)
    _check_fused(model, fixture)
    if "train_loss" in fixture.outputs:
        _check_training(model, fixture)


def _check_eval(model: MetaSpikeFormer, fixture: Fixture) -> None:
    maps: dict[str, Tensor] = {}
    rates: list[Tensor] = []
    for name in (n for n in fixture.outputs if n.startswith("feat/")):
        _keep_output(model.get_submodule(FEATURES[name.removeprefix("feat/")]), name, maps)
    for module in model.modules():
        if isinstance(module, Neuron):
            module.register_forward_hook(lambda _, __, spikes: rates.append(spikes.mean()))
    with torch.no_grad():
        logits = model(fixture.inputs["x"])
    seen = {**maps, "logits": logits, "firing_rate": torch.stack(rates)}
    if "logits_T1" in fixture.outputs:
        once = neuromix.from_reference(fixture.slug, {**fixture.config, "T": 1}, fixture.state).double()
        with torch.no_grad():
            seen["logits_T1"] = once(fixture.inputs["x"])
    expected = {name: value for name, value in fixture.outputs.items() if not name.startswith("train_")}
    assert seen.keys() == expected.keys()
    for name, value in expected.items():
        assert_close(seen[name], value, name=name)


def _check_fused(model: MetaSpikeFormer, fixture: Fixture) -> None:
    fused = apply_edit(model, "fuse")
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())
    with torch.no_grad():
        assert_close(fused(fixture.inputs["x"]), fixture.outputs["logits"], name="logits, fused", rtol=1e-8)


def _check_training(model: MetaSpikeFormer, fixture: Fixture) -> None:
    x = fixture.inputs["x"].clone().requires_grad_()
    output = model.train()(x)
    logits = output.logits if isinstance(output, Distilled) else output
    loss = F.cross_entropy(logits, fixture.inputs["labels"], label_smoothing=0.1)
    seen = {"train_logits": logits}
    if isinstance(output, Distilled):
        taught = F.cross_entropy(output.distilled_logits, fixture.inputs["teacher_labels"])
        loss = 0.5 * loss + 0.5 * taught
        seen["train_logits_kd"] = output.distilled_logits
    seen["train_loss"] = loss
    for name in (n for n in fixture.outputs if n.startswith("train_")):
        assert_close(seen[name], fixture.outputs[name], name=name)
    loss.backward()
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    theirs = {**model.layouts(model.config)["authors"].to_theirs(grads), "x": x.grad}
    for name, expected in fixture.grads.items():
        # Stored in float32: they are exact to 1e-6 of their largest entry.
        assert_close(theirs[name], expected.double(), name=name, atol=1e-6 * float(expected.abs().max()))


def check_sdsa_repconv(fixture: Fixture) -> None:
    _check_attention(fixture)
    _check_repconv(fixture)


def _check_attention(fixture: Fixture) -> None:
    config, outputs = fixture.config, fixture.outputs
    q, k, v = (fixture.inputs[name] for name in "qkv")
    neuron = Spec("lif", {"tau": config["tau"]})
    scale, threshold = config["scale"], config["attn_threshold"]
    cores = {f"sdsa{form}": SpikeAttention(form, scale, threshold, neuron) for form in (1, 2, 3)}
    learned = config["sdsa4_threshold"]
    cores[f"sdsa4_th{learned:g}"] = SpikeAttention(4, 1.0, learned, neuron).double()
    for name, core in cores.items():
        assert_equal(core(q, k, v), outputs[name], name=name)
    assert_equal(q @ (k.transpose(-2, -1) @ v), outputs["sdsa3_pre"], name="sdsa3_pre")
    # Scale and threshold are one number: the integers themselves against threshold / scale.
    on_integers = SpikeAttention(4, scale, threshold, neuron).double()
    assert_equal(on_integers(q, k, v), outputs["sdsa3"], name="sdsa3 on integers")


def _check_repconv(fixture: Fixture) -> None:
    repconv = neuromix.from_reference(fixture.slug, {}, fixture.state, kind="repconv").double()
    fused = repconv.fused()
    x, y = fixture.inputs["repconv_x"], fixture.outputs["repconv_y"]
    assert_close(repconv(x), y, name="repconv_y")
    assert_close(fused(x), y, name="repconv_y, fused")
    assert_close(fused.weight, fixture.outputs["repconv_fused_weight"], name="repconv_fused_weight")
    assert_close(fused.bias, fixture.outputs["repconv_fused_bias"], name="repconv_fused_bias")


def _keep_output(module: nn.Module, name: str, store: dict[str, Tensor]) -> None:
    module.register_forward_hook(lambda _, __, output: store.__setitem__(name, output))


CHECKS = {
    ("meta-spikeformer", "model"): check_model,
    ("meta-spikeformer", "sdsa_repconv"): check_sdsa_repconv,
}
