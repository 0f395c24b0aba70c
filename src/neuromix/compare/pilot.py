"""How many epochs fit into some minutes: a short timed pilot of training steps and of validation."""

from __future__ import annotations

import shutil
import statistics
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from neuromix.compare.job import Job
from neuromix.core import registry
from neuromix.core.checkpoint import build_model
from neuromix.core.errors import NeuromixError
from neuromix.training.api import train_as_asked
from neuromix.training.devices import default_workers, make_fabric
from neuromix.training.evaluate import evaluate
from neuromix.training.observer import Observer
from neuromix.training.recipe import Recipe, Request, new_recipe
from neuromix.training.task import Task

SHARE, LONGEST = (
    0.05,
    10.0,
)  # of the time that is to be planned, and seconds, that each of the two parts takes
FEWEST = 3  # timed steps or batches, whatever they take


def epochs_within(minutes: float, job: Job, folder: Path) -> int:
    """So many epochs of this job, each with its validation, as take no longer than that on this machine; at least 1.

    The pilot trains in `folder/pilot`, which is gone afterwards; the run itself starts afresh.
    """
    return max(1, int(60 * minutes / _epoch_seconds(job, folder, min(LONGEST, SHARE * 60 * minutes))))


def _epoch_seconds(job: Job, folder: Path, seconds: float) -> float:
    """What an epoch takes: steps * median of a step + batches * median of a validation batch."""
    recipe, task = new_recipe(_endless(job))
    size = recipe.train.batch_size
    steps, batches = max(1, len(task.data("train")) // size), -(-len(task.data("validation")) // size)
    step = _step_seconds(job, folder / "pilot", seconds)
    return steps * step + batches * _batch_seconds(recipe, task, seconds)


def _step_seconds(job: Job, folder: Path, seconds: float) -> float:
    watch = Stopwatch(seconds)
    try:
        train_as_asked(_endless(job), folder, overwrite=True, observer=watch)
    except Enough:
        return watch.median()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    raise AssertionError


def _endless(job: Job) -> Request:
    """The training of a job, without an end and without saving."""
    request = job.request(epochs=1_000_000)
    train = {**request.train_config, "max_steps": None, "checkpoint_steps": None, "checkpoint_seconds": 1e9}
    return replace(request, train_config=train)


def _batch_seconds(recipe: Recipe, task: Task, seconds: float) -> float:
    """Of a batch of validation, with a model that has learnt nothing."""
    name, config, watch = recipe.model.name, recipe.train, Stopwatch(seconds)
    fabric = make_fabric(config)
    model = build_model(name, registry.find("model", name)[1].replace(**recipe.model.options))
    with suppress(Enough):
        evaluate(
            model.to(fabric.device),
            task,
            "validation",
            batch_size=config.batch_size,
            workers=default_workers(config, fabric),
            fabric=fabric,
            on_batch=lambda done, batches: watch.look(done),
        )
        watch.look(-(-len(task.data("validation")) // config.batch_size))
    return watch.median()


class Enough(NeuromixError):
    """The pilot has seen what it needs; the training loop takes it for an error and cleans up."""


class Stopwatch(Observer):
    """Times steps until so many seconds are over, then ends what calls it; the first interval does not count.

    Args:
        seconds: that the timed intervals take together.
    """

    def __init__(self, seconds: float) -> None:
        self.intervals: list[float] = []  # seconds a step
        self._left = seconds
        self._last: tuple[int, float] | None = None

    def batch(self, done: int, loss: float) -> None:
        self.look(done)

    def look(self, done: int) -> None:
        """`done` steps are done now."""
        now = time.perf_counter()
        if self._last is not None and done > self._last[0]:
            self.intervals.append((now - self._last[1]) / (done - self._last[0]))
            self._left -= now - self._last[1]
            if self._left < 0 and len(self.intervals) > FEWEST:
                raise Enough
        self._last = (done, now)

    def median(self) -> float:
        """Seconds a step; where there was only one, nothing is known and it counts for nothing."""
        return statistics.median(self.intervals[1:] or self.intervals or [0.0])
