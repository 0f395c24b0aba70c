"""SeriesTable: several variates measured at the same times.

Shapes: R rows, which are times, N variates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from neuromix.core.errors import DataError

Times = npt.NDArray[np.datetime64]
Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SeriesTable:
    """A table of numbers over time.

    Attributes:
        name: what messages call it, such as the name of its file.
        times: of the rows, rising: [R], datetime64[s].
        columns: names of the variates, N of them.
        values: [R, N], float64, in the units of the data.
    """

    name: str
    times: Times
    columns: tuple[str, ...]
    values: Values

    def __len__(self) -> int:
        return len(self.times)

    def select(self, columns: Sequence[str]) -> SeriesTable:
        """The table with these variates alone, in this order.

        Raises:
            DataError: it lacks one of them.
        """
        missing = [name for name in columns if name not in self.columns]
        if missing:
            raise DataError(
                f"{self.name} lacks the column {missing[0]!r}; expected {', '.join(columns)}, "
                f"it has {', '.join(self.columns)}"
            )
        places = [self.columns.index(name) for name in columns]
        return replace(self, columns=tuple(columns), values=self.values[:, places])

    def with_last(self, column: str) -> SeriesTable:
        """The table with one variate moved to the end.

        Raises:
            DataError: it lacks this variate.
        """
        if column not in self.columns:
            raise DataError(f"{self.name} has no column {column!r}; it has {', '.join(self.columns)}")
        return self.select([*(name for name in self.columns if name != column), column])

    def rows(self, begin: int, end: int) -> SeriesTable:
        """The rows from `begin` to before `end`."""
        return replace(self, times=self.times[begin:end], values=self.values[begin:end])
