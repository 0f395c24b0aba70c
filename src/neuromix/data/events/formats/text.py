"""`.csv` and `.txt`: an event a line, as whole numbers.

The columns are x, y, t (microseconds), p, unless the first line names them in another order; they are set apart by
commas, semicolons or blanks. Lines that begin with `#` are passed over.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import numpy.typing as npt

from neuromix.core.errors import DataError
from neuromix.core.files import replacing
from neuromix.data.events.formats.raw import Part, Raw
from neuromix.data.events.value import Events

_ORDER = ("x", "y", "t", "p")


def read(path: Path, part: Part) -> Raw:
    """Reads a file."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no text: byte {error.start} is {error.object[error.start]}") from error
    numbered = [
        (i, line) for i, line in enumerate(lines, 1) if line.strip() and not line.lstrip().startswith("#")
    ]
    if not numbered:
        raise DataError(f"{path} has no lines; expected one an event: x y t p")
    names = _names(numbered[0][1])
    rows = _numbers(numbered[1:] if names else numbered, path)
    columns = dict(zip(names or _ORDER, rows.T, strict=True))
    return Raw(*(columns[name] for name in ("t", "x", "y", "p")))


def write(path: Path, events: Events) -> None:
    """Writes a file with names of the columns, whole or not at all."""
    columns = np.stack([events.x_N, events.y_N, events.t_N, events.p_N], axis=1)
    with replacing(path) as temporary:
        np.savetxt(temporary, columns, fmt="%d", delimiter=",", header=",".join(_ORDER), comments="")


def _names(line: str) -> tuple[str, ...] | None:
    """The names of the columns, if a line holds them."""
    cells = tuple(_cells(line.lower()))
    return cells if sorted(cells) == sorted(_ORDER) else None


def _numbers(lines: list[tuple[int, str]], path: Path) -> npt.NDArray[np.int64]:
    """[N, 4]."""
    rows = np.empty((len(lines), 4), np.int64)
    for row, (number, line) in enumerate(lines):
        cells = _cells(line)
        try:
            rows[row] = [int(cell) for cell in cells]
        except (ValueError, OverflowError):
            raise DataError(
                f"{path}, line {number}: {line.strip()[:40]!r} is not four whole numbers, x y t p (t in microseconds)"
            ) from None
    return rows


def _cells(line: str) -> list[str]:
    return re.split(r"\s*[,;]\s*|\s+", line.strip())
