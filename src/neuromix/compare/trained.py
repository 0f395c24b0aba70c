"""The training of a job: begun, or gone on with exactly where it was."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from neuromix.compare.job import Job
from neuromix.compare.pilot import epochs_within
from neuromix.training.api import RunResult, train_as_asked
from neuromix.training.recipe import Recipe
from neuromix.training.run_folder import CONFIG, RunFolder
from neuromix.training.task import Task


def train_job(job: Job, folder: Path) -> RunResult:
    """Trains a job in its folder. How many epochs fit into a time is found out once: the run then knows its own.

    Raises:
        NeuromixError: as `train`.
        Interrupted: a signal came; the run is saved.
    """
    epochs = None if job.minutes is not None else job.recipe.train.epochs
    if (folder / CONFIG).is_file():
        return train_as_asked(job.request(epochs), folder, resume=True)
    if job.minutes is not None:
        epochs = epochs_within(job.minutes, job, folder)
    return train_as_asked(job.request(epochs), folder)


def history(folder: Path, recipe: Recipe, task: Task) -> dict[str, Any]:
    """What the training of a finished run took, and how it went, epoch by epoch.

    Returns:
        epochs; train_seconds: the time of its steps alone, without what was lost when it was stopped, validation and
        saving; curve: epoch, loss and validation score.
    """
    records = RunFolder(folder).records()
    return {
        "epochs": recipe.train.epochs,
        "train_seconds": _step_seconds(records, min(recipe.train.batch_size, len(task.data("train")))),
        "curve": {
            "epoch": list(range(1, len(records) + 1)),
            "loss": [record["train"]["loss"] for record in records],
            "score": [record["validation"][task.score] for record in records],
        },
    }


def _step_seconds(records: list[dict[str, Any]], batch_size: int) -> float | None:
    """Samples over samples per second; an epoch whose speed was not seen took as long as the others."""
    seen = [record["samples_per_second"] for record in records if record["samples_per_second"]]
    if not seen:
        return None
    seconds, before = 0.0, 0
    for record in records:
        steps = (
            record["step"] - before if record["step"] > before else record["step"]
        )  # a stage counts its own
        seconds += steps * batch_size / (record["samples_per_second"] or statistics.median(seen))
        before = record["step"]
    return round(seconds, 3)
