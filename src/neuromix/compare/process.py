"""Starting the process of a job, and learning how it ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Literal, NamedTuple

from neuromix.compare.job import JOB, LOG, RESULT, Job, read
from neuromix.core.errors import RunError
from neuromix.core.files import write_json

# Of torchrun: a job is a run of its own, whatever it was started under.
_FOREIGN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")

What = Literal["train", "time"]


class Outcome(NamedTuple):
    """How a job ended; `error` is one line where it failed."""

    status: Literal["done", "failed", "stopped"]
    error: str | None = None


class JobProcess:
    """The process of one job, on this machine. It ends when this one does.

    Args:
        what: "train" (with all that follows), or "time".
        out: the folder of the comparison.

    Raises:
        RunError: it cannot be started.
    """

    def __init__(self, what: What, out: Path, job: Job) -> None:
        self._what, self._folder, self._stopped = what, out / job.folder, False
        if what == "train":
            write_json(self._folder / JOB, job.to_dict())
            (self._folder / RESULT).unlink(missing_ok=True)  # of a try that failed
        threads = str(job.recipe.train.threads or 1)
        environment = {name: value for name, value in os.environ.items() if name not in _FOREIGN}
        try:
            with open(self._folder / LOG, "ab") as log:
                self._begin = log.tell()
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "neuromix.compare.worker", what, str(self._folder)],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,  # Ctrl-C reaches this process, which then tells its jobs once
                    env={**environment, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
                )
        except OSError as error:
            raise RunError(f"cannot start a job in {self._folder}: {error.strerror or error}") from error

    def wait(self, seconds: float) -> Outcome | None:
        """How it ended; None if it still works after so many seconds."""
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        assert self._process.stdin is not None
        self._process.stdin.close()
        return self._outcome(code)

    def stop(self) -> None:
        """Asks it to save and to end; only the first time counts."""
        if not self._stopped:
            self._stopped = True
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Ends it at once."""
        self._process.kill()
        self._process.communicate()

    def _outcome(self, code: int) -> Outcome:
        result = read(self._folder / RESULT) if self._what == "train" else None
        if result is not None:
            return Outcome(result["status"], result["error"])
        if code == 0:
            return Outcome("done")
        if self._stopped:
            return Outcome("stopped")
        if code < 0:
            hint = "; the machine may have run out of memory" if code == -signal.SIGKILL else ""
            return Outcome("failed", f"ended by signal {signal.Signals(-code).name}{hint}")
        return Outcome("failed", self._last_words() or f"exit code {code}")

    def _last_words(self) -> str:
        with open(self._folder / LOG, encoding="utf-8", errors="replace") as log:
            log.seek(self._begin)
            lines = [line.strip() for line in log if line.strip()]
        return lines[-1].removeprefix("error: ") if lines else ""
