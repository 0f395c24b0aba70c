"""Names beside marks hide nothing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from neuromix.report.label_places import Box, _boxes, label_places

WIDTH, HEIGHT = 900.0, 300.0
marks = st.lists(st.tuples(st.floats(0, WIDTH), st.floats(0, HEIGHT)), min_size=1, max_size=14)


@given(marks, st.integers(1, 40))
def test_labels_hide_neither_marks_nor_each_other(at: list[tuple[float, float]], length: int) -> None:
    text = "x" * length
    places = label_places([text] * len(at), at, [], WIDTH)
    boxes = [dict(_boxes(text, x, y))[place] for place, (x, y) in zip(places, at, strict=True) if place]
    for number, box in enumerate(boxes):
        assert box.left >= 0
        assert box.right <= WIDTH
        assert not any(box.meets(other) for other in boxes[number + 1 :])
        assert not any(box.meets(Box(x, y, x, y)) for x, y in at)


def test_a_lone_mark_has_its_name() -> None:
    assert label_places(["name"], [(100.0, 100.0)], [], WIDTH) == ["top right"]
    assert label_places(["name"], [(WIDTH - 10, 100.0)], [], WIDTH) == ["top left"]


def test_no_room_no_name() -> None:
    assert label_places(["name"], [(100.0, 100.0)], [Box(0, 0, WIDTH, HEIGHT)], WIDTH) == [""]
