"""Reading point cloud files: the suffix of a file tells its format, one module each.

| suffix | format | module |
| --- | --- | --- |
| `.off` | triangles, as ModelNet has them | `off` |
| `.ply` | points or triangles, as text or binary | `ply` |
| `.npy`, `.npz` | NumPy arrays | `arrays` |
| `.txt`, `.xyz`, `.csv` | a point a line | `text` |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from neuromix.core.errors import DataError
from neuromix.data.points.formats import arrays, off, ply, text
from neuromix.data.points.value import PointCloud

_READERS: Mapping[str, Callable[[Path], PointCloud]] = {
    ".off": off.read,
    ".ply": ply.read,
    ".npy": arrays.read,
    ".npz": arrays.read,
    ".txt": text.read,
    ".xyz": text.read,
    ".csv": text.read,
}
SUFFIXES = tuple(_READERS)


def read_points(path: str | Path) -> PointCloud:
    """Reads the points of a file, or the triangles between them.

    Args:
        path: its suffix tells the format, see above.

    Raises:
        DataError: the file cannot be read, is damaged, or holds no points.
    """
    path = Path(path).expanduser()
    suffix = path.suffix.lower()
    if suffix not in _READERS:
        raise DataError(
            f"{path} is no point cloud file by its suffix {suffix!r}; known: {', '.join(_READERS)}"
        )
    return _READERS[suffix](path)
