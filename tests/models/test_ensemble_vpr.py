"""The modular system: dealing places, votes, test mode for all at once, ensembles, released files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import neuromix
from neuromix.core import registry
from neuromix.core.errors import CheckpointError, ConfigError, ShapeError
from neuromix.layers.votes import NO_NEURON
from neuromix.models.vision.ensemble_vpr_release import read_release

TINY = registry.entries("model")["ensemble_vpr"].tiny


def build(seed=0, **values):
    torch.manual_seed(seed)
    return neuromix.create_model("ensemble_vpr", **{**TINY, "theta": 0.005, **values}).double().eval()


def images(number, model, seed=0):
    return model.example(number, torch.Generator().manual_seed(seed))["image"].double()


@pytest.mark.parametrize(
    ("name", "modules"),
    [("nordland", 108), ("robotcar", 15), ("sfu_mountain", 12), ("synthia", 9), ("st_lucia", 42)],
)
def test_published_sizes(name, modules):
    entry, config = registry.find("model", f"ensemble_vpr_{name}")
    with torch.device("meta"):
        model = entry.build(config)
    assert config.modules == modules
    assert model.num_parameters() == modules * (313_600 + 400)
    weight = model.circuits.weight
    assert weight.shape[1:] == (784, 400)
    # What the paper counts as synapses of a module: learnt, thresholds, and the lateral ones.
    assert weight[0].numel() + 400 + 400 * 399 == 473_600


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 12), st.integers(1, 5), st.integers(1, 3), st.booleans(), st.integers(0, 99))
def test_every_place_is_dealt_to_one_module_of_each_member(places, per_module, members, shuffle, seed):
    torch.manual_seed(seed)
    model = neuromix.create_model(
        "ensemble_vpr",
        **{**TINY, "places": places, "places_per_module": per_module, "neurons": 1, "input_size": [1, 1]},
        members=members,
        shuffle=shuffle,
    )
    module_BX, slot_BX = model.slots(torch.arange(places))
    assert module_BX.shape == (places, members)
    assert torch.equal(model.place_of[module_BX, slot_BX], torch.arange(places)[:, None].expand(-1, members))
    size = model.config.modules // members
    assert torch.equal(module_BX // size, torch.arange(members).expand(places, -1))
    if not shuffle:
        assert torch.equal(module_BX[:, 0], torch.arange(places) // per_module)


def test_members_are_dealt_differently():
    model = build(places=12, places_per_module=3, members=3)
    first, second, third = model.place_of.chunk(3)
    assert not torch.equal(first, second) and not torch.equal(second, third)


def test_all_modules_and_images_at_once_are_one_by_one():
    model = build()
    batch = images(3, model)
    events, every = model.spikes(batch), model(batch).counts
    together = model.circuits.respond(events, 3)
    assert together.sum() > 0 and together.shape == (2, 3, 3)
    for image in range(3):
        alone = model.circuits.respond(events.of_rows(image, image + 1), 1)
        assert torch.equal(together[:, image], alone[:, 0])
        assert torch.equal(model(batch[image : image + 1]).counts[0], every[image])


def test_little_memory_gives_the_same(monkeypatch):
    model = build()
    batch = images(5, model)
    expected = model(batch).counts
    monkeypatch.setattr("neuromix.neurons.conductance._TOGETHER", 13)
    assert torch.equal(model(batch).counts, expected)


def test_an_image_after_others_meets_what_they_left():
    model = build(rest_ms=10.0)
    events = model.spikes(images(4, model))
    apart, in_turn = model.circuits.respond(events, 4), model.circuits.respond_in_turn(events, 4)
    assert torch.equal(apart[:, 0], in_turn[:, 0])
    assert not torch.equal(apart, in_turn)


def test_votes_by_hand():
    model = build(shuffle=False)  # places 0, 1 in module 0; 2, 3 in module 1; three neurons each
    model.response.copy_(torch.tensor([[[5.0, 1], [0, 4], [3, 3]], [[0, 2], [0, 0], [0, 9]]]))
    assert model.assignment.tolist() == [[0, 1, 0], [3, -1, 3]]
    counts = torch.tensor([[4.0, 6, 2, 1, 7, 8]])
    found = model.recognise(counts)
    assert found.scores.tolist() == found.unregularised.tolist() == [[3, 6, NO_NEURON, 4.5]]
    assert found.unassigned.tolist() == [7]
    model.responses.copy_(torch.tensor([[0, 9, 0], [0, 0, 8]]))
    model.hyperactive_threshold.fill_(9)
    assert model.silenced.tolist() == [[False, True, False], [False, False, False]]
    assert model.recognise(counts).scores.tolist() == [[3, 0, NO_NEURON, 4.5]]
    assert model.recognise(counts).unregularised.tolist() == [[3, 6, NO_NEURON, 4.5]]


def test_an_ensemble_adds_up_its_members():
    model = build(members=3)
    places = torch.arange(4)
    events = model.spikes(images(4, model))
    model.assign_by(model.circuits.respond(events, 4), places)
    found = model.recognise(model(images(4, model, 1)).counts)
    total = torch.zeros_like(found.scores)
    for number in range(3):
        member = model.member(number)
        counts = member(images(4, model, 1)).counts
        assert torch.equal(counts, found.counts.chunk(3, 1)[number])
        total += member.recognise(counts).scores.clamp(min=0)
    known = found.scores >= 0
    torch.testing.assert_close(found.scores[known], total[known])


def test_weighted_assignment_is_an_option():
    single = build(shuffle=False)
    weighted = build(shuffle=False, assignment="weighted")
    response = torch.tensor([[[5.0, 1], [0, 4], [3, 3]], [[0, 2], [0, 0], [0, 9]]])
    counts = torch.tensor([[4.0, 6, 2, 1, 7, 8]])
    for model in (single, weighted):
        model.response.copy_(response)
    scores = weighted.recognise(counts).scores
    assert scores.shape == (1, 4) and scores[0, 2] == NO_NEURON
    assert not torch.equal(scores, single.recognise(counts).scores)
    assert scores[0, 3] == pytest.approx(1 + 8)  # neurons 3 and 5 fire for place 3 alone


def test_evaluation_repeats_itself_and_training_does_not():
    model, batch = build(), torch.full((2, 1, 4, 4), 0.7).double()
    first = model(batch).counts
    assert torch.equal(first, model(batch).counts) and torch.equal(first[0], first[1])
    assert not torch.equal(
        first, neuromix.create_model("ensemble_vpr", **TINY, input_seed=3)(batch.float()).counts
    )
    spikes = [model.train().spikes(batch).step.tolist() for _ in range(2)]
    assert spikes[0] != spikes[1]


def test_bad_input_is_one_clear_line():
    model = build()
    with pytest.raises(ShapeError, match=r"images of \[4, 4\] pixels"):
        model(torch.zeros(1, 1, 5, 4))
    with pytest.raises(ShapeError, match="rates"):
        model(torch.full((1, 1, 4, 4), -1.0))
    with pytest.raises(ShapeError, match="places 0 to 3, the data 1 to 4"):
        model.slots(torch.tensor([1, 4]))
    with pytest.raises(ConfigError, match="longest delay"):
        build(rest_ms=5.0)


def release(folder, offset, inputs=16, neurons=3, seed=0):
    own = folder / f"weights_ne{neurons}_L2_offset{offset}"
    own.mkdir()
    rng = np.random.default_rng(seed)
    source, target = np.meshgrid(np.arange(inputs), np.arange(neurons), indexing="ij")
    weight = rng.random((inputs, neurons))
    rows = np.stack([source.ravel(), target.ravel(), weight.ravel()], 1)
    np.save(own / "XeAe.npy", rng.permutation(rows))
    np.save(own / "theta_A.npy", 0.02 + rng.random(neurons) / 1000)
    return own, weight


def test_released_files_give_a_running_model(tmp_path):
    (_, late), (_, early) = release(tmp_path, 10, seed=1), release(tmp_path, 2, seed=2)
    model = read_release(tmp_path, places_per_module=2, example_ms=60.0)
    assert model.circuits.weight.shape == (2, 16, 3) and model.circuits.theta.shape == (2, 3)
    for ours, theirs in zip(model.circuits.weight, (early, late), strict=True):
        torch.testing.assert_close(ours.double(), torch.from_numpy(theirs), rtol=0, atol=1e-6)
    assert model.place_of.tolist() == [[0, 1], [2, 3]]
    batch = torch.rand(4, 1, 4, 4)
    model.assign_by(model.circuits.respond(model.spikes(batch), 4), torch.arange(4))
    assert model(batch).scores.shape == (4, 4)


def test_the_official_size(tmp_path):
    own, weight = release(tmp_path, 0, inputs=784, neurons=400)
    model = read_release([own], example_ms=20.0)
    assert model.config.input_size == (28, 28) and model.num_parameters() == 314_000
    assert model.circuits.weight[0, 3, 7].item() == pytest.approx(weight[3, 7])
    assert model(torch.rand(1, 1, 28, 28)).counts.shape == (1, 400)


def test_bad_released_files_are_one_clear_line(tmp_path):
    with pytest.raises(CheckpointError, match="no folders named"):
        read_release(tmp_path)
    own, _ = release(tmp_path, 0)
    rows, theta = np.load(own / "XeAe.npy"), np.load(own / "theta_A.npy")
    outside, twice = rows.copy(), rows.copy()
    outside[0, 1], twice[0] = 9, twice[1]
    bad = {
        "XeAe.npy": [
            (rows[:-1], "a row a synapse"),
            (rows[:, :2], "a row a synapse"),
            (outside, "outside 16 inputs"),
        ],
        "theta_A.npy": [
            (theta[None], "one threshold a neuron"),
            (np.array(["a"]), "not an array of numbers"),
        ],
    }
    bad["XeAe.npy"] += [(twice, "lacks a weight"), (rows * np.nan, "not finite")]
    for name, cases in bad.items():
        for array, message in cases:
            np.save(own / name, array)
            with pytest.raises(CheckpointError, match=message) as found:
                read_release([own])
            assert "\n" not in str(found.value)
        np.save(own / name, {"XeAe.npy": rows, "theta_A.npy": theta}[name])
    read_release([own])
    np.save(own / "XeAe.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(CheckpointError, match=r"XeAe\.npy is damaged, or not a plain NumPy array"):
        read_release([own])
    (own / "XeAe.npy").write_bytes(b"\x93NUMPY cut")
    with pytest.raises(CheckpointError, match="damaged"):
        read_release([own])
    (own / "theta_A.npy").unlink()
    with pytest.raises(CheckpointError, match="no file"):
        read_release([own])


def test_the_profile_misses_nothing():
    net = neuromix.create_model("ensemble_vpr_nano").eval()
    seen = neuromix.profile(net, net.example(1, torch.Generator().manual_seed(0)))
    assert seen.operations.keys() == {"ac32"}
    assert not seen.not_counted
