"""from_tonic: the data sets of the tonic library as an event data set.

tonic (Lenz et al., 2021) downloads and reads many public data sets. What it gives is a sequence of (events, class),
events a structured array with the fields x, y, t and p, and that is all that is asked of it here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Generator

from neuromix.core.errors import DataError
from neuromix.data.events.dataset import EventDataset, as_sensor, dataset_of
from neuromix.data.events.formats.raw import Sensor
from neuromix.data.events.representations import Representation
from neuromix.data.events.value import Events
from neuromix.data.splits import Rows


class TonicEvents:
    """Data sets of tonic, one after another; see EventSource.

    Args:
        sets: part -> data set.

    Raises:
        DataError: a data set without a `sensor_size`, or whose classes are no whole numbers.
    """

    def __init__(self, sets: dict[str, Any]) -> None:
        self._sets = sets
        self._places = [(part, i) for part, dataset in sets.items() for i in range(len(dataset))]
        labels = [_targets(dataset) for dataset in sets.values()]
        self.labels: Rows = np.concatenate(labels)
        ends = np.cumsum([0, *map(len, labels)])
        self.parts = {part: np.arange(ends[i], ends[i + 1]) for i, part in enumerate(sets)}
        names = getattr(sets["train"], "classes", ())
        count = int(self.labels.max()) + 1
        # Some list their names, some map them to labels, and some have none.
        self.classes = tuple(map(str, names)) if len(names) >= count else tuple(map(str, range(count)))
        width, height = sets["train"].sensor_size[:2]
        self.sensor: Sensor = (int(height), int(width))

    def read(self, row: int, generator: Generator | None = None) -> Events:
        part, i = self._places[row]
        array = self._sets[part][i][0]
        names = array.dtype.names or ()
        # Sounds have no rows; some sets keep whole numbers as floats.
        t, x, y, p = (array[name] if name in names else np.zeros(len(array)) for name in ("t", "x", "y", "p"))
        t, x, y, p = (np.rint(c).astype(np.int64) if c.dtype.kind == "f" else c for c in (t, x, y, p))
        return Events(t, x, y, p, *self.sensor, where=self.where(row), sort=True)

    def where(self, row: int) -> str:
        part, i = self._places[row]
        return f"{type(self._sets[part]).__name__}, {part} {i}"


def from_tonic(
    train: Any,
    test: Any = None,
    *,
    size: int | Sensor | None = None,
    representation: Representation | None = None,
) -> EventDataset:
    """An event data set of data sets of tonic; parts that are not given are cut off the training part.

    Args:
        train, test: of tonic, without `transform`.
        size, representation: as for `open_events`.

    Raises:
        DataError: a data set that is no classification of events, or has one class.

    Example:
        from_tonic(tonic.datasets.NMNIST("data", train=True), tonic.datasets.NMNIST("data", train=False))
    """
    sets = {"train": train} if test is None else {"train": train, "test": test}
    return dataset_of(TonicEvents(sets), type(train).__name__, as_sensor("size", size), representation)


def _targets(dataset: Any) -> Rows:
    if getattr(dataset, "sensor_size", None) is None or not len(dataset):
        raise DataError(f"{type(dataset).__name__} is no data set of tonic with a `sensor_size`, or is empty")
    # Some keep a list of their classes; of the others every recording has to be read for its own.
    targets = getattr(dataset, "targets", ())
    labels = np.asarray(targets if len(targets) else [dataset[i][1] for i in range(len(dataset))])
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or labels.min() < 0:
        raise DataError(
            f"{type(dataset).__name__} has classes {labels.dtype}; expected whole numbers from 0 on"
        )
    return labels.astype(np.int64)
