"""Losses that layers ask for themselves are added by whatever trains their model.

Shapes: T frames, B batch.
"""

from __future__ import annotations

import copy
import weakref

import pytest
import torch
from lightning_fabric import Fabric
from torch import nn
from torch.nn import functional as F

import neuromix
from neuromix.core import registry
from neuromix.core.batch import Batch
from neuromix.core.config import Spec
from neuromix.core.edits import apply_edit
from neuromix.core.errors import ConfigError
from neuromix.core.model import Model, ModelConfig
from neuromix.core.observe import Tap
from neuromix.training.auxiliary import AuxiliaryLosses, _tied
from neuromix.training.config import TrainConfig
from neuromix.training.method import Method, Stack
from neuromix.training.run import Run
from neuromix.training.run_folder import RunFolder
from neuromix.training.task import Task, total
from neuromix.training.trial import trial
from tests.training.tiny import tensors

ASKING = {"asks": 0.5, "dropout": 0.0}


class Net(Model):
    """Asks for the mean square of what its layer gives."""

    def __init__(self) -> None:
        super().__init__(ModelConfig())
        self.layer, self.aux_loss = nn.Linear(2, 3), Tap("aux_loss")

    def forward(self, x_B):
        y_B = self.layer(x_B)
        self.aux_loss(y_B.square().mean())
        return y_B


class Classify(Task):
    def loss(self, output, batch):
        return {"cross_entropy": F.cross_entropy(output, batch.tensor("label"))}


class Twice(Classify):
    """Runs the model twice, and once without gradients."""

    def objective(self, model, batch, generator):
        with torch.no_grad():
            model(10 * batch.tensor("image"))
        first, second = model(batch.tensor("image")), model(batch.tensor("image"))
        return self.loss((first + second) / 2, batch)


def run_of(model, *methods, task=None, precision="32-true", **config):
    fabric = Fabric(accelerator="cpu", devices=1, precision=precision)
    made = Run(
        TrainConfig(**config), fabric, Stack([Spec(*m) for m in methods]), task or Classify(None), model
    )
    made.net, made.optimiser = fabric.setup(model, torch.optim.SGD(model.parameters(), lr=0.1))
    return made


def a_batch(size=4):
    generator = torch.Generator().manual_seed(0)
    return Batch({"image": torch.randn(size, 2, generator=generator), "label": torch.arange(size) % 3})


def losses_of(run, batch):
    ((_, losses),) = run.compute_gradients(batch)
    return losses


def test_they_are_learnt_from_and_told_without_being_asked_for(run_tiny, tmp_path):
    result = run_tiny(model_config=ASKING, max_steps=3)
    (record,) = RunFolder(result.run).records()
    train = record["train"]
    assert train["loss"] == pytest.approx(train["cross_entropy"] + train["auxiliary"], abs=1e-5)
    assert train["auxiliary"] > 0 and "auxiliary" not in record["validation"]
    assert not torch.equal(tensors(result.run / "best.safetensors")["code"], torch.ones(10))
    (plain,) = RunFolder(run_tiny("plain", max_steps=1).run).records()
    assert plain["train"].keys() == {"loss"}


def test_mixed_precision(run_tiny):
    (record,) = RunFolder(run_tiny(model_config=ASKING, max_steps=1, precision="bf16-mixed").run).records()
    assert record["train"]["auxiliary"] > 0
    run, batch = run_of(Net(), precision="bf16-mixed"), a_batch()
    assert losses_of(run, batch)["auxiliary"].dtype == torch.float32


@pytest.mark.parametrize("parts", [1, 2])
def test_the_gradient_is_that_of_the_sum(parts):
    model, batch = Net(), a_batch()
    expected = copy.deepcopy(model)
    y_B = expected.layer(batch["image"])
    (F.cross_entropy(y_B, batch["label"]) + y_B.square().mean()).backward()
    run = run_of(model, accumulate=parts)
    told = run.compute_gradients(batch)
    torch.testing.assert_close(model.layer.weight.grad, expected.layer.weight.grad)
    mean = sum(share * losses["auxiliary"] for share, losses in told)
    torch.testing.assert_close(mean, y_B.square().mean())


def test_passes_of_one_step_are_averaged_and_those_without_gradients_left_out():
    model, batch = Net(), a_batch()
    once, twice = (losses_of(run_of(copy.deepcopy(model), task=task), batch) for task in (None, Twice(None)))
    torch.testing.assert_close(twice, once)


def test_names_are_the_same_whether_or_not_a_layer_asks():
    model = Net()
    with AuxiliaryLosses(model) as auxiliary:
        pass
    assert auxiliary.losses() == {"auxiliary": torch.zeros(())}
    with AuxiliaryLosses(nn.Sequential(nn.Linear(2, 2), Tap("query"))) as auxiliary:
        pass
    assert auxiliary.losses() == {}


def test_nothing_is_kept_of_a_step():
    model, batch = Net(), a_batch()
    refs = []
    model.aux_loss.register_forward_hook(lambda _, __, loss: refs.append(weakref.ref(loss)))
    run = run_of(model)
    losses_of(run, batch)
    model(batch["image"])  # as one that looks at gradients of its own
    assert len(refs) == 2 and all(ref() is None for ref in refs)
    assert not model.aux_loss._stores


@pytest.mark.parametrize("method", ["bptt", "sltt"])
def test_frame_by_frame_is_as_the_whole(method):
    """L1 penalties are means over frames; a frame at a time, or run again in backward, they are the same."""
    torch.manual_seed(0)
    model = neuromix.create_model("delta_cnn_nano", layers=(4, "A", 6), num_classes=3)
    model = apply_edit(model, ("delta", {"regulariser": "l1", "penalty": 0.1})).double().eval()
    frames = torch.rand(3, 4, 1, 8, 8, dtype=torch.float64)
    batch = Batch({"image": frames, "label": torch.tensor([0, 1, 2])})
    options = {"bptt": {"checkpoint": True, "loss": "tet"}, "sltt": {}}[method]
    found = []
    for spec in (("bptt", {"loss": "tet"}), (method, options)):
        run = run_of(copy.deepcopy(model), spec, precision="64-true", accumulate=2)
        told = run.compute_gradients(batch)
        found.append(([losses["auxiliary"] for _, losses in told], [p.grad for p in run.model.parameters()]))
    assert all(loss > 0 for loss in found[0][0])
    torch.testing.assert_close(*found)


def test_a_method_that_takes_the_name_is_refused():
    class Named(Method):
        def losses(self, run, batch, output):
            return {"auxiliary": output.mean()}

    run = run_of(Net())
    run.method.methods["named"] = Named(None)
    with pytest.raises(ConfigError, match="two losses are called auxiliary"):
        run.losses(a_batch())


def test_a_weight_that_only_they_reach_is_not_unused():
    task = registry.build("task", Spec("digits"))
    assert trial(neuromix.create_model("tiny_test_net", **ASKING), task) == []
    assert trial(neuromix.create_model("tiny_test_net", **ASKING, unused=True), task) == [
        "spare.weight",
        "spare.bias",
    ]


def test_an_output_that_is_tied_to_them_has_their_graph_and_its_own_gradient():
    x, other = torch.ones(2, requires_grad=True), torch.ones((), requires_grad=True)
    output = _tied({"logits": 3 * x, "length": torch.tensor(2)}, [2 * other])
    assert any("MulBackward" in str(edge[0]) for edge in output["logits"].grad_fn.next_functions[1:])
    total({"loss": output["logits"].sum()}).backward()
    assert x.grad.tolist() == [3, 3] and other.grad is None
