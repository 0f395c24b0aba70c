"""Clips of a bar that moves in four ways."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from neuromix.core.errors import ConfigError, DataError
from neuromix.data.events import open_events
from neuromix.data.events.four_motions import CLASSES, FourMotions
from neuromix.data.events.value import Events

CLEAN = {"camera": {"shot_rate": 0, "leak_rate": 0}}


@pytest.fixture(scope="module")
def source() -> FourMotions:
    return FourMotions("four-motions:40", simulation=CLEAN)


def thirds(events: Events) -> tuple[Events, Events]:
    """The first third of the time, and the last."""
    since = events.t_N - events.t_N[0]
    return events.select(3 * since < events.duration), events.select(3 * since > 2 * events.duration)


def middle(events: Events) -> tuple[float, float]:
    return float(events.x_N.mean()), float(events.y_N.mean())


def tilt(events: Events) -> float:
    """Angle of the long axis from upright, clockwise as seen, in radians."""
    values, axes = np.linalg.eigh(np.cov(np.stack([events.x_N, events.y_N])))
    x, y = axes[:, values.argmax()]
    return float(np.arctan(-x / y)) if y else np.pi / 2


@pytest.mark.parametrize("row", range(16))
def test_the_bar_moves_as_its_class_says(source, row):
    first, last = thirds(source.read(row))
    (x, y), (x_then, y_then) = middle(first), middle(last)
    motion = CLASSES[source.labels[row]]
    aside = {"left": -1, "right": 1}.get(motion, 0)
    assert abs(y_then - y) < 4
    assert (x_then - x) * aside > 4 if aside else abs(x_then - x) < 4
    if motion == "clockwise":
        assert 0.3 < (tilt(last) - tilt(first)) % np.pi < 2.5
    if motion == "zoom":
        assert np.std(last.y_N) > 1.1 * np.std(first.y_N)


def test_a_row_is_the_same_in_every_run_and_fresh_ones_are_new(source):
    again = FourMotions("four-motions:40", simulation=CLEAN)
    assert all(np.array_equal(a, b) for a, b in zip(source.read(3)[:4], again.read(3)[:4], strict=True))
    fresh = [source.read(3, torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    assert fresh[0].size != fresh[1].size


def test_opened_by_name():
    data = open_events("four-motions", size=16)
    assert data.classes == CLASSES and (data.height, data.width) == (16, 16)
    assert [len(data.split(part)) for part in ("train", "validation", "test")] == [308, 32, 60]
    assert len(open_events("four-motions:200").source.labels) == 200
    sample = data.sample(0, torch.Generator())
    assert sample["image"].shape == (8, 2, 16, 16) and sample["image"].sum() > 100


@pytest.mark.parametrize(
    "data", ["four-motions:0", "four-motions:11", "four-motions:many", "four-motions:-40"]
)
def test_wrong_numbers_of_clips(data):
    with pytest.raises(DataError, match="expected four-motions:CLIPS with 12 clips or more"):
        FourMotions(data)


def test_wrong_values():
    with pytest.raises(ConfigError, match="pictures must be at least 2"):
        open_events("four-motions", simulation={"pictures": 1})
    with pytest.raises(DataError, match="its sensor is as large as `size` says"):
        open_events("four-motions", sensor=(8, 8))
    with pytest.raises(DataError, match="did you mean four-motions"):
        open_events("four-motion")
