"""The process of one job: `python -m neuromix.compare.worker train|time FOLDER`.

It lives as long as the pipe on its standard input is open: when the process that started it ends, however that comes
about, this one ends too.
"""

from __future__ import annotations

import os
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

from neuromix.compare.job import JOB, LOCK, RESULT, TIMING, Job, read
from neuromix.compare.lock import locked
from neuromix.core.allocator import may_tune_allocator, tune_allocator
from neuromix.core.errors import NeuromixError, RunError
from neuromix.core.files import write_json
from neuromix.training.signals import Interrupted

PATIENCE = 30.0  # seconds for a process that still works there, and is dying, to let go


def main(arguments: list[str]) -> int:
    """Does what is asked for; an exit code as of the command line."""
    what, folder = arguments[0], Path(arguments[1])
    _end_with_parent()
    if may_tune_allocator(os.environ):
        tune_allocator()
    try:
        with locked(folder / LOCK, patience=PATIENCE):
            return _do(what, folder)
    except NeuromixError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _do(what: str, folder: Path) -> int:
    try:
        {"train": _train, "time": _time}[what](_job(folder), folder)
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        return 128 + stop.number
    except NeuromixError as error:
        return _failed(folder, what, str(error))
    except Exception as error:
        traceback.print_exc()
        return _failed(folder, what, f"{type(error).__name__}: {error}")
    return 0


def _job(folder: Path) -> Job:
    values = read(folder / JOB)
    if values is None:
        raise RunError(f"{folder} has no {JOB}")
    return Job.from_dict(values)


def _train(job: Job, folder: Path) -> None:
    """Trains, scores and measures."""
    import torch

    from neuromix.compare.measured import measured
    from neuromix.compare.trained import history, train_job
    from neuromix.core import registry
    from neuromix.training.run_folder import RunFolder

    torch.set_num_threads(job.recipe.train.threads or 1)
    run = train_job(job, folder)
    recipe = RunFolder(folder).recipe()
    task = registry.build("task", recipe.task)
    found: dict[str, Any] = {"test": run.test, "validation": run.validation}
    found |= history(folder, recipe, task)
    found |= measured(run.model(), task, recipe.train)
    write_json(folder / RESULT, {"status": "done", "error": None, **found})


def _time(job: Job, folder: Path) -> None:
    """Measures what only a machine at rest tells."""
    from neuromix.compare.timed import timed

    write_json(folder / TIMING, timed(job, folder))


def _failed(folder: Path, what: str, message: str) -> int:
    """Keeps why in one line."""
    line = " ".join(message.strip().partition("\n")[0].split())
    print(f"error: {line}", file=sys.stderr)
    if what == "train":
        write_json(folder / RESULT, {"status": "failed", "error": line})
    return 2


def _end_with_parent() -> None:
    """Ends this process, at once and with its children, when its standard input does."""

    def watch() -> None:
        while os.read(0, 1):
            pass
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
