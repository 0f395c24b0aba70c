"""Job: one run of a comparison - a model with a seed - and the files that its process works with.

Its folder is that of the training run, with these files beside those of the run:

| file | what |
| --- | --- |
| `job.json` | what is to be done |
| `job.log` | all that its processes printed |
| `job.lock` | held by the process that works here |
| `result.json` | what came out, or why nothing did |
| `timing.json` | latency and throughput, measured when nothing else ran |
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuromix.core.config import Config, Spec
from neuromix.training.recipe import Recipe, Request

JOB, LOG, LOCK, RESULT, TIMING = "job.json", "job.log", "job.lock", "result.json", "timing.json"


@dataclass(frozen=True)
class Job(Config):
    """One run, complete; `model`, `task` and `train` hold what was asked for, `recipe` every value."""

    model: Spec
    task: Spec
    train: Mapping[str, Any]
    recipe: Recipe
    minutes: float | None = None  # of training; the epochs of the recipe do not count then

    @property
    def seed(self) -> int:
        return self.recipe.train.seed

    @property
    def name(self) -> str:
        """For people: "poolformer_nano, seed 3"."""
        return f"{self.model.name}, seed {self.seed}"

    @property
    def folder(self) -> str:
        """Relative to that of the comparison."""
        return f"runs/{self.model.name}/seed{self.seed}"

    def request(self, epochs: int | None) -> Request:
        """What the training loop is asked for; without epochs where a run that goes on knows its own."""
        train = {key: value for key, value in self.recipe.train.to_dict().items() if key != "epochs"}
        return Request(
            self.recipe.model.name,
            self.recipe.task.name,
            model_config=self.recipe.model.options,
            task_config=self.recipe.task.options,
            train_config=train if epochs is None else {**train, "epochs": epochs},
        )

    def command(self, epochs: int) -> str:
        """The same training alone, as it can be pasted."""
        words = ["neuromix", "train", "--task", self.task.name, "--model", self.model.name]
        words += ["--epochs", str(epochs), "--seed", str(self.seed)]
        task, train = dict(self.task.options), {"threads": self.recipe.train.threads, **self.train}
        data = task.pop("data", None)
        words += [] if data is None else ["--data", str(data)]
        words += (
            assignments("", self.model.options) + assignments("task.", task) + assignments("train.", train)
        )
        return shlex.join(words)


def assignments(prefix: str, values: Mapping[str, Any], option: str = "--set") -> list[str]:
    """Words of a command line that set these values."""
    return [word for key, value in values.items() for word in (option, f"{prefix}{key}={_written(value)}")]


def _written(value: Any) -> str:
    """A value so that `parse_assignments` reads it again."""
    if isinstance(value, str) and not _is_json(value):
        return value
    return json.dumps(value, separators=(",", ":"))


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except json.JSONDecodeError:
        return False
    return True


def read(file: Path) -> dict[str, Any] | None:
    """The JSON object in a file of a job; None where there is none."""
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
