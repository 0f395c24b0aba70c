"""Events: a value that is always right, or a line that says what is wrong."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuromix.core.errors import DataError
from neuromix.data.events import Events


def make(t=(0, 5, 5), x=(0, 1, 2), y=(3, 2, 1), p=(1, 0, 1), height=4, width=3, **options) -> Events:
    return Events(t, x, y, p, height, width, **options)


def test_columns_have_fixed_types():
    events = make()
    assert [column.dtype for column in events[:4]] == [np.int64, np.int32, np.int32, np.bool_]
    assert (events.size, events.duration, events.height, events.width) == (3, 5, 4, 3)
    assert events.p_N.tolist() == [True, False, True] == make(p=(1, -1, 1)).p_N.tolist()


def test_a_sensor_that_is_not_told_is_as_small_as_the_events_allow():
    events = make(height=None, width=None)
    assert (events.height, events.width) == (4, 3)
    assert Events([], [], [], [])[4:] == (1, 1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"t": (0, 7, 6)}, "f.bin: event 2 is at 6 and the one before at 7; sort"),
        ({"t": (-3, 0, 1)}, "f.bin: event 0 has the time -3"),
        ({"t": (0, 1, 2**53)}, "f.bin: event 2 has the time 9007199254740992"),
        ({"t": np.array([0, 1, 2**64 - 1], np.uint64)}, "f.bin: event 2 has the time"),
        ({"t": (0.0, 0.5, 1.0)}, "f.bin: t is float64 [3]; expected whole numbers"),
        ({"t": ((0, 1, 2),)}, "f.bin: t is int64 [1, 3]"),
        ({"t": (0, 1)}, "f.bin has 2 t, 3 x, 3 y, 3 p; every event needs all four"),
        ({"x": (0, 3, 1)}, "f.bin: event 1 has x = 3; the sensor is 3 pixels wide"),
        ({"x": (0, -1, 1)}, "f.bin: event 1 has x = -1"),
        ({"y": (0, 0, 4)}, "f.bin: event 2 has y = 4; the sensor is 4 pixels high"),
        ({"y": (0, 0, 9000), "height": None}, "f.bin: event 2 has y = 9000; the sensor is 8192 pixels high"),
        ({"p": (0, 2, 1)}, "f.bin: event 1 has the polarity 2; expected 0 and 1, or -1 and 1"),
        ({"height": 0}, "f.bin: a sensor is 1 to 8192 pixels high; given 0"),
    ],
)
def test_what_is_wrong_is_named(wrong, message):
    with pytest.raises(DataError, match=re.escape(message)):
        make(**wrong, where="f.bin")


def test_sorting_is_stable_and_asked_for():
    events = make(t=(9, 4, 4), sort=True)
    assert events.t_N.tolist() == [4, 4, 9]
    assert events.x_N.tolist() == [1, 2, 0] and events.p_N.tolist() == [False, True, True]


def test_selecting_keeps_the_sensor():
    events = make()
    for which in (slice(1, None), events.x_N > 0, np.array([1, 2])):
        some = events.select(which)
        assert some.x_N.tolist() == [1, 2] and (some.height, some.width) == (4, 3)


@given(st.lists(st.tuples(*[st.integers(-(2**63), 2**63 - 1)] * 4), max_size=5), st.booleans())
def test_any_whole_numbers_make_events_or_a_data_error(rows, sort):
    t, x, y, p = np.array(rows, np.int64).reshape(-1, 4).T
    try:
        events = Events(t, x, y, p, sort=sort)
    except DataError:
        return
    assert events.size == len(rows) and (np.diff(events.t_N) >= 0).all()
