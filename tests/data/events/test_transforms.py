"""Changes and augmentations of events."""

from __future__ import annotations

import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuromix.core.errors import ConfigError, UnknownNameError
from neuromix.data.events import Events, frames_by_time
from neuromix.data.events import transforms as T
from neuromix.data.events.augment import POLICIES, policy
from tests.data.events.files import assert_same, some_events


def seen(events: Events) -> torch.Tensor:
    """Counts of all times, [2, H, W]."""
    return frames_by_time(events, 1)[0]


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 40), st.integers(1, 40))
def test_resizing_keeps_every_event(height, width):
    events = some_events()
    small = T.resized(events, height, width)
    assert small.size == events.size and (small.height, small.width) == (height, width)
    assert (small.x_N == events.x_N * width // events.width).all()
    # A sensor as large as before is the same again.
    assert_same(T.resized(events, events.height, events.width), events)


def test_halving_adds_up_squares():
    events = some_events(300, height=8, width=8)
    squares = seen(events).unfold(1, 2, 2).unfold(2, 2, 2).sum((-1, -2))
    assert torch.equal(seen(T.resized(events, 4, 4)), squares)
    with pytest.raises(ConfigError, match="at least one pixel; given 0 x 3"):
        T.resized(events, 0, 3)


def test_cropping_shifting_and_mirroring_are_those_of_pictures():
    events = some_events(300, height=9, width=7)
    whole = seen(events)
    assert torch.equal(seen(T.cropped(events, 2, 1, 4, 5)), whole[:, 2:6, 1:6])
    assert torch.equal(seen(T.centre_cropped(events, 5, 3)), whole[:, 2:7, 2:5])
    assert torch.equal(seen(T.mirrored(events)), whole.flip(2))
    moved = seen(T.shifted(events, 2, -3))
    assert (
        torch.equal(moved[:, 2:, :4], whole[:, :-2, 3:])
        and not moved[:, :2].any()
        and not moved[:, :, 4:].any()
    )


def test_a_window_of_time_starts_at_zero():
    events = Events([5, 10, 19, 20], [0, 1, 2, 3], [0] * 4, [1] * 4)
    part = T.window(events, 10, 10)
    assert part.t_N.tolist() == [0, 9] and part.x_N.tolist() == [1, 2] and part.width == 4


@pytest.mark.parametrize("name", POLICIES)
def test_augmentation_is_a_function_of_events_and_generator(name):
    events, change = some_events(200), pickle.loads(pickle.dumps(policy(name)))
    results = [change(events, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1, 2, 3)]
    assert_same(results[0], results[1])
    assert all((one.height, one.width) == (20, 30) for one in results)
    different = {seen(one).numpy().tobytes() for one in results}
    assert (len(different) == 1) == (name == "none")


def test_unknown_policies_are_refused():
    with pytest.raises(UnknownNameError, match="did you mean shift"):
        policy("shfit")
