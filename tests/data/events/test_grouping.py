"""From events to groups of neighbours.

Shapes: B clips, N points, M groups, K neighbours, X = 3 axes.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuromix.core import registry
from neuromix.core.config import Spec
from neuromix.core.errors import ConfigError, ShapeError
from neuromix.data.events import Events
from neuromix.data.events.grouping import corners, farthest_points, group, nearest_points, relative

SMALL = {"points": 32, "groups": 8, "neighbours": 4}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def groups_of(events: Events, seed: int = 0, **options) -> torch.Tensor:
    return registry.build("representation", Spec("groups", {**SMALL, **options}))(events, seeded(seed))


def some_events(count: int = 100, seed: int = 0) -> Events:
    chance = np.random.default_rng(seed)
    x_N, y_N = chance.integers(0, 20, count), chance.integers(0, 10, count)
    return Events(np.sort(chance.integers(0, 9000, count)), x_N, y_N, x_N % 2, height=10, width=20)


def naive_farthest(points_NX: torch.Tensor, count: int, first: int) -> list[int]:
    chosen = [first]
    while len(chosen) < count:
        squares = [min(float((p - points_NX[c]).square().sum()) for c in chosen) for p in points_NX]
        chosen.append(squares.index(max(squares)))
    return chosen


def naive_nearest(points_NX: torch.Tensor, centre: int, count: int) -> list[int]:
    squares = [float((p - points_NX[centre]).square().sum()) for p in points_NX]
    return sorted(range(len(squares)), key=lambda i: (squares[i], i))[:count]


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 12), st.integers(0, 9))
def test_points_are_those_of_the_definition(points, groups, neighbours, seed):
    points_BNX = torch.randint(0, 4, (2, points, 3), generator=seeded(seed)).double()  # many ties
    groups, neighbours = min(groups, points), min(neighbours, points)
    first_B = torch.randint(points, (2,), generator=seeded(seed))
    found = group(points_BNX, groups, neighbours, first_B)
    for b in range(2):
        centres = naive_farthest(points_BNX[b], groups, int(first_B[b]))
        assert found.centres_BM[b].tolist() == centres
        members = [naive_nearest(points_BNX[b], centre, neighbours) for centre in centres]
        assert found.members_BMK[b].tolist() == members


def test_a_batch_is_its_clips_one_by_one():
    points_BNX = torch.rand(3, 40, 3, generator=seeded())
    whole = group(points_BNX, 10, 5)
    for b in range(3):
        alone = group(points_BNX[b : b + 1], 10, 5)
        assert all(torch.equal(one[b : b + 1], other) for one, other in zip(whole, alone, strict=True))
        torch.testing.assert_close(relative(points_BNX, whole)[b], relative(points_BNX[b : b + 1], alone)[0])


def test_relative_coordinates_are_the_formula():
    points_BNX = torch.rand(1, 20, 3, generator=seeded(), dtype=torch.float64)
    grouped = group(points_BNX, 4, 3)
    r = torch.empty(4, 3, 3, dtype=torch.float64)
    for m, (centre, members) in enumerate(zip(grouped.centres_BM[0], grouped.members_BMK[0], strict=True)):
        away = points_BNX[0, members] - points_BNX[0, centre]
        r[m] = away / ((away.square().sum() / 8).sqrt() + 1e-5)
    largest = r.abs().max()
    torch.testing.assert_close(relative(points_BNX, grouped)[0], r.abs() / largest)
    torch.testing.assert_close(relative(points_BNX, grouped, folded=False)[0], r / largest)
    least = points_BNX[0][grouped.members_BMK[0]].min(1).values
    assert torch.equal(corners(points_BNX, grouped)[0], least)


def test_the_spread_of_a_cloud_keeps_what_groups_differ_in():
    points_BNX = torch.rand(1, 60, 3, generator=seeded())
    grouped = group(points_BNX, 10, 6)
    away = (points_BNX[0][grouped.members_BMK[0]] - points_BNX[0][grouped.centres_BM[0]][:, None]).abs()
    torch.testing.assert_close(relative(points_BNX, grouped, spread="cloud")[0], away / away.max())
    assert not torch.allclose(relative(points_BNX, grouped)[0], away / away.max())


def test_farther_points_and_nearer_ones():
    line_1NX = torch.tensor([[[0.0], [1.0], [0.4], [0.9]]])
    assert farthest_points(line_1NX, 3).tolist() == [[0, 1, 2]]
    assert nearest_points(line_1NX, torch.tensor([[3]]), 2).tolist() == [[[3, 1]]]


@pytest.mark.parametrize(
    ("points", "groups", "neighbours"),
    [(torch.rand(5, 3), 2, 2), (torch.rand(1, 5, 3), 6, 2), (torch.rand(1, 5, 3), 2, 6)],
)
def test_what_cannot_be_grouped_is_refused(points, groups, neighbours):
    with pytest.raises(ShapeError, match=r"need floating-point points \[B, N, X\]"):
        group(points, groups, neighbours)
    with pytest.raises(ShapeError, match="int64"):
        group(torch.zeros(1, 5, 3, dtype=torch.int64), 2, 2)


def test_a_recording_becomes_groups():
    groups_XMK = groups_of(some_events())
    assert groups_XMK.shape == (3, 8, 5) and groups_XMK.dtype == torch.float32
    assert float(groups_XMK.min()) >= 0 and float(groups_XMK.max()) == 1
    assert torch.equal(groups_of(some_events(), seed=1), groups_of(some_events(), seed=1))
    assert not torch.equal(groups_of(some_events(), seed=1), groups_of(some_events(), seed=2))


def test_polarity_is_dropped():
    events = some_events()
    other = Events(events.t_N, events.x_N, events.y_N, ~events.p_N, events.height, events.width)
    assert torch.equal(groups_of(events), groups_of(other))


def test_switches():
    events = some_events()
    signed = groups_of(events, folded=False)[:, :, :-1]
    assert float(signed.min()) < 0
    torch.testing.assert_close(signed.abs(), groups_of(events)[:, :, :-1])
    origins = {name: groups_of(events, origin=name)[:, :, -1] for name in ("corner", "centre", "none")}
    assert not origins["none"].any()
    assert (origins["corner"] <= origins["centre"]).all() and not torch.equal(*list(origins.values())[:2])
    assert torch.equal(groups_of(events, random_start=False), groups_of(events, random_start=False))


def test_time_in_shares_of_a_given_duration():
    events = some_events()
    whole, half = (
        groups_of(events, duration=d, origin="centre")[2, :, -1] for d in (None, 2 * events.duration)
    )
    assert float(whole.max()) > 0.9 and 0.45 < float(half.max()) <= 0.5


@pytest.mark.parametrize("duration", [None, 1000])
def test_few_events_and_events_at_one_time(duration):
    assert not groups_of(Events.none(10, 20), duration=duration).any()
    one = groups_of(Events([7], [3], [2], [True], height=10, width=20), duration=duration)
    assert not one[:, :, :-1].any() and one.isfinite().all()
    expected = torch.tensor([3 / 19, 2 / 9, 0]).expand(8, 3)
    torch.testing.assert_close(one[:, :, -1].T, expected)
    same = some_events()
    same = Events(np.full(same.size, 5), same.x_N, same.y_N, same.p_N, 10, 20)
    found = groups_of(same, duration=duration)
    assert found.isfinite().all() and not found[2].any() and found[:2].any()
    assert groups_of(Events([0, 1], [0, 0], [0, 0], [0, 1], height=1, width=1)).isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"points": 0}, "points must be positive"),
        ({"groups": 33}, "groups must be at most the 32 points, got 33"),
        ({"neighbours": 40}, "neighbours must be at most the 32 points, got 40"),
        ({"duration": 0}, "duration must be positive, got 0"),
        ({"origin": "middle"}, "origin must be one of 'corner', 'centre', 'none'"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ConfigError, match=message):
        groups_of(some_events(), **options)
