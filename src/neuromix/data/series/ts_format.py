"""Files in the .ts format of time series classification, as the UCR/UEA archive, aeon and sktime have them.

Lines that begin with `#` or `%` are comments. A header of `@name value` lines ends with `@data`; then each line is a
sample: its channels with `:` between them, values with commas, and the class last. `?` is a missing value.

Shapes: L steps, N channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from neuromix.core.errors import DataError

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class SeriesFile:
    """What a file holds.

    Attributes:
        series: samples [L, N], float32, NaN where a value is missing; L may differ from sample to sample.
        labels: class of each sample, as it is written.
        classes: names of the classes, in the order of the header.
    """

    series: list[Floats]
    labels: list[str]
    classes: tuple[str, ...]


def read_ts(path: str | Path) -> SeriesFile:
    """Reads a .ts file of labelled series.

    Raises:
        DataError: the file is missing, is no text, breaks the format or its own header, has time stamps, or targets
            in the place of classes; told with the number of the line.
    """
    path = Path(path).expanduser()
    lines = _lines(path)
    header = _header(lines, path)
    classes = _classes(header, path)
    dimensions = _number(header, "dimensions", path)
    if header.get("univariate", "").lower() == "true":
        dimensions = 1
    length = (
        _number(header, "serieslength", path) if header.get("equallength", "").lower() == "true" else None
    )
    series, labels = [], []
    for number, line in lines:
        where = f"{path}, line {number}"
        x_LN, label = _sample(line, where)
        if dimensions is not None and x_LN.shape[1] != dimensions:
            raise DataError(f"{where} has {x_LN.shape[1]} channels; expected {dimensions}")
        if length is not None and len(x_LN) != length:
            raise DataError(f"{where} has {len(x_LN)} steps; the header says that all have {length}")
        if label not in classes:
            raise DataError(f"{where} has the class {label!r}; the header lists {', '.join(classes)}")
        dimensions = x_LN.shape[1]
        series.append(x_LN)
        labels.append(label)
    if not series:
        raise DataError(f"{path} has no sample after @data")
    return SeriesFile(series, labels, classes)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines, without comments and empty ones."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no text file; expected series in the .ts format") from error
    stripped = ((number, line.strip()) for number, line in enumerate(text.splitlines(), 1))
    return (each for each in stripped if each[1] and each[1][0] not in "#%")


def _header(lines: Iterator[tuple[int, str]], path: Path) -> dict[str, str]:
    header: dict[str, str] = {}
    for number, line in lines:
        if not line.startswith("@"):
            raise DataError(
                f"{path}, line {number}: expected a header line such as @dimensions 3, or @data; got {line[:40]!r}"
            )
        name, _, value = line[1:].partition(" ")
        if name.lower() == "data":
            return header
        header[name.lower()] = value.strip()
    raise DataError(f"{path} has no line @data; it is no .ts file, or cut off")


def _classes(header: Mapping[str, str], path: Path) -> tuple[str, ...]:
    if header.get("timestamps", "false").lower() == "true":
        raise DataError(f"{path} has time stamps; resample it to even steps, and set @timeStamps false")
    if header.get("targetlabel", "false").lower() == "true":
        raise DataError(
            f"{path} has numbers as targets (@targetLabel); expected classes, @classLabel true A B"
        )
    has, *names = header.get("classlabel", "false").split() or ["false"]
    if has.lower() != "true" or not names:
        raise DataError(f"{path} does not name its classes; expected a header line @classLabel true A B ...")
    if len(set(names)) < len(names):
        raise DataError(f"{path} names a class twice in @classLabel: {' '.join(names)}")
    return tuple(names)


def _number(header: Mapping[str, str], name: str, path: Path) -> int | None:
    """A whole number of the header, None where it is not there."""
    text = header.get(name)
    if text is None:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise DataError(f"{path}: @{name} is a whole number, 1 or more; got {text!r}")
    return int(text)


def _sample(line: str, where: str) -> tuple[Floats, str]:
    *channels, label = line.split(":")
    if not channels:
        raise DataError(f"{where} has no class; expected VALUES:...:CLASS")
    if any("(" in channel for channel in channels):
        raise DataError(f"{where} has time stamps; resample it to even steps")
    rows = [_values(text, where) for text in channels]
    lengths = {len(row) for row in rows}
    if len(lengths) > 1:
        raise DataError(f"{where} has channels of unlike lengths, {sorted(lengths)}")
    return np.stack(rows, 1), label.strip()


def _values(text: str, where: str) -> Floats:
    fields = [field.strip() for field in text.split(",")]
    if fields == [""]:
        raise DataError(f"{where} has a channel without values")
    try:
        values = np.array([np.nan if field in ("?", "NaN") else float(field) for field in fields], np.float32)
    except ValueError:
        wrong = next(field for field in fields if field != "?" and not _is_number(field))
        raise DataError(f"{where}: {wrong[:20]!r} is no number; a missing value is written ?") from None
    if np.isinf(values).any():
        raise DataError(f"{where} has an infinite value")
    return values


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
