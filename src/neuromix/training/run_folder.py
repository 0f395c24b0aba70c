"""The folder of a run.

| file | what |
| --- | --- |
| `config.json` | all that the run was made from: model, task, methods, training |
| `environment.json` | versions, machine, devices |
| `metrics.jsonl` | a line an epoch: stage, epoch, step, train {loss}, validation {metric}, lr, samples_per_second |
| `best.safetensors` | the weights with the best validation score; a checkpoint like any other |
| `last.safetensors` | the last weights, with everything else that going on exactly needs |
| `final.safetensors` | the finished model, where a method finishes it (fused, pruned) |
| `tensorboard/` | the losses, scores and rate as TensorBoard events, where that was asked for |
| `stage-N.safetensors` | the weights that stage N started from |
| `results.json` | what a method found out after the stages that are over: the accuracies of a sequence of tasks |
| `metrics.json` | the scores of the finished run |

Files are written under another name and renamed, so none is ever half-written; a line is appended as a whole.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from neuromix.core.checkpoint import save_checkpoint
from neuromix.core.errors import ConfigError, RunError, UnknownNameError
from neuromix.core.files import write_json, write_text
from neuromix.core.model import Model
from neuromix.training.recipe import Recipe

FORMAT = 1
CONFIG, ENVIRONMENT, LINES, SCORES = "config.json", "environment.json", "metrics.jsonl", "metrics.json"
RESULTS = "results.json"
BEST, LAST, FINAL, STAGE = "best.safetensors", "last.safetensors", "final.safetensors", "stage-{}.safetensors"
EVENTS = "tensorboard/*/events.out.tfevents.*"
_OURS = (CONFIG, ENVIRONMENT, LINES, SCORES, RESULTS, BEST, LAST, FINAL, STAGE.format("*"), EVENTS)


class RunFolder:
    """The files of one run; see the module."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @classmethod
    def create(
        cls, path: str | Path, recipe: Recipe, environment: Any, *, overwrite: bool = False
    ) -> RunFolder:
        """Starts a new run.

        Raises:
            RunError: the folder holds a run already and it is not to be overwritten, or cannot be written.
        """
        folder = cls(path)
        folder.require_free(overwrite)
        for file in folder._files():
            file.unlink()
        try:
            folder._write(CONFIG, {"format": FORMAT, **recipe.to_dict()})
            folder._write(ENVIRONMENT, environment)
        except RunError:
            folder.discard()
            raise
        return folder

    def discard(self) -> None:
        """Deletes the run, and the folder if nothing else is in it."""
        folders = {parent for file in self._files() for parent in file.parents if self.path in parent.parents}
        for file in self._files():
            file.unlink()
        with suppress(OSError):
            for folder in sorted(folders, reverse=True):
                folder.rmdir()
            self.path.rmdir()

    def require_free(self, overwrite: bool = False) -> None:
        """Raises RunError unless a new run may be started here."""
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"{self.path} is a file; a run needs a folder")
        if self._files() and not overwrite:
            raise RunError(
                f"{self.path} already holds a run; --resume goes on with it, --overwrite replaces it, "
                "or give another --out"
            )

    def recipe(self) -> Recipe:
        """What the run was made from.

        Raises:
            RunError: there is no run, its config.json is damaged, or a newer version wrote it.
        """
        file = self.path / CONFIG
        if not file.is_file():
            raise RunError(f"{self.path} holds no run: it has no {CONFIG}")
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
            version = values.pop("format")
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise RunError(f"{file} is damaged: {error}") from error
        if not isinstance(version, int) or version > FORMAT:
            raise RunError(
                f"{file} is of format {version} and this version of neuromix reads up to {FORMAT}; update neuromix"
            )
        try:
            return Recipe.from_dict(values)
        except (ConfigError, UnknownNameError) as error:
            raise RunError(f"{file} is damaged: {error}") from error

    @property
    def weights(self) -> Path:
        """The file of the weights that the run is worth: the finished model, or else the best one.

        Raises:
            RunError: there are none yet.
        """
        for name in (FINAL, BEST):
            if (self.path / name).is_file():
                return self.path / name
        raise RunError(f"{self.path} has no {BEST}: its run has not finished an epoch yet")

    def save(self, name: str, model: Model, extra: Mapping[str, Tensor] | None = None) -> None:
        """Writes a checkpoint, as a whole or not at all.

        Raises:
            RunError: it cannot be written (a full disk).
        """
        save_checkpoint(model, self.path / name, extra)

    def append(self, record: Mapping[str, Any]) -> None:
        """Adds a line to metrics.jsonl, as a whole or not at all.

        Raises:
            RunError: it cannot be written.
        """
        file = self.path / LINES
        try:
            with open(file, "ab", buffering=0) as lines:
                end = lines.tell()
                try:
                    _write_all(lines.fileno(), json.dumps(record).encode() + b"\n")
                except OSError:
                    lines.truncate(end)
                    raise
        except OSError as error:
            raise RunError(f"cannot write {file}: {error.strerror or error}") from error

    def records(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; one that was cut off when the run was killed is left out."""
        file = self.path / LINES
        text = file.read_text(encoding="utf-8") if file.is_file() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def rewind(self, lines: int) -> None:
        """Goes back to a state with so many lines of metrics, and clears up what a killed run left half-written."""
        for pattern in _OURS:
            for file in self.path.glob(f".{pattern}.*"):
                file.unlink()
        records = self.records()[:lines]
        write_text(self.path / LINES, "".join(json.dumps(record) + "\n" for record in records))

    def write_scores(self, scores: Mapping[str, Any]) -> None:
        """Writes metrics.json, which ends a run."""
        self._write(SCORES, scores)

    def scores(self) -> dict[str, Any] | None:
        """The scores of a finished run, None for one that is not."""
        file = self.path / SCORES
        return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else None

    def write_results(self, results: Mapping[str, Any]) -> None:
        """Writes results.json, in the place of what it said before."""
        self._write(RESULTS, results)

    def results(self) -> dict[str, Any]:
        """What methods have found out so far, by name."""
        file = self.path / RESULTS
        return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}

    def _write(self, name: str, value: Any) -> None:
        write_json(self.path / name, value)

    def _files(self) -> list[Path]:
        return [file for pattern in _OURS for file in self.path.glob(pattern)]


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
