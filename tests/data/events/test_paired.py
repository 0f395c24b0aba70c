"""Recordings with images of their class: which image, how it looks, and how recordings take its place."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from neuromix.core.config import Spec
from neuromix.core.errors import ConfigError, DataError, UnknownNameError
from neuromix.core.registry import build
from neuromix.data.events import Events, open_events, write_events
from neuromix.data.events.paired import (
    PairedEvents,
    find_partners,
    replacement_probability,
    shown,
    value_channel,
    with_replaced,
)
from neuromix.data.images import open_images


def drawn(seed=0):
    return torch.Generator().manual_seed(seed)


# --- sliding -------------------------------------------------------------------------------------------------------


def test_no_recording_at_the_start_and_only_recordings_at_the_end():
    assert replacement_probability(0, 0, 17, 300) == 0
    assert replacement_probability(17, 299, 17, 300) == 1
    assert replacement_probability(3, 310, 17, 300) == 1
    assert replacement_probability(0, 150, 17, 300) == pytest.approx(0.125)
    assert replacement_probability(0, 150, 17, 300, power=1) == pytest.approx(0.5)


@given(st.integers(1, 40), st.integers(1, 60), st.floats(0.5, 5))
def test_it_never_falls(batches, epochs, power):
    places = [(b, e) for e in range(epochs + 2) for b in range(batches)]
    found = [replacement_probability(b, e, batches, epochs, power) for b, e in places]
    assert found == sorted(found) and found[0] == 0 and found[-1] == 1


def test_without_sliding_it_is_a_step_at_half_of_the_epochs():
    found = [replacement_probability(2, e, 5, 10, sliding=False) for e in range(11)]
    assert found == [0.0] * 6 + [1.0] * 5


@pytest.mark.parametrize("p", [0.0, 0.127, 0.5, 0.9, 1.0])
def test_so_many_are_replaced(p):
    static, events, generator = torch.zeros(10_000, 1, 2), torch.ones(10_000, 1, 2), drawn()
    mixed = with_replaced(static, events, p, generator)
    assert set(mixed.unique().tolist()) <= {0.0, 1.0} and torch.equal(mixed[:, 0, 0], mixed[:, 0, 1])
    assert float(mixed[:, 0, 0].mean()) == pytest.approx(p, abs=0.02)
    assert p not in (0.0, 1.0) or float(mixed.mean()) == p


# --- images --------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 255)] * 3), min_size=1, max_size=20))
def test_value_is_that_of_hsv(pixels):
    image = Image.new("RGB", (len(pixels), 1))
    image.putdata(pixels)
    expected = torch.from_numpy(np.array(image.convert("HSV"))[..., 2]).float() / 255
    rgb_CHW = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
    assert torch.equal(value_channel(rgb_CHW), expected)


def test_a_grey_image_is_its_value_and_is_shown_all_the_time():
    value_BHW = value_channel(torch.rand(3, 1, 4, 5, generator=drawn()))
    frames = shown(value_BHW, torch.zeros(3, 6, 2, 4, 5, dtype=torch.float64))
    assert frames.shape == (3, 6, 2, 4, 5) and frames.dtype == torch.float64
    assert torch.equal(frames[:, 4, 1].float(), value_BHW)


# --- pairs ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits():
    events = open_events("digits-dvs").with_few(10)
    return PairedEvents(events, find_partners(events))


def test_a_sample_is_the_recording_with_an_image_beside_it(digits):
    alone, pair = digits.events.sample(7, drawn()), digits.sample(7, drawn())
    assert len(digits) == 100 and pair.keys() == {"image", "label", "static"}
    assert pair["label"] == alone["label"] and torch.equal(pair["image"], alone["image"])
    assert pair["static"].shape == (16, 16) and pair["static"].dtype == torch.float32
    assert pair["static"].min() >= 0 and 0.5 < pair["static"].max() <= 1


def test_it_is_a_function_of_its_generator(digits):
    one, same, other = (digits.sample(3, drawn(seed)) for seed in (1, 1, 2))
    assert torch.equal(one["static"], same["static"])
    assert not torch.equal(one["static"], other["static"])


def test_partners_are_training_images_of_the_class_each_as_likely(digits):
    images = open_images("digits")
    train = set(images.splits["train"].tolist())
    for label, rows in digits.partners.rows.items():
        assert set(rows.tolist()) <= train
        assert (images.source.labels[rows] == label).all()
    assert sum(map(len, digits.partners.rows.values())) == len(train)
    rows, generator = digits.partners.rows[3], drawn()
    seen = [tuple(digits._image(3, generator).flatten().tolist()) for _ in range(6 * len(rows))]
    assert len(set(seen)) > 0.95 * len(rows) and max(map(seen.count, seen)) < 20


def test_balanced_draws_bring_every_class_equally_often():
    events = open_events("digits-dvs")
    rows = events.splits["train"]
    few = np.concatenate([rows[events.source.labels[rows] == 0], rows[events.source.labels[rows] == 1][:2]])
    events = type(events)(**{**vars(events), "splits": {**events.splits, "train": few}})
    partners = find_partners(events)
    generator = drawn()
    drawn_labels = [
        int(events.source.labels[few[PairedEvents(events, partners, True)._balanced(generator)]])
        for _ in range(600)
    ]
    assert np.mean(drawn_labels) == pytest.approx(0.5, abs=0.08)


def make_recordings(folder, classes):
    for name in classes:
        for number in range(4):
            (folder / name).mkdir(parents=True, exist_ok=True)
            t_N = np.arange(40)
            events = Events(t_N, t_N % 8, t_N % 6, t_N % 2 == 0, 6, 8)
            write_events(folder / name / f"{number}.npz", events)
    return open_events(folder)


def make_images(folder, classes):
    for place, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for number in range(4):
            size = (20 + number, 10)
            Image.new("RGB", size, (60 * place, 10, 0)).save(folder / name / f"{number}.png")
    return folder


def test_images_of_a_folder_go_by_the_names_of_the_classes(tmp_path):
    events = make_recordings(tmp_path / "events", ["car", "dog"])
    images = make_images(tmp_path / "images", ["background", "car", "dog"])
    pairs = PairedEvents(events, find_partners(events, images))
    for index in range(len(pairs)):
        sample = pairs.sample(index, drawn(index))
        brightness = 60 / 255 if sample["label"] == 0 else 120 / 255
        assert sample["static"].shape == (6, 8)
        torch.testing.assert_close(sample["static"], torch.full((6, 8), brightness))


def test_a_class_without_images_is_named(tmp_path):
    events = make_recordings(tmp_path / "events", ["car", "dog"])
    images = make_images(tmp_path / "images", ["car", "wolf"])
    with pytest.raises(DataError, match=r"has no images of dog; .*it has car, wolf$") as error:
        find_partners(events, images)
    assert "\n" not in str(error.value)


def test_recordings_without_images_say_what_to_name(tmp_path):
    events = make_recordings(tmp_path / "events", ["car", "dog"])
    with pytest.raises(
        DataError, match=r"no still images along; name a folder .*method\.static=FOLDER"
    ) as error:
        find_partners(events)
    assert "\n" not in str(error.value)


# --- few recordings ------------------------------------------------------------------------------------------------


def test_few_of_each_class_are_some_of_those_of_more():
    events = open_events("digits-dvs")
    few, more = events.with_few(3), events.with_few(8)
    labels = few.source.labels[few.splits["train"]]
    assert np.bincount(labels).tolist() == [3] * 10
    assert set(few.splits["train"]) < set(more.splits["train"]) < set(events.splits["train"])
    assert len(few.split("test")) == len(events.split("test")) == 500
    with pytest.raises(DataError, match=r"class '\d' has \d+ training samples; asked for 500"):
        events.with_few(500)


def test_the_task_keeps_few():
    task = build("task", Spec("events", {"data": "digits-dvs", "samples_per_class": 2}))
    assert len(task.data("train")) == 20 and len(task.data("validation")) == 197
    with pytest.raises(ConfigError, match="samples_per_class must be positive"):
        build("task", Spec("events", {"data": "digits-dvs", "samples_per_class": 0}))
    with pytest.raises(UnknownNameError):
        task.recordings.with_few(2).split("tests")
