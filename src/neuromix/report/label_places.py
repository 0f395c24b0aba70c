"""Where the names beside the marks of a chart go, so that they hide neither the marks nor each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

_CHARACTER, _LINE, _RADIUS = 7.2, 15.0, 7.0  # pixels of a text and of a mark
# plotly's textposition -> the way to the middle of the text, in halves of its width and in lines.
_PLACES = {
    "top right": (1, 1),
    "bottom right": (1, -1),
    "top left": (-1, 1),
    "bottom left": (-1, -1),
    "top center": (0, 1),
    "bottom center": (0, -1),
}


class Box(NamedTuple):
    """A rectangle in pixels, y upwards."""

    left: float
    bottom: float
    right: float
    top: float

    def meets(self, other: Box) -> bool:
        return (
            self.left < other.right
            and other.left < self.right
            and self.bottom < other.top
            and other.bottom < self.top
        )


def label_places(
    texts: Sequence[str], marks: Sequence[tuple[float, float]], taken: Sequence[Box], width: float
) -> list[str]:
    """plotly's textposition of each text; empty where there is no room for it.

    Args:
        marks: middle of each mark, in pixels.
        taken: what else must not be hidden.
        width: of the chart, in pixels; texts stay inside it.
    """
    used = [*taken, *(Box(x - _RADIUS, y - _RADIUS, x + _RADIUS, y + _RADIUS) for x, y in marks)]
    places = []
    for text, (x, y) in zip(texts, marks, strict=True):
        free = (
            (name, box)
            for name, box in _boxes(text, x, y)
            if box.left >= 0 and box.right <= width and not any(box.meets(other) for other in used)
        )
        name, box = next(free, ("", None))
        places.append(name)
        if box is not None:
            used.append(box)
    return places


def _boxes(text: str, x: float, y: float) -> Iterator[tuple[str, Box]]:
    half = _CHARACTER * len(text) / 2
    for name, (right, up) in _PLACES.items():
        middle_x = x + right * (half + _RADIUS)
        middle_y = y + up * (_RADIUS + _LINE / 2)
        yield name, Box(middle_x - half, middle_y - _LINE / 2, middle_x + half, middle_y + _LINE / 2)
