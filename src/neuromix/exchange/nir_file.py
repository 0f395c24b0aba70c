"""Reading files of NIR, which are HDF5, by the package `nir`.

A file may come from anyone. Before `nir` loads it as a whole, it is walked through: how deep and how large it is, and
that nothing in it points to another file.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuromix.core.errors import CheckpointError, MissingExtraError, NeuromixError, UnsupportedError

if TYPE_CHECKING:
    from nir import NIRGraph

MAX_DEPTH = 32  # of groups within groups
MAX_ENTRIES = 2**17
MAX_BYTES = 2**33  # of all arrays, unpacked


def require_nir() -> None:
    """Raises MissingExtraError where the package is not installed."""
    if importlib.util.find_spec("nir") is None:
        raise MissingExtraError("NIR", "export")


def read_graph(path: Path) -> NIRGraph:
    """Reads the graph of a file; what its nodes hold is not checked.

    Raises:
        CheckpointError: no such file, one that is damaged, absurdly large, or that points out of itself.
        UnsupportedError: a type of node that NIR does not have.
    """
    import h5py
    import nir

    if not path.is_file():
        raise CheckpointError(f"no NIR file at {path}")
    try:
        with h5py.File(path, "r") as file:
            _Walk(path).through(file, "")
            kind = file["node/type"].asstr()[()]
        if kind != "NIRGraph":
            raise CheckpointError(f"{path} holds a single {kind}, not a graph")
        graph: NIRGraph = nir.read(path, type_check=False)
    except NeuromixError:
        raise
    except Exception as error:  # whatever h5py and nir make of a damaged file
        text = " ".join(str(error).split()) or type(error).__name__
        raise CheckpointError(f"{path} is damaged or no NIR file: {text[:200]}") from error
    return graph


class _Walk:
    """What has been seen of a file."""

    def __init__(self, path: Path) -> None:
        self.path, self.entries, self.bytes = path, 0, 0

    def through(self, group: Any, place: str, depth: int = 0) -> None:
        import h5py

        for name in group:
            self.entries += 1
            where = f"{place}/{name}"
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise CheckpointError(f"{self.path}: {where!r} is a link to elsewhere, which is not followed")
            if depth > MAX_DEPTH or self.entries > MAX_ENTRIES:
                raise CheckpointError(
                    f"{self.path}: groups nest more than {MAX_DEPTH} deep, or there are more than {MAX_ENTRIES} entries"
                )
            entry = group[name]
            if isinstance(entry, h5py.Group):
                self.through(entry, where, depth + 1)
            elif isinstance(entry, h5py.Dataset):
                self._array(entry, where)

    def _array(self, array: Any, where: str) -> None:
        import nir

        if array.is_virtual or array.external:
            raise CheckpointError(
                f"{self.path}: the numbers of {where!r} are in another file, which is not read"
            )
        self.bytes += array.nbytes
        if self.bytes > MAX_BYTES:
            raise CheckpointError(f"{self.path}: its arrays have more than {MAX_BYTES} bytes")
        if where.endswith("/type") and "/metadata/" not in where and array.shape == ():
            kind = array[()]
            kind = kind.decode(errors="replace") if isinstance(kind, bytes) else kind
            if kind not in nir.__all__:
                raise UnsupportedError(
                    f"{self.path}: {where.removesuffix('/type')!r} is a {kind!r}, unknown to NIR"
                )
