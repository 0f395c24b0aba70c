"""IIR-SNN: thresholds from the input of a layer, the way from an analog net to one time step, the nets of the paper.

Shapes: T spike time, B batch, K classes.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning_fabric import Fabric
from torch import nn
from torch.nn import functional as F

import neuromix
from neuromix.core import registry
from neuromix.core.checkpoint import build_model, create_model, load_checkpoint, rebuild
from neuromix.core.config import Spec
from neuromix.core.edits import apply_edit
from neuromix.core.errors import CheckpointError, ConfigError
from neuromix.layers.conv import ConvBN
from neuromix.layers.sequence_dropout import SequenceDropout
from neuromix.methods.iir import (
    NEURON,
    IIRConfig,
    analog_form,
    calibrate_thresholds,
    input_percentiles,
    percentile,
    spiking_form,
)
from neuromix.models.vision.iir import limit_coefficients
from neuromix.neurons.lif import LIF
from neuromix.training.api import train
from neuromix.training.config import TrainConfig
from neuromix.training.evaluate import evaluate
from neuromix.training.method import Stack
from neuromix.training.observer import Observer
from neuromix.training.run import Run
from neuromix.training.run_folder import RunFolder
from neuromix.training.task import Task
from tests.training.stopped import Stop, StopAfter
from tests.training.tiny import assert_same_weights

TINY = {
    "iir_vgg": {"layers": (4, 4, "A", 8, "A"), "hidden": (6,), "time_steps": 3, "num_classes": 3},
    "iir_resnet": {"blocks": (1, 1), "widths": (4, 8), "time_steps": 3, "num_classes": 3},
}


def make_net(name="iir_vgg", **overrides):
    torch.manual_seed(0)
    return create_model(name, **{**TINY[name], **overrides}).double().eval()


def make_images(samples=4):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(samples, 3, 16, 16, generator=generator, dtype=torch.float64)


def trained_analog(name):
    """An analog net whose batch-norms have seen something."""
    torch.manual_seed(0)
    net = analog_form(create_model(name, **TINY[name])).double().train()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
    for _ in range(3):
        net(2 * make_images() + 0.5)
    return net.eval()


# --- thresholds ----------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=1, max_size=40), st.floats(0, 100))
def test_percentile_is_a_value_of_the_sorted_list(values, q):
    rank = round(0.01 * q * (len(values) - 1))
    assert percentile(torch.tensor(values, dtype=torch.float64), q) == sorted(values)[rank]


@pytest.mark.parametrize("name", TINY)
@torch.no_grad()
def test_thresholds_are_set_while_earlier_layers_spike(name):
    """Against one pass over all steps at once, in which each neuron takes its threshold just before it fires."""
    net, steps = make_net(name), 7
    x_T = net.encode(make_images())
    found = calibrate_thresholds(net, x_T, 80.0, steps=steps, scale=0.9)
    other, expected = rebuild(net.float(), time_steps=steps).double().eval(), {}
    other.load_state_dict(net.double().state_dict())

    def take(neuron, args, path):
        value = max(percentile(x, 80.0) for x in args[0])
        nn.init.constant_(neuron.v_threshold, 0.9 * value if value > 0 else 0.1)
        expected[path] = float(neuron.v_threshold)

    for path, module in other.named_modules():
        if isinstance(module, LIF):
            nn.init.constant_(module.v_threshold, 123.0)
            module.register_forward_pre_hook(lambda module, args, path=path: take(module, args, path))
    other(make_images())
    assert list(found) == list(expected)  # in the order in which layers run
    assert found == pytest.approx(expected)
    for path, module in net.named_modules():
        if isinstance(module, LIF):
            assert float(module.v_threshold) == pytest.approx(expected[path])


def test_an_input_of_zero_gives_the_least_threshold_and_others_stay():
    net = make_net()
    nn.init.zeros_(net.stages[0][0].conv.stem.weight)
    nn.init.zeros_(net.stages[0][0].conv.stem.bias)
    first, second = "stages.0.0.activate.activation", "stages.0.1.activate.activation"
    found = calibrate_thresholds(net, net.encode(make_images()), steps=2, layers=("stages.0.0.*",))
    assert found == {first: 0.1}
    assert net.get_submodule(second).v_threshold.item() == pytest.approx(0.4)


def test_only_the_asked_layer_is_looked_at():
    net = make_net()
    x_T = net.encode(make_images())
    every = input_percentiles(net, x_T)
    assert len(every) == 4
    path = list(every)[2]
    assert input_percentiles(net, x_T, only=path) == {path: every[path]}


def test_constant_thresholds_are_refused():
    net = create_model("spiking_vgg_nano")
    with pytest.raises(ConfigError, match="learnable"):
        calibrate_thresholds(net, net.encode(torch.randn(2, 1, 8, 8)), steps=1)


def test_leaks_stay_at_most_one_and_thresholds_positive():
    net = make_net()
    neuron = net.stages[0][0].activate.activation
    nn.init.constant_(neuron.decay, 1.2)
    nn.init.constant_(neuron.v_threshold, -1.0)
    other = net.stages[0][1].activate.activation
    nn.init.constant_(other.decay, -0.3)
    net.after_step()
    assert neuron.decay.item() == 1 and neuron.v_threshold.item() > 0
    assert other.decay.item() == pytest.approx(-0.3)
    limit_coefficients(create_model("spiking_vgg_nano"))  # constants are left alone


# --- from an analog net to a spiking one ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", TINY)
@torch.no_grad()
def test_folded_norms_give_the_same_logits(name):
    net, x = trained_analog(name), make_images()
    assert any(isinstance(module, ConvBN) for module in net.modules())
    spiking = spiking_form(net, NEURON, 4).double().eval()
    without = build_model(name, spiking.config.replace(activation="relu")).double()
    without.load_state_dict(
        {
            key: value
            for key, value in spiking.state_dict().items()
            if not key.endswith(("v_threshold", "decay"))
        }
    )
    # The conversion goes through float32.
    torch.testing.assert_close(without.eval()(x), net(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(apply_edit(net, "fuse")(x), net(x))
    assert spiking.config.time_steps == 4 and spiking.stream_axis == 0
    assert all(float(m.decay) == 1 for m in spiking.modules() if isinstance(m, LIF))


@pytest.mark.parametrize(
    ("name", "message"),
    [("poolformer_nano", "plain VGG or ResNet"), ("spiking_preact_resnet_nano", 'order "pre"')],
)
def test_nets_whose_norms_cannot_be_folded_are_refused(name, message):
    with pytest.raises(ConfigError, match=message):
        analog_form(create_model(name))


@pytest.mark.parametrize(
    "options",
    [
        {"steps": ()},
        {"steps": (1, 3)},
        {"steps": (3, 3)},
        {"percentile": 0.0},
        {"dropout": 1.0},
        {"ann_epochs": 0},
    ],
)
def test_options_are_checked(options):
    with pytest.raises(ConfigError):
        IIRConfig.from_dict(options)


class Frames(Task):
    """Samples of three frames each."""

    def data(self, split, *, augment=False):
        class Data:
            def __len__(self):
                return 4

            def sample(self, index, generator):
                return {"image": torch.zeros(3, 1, 8, 8), "label": index}

        return Data()


@pytest.mark.parametrize("ann", [True, False])
def test_frames_are_refused(ann):
    method = Stack([Spec("iir", {"ann": ann})])
    net = create_model("iir_vgg_nano")
    run = Run(TrainConfig(), Fabric(accelerator="cpu"), method, Frames(None), net)
    with pytest.raises(ConfigError, match="no image"):
        method.stage(0, run)


# --- the nets ------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_at_one_step_the_net_is_one_of_binary_activations():
    net, x = make_net(time_steps=1), make_images()
    for module in net.modules():
        if isinstance(module, LIF):
            nn.init.uniform_(module.v_threshold, 0.01, 0.05)
            nn.init.uniform_(module.decay, 0.5, 0.9)  # of no effect
    y = x
    for stage in net.stages:
        for unit in stage:
            if not hasattr(unit, "conv"):
                y = F.avg_pool2d(y, 2)
                continue
            conv = unit.conv.stem if hasattr(unit.conv, "stem") else unit.conv
            y = (conv(y) > unit.activate.activation.v_threshold).double()
    for linear, activate, _ in net.head.hidden:
        y = (linear(F.adaptive_avg_pool2d(y, 2).flatten(1)) > activate.activation.v_threshold).double()
    assert 0 < y.mean() < 1
    calls = []
    net.stages[1][0].conv.register_forward_hook(lambda _, __, y: calls.append(len(y)))
    torch.testing.assert_close(net(x), net.head.classify(y))
    assert calls == [len(x)]  # one forward pass


@torch.no_grad()
def test_output_is_the_sum_of_the_steps():
    for name in TINY:
        net, x = make_net(name), make_images()
        torch.testing.assert_close(net(x), net.forward_steps(net.encode(x)).sum(0))
        assert net(x).any()


def test_a_pooling_takes_the_place_of_the_dropout():
    net = make_net(dropout=0.3)
    rates = [[isinstance(u.dropout, SequenceDropout) for u in s if hasattr(u, "dropout")] for s in net.stages]
    assert rates == [[True, False], [False]]
    assert isinstance(net.head.hidden[0][2], SequenceDropout)


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_released_names_load(name, prefix, tmp_path):
    net = make_net(name).float()
    theirs = {
        prefix + key: value
        for key, value in net.layouts(net.config)["authors"].to_theirs(net.state_dict()).items()
    }
    assert f"{prefix}threshold.t3" in theirs and f"{prefix}leak.l0" in theirs
    torch.save({"state_dict": theirs, "accuracy": 0.9}, tmp_path / "net.pth")
    again = load_checkpoint(tmp_path / "net.pth", name, **TINY[name]).eval()
    read = neuromix.from_reference("iir-snn", {"cfg": TINY["iir_vgg"]["layers"], "timesteps": 3}, theirs)
    x = make_images().float()
    with torch.no_grad():
        assert torch.equal(again(x), net(x)) and torch.equal(read(x), net(x))
    theirs.pop(f"{prefix}leak.l0")
    with pytest.raises(CheckpointError, match="missing"):
        neuromix.from_reference("iir-snn", {"cfg": TINY["iir_vgg"]["layers"]}, theirs)


def test_numbers_of_hidden_layers_follow_those_of_the_features():
    net = create_model("iir_vgg", **TINY["iir_vgg"])
    theirs = net.layouts(net.config)["authors"].to_theirs(net.state_dict())
    assert {name for name in theirs if name.startswith("threshold")} == {
        f"threshold.t{i}" for i in (0, 3, 6, 9)
    }


# --- the stages ----------------------------------------------------------------------------------------------------

SMALL = {"layers": (4, "A", 4, "A"), "hidden": (8,)}


def small_run(out, observer=None, **more):
    return train(
        "iir_vgg_nano", "digits", out, method="iir", model_config=SMALL, threads=1, observer=observer,
        method_config={"steps": (3, 1), "calibration_steps": 3, "calibration_batch": 32}, **more,
    )  # fmt: skip


class Notes(Observer):
    def __init__(self):
        self.told = []

    def note(self, text):
        self.told.append(text)


def test_a_stage_for_the_analog_net_and_for_each_number_of_steps(tmp_path):
    observer = Notes()
    run = small_run(tmp_path / "run", observer, epochs=1, max_steps=1)
    assert [record["stage"] for record in RunFolder(run.run).records()] == ["ann", "T=3", "T=1"]
    assert [note.split(":")[0] for note in observer.told] == ["T = 3", "T = 1"]
    stages = [load_checkpoint(run.run / f"stage-{i}.safetensors") for i in (1, 2, 3)]
    assert [net.config.activation.name for net in stages] == ["relu", "lif", "lif"]
    assert [net.config.time_steps for net in stages[1:]] == [3, 1]
    assert run.model().config == stages[2].config


@pytest.mark.slow
def test_a_run_that_is_stopped_goes_on_exactly_and_stages_start_from_the_best(tmp_path):
    options = {"epochs": 3, "max_steps": 60, "lr": 0.05}
    whole = small_run(tmp_path / "whole", **options)
    task = registry.build("task", "digits")
    records = RunFolder(whole.run).records()
    for i, stage in enumerate(("ann", "T=3", "T=1")):
        scores = [record["validation"]["accuracy"] for record in records if record["stage"] == stage]
        net = load_checkpoint(whole.run / f"stage-{i + 1}.safetensors")
        found = evaluate(net, task, "validation")
        assert found["accuracy"] == pytest.approx(max(scores), abs=1e-6)
    for steps in (70, 150):
        folder = tmp_path / f"after{steps}"
        with pytest.raises(Stop):
            small_run(folder, StopAfter(steps), checkpoint_steps=7, **options)
        train(out=folder, resume=True)
        for name in ("best.safetensors", "last.safetensors"):
            assert_same_weights(folder / name, whole.run / name)


@pytest.mark.slow
def test_the_staircase_ends_near_its_first_step_and_above_the_direct_way(tmp_path):
    def accuracy(name, steps):
        run = train(
            "iir_vgg_nano", "digits", tmp_path / name, method="iir", epochs=2, threads=1,
            method_config={"steps": steps, "ann_epochs": 6, "calibration_steps": 50},
        )  # fmt: skip
        records = RunFolder(run.run).records()
        return {
            stage: max(r["validation"]["accuracy"] for r in records if r["stage"] == stage)
            for stage in ("ann", *(f"T={t}" for t in steps))
        }

    staircase, direct = accuracy("staircase", (5, 4, 3, 2, 1)), accuracy("direct", (1,))
    assert staircase["ann"] == direct["ann"] > 0.9
    assert staircase["T=1"] > staircase["T=5"] - 0.03
    assert staircase["T=1"] > direct["T=1"]
