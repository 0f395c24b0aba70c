"""SpikePoint: its sizes, what it does not depend on, what it costs, and how it is trained.

Shapes: T spike time, B batch, X = 3 axes, M groups, K neighbours and the corner.
"""

from __future__ import annotations

import copy
import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import neuromix
from neuromix.core import registry
from neuromix.core.config import Spec
from neuromix.core.errors import ConfigError, NeuromixError, ShapeError, UnsupportedError
from neuromix.core.observe import draws
from neuromix.exchange.onnx import export_onnx
from neuromix.models.events.spikepoint import largest
from neuromix.runtime.export import export_nmx
from neuromix.runtime.lowering import lower
from neuromix.training.api import evaluate_run, train
from tests.training.stopped import Stop, StopAfter
from tests.training.tiny import assert_same_weights

TINY = {**registry.entries("model")["spikepoint"].tiny, "coding": "bernoulli"}


def net(**overrides):
    torch.manual_seed(0)
    return neuromix.create_model("spikepoint", **{**TINY, **overrides})


@functools.cache
def lively(**overrides):
    """In eval mode, with running statistics of an example: spikes reach the head."""
    model = net(**overrides).train()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    model(model.example(8, seeded())["groups"])
    return model.eval()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("name", "classes", "parameters"),
    [
        ("spikepoint_dvs_action", 10, 159_524),
        ("spikepoint_daily_dvs", 12, 164_664),
        ("spikepoint_dvs128_gesture", 10, 581_092),
        ("spikepoint_dvs128_gesture", 11, 586_222),
        ("spikepoint_hmdb51_dvs", 51, 791_422),
        ("spikepoint_ucf101_dvs", 101, 1_047_922),
    ],
)
def test_published_sizes(name, classes, parameters):
    assert registry.find("model", name)[1].time_steps == 16
    assert neuromix.create_model(name, num_classes=classes).num_parameters() == parameters


@settings(deadline=None, max_examples=6)
@given(st.integers(1, 3), st.integers(1, 9), st.integers(1, 6), st.integers(0, 99))
def test_the_order_of_groups_and_neighbours_does_not_matter(batch, groups, neighbours, seed):
    model = copy.deepcopy(lively()).double()
    chance = seeded(seed)
    groups_BXMK = torch.rand(batch, 3, groups, neighbours + 1, generator=chance, dtype=torch.float64)
    noise_TBXMK = torch.rand(4, *groups_BXMK.shape, generator=chance, dtype=torch.float64)
    of_groups = torch.randperm(groups, generator=chance)
    of_neighbours = torch.cat([torch.randperm(neighbours, generator=chance), torch.tensor([neighbours])])

    def permuted(x):
        return x[..., of_groups, :][..., of_neighbours]

    with torch.no_grad():
        with draws(model, {"coder.noise": [noise_TBXMK]}):
            expected = model(groups_BXMK)
        with draws(model, {"coder.noise": [permuted(noise_TBXMK)]}):
            found = model(permuted(groups_BXMK))
    assert expected.any()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_corner_and_neighbours_are_not_exchanged():
    model = net().eval()
    x = torch.rand(2, 3, 8, 5, generator=seeded())
    with torch.no_grad():
        local = [model.local_features(torch.stack([y.round()] * 4)) for y in (x, x.flip(-1))]
    assert not torch.allclose(*local)


def test_a_maximum_sends_its_gradient_to_the_first_of_equals():
    x = torch.tensor([[0.0, 1.0, 1.0], [0.0, 0.0, 0.0]], requires_grad=True)
    largest(x, -1).sum().backward()
    assert x.grad.tolist() == [[0, 1, 0], [1, 0, 0]]


def test_seeds_and_codes():
    model = lively()
    x = model.example(2, seeded())["groups"]

    def scores(seed):
        with torch.no_grad(), draws(model, seeded(seed)):
            return model(x)

    assert torch.equal(scores(1), scores(1)) and not torch.equal(scores(1), scores(2))
    same = lively(coding="low-discrepancy")
    assert torch.equal(same(x), same(x))


@pytest.mark.parametrize("local_pool", ["membrane", "spikes"])
@pytest.mark.parametrize("global_pool", ["membrane", "spikes"])
def test_places_of_the_maximum(local_pool, global_pool):
    model = net(local_pool=local_pool, global_pool=global_pool)
    assert model.num_parameters() == net().num_parameters()
    scores = model(model.example(2)["groups"])
    assert scores.shape == (2, 3) and bool(((scores >= 0) & (scores <= 1)).all())
    scores.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_at_the_start_the_head_does_not_see_ones_only():
    model = net(start="sparse", groups=64, dims=(16, 32, 64)).train()
    x = torch.rand(8, 3, 64, 13, generator=seeded())
    with torch.no_grad(), draws(model, seeded()):
        found = largest(model.neuron(model.features(model.encode(x))), -2)
        usual = net(groups=64, dims=(16, 32, 64)).train()
        saturated = largest(usual.neuron(usual.features(usual.encode(x))), -2)
    assert 0.05 < float(found.mean()) < 0.95 and float(saturated.mean()) > 0.99


def test_nothing_is_multiplied_and_additions_grow_with_time():
    model = lively()
    seen = {}
    for steps in (8, 16):
        longer = neuromix.create_model("spikepoint", **{**TINY, "time_steps": steps})
        longer.load_state_dict(model.state_dict())
        with draws(longer, seeded()):
            seen[steps] = neuromix.profile(longer, longer.example(4, seeded(1)))
        assert set(seen[steps].operations) == {"ac32"} and seen[steps].effective_macs == 0
        assert {layer.input for layer in seen[steps].layers} == {"spike"} and not seen[steps].not_counted
    assert seen[16].macs_dense == 2 * seen[8].macs_dense
    ratio = seen[16].synaptic_operations / seen[8].synaptic_operations
    assert ratio == pytest.approx(2, rel=0.05)


@pytest.mark.parametrize(
    "groups",
    [
        torch.rand(2, 3, 8),
        torch.rand(2, 4, 8, 5),
        torch.rand(2, 3, 8, 1),
        torch.rand(2, 3, 0, 5),
        torch.rand(0, 3, 8, 5),
        torch.ones(2, 3, 8, 5, dtype=torch.int64),
    ],
)
def test_wrong_groups(groups):
    with pytest.raises(ShapeError, match=r"expected groups of events, floating point \[B, 3, M, K\+1\]"):
        net()(groups)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dims": [8]}, "dims needs the local width and one or more others"),
        ({"dims": [8, 7]}, "dims are halved inside, so even"),
        ({"votes": 0}, "votes must be positive"),
        ({"window": 0}, "window must be positive"),
        ({"coding": "poisson"}, "coding must be one of 'bernoulli', 'low-discrepancy'"),
    ],
)
def test_wrong_values(values, message):
    with pytest.raises(ConfigError, match=message):
        net(**values)


def test_silence_and_single_points_go_through():
    model = net().train()
    silent = model(torch.zeros(2, 3, 8, 5))
    assert silent.isfinite().all()
    one = torch.zeros(2, 3, 8, 5)
    one[..., -1] = 0.5
    model(one).sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_what_has_no_place_for_a_rate_coder_refuses_it(tmp_path):
    with pytest.raises(UnsupportedError, match="takes groups; only an image classifier can be exported"):
        export_onnx(net(), tmp_path / "net.onnx")
    with pytest.raises(NeuromixError) as refused:
        lower(net())
    assert "\n" not in str(refused.value)
    task = registry.build("task", Spec("events", {"data": "four-motions:40", "representation": "groups"}))
    with pytest.raises(
        UnsupportedError, match="images or frames can be exported; the task gives groups, label"
    ):
        export_nmx(net(), tmp_path / "net.nmx", task=task)


def test_the_task_gives_what_the_model_asks_for(tmp_path):
    small = {"points": 32, "groups": 8, "neighbours": 4, "time_steps": 2, "dims": (8, 12), "window": 50_000}
    result = train(
        "spikepoint_nano",
        "events",
        tmp_path / "run",
        model_config=small,
        task_config={"data": "four-motions:40", "clips": 2},
        epochs=1,
        max_steps=2,
        batch_size=8,
    )
    model = result.model()
    assert model.config.num_classes == 4 and model.config.groups == 8
    assert evaluate_run(tmp_path / "run").scores == result.test


@pytest.mark.slow
def test_a_run_that_is_stopped_ends_with_the_same_weights(tmp_path):
    small = {"points": 32, "groups": 8, "neighbours": 4, "time_steps": 2, "dims": (8, 12)}
    options = {
        "model_config": small,
        "task_config": {"data": "four-motions:40"},
        "batch_size": 8,
        "epochs": 2,
        "checkpoint_steps": 2,
    }
    whole = train("spikepoint_nano", "events", tmp_path / "whole", **options)
    with pytest.raises(Stop):
        train("spikepoint_nano", "events", tmp_path / "parts", observer=StopAfter(5), **options)
    parts = train(out=tmp_path / "parts", resume=True)
    assert_same_weights(whole.run / "last.safetensors", parts.run / "last.safetensors")


@pytest.mark.slow
def test_it_learns_four_motions(tmp_path):
    result = train(
        "spikepoint_nano",
        "events",
        tmp_path / "run",
        model_config={"points": 128, "groups": 32, "neighbours": 8, "dims": (16, 32)},
        task_config={"data": "four-motions:400"},
        epochs=12,
        threads=1,
    )
    assert result.test["accuracy"] > 0.6
