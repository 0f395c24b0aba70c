"""TensorBoard: an observer that writes what a run tells as events, a folder a stage, beside the run's own files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neuromix.core.errors import MissingExtraError, RunError
from neuromix.training.observer import Observer

FOLDER = "tensorboard"


def require_tensorboard() -> None:
    """Refuses before anything is trained.

    Raises:
        MissingExtraError: the package tensorboard is not installed.
    """
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("logging for TensorBoard", "tensorboard") from error


class TensorBoard(Observer):
    """Scalars: `loss` of a step, and after each epoch `train/LOSS`, `validation/METRIC`, `lr`, `samples_per_second`.

    Their steps are optimiser steps of the stage. A run that is resumed goes on from its checkpoint: what was
    logged after it is hidden.

    Args:
        run: the folder of the run.
    """

    def __init__(self, run: Path) -> None:
        self._folder = run / FOLDER
        self._writer: Any = None

    def stage(self, name: str, number: int, steps: int, done: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.close()
        try:
            self._writer = SummaryWriter(self._folder / name, purge_step=done + 1)
        except OSError as error:
            raise RunError(f"cannot write {self._folder}: {error.strerror or error}") from error

    def batch(self, done: int, loss: float) -> None:
        self._writer.add_scalar("loss", loss, done)

    def epoch(self, record: Mapping[str, Any]) -> None:
        groups = {"train": record["train"], "validation": record["validation"]}
        scalars = {
            f"{group}/{name}": value for group, values in groups.items() for name, value in values.items()
        }
        scalars |= {name: record[name] for name in ("lr", "samples_per_second") if record[name] is not None}
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, record["step"])
        self._writer.flush()

    def close(self) -> None:
        """Writes out what is still held back."""
        if self._writer is not None:
            self._writer.close()
