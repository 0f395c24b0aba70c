"""Transfer from images to events: the hook of every step, the losses and their options, and whole runs.

Shapes: T spike time, B batch, P = 2 polarities, D features, K classes.
"""

from __future__ import annotations

import copy

import pytest
import torch
from lightning_fabric import Fabric
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from neuromix.core.batch import Batch
from neuromix.core.checkpoint import create_model, load_checkpoint, save_checkpoint
from neuromix.core.config import Spec
from neuromix.core.edits import apply_edit
from neuromix.core.errors import ConfigError, NeuromixError
from neuromix.core.stream import stream
from neuromix.layers.static_branch import branch_of, static_classifier, without_static_branch
from neuromix.methods.step_features import Steps, run_steps
from neuromix.methods.transfer_dvs import TransferDVSConfig, find_classifier, step_weights, transfer_losses
from neuromix.neurons.neuron import Neuron
from neuromix.training.api import evaluate_run, train
from neuromix.training.config import TrainConfig
from neuromix.training.method import Stack
from neuromix.training.run import Point, Run
from neuromix.training.run_folder import RunFolder
from neuromix.training.task import Task
from tests.training.stopped import Stop, StopAfter
from tests.training.tiny import assert_same_weights

LABEL = torch.tensor([0, 2, 1, 0])
# Backbones of several papers, each with a few thousand weights.
BACKBONES = {
    "transfer_vgg": {"layers": (4, "A", 8, "A"), "map_side": 2},
    "transfer_resnet": {"blocks": (1, 1), "widths": (4, 8)},
    "spiking_preact_resnet": {"blocks": (1, 1), "widths": (4, 8)},
    "spiking_vgg": {"layers": (4, "A", 8, "A"), "map_side": 2, "dropout": 0.0},
    "iir_vgg": {"layers": (4, "A", 8, "A"), "hidden": (6,), "map_side": 2, "dropout": 0.0},
}


def make_model(name="transfer_vgg", **overrides):
    torch.manual_seed(0)
    shape = {"time_steps": 3, "in_channels": 2, "num_classes": 3}
    return create_model(name, **{**BACKBONES[name], **shape, **overrides})


def with_branch(model):
    return apply_edit(model, Spec("static_branch", {"classifier": find_classifier(model), "time_steps": 3}))


def make_frames(steps=3, side=8, seed=1):
    """Counts of events, [B, T, P, H, W]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.poisson(torch.full((len(LABEL), steps, 2, side, side), 1.0), generator=generator)


# --- the hook ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BACKBONES)
@torch.no_grad()
def test_every_backbone_gives_the_membrane_of_its_last_neuron_and_its_logits(name):
    model, x_T = make_model(name).double().eval(), make_frames().double().transpose(0, 1)
    inputs = {}
    for module in model.modules():
        if isinstance(module, Neuron):
            module.register_forward_pre_hook(lambda neuron, given: inputs.update({neuron: given[0]}))
    logits_TBK = model.forward_steps(x_T)
    last, current_T = list(inputs.items())[-1]
    steps = run_steps(stream(model), x_T)
    torch.testing.assert_close(steps.logits, logits_TBK)
    expected = last.dynamics(current_T).membrane_after_reset.flatten(2)
    torch.testing.assert_close(steps.features, expected)
    assert expected.shape[:2] == (3, len(LABEL))


@torch.no_grad()
def test_a_layer_or_a_neuron_can_be_named():
    model, x_T = make_model("transfer_resnet").eval(), make_frames().transpose(0, 1)
    pooled = run_steps(stream(model), x_T, "head.classify")
    assert pooled.features.shape == (3, len(LABEL), 8)
    torch.testing.assert_close(model.head.classify(pooled.features), pooled.logits)
    folded = run_steps(
        stream(model), x_T, "stages.1.0.residual.branch.1.conv"
    )  # is given T*B samples at once
    assert folded.features.shape == (3, len(LABEL), 8 * 4 * 4)
    neuron = run_steps(stream(model), x_T, "stages.0.0.residual.norm.activation")
    assert neuron.features.shape == (3, len(LABEL), 4 * 8 * 8)


def test_gradients_go_through_the_membrane_and_batch_norms_see_single_steps():
    model, x_T = make_model().train(), make_frames().transpose(0, 1).requires_grad_()
    steps = run_steps(stream(model), x_T)
    steps.features[-1].square().sum().backward()
    assert x_T.grad.flatten(1).any(1).tolist() == [True] * 3  # of every step, the first one included
    assert model.stages[0][0].conv.stem.bn.num_batches_tracked == 3


@pytest.mark.parametrize(
    ("at", "message"), [("head.nothing", "no module 'head.nothing'"), ("stages.0.0.activate.activation", "")]
)
def test_a_wrong_place_is_refused(at, message):
    model = create_model(
        "transfer_vgg", layers=(4, "A"), map_side=2, num_classes=3, time_steps=3, activation="i_lif"
    )
    with pytest.raises(ConfigError, match=message or "keeps no membrane potential of stages.0.0") as error:
        run_steps(stream(model), make_frames().transpose(0, 1), at)
    assert "\n" not in str(error.value)


# --- the static branch ---------------------------------------------------------------------------------------------


class Operations(TorchDispatchMode):
    """Counts what is computed."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", BACKBONES)
@torch.no_grad()
def test_without_the_branch_it_is_the_plain_net_in_weights_and_work(name, tmp_path):
    plain, image = make_model(name).eval(), make_frames()[:, 0]
    both = with_branch(plain).eval()
    after = without_static_branch(both)
    assert both.num_parameters() > plain.num_parameters() == after.num_parameters()
    assert after.edits == () and after.state_dict().keys() == plain.state_dict().keys()
    done = {}
    for which, net in {"plain": plain, "both": both, "after": after}.items():
        with Operations() as operations:
            done[which] = net(image)
        done[which] = (done[which], operations.names)
    for which in ("both", "after"):  # also while the branch is there, it costs the forward pass nothing
        assert torch.equal(done[which][0], done["plain"][0]) and done[which][1] == done["plain"][1]
    save_checkpoint(both, tmp_path / "both.safetensors")
    again = load_checkpoint(tmp_path / "both.safetensors").eval()
    assert torch.equal(branch_of(again).coefficient_T(), torch.ones(3))
    with static_classifier(both), static_classifier(again):
        assert torch.equal(again(image), both(image)) and not torch.equal(both(image), plain(image))


def test_classifiers_that_cannot_be_found():
    model = make_model()
    with pytest.raises(ConfigError, match=r"no layer 'head\.nothing'"):
        apply_edit(model, Spec("static_branch", {"classifier": "head.nothing"}))
    model.head.classify = torch.nn.Identity()
    with pytest.raises(ConfigError, match=r"finds no linear layer .*method\.classifier=PATH"):
        find_classifier(model)


# --- losses --------------------------------------------------------------------------------------------------------


def make_steps(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Steps(torch.randn(3, 4, 5, generator=generator), torch.randn(3, 4, 3, generator=generator))


def losses_with(coefficient=0.3, **options):
    config = TransferDVSConfig(**options)

    def loss(logits_BK):
        return F.cross_entropy(logits_BK, LABEL)

    return transfer_losses(make_steps(0), make_steps(1), torch.full((3,), coefficient), loss, config)


def test_options_weigh_the_losses():
    off = losses_with(s="off", mse=0.0)
    for s in (0.2, 0.7):
        fixed = losses_with(s=s, mse=0.0)
        torch.testing.assert_close(fixed["static"], off["static"])
        torch.testing.assert_close(fixed["event"], (1 - s) * off["event"])
        torch.testing.assert_close(fixed["domain"], s * off["domain"])
    learnt = losses_with(coefficient=100.0, most=0.7)
    torch.testing.assert_close(learnt["domain"], losses_with(s=0.7)["domain"])
    assert losses_with(coefficient=100.0)["event"] == 0  # s = 1: events are not learnt from
    assert "domain" not in losses_with(domain=0.0) and "domain" not in losses_with(sliding=False)


def test_a_fixed_s_leaves_the_squared_error_alone():
    squares = (make_steps(1).logits - 0.5).square().mean()
    torch.testing.assert_close(losses_with(s=0.4, mse=1.0)["event"], squares)
    torch.testing.assert_close(losses_with(coefficient=0.0, mse=1.0)["event"], squares / 2)
    weights = step_weights(torch.zeros(3), TransferDVSConfig())
    assert weights.domain.tolist() == weights.event.tolist() == weights.event_mse.tolist() == [0.5] * 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"s": 1.0}, "a fixed s must be in"),
        ({"s": "on"}, "s must be"),
        ({"most": 0.0}, "most must be in"),
        ({"domain": -1.0}, "domain must not be negative"),
        ({"mse": 2.0}, "mse must be in"),
        ({"power": 0.0}, "power must be positive"),
    ],
)
def test_wrong_values(options, message):
    with pytest.raises(ConfigError, match=message):
        TransferDVSConfig.from_dict(options)


# --- a step --------------------------------------------------------------------------------------------------------


class Classify(Task):
    def loss(self, output, batch):
        return {"cross_entropy": F.cross_entropy(output, batch.tensor("label"))}


def make_run(model, method, epoch=0, precision="32-true"):
    fabric = Fabric(accelerator="cpu", devices=1, precision=precision)
    run = Run(TrainConfig(batch_size=4, epochs=2), fabric, Stack([Spec.of(method)]), Classify(None), model)
    run.net, run.optimiser = fabric.setup(model, torch.optim.SGD(model.parameters(), lr=0.1))
    run.generator, run.point = torch.Generator().manual_seed(3), Point(0, epoch, 0)
    next(iter(run.method))._epochs = 2
    return run


def batch():
    still_BHW = torch.rand(len(LABEL), 8, 8, generator=torch.Generator().manual_seed(2))
    return Batch({"image": make_frames(), "label": LABEL, "static": still_BHW})


def test_both_heads_the_trunk_and_the_coefficients_learn():
    run = make_run(with_branch(make_model()).train(), "transfer-dvs")
    losses = run.method.step(run, batch())
    assert losses.keys() == {"static", "event", "domain"}
    assert all(p.grad is not None and p.grad.any() for p in run.model.parameters())


def test_when_all_is_replaced_both_branches_see_events():
    model = with_branch(make_model()).train()
    start = make_run(copy.deepcopy(model), ("transfer-dvs", {"s": "off"}))
    end = make_run(copy.deepcopy(model), ("transfer-dvs", {"s": "off"}), epoch=2)
    assert start.method.step(start, batch())["domain"] > 1e-3
    assert abs(float(end.method.step(end, batch())["domain"])) < 1e-5


def test_mixed_precision():
    run = make_run(with_branch(make_model()).train(), "transfer-dvs", precision="bf16-mixed")
    losses = run.method.step(run, batch())
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())
    assert all(p.grad.isfinite().all() for p in run.model.parameters())


# --- runs ----------------------------------------------------------------------------------------------------------

OPTIONS = {
    "task_config": {"samples_per_class": 1, "representation": ["count", {"frames": 3}], "size": 8},
    "model_config": {"layers": (4, "A", 8, "A"), "map_side": 2},
    "method": "transfer-dvs",
    "batch_size": 5,
    "epochs": 2,
    "lr": 0.01,
    "threads": 1,
}


def transfer(out, model="transfer_vgg", **changes):
    return train(model, "digits-dvs", out, **{**OPTIONS, **changes})


@pytest.mark.slow
def test_a_run_ends_with_the_plain_net(tmp_path):
    done = transfer(tmp_path / "run")
    trained, last = done.model(), load_checkpoint(tmp_path / "run" / "last.safetensors")
    assert trained.edits == () and not hasattr(trained, "static_branch")
    plain = create_model("transfer_vgg", **OPTIONS["model_config"], time_steps=3, num_classes=10)
    assert trained.num_parameters() == plain.num_parameters()
    coefficient_T = branch_of(last).coefficient_T()
    assert coefficient_T.shape == (3,) and not torch.equal(coefficient_T, torch.ones(3))  # they learn
    assert set(done.test) == {"accuracy", "top5_accuracy"}
    assert evaluate_run(tmp_path / "run").scores == done.test
    losses = RunFolder(tmp_path / "run").records()[-1]["train"]
    assert losses.keys() >= {"static", "event", "domain"}


@pytest.mark.slow
def test_a_run_that_is_stopped_goes_on_exactly(tmp_path):
    whole = transfer(tmp_path / "whole", checkpoint_steps=1)
    with pytest.raises(Stop):
        transfer(tmp_path / "run", checkpoint_steps=1, observer=StopAfter(3))
    done = train(out=tmp_path / "run", resume=True)
    assert_same_weights(tmp_path / "run" / "last.safetensors", tmp_path / "whole" / "last.safetensors")
    assert done.test == whole.test


@pytest.mark.slow
@pytest.mark.parametrize("name", ["transfer_resnet", "spiking_preact_resnet", "spiking_vgg"])
def test_other_backbones_train(name, tmp_path):
    how = {"model_config": BACKBONES[name], "method_config": {"balanced": True}}
    done = transfer(tmp_path / "run", name, max_steps=2, **how)
    assert 0 <= done.test["accuracy"] <= 1 and done.model().edits == ()


@pytest.mark.parametrize(
    ("model", "task", "options", "message"),
    [
        ("poolformer_nano", "digits", {}, "works along spike time, and poolformer_nano has none"),
        ("spiking_vgg_nano", "digits", {}, "recordings of an event camera"),
        ("transfer_vgg_nano", "digits-dvs", {"task_config": {"layout": "channels"}}, "that are time steps"),
        (
            "transfer_vgg_nano",
            "digits-dvs",
            {"method_config": {"static": "no-such-folder"}},
            "no-such-folder",
        ),
        ("transfer_vgg_nano", "digits-dvs", {"method": ("transfer-dvs", "bptt")}, "cannot be stacked"),
    ],
)
def test_what_does_not_fit_is_told_in_one_line(model, task, options, message, tmp_path):
    with pytest.raises(NeuromixError, match=message) as error:
        train(model, task, tmp_path / "run", **{"method": "transfer-dvs", **options})
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()
