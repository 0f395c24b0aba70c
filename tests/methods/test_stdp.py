"""Learning by spike timing in the loop: rounds, resuming, thresholds, refusals."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuromix import train
from neuromix.core import registry
from neuromix.core.config import Spec
from neuromix.core.errors import ConfigError, NeuromixError
from neuromix.data.dataset import Loader
from neuromix.methods.stdp import STDP, STDPConfig, choose_threshold, count_responses, rounds
from neuromix.training.run_folder import RunFolder
from tests.models.test_ensemble_vpr import build
from tests.training.stopped import Stop, StopAfter

TASK = {"data": "synthetic-places", "places": 4, "size": 4, "window": 3}
MODEL = {
    "places_per_module": 2, "neurons": 3, "column_sum": 8.0, "example_ms": 40.0, "rest_ms": 10.0, "theta": 0.005,
    "initial_rest_ms": 100.0,
}  # fmt: skip


def small(out, observer=None, **more):
    more = {"batch_size": 4, **more}
    return train(
        "ensemble_vpr", "place-recognition", out, model_config=MODEL, task_config=TASK, observer=observer, **more
    )  # fmt: skip


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 4), max_size=12))
def test_in_a_round_a_module_gets_one_image_at_most(modules):
    module_B = torch.tensor(modules, dtype=torch.int64)
    found = rounds(module_B)
    assert sorted(torch.cat([torch.zeros(0, dtype=torch.int64), *found]).tolist()) == list(
        range(len(modules))
    )
    for turn in found:
        assert len(module_B[turn].unique()) == len(turn) > 0
    for module in set(modules):
        own = [int(i) for turn in found for i in turn if modules[i] == module]
        assert own == sorted(own)


def test_a_run_learns_assigns_and_silences(tmp_path):
    run = small(tmp_path / "run", epochs=2)
    model = run.model()
    assert [method.name for method in RunFolder(run.run).recipe().methods] == ["stdp"]
    assert model.response.sum() > 0 and model.responses.max() <= 4
    records = RunFolder(run.run).records()
    assert records[0]["train"]["loss"] > 0
    assert {"recall@1", "recall@1_unregularised", "auc_pr"} <= run.test.keys()


def test_what_batches_there_are_does_not_matter_to_the_first_example_of_a_module(tmp_path):
    """Weights are scaled before an example, and stay in [0, 1] where it is learnt from."""
    model = build(theta=0.005)
    circuits, rule = model.circuits, STDP(STDPConfig()).rule
    memory = circuits.begin()
    before = circuits.weight.detach().clone()
    events = model.spikes(torch.full((1, 1, 4, 4), 1.0).double())
    circuits.learn(events, torch.tensor([1]), memory, rule)
    assert torch.equal(circuits.weight[0], before[0])
    assert not torch.equal(circuits.weight[1], before[1])
    assert (circuits.weight >= 0).all()
    assert (circuits.theta[1] != circuits.theta[0]).any()


def test_the_sign_of_the_pre_rule_is_an_option():
    weights = []
    for name in ("add", "subtract"):
        model = build(theta=0.002, example_ms=200.0)
        rule = STDP(STDPConfig(pre_rule=name, rate_pre=0.01)).rule
        events = model.spikes(torch.ones(1, 1, 4, 4).double())
        model.circuits.learn(events, torch.tensor([0]), model.circuits.begin(), rule)
        weights.append(model.circuits.weight[0].detach())
    assert (weights[0] >= weights[1] - 1e-12).all() and (weights[0] > weights[1]).any()
    assert STDPConfig().pre_rule == "add"


@pytest.mark.parametrize("steps", [1, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 3))])
def test_a_run_that_is_stopped_goes_on_exactly(tmp_path, steps):
    whole = small(tmp_path / "whole", epochs=2)
    folder = tmp_path / "stopped"
    with pytest.raises(Stop):
        small(folder, StopAfter(steps + 1), epochs=2, checkpoint_steps=1)
    again = train(out=folder, resume=True)
    expected, found = whole.model().state_dict(), again.model().state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert again.test == whole.test


def test_the_threshold_that_is_best_on_validation_is_chosen():
    task = registry.build("task", Spec("place-recognition", {**TASK, "calibration": 2}))
    model = build(shuffle=False, theta=0.002)
    data = task.data("train")
    batch = next(iter(Loader(data, len(data), collate=task.collate)))
    model.assign_by(model.circuits.respond(model.spikes(batch["image"].double()), len(data)), batch["label"])
    count_responses(model, task, 0, 3)
    references = batch["image"][batch["traverse"] == 0].double()
    counts = model(references).counts
    assert torch.equal(model.responses.flatten(), (counts > 0).sum(0))
    chosen = choose_threshold(model, task, (0, 1), 3)
    # With the threshold 1 all neurons that ever fire are silent.
    assert chosen in (0, 1) and int(model.hyperactive_threshold) == chosen
    scores = {}
    validation = next(iter(Loader(task.data("validation"), 9, collate=task.collate)))
    counts = model(validation["image"].double()).counts
    for threshold in (0, 1):
        model.hyperactive_threshold.fill_(threshold)
        metrics = task.metrics()
        metrics.update(model.recognise(counts), validation)
        scores[threshold] = metrics.compute()["recall@1"]
    assert scores[chosen] == max(scores.values())
    # Of equals, the one that silences fewer.
    assert choose_threshold(model, task, (50, 60), 3) == 60
    assert choose_threshold(model, task, (50, 0, 60), 3) == 0


def test_fixed_threshold_and_regularising_at_the_end(tmp_path):
    run = small(
        tmp_path / "run", epochs=1, method_config={"hyperactive": 3, "regularise_each_epoch": False}
    )  # fmt: skip
    model = run.model()
    assert int(model.hyperactive_threshold) == 3 and model.responses.max() > 0


def test_what_does_not_fit_is_one_clear_line(tmp_path):
    with pytest.raises(ConfigError, match="has no gradients"):
        small(tmp_path / "a", method="bptt", epochs=1)
    assert not (tmp_path / "a").exists()
    with pytest.raises(ConfigError, match="spiking circuits"):
        train("poolformer_nano", "digits", tmp_path / "b", method="stdp", epochs=1)
    with pytest.raises(NeuromixError, match="no reference traverse 7"):
        small(tmp_path / "c", epochs=1, method_config={"reference": 7})
    with pytest.raises(ConfigError, match="candidates"):
        STDPConfig(candidates=())
