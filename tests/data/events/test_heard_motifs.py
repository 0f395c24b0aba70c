"""Pictures that are heard, motifs in an order, and samples of two data sets as pairs.

Shapes: T steps, N channels, H W image.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuromix.core.errors import ConfigError, DataError, UnknownNameError
from neuromix.data.dataset import Loader
from neuromix.data.events.heard import heard, open_heard
from neuromix.data.events.motifs import Motifs
from neuromix.data.pairs import Pairs, pair_rows
from tests.tasks.test_image_classification import image_folder


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@settings(max_examples=20, deadline=None)
@given(height=st.integers(1, 4), width=st.integers(1, 4), steps=st.integers(1, 9), per_row=st.integers(1, 3))
def test_a_bright_pixel_is_heard_at_its_pitch_in_its_time(height, width, steps, per_row):
    image = torch.zeros(height, width)
    image[height - 1, width // 2] = 1.0
    x_TN = heard(image, steps, per_row, rate=1.0, generator=generator())
    assert x_TN.shape == (steps, per_row * height)
    expected = torch.zeros_like(x_TN)
    for t in range(steps):
        if t * width // steps == width // 2:
            expected[t, per_row * (height - 1) :] = 1.0
    assert torch.equal(x_TN, expected)


def test_brightness_is_a_rate():
    x_TN = heard(torch.full((8, 8), 0.5), 400, 4, rate=0.4, generator=generator())
    assert float(x_TN.mean()) == pytest.approx(0.2, abs=0.01)


@pytest.mark.parametrize("values", [{"steps": 0}, {"per_row": 0}, {"rate": 0.0}, {"rate": 1.5}])
def test_numbers_out_of_range(values):
    with pytest.raises(ConfigError, match="steps and channels of at least 1"):
        heard(torch.ones(2, 2), **{"steps": 4, **values})


def test_digits_are_heard_the_same_in_every_run():
    one, other = open_heard("digits"), open_heard("digits")
    assert len(one) == 1100 and len(one.split("test")) == 500 and one.channels == 32
    samples = [data.sample(3, generator(seed)) for seed, data in enumerate((one, other))]
    assert torch.equal(samples[0]["audio"], samples[1]["audio"])
    assert samples[0]["audio"].shape == (40, 32) and samples[0]["label"] == samples[1]["label"]
    fresh = one.split("train", fresh=True)
    assert not torch.equal(fresh.sample(3, generator(1))["audio"], fresh.sample(3, generator(2))["audio"])
    with pytest.raises(UnknownNameError, match="split"):
        one.split("tests")


@pytest.mark.parametrize("orders", [((0, 1), (1, 0)), ((0, 1, 2), (2, 1, 0), (1, 0, 2))])
def test_orders_differ_in_their_order_alone(orders):
    data = Motifs(orders=orders, jitter=0.0, lost=0.0)
    x = [data.sample(i, generator())["audio"] for i in range(len(orders))]
    assert all(torch.equal(one.sum(0), x[0].sum(0)) for one in x)
    assert not torch.equal(x[0], x[1])
    parts = [one.split(data.steps) for one in x]
    for order, part in zip(orders, parts, strict=True):
        for motif, piece in zip(order, part, strict=True):
            assert torch.equal(piece, parts[0][orders[0].index(motif)])


def test_samples_are_jittered_and_are_functions_of_their_generator():
    data = Motifs()
    assert torch.equal(data.sample(0, generator(1))["audio"], data.sample(0, generator(1))["audio"])
    assert not torch.equal(data.sample(0, generator(1))["audio"], data.sample(0, generator(2))["audio"])
    batch = next(iter(Loader(data, len(data))))
    assert batch["label"].bincount().tolist() == [200, 200]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"orders": [[0, 1]]}, "orders need two or more"),
        ({"orders": [[0, 1], [0]]}, "of one length"),
        ({"orders": [[0, -1], [1, 0]]}, "numbered from 0"),
        ({"lost": 1.0}, "lost must be in"),
        ({"jitter": -1.0}, "jitter must be 0 or more"),
    ],
)
def test_wrong_motifs(values, message):
    with pytest.raises(ConfigError, match=message):
        Motifs.from_dict(values)


class Labelled:
    """Samples that say which they are."""

    def __init__(self, labels, classes, field):
        self.source, self.classes, self.field = self, classes, field
        self.labels = np.array(labels)
        self.splits = {"train": np.arange(len(labels)), "test": np.arange(0)}

    def sample(self, index, generator):
        return {self.field: torch.tensor(index), "label": int(self.labels[index])}


def test_pairs_are_of_one_class():
    first = Labelled([0, 1, 0, 2, 1, 1], ("a", "b", "c"), "one")
    second = Labelled([1, 1, 0, 0, 0], ("b", "a"), "two")  # other numbers for the classes
    rows = pair_rows(first, second, "train", ("a", "b"))
    assert rows.tolist() == [[0, 1, 0], [2, 0, 0], [1, 3, 1], [4, 4, 1], [5, 2, 1]]
    sample = Pairs(first, second, rows).sample(2, generator())
    assert (int(sample["one"]), int(sample["two"]), sample["label"]) == (1, 3, 1)
    with pytest.raises(UnknownNameError, match="unknown class 'c'"):
        pair_rows(first, second, "train", ("c",))
    with pytest.raises(DataError, match="class 'a' has 0 and 0 samples in test, so no pair"):
        pair_rows(first, second, "test", ("a",))


def test_folders_are_heard_at_a_size(tmp_path):
    pytest.importorskip("PIL.Image")
    data = open_heard(str(image_folder(tmp_path / "images", size=12)), steps=6, size=4)
    assert data.sample(0, generator())["audio"].shape == (6, 16)
