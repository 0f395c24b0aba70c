"""Folders with one folder of files a class, as image and event data sets often are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from neuromix.core.errors import DataError
from neuromix.data.splits import Rows

# The folder of a part, in small letters -> the part.
PARTS: Mapping[str, str] = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}


class ClassFolders(NamedTuple):
    """What lies in the folders: a row a file."""

    files: list[Path]
    labels: Rows  # [N], in [0, len(classes))
    classes: tuple[str, ...]
    parts: dict[str, Rows]  # "train" and, where there are such folders, "validation" and "test"


def class_folders(folder: Path, suffixes: Sequence[str], what: str, example: str) -> ClassFolders:
    """Finds the files of a folder with one folder a class, perhaps below train/, val/ and test/.

    The part folders count as such where there is a train/ that holds folders; val/ may be called valid/ or
    validation/, and all may be written in capitals. Classes are the folders' names, sorted. Files in folders below a
    class folder belong to it; other file types and hidden files are passed over.

    Args:
        suffixes: of the files, in small letters.
        what: they are, for messages: "images".
        example: of a file's name, for messages.

    Raises:
        DataError: no class folder, a class folder without files, or classes that training does not have.
    """
    training, tops = folder, {folder: "train"}
    inside = {path.name.lower(): path for path in _folders(folder)}
    if "train" in inside and _folders(inside["train"]):
        training = inside["train"]
        tops = {path: PARTS[name] for name, path in inside.items() if name in PARTS}
    classes = tuple(path.name for path in _folders(training))
    if not classes:
        raise DataError(f"{folder} has no class folders; expected {folder}/CLASS/{example}")
    files: list[Path] = []
    labels: list[int] = []
    parts: dict[str, list[int]] = {}
    for top, part in tops.items():
        if not _folders(top):
            raise DataError(f"{top} has no class folders; fill it, or remove it to cut that part off train/")
        for path in _folders(top):
            if path.name not in classes:
                raise DataError(f"{top} has the class {path.name!r}, which {training} does not have")
            found = _files(path, suffixes, what)
            parts.setdefault(part, []).extend(range(len(labels), len(labels) + len(found)))
            labels += [classes.index(path.name)] * len(found)
            files += found
    rows = {part: np.array(numbers, dtype=np.int64) for part, numbers in parts.items()}
    return ClassFolders(files, np.array(labels, dtype=np.int64), classes, rows)


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _files(folder: Path, suffixes: Sequence[str], what: str) -> list[Path]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    wanted = [path for path in files if path.suffix.lower() in suffixes]
    if not wanted:
        found = f"only {listed(sorted({path.suffix or path.name for path in files}))}" if files else "nothing"
        raise DataError(f"class folder {folder} holds {found}; expected {what} in {listed(suffixes)}")
    return wanted


def listed(items: Iterable[object]) -> str:
    """The first few of `items`, for a message of one line."""
    names = [" ".join(str(item).split()) for item in items]
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "") or "none"
