"""The folder of a comparison.

| file | what |
| --- | --- |
| `plan.json` | what was ever asked for here, complete |
| `comparison.json` | the record: what the last command found |
| `index.html` | the page that shows it |
| `runs/MODEL/seedS/` | a run, see `training.run_folder` and `compare.job` |
| `compare.lock` | held while a comparison is at work |
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from neuromix.compare.job import JOB, RESULT, TIMING, Job, read
from neuromix.compare.lock import locked
from neuromix.compare.plan import FORMAT, Plan, read_plan
from neuromix.core.errors import ConfigError, RunError
from neuromix.core.files import write_json
from neuromix.training.recipe import Recipe, Request, resumed_recipe
from neuromix.training.run_folder import CONFIG, LAST, LINES

PLAN, RECORD, PAGE, LOCK = "plan.json", "comparison.json", "index.html", "compare.lock"


class Folder:
    """The files of one comparison; see the module."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def opened(self, plan: Plan, *, overwrite: bool = False) -> Iterator[None]:
        """Holds the folder for this plan, of which runs may be there already.

        Raises:
            RunError: it holds other runs and is not to be overwritten, another process is at work in it, or it
                cannot be written.
        """
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"{self.path} is a file; a comparison needs a folder")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"cannot make the folder {self.path}: {error.strerror or error}") from error
        with locked(self.path / LOCK):
            if overwrite:
                self._clear(plan)
            write_json(self.path / PLAN, {"format": FORMAT, **self._merged(plan).to_dict()})
            for job in plan.jobs():
                self._require_ours(job)
            yield

    def result(self, job: Job) -> dict[str, Any] | None:
        """What came out of a job that is done; None for one that is not."""
        result = read(self.path / job.folder / RESULT)
        return result if result is not None and result["status"] == "done" else None

    def timing(self, job: Job) -> dict[str, Any] | None:
        """What was timed of a job; None where nothing was."""
        return read(self.path / job.folder / TIMING)

    def forget_timings(self, jobs: Sequence[Job]) -> None:
        """Deletes what was timed."""
        for job in jobs:
            (self.path / job.folder / TIMING).unlink(missing_ok=True)

    def has_begun(self, job: Job) -> bool:
        """Whether there is something to go on with."""
        return (self.path / job.folder / LAST).exists()

    def epochs_done(self, job: Job) -> int:
        """Epochs that a job at work has trained."""
        with suppress(OSError), open(self.path / job.folder / LINES, "rb") as lines:
            return sum(1 for _ in lines)
        return 0

    def epochs(self, job: Job) -> int | None:
        """Epochs that a job trains; None as long as its pilot has not found out."""
        if job.minutes is None:
            return job.recipe.train.epochs
        config = read(self.path / job.folder / CONFIG)
        return None if config is None else int(config["train"]["epochs"])

    def _merged(self, plan: Plan) -> Plan:
        if not (self.path / PLAN).exists():
            return plan
        try:
            return plan.merged(read_plan(self.path / PLAN))
        except ConfigError as error:
            raise RunError(
                f"{self.path} holds a comparison that was asked for otherwise: {error}; "
                "--overwrite replaces it, or give another --out"
            ) from None

    def _require_ours(self, job: Job) -> None:
        """A folder that is there must hold this very job: nothing else is gone on with, or written over."""
        folder = self.path / job.folder
        values = read(folder / JOB)
        if values is None and (folder / CONFIG).exists():
            raise RunError(f"{folder} holds a run that is of no comparison; give another --out")
        if values not in (None, job.to_dict()) and _completed(values) != job.recipe:
            raise RunError(f"{folder} holds another run; --overwrite replaces it, or give another --out")

    def _clear(self, plan: Plan) -> None:
        """Deletes a comparison: what its plan names, and nothing else."""
        jobs = plan.jobs()
        if (self.path / PLAN).exists():
            with suppress(RunError):
                jobs += read_plan(self.path / PLAN).jobs()
        for job in jobs:
            folder = self.path / job.folder
            if (folder / JOB).exists():
                shutil.rmtree(folder)
            for parent in (folder.parent, folder.parent.parent):
                with suppress(OSError):
                    os.rmdir(parent)  # if nothing else is in it
        for name in (RECORD, PAGE, PLAN):
            (self.path / name).unlink(missing_ok=True)


def _completed(values: Any) -> Recipe:
    """The recipe of a job as it was written; fields that are newer have their defaults."""
    return resumed_recipe(Job.from_dict(values).recipe, Request())
