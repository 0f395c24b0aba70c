"""Pairs: samples of two data sets that are of one class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from neuromix.core.errors import DataError, UnknownNameError
from neuromix.data.dataset import Dataset, Sample
from neuromix.data.splits import Rows


class Labelled(Protocol):
    """A labelled data set and its parts: what `open_events` and its like give."""

    @property
    def source(self) -> Any:
        """Where the samples come from; its `labels` [N] are those of all rows."""
        ...

    @property
    def splits(self) -> Mapping[str, Rows]:
        """Rows of "train", "validation" and "test"."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        ...


@dataclass(frozen=True)
class Pairs:
    """Samples of two data sets, paired by class: a sample has the fields of both, and one label.

    Attributes:
        first, second: parts of data sets.
        rows: (index in the first, index in the second, label) of each pair, [N, 3].
    """

    first: Dataset
    second: Dataset
    rows: Rows

    def __len__(self) -> int:
        return len(self.rows)

    def sample(self, index: int, generator: torch.Generator) -> Sample:
        """The pair `index`."""
        one, other, label = map(int, self.rows[index])
        return {
            **self.second.sample(other, generator),
            **self.first.sample(one, generator),
            "label": label,
        }


def pair_rows(first: Labelled, second: Labelled, part: str, classes: Sequence[str]) -> Rows:
    """(index in the first, index in the second, number in `classes`) of each pair of a part: [N, 3], class by class.

    The n-th sample of a class is paired with the (n+1)-th of the other data set, as many as both have; so two data
    sets that are made of the same things do not show one thing twice.

    Raises:
        DataError: a class without a pair.
        UnknownNameError: a class that a data set does not have.
    """
    found = []
    for number, name in enumerate(classes):
        one, other = (np.flatnonzero(_labels(data, part) == _label(data, name)) for data in (first, second))
        count = min(len(one), len(other))
        if count == 0:
            raise DataError(f"class {name!r} has {len(one)} and {len(other)} samples in {part}, so no pair")
        other = np.roll(other, -1)
        found.append(np.stack([one[:count], other[:count], np.full(count, number)], axis=1))
    rows: Rows = np.concatenate(found).astype(np.int64)
    return rows


def _labels(data: Labelled, part: str) -> Rows:
    labels: Rows = data.source.labels[data.splits[part]]
    return labels


def _label(data: Labelled, name: str) -> int:
    if name not in data.classes:
        raise UnknownNameError("class", name, data.classes)
    return data.classes.index(name)
