"""EventSource: recordings by row, with their classes. Files are in `recordings`, a simulator in `simulated`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Generator

from neuromix.data.events.formats.raw import Sensor
from neuromix.data.events.value import Events
from neuromix.data.splits import Rows


class EventSource(Protocol):
    """Recordings by row, with their classes."""

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
    def sensor(self) -> Sensor:
        """(height, width) of every recording."""
        ...

    def read(self, row: int, generator: Generator | None = None) -> Events:
        """The recording of a row.

        Args:
            row: in [0, N).
            generator: for a new recording of the same thing, where the source can make one. None: the one
                recording that the row has in every run.

        Raises:
            DataError: the file is damaged.
        """
        ...

    def where(self, row: int) -> str:
        """The file, for messages."""
        ...
