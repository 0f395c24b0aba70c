"""Representations: their formulas on a few events, and what holds for any."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuromix.core import registry
from neuromix.core.batch import Ragged, collate
from neuromix.core.config import Spec
from neuromix.core.errors import ConfigError
from neuromix.data.events import (
    Events,
    frames_by_count,
    frames_by_time,
    point_cloud,
    time_surface,
    voxel_grid,
)
from tests.data.events.files import some_events

FRAMES = [frames_by_count, frames_by_time, voxel_grid, time_surface]
SUMMING = FRAMES[:3]  # those in which every event counts 1


@st.composite
def any_events(draw) -> Events:
    count = draw(st.sampled_from([0, 1, 2, 7, 60]))
    height, width = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    return some_events(count, height, width, draw(st.integers(0, 99)), draw(st.sampled_from([1, 3, 50_000])))


def four_events() -> Events:
    return Events([10, 20, 30, 50], [0, 1, 1, 0], [0, 0, 0, 0], [1, 0, 1, 1], height=1, width=2)


def nonzero(x_TPHW: torch.Tensor) -> dict[tuple[int, int, int], float]:
    """(frame, polarity, column) -> value, of one row of pixels."""
    return {(k, p, x): round(float(x_TPHW[k, p, 0, x]), 4) for k, p, _, x in x_TPHW.nonzero().tolist()}


def test_frames_by_count():
    assert nonzero(frames_by_count(four_events(), 2)) == {
        (0, 1, 0): 1,
        (0, 0, 1): 1,
        (1, 1, 1): 1,
        (1, 1, 0): 1,
    }
    assert frames_by_count(four_events(), 3).sum((1, 2, 3)).tolist() == [2, 1, 1]


def test_frames_by_time():
    # 40 us and that of the last event itself: a frame is 20.5 us long.
    assert nonzero(frames_by_time(four_events(), 2)) == {
        (0, 1, 0): 1,
        (0, 0, 1): 1,
        (0, 1, 1): 1,
        (1, 1, 0): 1,
    }


def test_voxel_grid():
    # Times on a scale from 0 to 2: 0, 0.5, 1, 2.
    assert nonzero(voxel_grid(four_events(), 3)) == {
        (0, 1, 0): 1,
        (0, 0, 1): 0.5,
        (1, 0, 1): 0.5,
        (1, 1, 1): 1,
        (2, 1, 0): 1,
    }


def test_time_surface():
    # Frames end at 30 and 50.
    expected = {
        (0, 1, 0): math.exp(-20 / 40),
        (0, 0, 1): math.exp(-10 / 40),
        (0, 1, 1): 1.0,
        (1, 1, 0): 1.0,
        (1, 0, 1): math.exp(-30 / 40),
        (1, 1, 1): math.exp(-20 / 40),
    }
    assert nonzero(time_surface(four_events(), 2, tau=40)) == {k: round(v, 4) for k, v in expected.items()}


def test_point_cloud():
    cloud = point_cloud(four_events())
    assert cloud.tolist() == [[0, 0, 0, 1], [0.25, 1, 0, 0], [0.5, 1, 0, 1], [1, 0, 0, 1]]


@settings(deadline=None, max_examples=60)
@given(any_events(), st.integers(1, 9), st.sampled_from(FRAMES))
def test_frames_of_any_events(events, frames, represent):
    x_TPHW = represent(events, frames)
    assert x_TPHW.shape == (frames, 2, events.height, events.width) and x_TPHW.dtype == torch.float32
    assert bool((x_TPHW >= -1e-6).all()) and bool(x_TPHW.isfinite().all())
    if represent in SUMMING:
        assert float(x_TPHW.sum()) == pytest.approx(events.size, rel=1e-5)
    else:
        assert float(x_TPHW.max()) <= 1
    # Whatever the frames, an event leaves its mark where it was, and nothing is elsewhere.
    marked = torch.zeros(2, events.height, events.width, dtype=torch.bool)
    marked[events.p_N.astype(int), events.y_N, events.x_N] = True
    assert bool((marked | (x_TPHW[-1] == 0 if represent is time_surface else x_TPHW.sum(0) == 0)).all())
    later = Events(events.t_N + 1000, *events[1:])
    torch.testing.assert_close(represent(later, frames), x_TPHW)


@settings(deadline=None, max_examples=30)
@given(any_events(), st.integers(1, 9))
def test_frames_by_count_are_equal(events, frames):
    sums = frames_by_count(events, frames).sum((1, 2, 3))
    assert float(sums.max() - sums.min()) <= 1


@settings(deadline=None, max_examples=30)
@given(any_events(), st.one_of(st.none(), st.integers(1, 80)))
def test_clouds_of_any_events(events, points):
    cloud = point_cloud(events, points, torch.Generator().manual_seed(1))
    assert cloud.shape == (0 if not events.size else points or events.size, 4)
    assert bool(((cloud >= 0) & (cloud <= 1)).all())
    assert bool((cloud[:, 0].diff() >= 0).all())
    again = point_cloud(events, points, torch.Generator().manual_seed(1))
    assert torch.equal(cloud, again)
    if points is not None and points <= events.size:  # no event twice
        whole = point_cloud(
            Events(np.arange(events.size), *events[1:]), points, torch.Generator().manual_seed(1)
        )
        assert len(whole[:, 0].unique()) == points


def test_registered_ones_do_the_same_and_batch_samples_alone():
    generator = torch.Generator()
    named = [
        (Spec("count", {"frames": 3}), lambda e: frames_by_count(e, 3)),
        (Spec("time", {"frames": 3}), lambda e: frames_by_time(e, 3)),
        (Spec("voxel", {"frames": 3}), lambda e: voxel_grid(e, 3)),
        (Spec("surface", {"frames": 3, "tau": 100.0}), lambda e: time_surface(e, 3, 100)),
    ]
    recordings = [some_events(count, seed=count) for count in (40, 0, 9)]
    for spec, function in named:
        represent = registry.build("representation", spec)
        batch = collate([{"image": represent(events, generator)} for events in recordings])
        for x_TPHW, events in zip(batch.tensor("image"), recordings, strict=True):
            assert torch.equal(x_TPHW, function(events))
    cloud = registry.build("representation", "cloud")
    field = collate([{"cloud": cloud(events, generator)} for events in recordings])["cloud"]
    assert isinstance(field, Ragged) and field.lengths.tolist() == [40, 0, 9]
    assert torch.equal(field.select([2]).values, point_cloud(recordings[2]))


def test_counts_can_be_limited():
    events = Events([1, 2, 3], [0, 0, 1], [0, 0, 0], [1, 1, 1])
    represent = registry.build("representation", Spec("time", {"frames": 1, "most": 1}))
    assert represent(events, torch.Generator())[0, 1].tolist() == [[1, 1]]


@pytest.mark.parametrize("represent", FRAMES)
def test_there_is_at_least_one_frame(represent):
    with pytest.raises(ConfigError, match="at least one frame"):
        represent(four_events(), 0)


def test_names_and_values_are_checked():
    with pytest.raises(ConfigError, match="frames must be positive"):
        registry.build("representation", Spec("count", {"frames": 0}))
    assert set(registry.names("representation")) >= {"count", "time", "voxel", "surface", "cloud"}
