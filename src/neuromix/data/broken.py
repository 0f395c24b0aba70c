"""Leaving out what cannot be read: a few damaged files must not end a training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from neuromix.core.errors import DataError
from neuromix.data.splits import Rows


class Readable(Protocol):
    """Samples by row, as sources of images and of events hold them."""

    @property
    def labels(self) -> Rows:
        """Class of each row: [N], int64, in [0, len(classes))."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        ...

    @property
    def parts(self) -> Mapping[str, Rows]:
        """Rows of "train" and, where the data bring them, of "validation" and "test"."""
        ...

    @property
    def read(self) -> Any:
        """A function of the row; it raises DataError where the sample is broken."""
        ...


def without_broken(source: Readable, what: str) -> tuple[dict[str, Rows], int]:
    """The parts without rows that cannot be read, and their number; it reads every row once.

    Args:
        what: the samples are, for messages: "images".

    Raises:
        DataError: nothing is left of a class in a part.
    """

    def sound(row: int) -> bool:
        try:
            source.read(row)
        except DataError:
            return False
        return True

    kept = {
        part: np.array([row for row in rows if sound(int(row))], np.int64)
        for part, rows in source.parts.items()
    }
    for part, rows in kept.items():
        lost = sorted(set(source.labels[source.parts[part]]) - set(source.labels[rows]))
        if lost:
            raise DataError(
                f"all {part} {what} of the class {source.classes[lost[0]]!r} are broken; replace some"
            )
    return kept, sum(map(len, source.parts.values())) - sum(map(len, kept.values()))
