"""LabelledSeries: one part of a set of series with one class each, for classification.

| what lies in the folder | it is read as |
| --- | --- |
| `NAME_TRAIN.ts`, `NAME_TEST.ts` | see `ts_format` |
| `x_train.npy` [S, L, N], `y_train.npy` [S], `x_test.npy`, `y_test.npy` | arrays; NaN is a missing value |

Where there is no test part it is cut off the training part, and the validation part always is.

Shapes: S samples, L steps, N channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from neuromix.core.arrays import DamagedArrayError, load_arrays
from neuromix.core.errors import ConfigError, DataError
from neuromix.data.dataset import Sample
from neuromix.data.series.ts_format import SeriesFile, read_ts
from neuromix.data.splits import Rows, complete, require_part

Floats: TypeAlias = npt.NDArray[np.float32]
Normalise: TypeAlias = Literal["channel", "none"]


@dataclass(frozen=True)
class LabelledSeries:
    """One part of a set of labelled series, which also knows the others.

    A sample is {"series": [L, N] float32, "length": L, "label": int}; L differs between samples unless `steps` says
    what it is.

    Attributes:
        series: all samples, missing values filled.
        labels: [S], int64, the class of each.
        classes: their names.
        splits: rows of "train", "validation" and "test".
        mean, deviation: [N], what is taken off each value, and what it is then divided by.
        steps: L that every sample is cut or filled with zeros to; None: its own.
        filled: values that were missing.
        part: the split that this is.
    """

    series: list[Floats]
    labels: Rows
    classes: tuple[str, ...]
    splits: Mapping[str, Rows]
    mean: Floats
    deviation: Floats
    steps: int | None = None
    filled: int = 0
    part: str = "train"

    @property
    def channels(self) -> int:
        """N of a sample."""
        return len(self.mean)

    def split(self, part: str) -> LabelledSeries:
        """The part "train", "validation" or "test".

        Raises:
            UnknownNameError: no such part.
        """
        return replace(self, part=require_part(part, self.splits))

    def __len__(self) -> int:
        return len(self.splits[self.part])

    def sample(self, index: int, generator: torch.Generator) -> Sample:
        """The series `index` of this part."""
        row = int(self.splits[self.part][index])
        x_LN = torch.from_numpy((self.series[row] - self.mean) / self.deviation)
        if self.steps is not None:
            x_LN = torch.nn.functional.pad(x_LN[: self.steps], (0, 0, 0, max(0, self.steps - len(x_LN))))
        return {"series": x_LN, "length": len(x_LN), "label": int(self.labels[row])}


def open_labelled(
    data: str | Path, *, normalise: Normalise = "channel", steps: int | None = None
) -> LabelledSeries:
    """Opens a folder of labelled series as its training part; `.split("test")` gives the others.

    Args:
        data: a folder in one of the layouts above.
        normalise: "channel" brings each channel to mean 0 and deviation 1 over the training part.
        steps: L that every sample is cut or filled up to; None: each has its own.

    Raises:
        DataError: the data are missing, malformed, of one class, or the parts do not fit.
    """
    if steps is not None and steps < 1:
        raise ConfigError(f"steps is 1 or more; given {steps}")
    files = _read_parts(Path(data).expanduser())
    first = files["train"]
    classes = first.classes
    for part, file in files.items():
        if file.series[0].shape[1] != first.series[0].shape[1] or not set(file.classes) <= set(classes):
            raise DataError(
                f"the {part} part of {data} has {file.series[0].shape[1]} channels and the classes "
                f"{', '.join(file.classes)}; expected {first.series[0].shape[1]}, and out of {', '.join(classes)}"
            )
    if len(set(first.labels)) < 2:
        raise DataError(f"{data} has training samples of one class only; at least two are needed")
    series = [x_LN for file in files.values() for x_LN in file.series]
    labels = np.array([classes.index(name) for file in files.values() for name in file.labels], np.int64)
    parts, begin = {}, 0
    for part, file in files.items():
        parts[part] = np.arange(begin, begin + len(file.series))
        begin += len(file.series)
    splits = complete(parts, labels, classes)
    filled = sum(int(np.isnan(x_LN).sum()) for x_LN in series)
    series = [_without_gaps(x_LN) for x_LN in series]
    mean, deviation = _moments([series[row] for row in splits["train"]], normalise)
    return LabelledSeries(series, labels, classes, splits, mean, deviation, steps, filled)


def _read_parts(folder: Path) -> dict[str, SeriesFile]:
    if not folder.is_dir():
        raise DataError(
            f"series data {folder} is not a folder; expected one with NAME_TRAIN.ts and NAME_TEST.ts, or with "
            "x_train.npy and y_train.npy"
        )
    found = {path for path in folder.iterdir() if path.suffix.lower() == ".ts"}
    files = {
        part: sorted(path for path in found if path.stem.upper().endswith(f"_{part.upper()}"))
        for part in ("train", "test")
    }
    if len(files["train"]) > 1:
        raise DataError(
            f"{folder} holds several sets, {', '.join(path.name for path in files['train'])}; give each a folder"
        )
    if files["train"]:
        return {part: read_ts(paths[0]) for part, paths in files.items() if paths}
    if (folder / "x_train.npy").is_file():
        return _arrays(folder)
    raise DataError(f"{folder} has no NAME_TRAIN.ts and no x_train.npy")


def _arrays(folder: Path) -> dict[str, SeriesFile]:
    parts = [part for part in ("train", "test") if (folder / f"x_{part}.npy").is_file()]
    arrays = {part: tuple(_array(folder / f"{letter}_{part}.npy") for letter in "xy") for part in parts}
    classes = tuple(map(str, np.unique(np.concatenate([y for _, y in arrays.values()]))))
    files = {}
    for part, (x_SLN, y_S) in arrays.items():
        if x_SLN.ndim != 3 or y_S.shape != x_SLN.shape[:1] or not x_SLN.size or x_SLN.dtype.kind not in "fiu":
            raise DataError(
                f"{folder}/x_{part}.npy is {x_SLN.dtype} {list(x_SLN.shape)} and y_{part}.npy {list(y_S.shape)}; "
                "expected numbers [samples, steps, channels] and one class a sample"
            )
        series = list(x_SLN.astype(np.float32))
        if any(np.isinf(x_LN).any() for x_LN in series):
            raise DataError(f"{folder}/x_{part}.npy has infinite values")
        files[part] = SeriesFile(series, [str(label) for label in y_S], classes)
    return files


def _array(path: Path) -> npt.NDArray[np.generic]:
    try:
        found = load_arrays(path)
    except FileNotFoundError:
        raise DataError(f"{path} is not there") from None
    except DamagedArrayError as error:
        raise DataError(f"cannot read {path}: {error}") from error
    if not isinstance(found, np.ndarray):
        raise DataError(f"{path} holds several arrays; expected one")
    return found


def _without_gaps(x_LN: Floats) -> Floats:
    """Missing values on the line between their neighbours; beyond the ends the nearest; 0 in an empty channel."""
    missing_LN = np.isnan(x_LN)
    if not missing_LN.any():
        return x_LN
    filled, steps = np.nan_to_num(x_LN), np.arange(len(x_LN))
    for n in np.flatnonzero(missing_LN.any(0) & ~missing_LN.all(0)):
        there = ~missing_LN[:, n]
        filled[:, n] = np.interp(steps, steps[there], x_LN[there, n])
    return filled


def _moments(series: list[Floats], normalise: Normalise) -> tuple[Floats, Floats]:
    channels = series[0].shape[1]
    if normalise == "none":
        return np.zeros(channels, np.float32), np.ones(channels, np.float32)
    whole = np.concatenate(series).astype(np.float64)
    deviation = whole.std(0)
    deviation[deviation == 0] = 1.0
    return whole.mean(0).astype(np.float32), deviation.astype(np.float32)
