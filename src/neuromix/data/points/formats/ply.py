"""`.ply`: the Polygon File Format, as text or as binary numbers of either byte order.

Of the vertices x, y, z are read, and where they are there nx, ny, nz; intensity, strength, reflectance or remission;
and label, class or semantic. Of the faces the corners are. Other elements and properties are passed over.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from neuromix.core.errors import DataError
from neuromix.data.points.formats.bytes import bytes_of, triangles
from neuromix.data.points.value import PointCloud

_TYPES = {
    **dict.fromkeys(("char", "int8"), "i1"),
    **dict.fromkeys(("uchar", "uint8"), "u1"),
    **dict.fromkeys(("short", "int16"), "i2"),
    **dict.fromkeys(("ushort", "uint16"), "u2"),
    **dict.fromkeys(("int", "int32"), "i4"),
    **dict.fromkeys(("uint", "uint32"), "u4"),
    **dict.fromkeys(("float", "float32"), "f4"),
    **dict.fromkeys(("double", "float64"), "f8"),
}
_ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
_STRENGTHS = ("strength", "intensity", "scalar_Intensity", "reflectance", "remission")
_LABELS = ("label", "class", "semantic", "scalar_Label")
_CORNERS = ("vertex_indices", "vertex_index")


@dataclass
class Property:
    """One number of a row, or a list of them behind their number."""

    name: str
    type: str  # NumPy's, without byte order
    count_type: str = ""  # of a list


@dataclass
class Element:
    """Rows of one kind."""

    name: str
    count: int
    properties: list[Property] = field(default_factory=list)

    @property
    def has_lists(self) -> bool:
        return any(p.count_type for p in self.properties)


def read(path: Path) -> PointCloud:
    """Reads a file."""
    data = bytes_of(path)
    order, elements, body = _header(data, path)
    rows = _text_rows(body, path) if order == "" else _BinaryRows(body, order, path)
    wanted = {"vertex", "face"} & {element.name for element in elements}
    found: dict[str, dict[str, Any]] = {}
    for element in elements:
        if not wanted <= found.keys():  # behind them nothing is looked at
            found[element.name] = rows.read(element)
    vertex = found.get("vertex", {})
    if not {"x", "y", "z"} <= vertex.keys():
        raise DataError(f"{path} has no vertices with x, y and z; it has {', '.join(vertex) or 'none'}")
    faces: Any = next((found["face"][name] for name in _CORNERS if name in found.get("face", {})), [])
    return PointCloud(
        _joined(vertex, "x", "y", "z"),
        normal=_joined(vertex, "nx", "ny", "nz"),
        strength=next((vertex[name] for name in _STRENGTHS if name in vertex), None),
        label=next((vertex[name] for name in _LABELS if name in vertex), None),
        faces=triangles(faces, path) if len(faces) else None,
        where=str(path),
    )


def _joined(columns: dict[str, Any], *names: str) -> Any:
    return np.stack([columns[name] for name in names], 1) if all(name in columns for name in names) else None


def _header(data: bytes, path: Path) -> tuple[str, list[Element], bytes]:
    """Byte order ("" for text), the elements, and what follows."""
    head, end, body = data.partition(b"end_header")
    lines = head.decode("latin-1").splitlines()
    if not lines or lines[0].strip() != "ply":
        raise DataError(f"{path} begins with {data[:20]!r}; expected ply")
    if not end:
        raise DataError(f"{path} has a header without its end; get it again")
    body = body.removeprefix(b"\r").removeprefix(b"\n")
    order, elements = None, list[Element]()
    for number, line in enumerate(lines[1:], 2):
        match line.split():
            case ["format", name, _] if name in _ORDERS:
                order = _ORDERS[name]
            case ["element", name, count] if count.isdecimal():
                elements.append(Element(name, int(count)))
            case ["property", "list", count, kind, name] if {count, kind} <= _TYPES.keys() and elements:
                elements[-1].properties.append(Property(name, _TYPES[kind], _TYPES[count]))
            case ["property", kind, name] if kind in _TYPES and elements:
                elements[-1].properties.append(Property(name, _TYPES[kind]))
            case [] | ["comment" | "obj_info", *_]:
                pass
            case _:
                raise DataError(f"{path}, line {number}: {line.strip()[:40]!r} is no line of a PLY header")
    if order is None:
        raise DataError(f"{path} does not tell its format; expected one of {', '.join(_ORDERS)}")
    return order, elements, body


class _TextRows:
    """Rows of numbers as text, a row a line."""

    def __init__(self, lines: Iterator[list[str]], path: Path) -> None:
        self.lines, self.path = lines, path

    def read(self, element: Element) -> dict[str, Any]:
        columns: dict[str, list[Any]] = {p.name: [] for p in element.properties}
        for number in range(element.count):
            cells = next(self.lines, None)
            if cells is None:
                raise DataError(
                    f"{self.path} is cut off: {element.count} of {element.name} are told, {number} follow"
                )
            try:
                self._row(cells, element, columns)
            except (ValueError, IndexError):
                told = f"{' '.join(cells)[:40]!r} is not {', '.join(columns)}"
                raise DataError(f"{self.path}: {element.name} {number}: {told}") from None
        return columns

    def _row(self, cells: list[str], element: Element, columns: dict[str, list[Any]]) -> None:
        at = 0
        for p in element.properties:
            if p.count_type:
                count = int(cells[at])
                if count < 0 or at + 1 + count > len(cells):
                    raise ValueError
                columns[p.name].append([int(cell) for cell in cells[at + 1 : at + 1 + count]])
                at += 1 + count
            else:
                columns[p.name].append(float(cells[at]))
                at += 1


def _text_rows(body: bytes, path: Path) -> _TextRows:
    try:
        lines = body.decode("ascii").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is told to be text and is not: byte {error.start} behind its header"
        ) from error
    return _TextRows(iter([line.split() for line in lines if line.strip()]), path)


class _BinaryRows:
    """Rows of binary numbers."""

    def __init__(self, data: bytes, order: str, path: Path) -> None:
        self.data, self.order, self.path, self.at = data, order, path, 0

    def read(self, element: Element) -> dict[str, Any]:
        if element.has_lists:
            return self._with_lists(element)
        names = [p.name for p in element.properties]
        if len(set(names)) < len(names):
            raise DataError(f"{self.path}: {element.name} has a property twice: {', '.join(names)}")
        dtype = np.dtype([(p.name, self.order + p.type) for p in element.properties])
        table = self._take(dtype, element.count, element)
        return {name: table[name] for name in names}

    def _with_lists(self, element: Element) -> dict[str, Any]:
        columns: dict[str, list[Any]] = {p.name: [] for p in element.properties}
        for _ in range(element.count):
            for p in element.properties:
                count = (
                    int(self._take(np.dtype(self.order + p.count_type), 1, element)[0]) if p.count_type else 1
                )
                if count < 0:
                    raise DataError(f"{self.path}: a list of {element.name} has {count} numbers")
                values = self._take(np.dtype(self.order + p.type), count, element)
                columns[p.name].append(values.tolist() if p.count_type else values[0])
        return columns

    def _take(self, dtype: np.dtype[Any], count: int, element: Element) -> Any:
        end = self.at + count * dtype.itemsize
        if end > len(self.data):
            raise DataError(
                f"{self.path} is cut off within its {element.count} of {element.name}: {end - len(self.data)} bytes "
                "are missing; get it again"
            )
        found = np.frombuffer(self.data, dtype, count, self.at) if count else np.empty(0, dtype)
        self.at = end
        return found
