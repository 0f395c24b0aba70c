"""Images in Parquet files, as Hugging Face's hub holds them: encoded bytes and a label in every row."""

from __future__ import annotations

import importlib
import io
import json
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from neuromix.core.errors import DataError, MissingExtraError
from neuromix.data.class_folders import PARTS, listed
from neuromix.data.image_sources import SKIP_HINT, Size, decode, one_line, require_pillow
from neuromix.data.splits import Rows

CACHE_BYTES = 2**28  # of encoded images that are kept in memory, in each process


class _RowGroup(NamedTuple):
    path: Path
    number: int  # in the file
    column: str  # of the images
    first: int  # row of the file with which it begins


class ParquetImages:
    """A folder of `train-*.parquet` files, and `validation-*` and `test-*`, in the Hugging Face layout.

    The image column is a struct with the file's `bytes`, called `img` or `image`; the label column holds
    integers from 0 on without gaps. Class names come from the Hugging Face metadata of the file where it has
    any, else they are the numbers. Labels are held in memory; images are read a row group at a time, of which
    the last used stay, up to `CACHE_BYTES`.

    Raises:
        DataError: a file that is not Parquet, a missing column, no rows, or labels that are missing, negative
            or have gaps.
        MissingExtraError: pyarrow or Pillow is not installed.
    """

    def __init__(self, folder: Path) -> None:
        require_pillow()
        self._groups: list[_RowGroup] = []
        self._cache: OrderedDict[int, Any] = OrderedDict()
        starts, labels = [0], []
        names: tuple[str, ...] | None = None
        parts: dict[str, Rows] = {}
        for prefix, part in PARTS.items():
            first = starts[-1]
            for path in sorted(folder.glob(f"{prefix}-*.parquet")):
                file = _open_parquet(path)
                column = _image_column(path, file.schema_arrow)
                labels.append(_labels(path, file))
                names = names or _class_names(file.schema_arrow)
                start = starts[-1]
                for number in range(file.num_row_groups):
                    self._groups.append(_RowGroup(path, number, column, starts[-1] - start))
                    starts.append(starts[-1] + file.metadata.row_group(number).num_rows)
            if starts[-1] > first:
                parts[part] = np.arange(first, starts[-1])
            elif any(folder.glob(f"{prefix}-*.parquet")):
                raise DataError(f"{folder}/{prefix}-*.parquet has no rows")
        self._starts = np.array(starts)
        self.labels: Rows = np.concatenate(labels)
        self.parts = parts
        self.classes = _checked_classes(folder, self.labels, parts["train"], names)

    def read(self, row: int, channels: int | None = None, size: Size | None = None) -> Tensor:
        group, inside = self._locate(row)
        data = self._read_group(group)[inside].as_py()
        if data is None:
            raise DataError(f"{self.where(row)} has no image bytes; {SKIP_HINT}")
        return decode(io.BytesIO(data), self.where(row), channels, size)

    def where(self, row: int) -> str:
        group, inside = self._locate(row)
        return f"{self._groups[group].path}, row {self._groups[group].first + inside}"

    def _locate(self, row: int) -> tuple[int, int]:
        """The row group that holds a row, and the position in it."""
        group = int(np.searchsorted(self._starts, row, side="right")) - 1
        return group, row - int(self._starts[group])

    def _read_group(self, group: int) -> Any:
        """The encoded images of a row group, as an Arrow array of bytes."""
        if group not in self._cache:
            path, number, column, _ = self._groups[group]
            with _reading(path):
                # No threads: loader workers are forked, and the pool's threads do not survive that.
                table = _open_parquet(path).read_row_group(number, [f"{column}.bytes"], use_threads=False)
                if table.num_rows != self._starts[group + 1] - self._starts[group]:
                    raise ValueError("a row group has another number of rows than the file says")
                self._cache[group] = _arrow("pyarrow.compute").struct_field(table.column(0), "bytes")
            while len(self._cache) > 1 and sum(array.nbytes for array in self._cache.values()) > CACHE_BYTES:
                self._cache.popitem(last=False)
        self._cache.move_to_end(group)
        return self._cache[group]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cache": OrderedDict()}  # workers fill a cache of their own


def _arrow(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise MissingExtraError("reading Parquet files", "vision") from None


def _open_parquet(path: Path) -> Any:
    with _reading(path):
        return _arrow("pyarrow.parquet").ParquetFile(path, memory_map=True)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turns what Arrow raises on damaged files into one line that names the file."""
    try:
        yield
    except (OSError, ValueError, _arrow("pyarrow").ArrowException) as error:
        raise DataError(f"{path} is not a sound Parquet file ({one_line(error)}); get it again") from error


def _image_column(path: Path, schema: Any) -> str:
    for name in ("img", "image"):
        if name in schema.names:
            kind = schema.field(name).type
            if not any(kind.field(i).name == "bytes" for i in range(kind.num_fields)):
                raise DataError(
                    f"{path}: column {name!r} is {kind}; expected a struct with the field 'bytes'"
                )
            return name
    raise DataError(f"{path} has no column 'img' or 'image'; it has {listed(schema.names)}")


def _labels(path: Path, file: Any) -> Rows:
    schema = file.schema_arrow
    if "label" not in schema.names:
        raise DataError(f"{path} has no column 'label'; it has {listed(schema.names)}")
    kind = schema.field("label").type
    if not _arrow("pyarrow").types.is_integer(kind):
        raise DataError(f"{path}: column 'label' is {kind}; expected integers from 0 on")
    with _reading(path):
        column = file.read(["label"], use_threads=False).column(0)
        if len(column) != sum(file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)):
            raise ValueError("a column has another number of rows than the file says")
    if column.null_count:
        raise DataError(
            f"{path}: {column.null_count} of {len(column)} labels are null; every row needs its class"
        )
    labels: Rows = column.to_numpy().astype(np.int64)
    if labels.size and labels.min() < 0:
        raise DataError(f"{path}: the label {labels.min()} is negative; expected classes from 0 on")
    return labels


def _class_names(schema: Any) -> tuple[str, ...] | None:
    """Names of the classes from the metadata that Hugging Face's `datasets` writes, if it is there."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return tuple(str(name) for name in features["label"]["names"])
    except (KeyError, TypeError, ValueError):
        return None


def _checked_classes(folder: Path, labels: Rows, train: Rows, names: Sequence[str] | None) -> tuple[str, ...]:
    """The names, which may be more than the labels seen; or, without names, the numbers of the labels."""
    seen = np.unique(labels[train])
    if names is None:
        gaps = np.flatnonzero(seen != np.arange(len(seen)))
        if len(gaps):
            raise DataError(
                f"{folder}: labels up to {seen[-1]}, but no training image has {gaps[0]}; leave no gaps"
            )
        names = [str(label) for label in seen]
    if labels.max() >= len(names):
        raise DataError(
            f"{folder}: the label {labels.max()} is not among the {len(names)} classes of training"
        )
    return tuple(names)
