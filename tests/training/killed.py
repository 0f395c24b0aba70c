"""Runs that are stopped: `python -m tests.training.killed FOLDER NAME=WHAT:N ...`, each in a forked process.

WHAT is `step` (SIGKILL after step N), `epoch` (after the record of epoch N), `write` (in the middle of the N-th
checkpoint), `sigint` and `sigterm` (that signal after step N), or `group` (SIGTERM to the whole process group, of
which a process that reads data is one). Prints {NAME: [exit code, standard error]}.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning_fabric  # noqa: F401 (read once, before the processes part)
import torchmetrics.classification  # noqa: F401

import tests.training.tiny  # noqa: F401 (registers the nets)
from neuromix.core import checkpoint
from neuromix.training.api import train
from neuromix.training.observer import Observer
from neuromix.training.signals import Interrupted

OPTIONS = {"epochs": 2, "batch_size": 128, "ema": 0.9, "checkpoint_steps": 3}


class Killer(Observer):
    def __init__(self, number: int, step: int = 0, epoch: int = 0, group: bool = False) -> None:
        self.number, self.step, self.at_epoch, self.group = number, step, epoch, group

    def send(self) -> None:
        os.kill(0 if self.group else os.getpid(), self.number)

    def batch(self, done: int, loss: float) -> None:
        if done == self.step:
            self.send()

    def epoch(self, record: Mapping[str, Any]) -> None:
        if record["epoch"] == self.at_epoch:
            self.send()


def kill_while_writing(count: int) -> None:
    save, left = checkpoint.save_file, [count]

    def half(tensors: Any, path: Path, metadata: Any) -> None:
        save(tensors, path, metadata)
        left[0] -= 1
        if left[0] == 0:
            with open(path, "rb+") as file:
                file.truncate(path.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    checkpoint.save_file = half


def run(out: Path, what: str, number: int) -> int:
    observer, options = Observer(), {**OPTIONS}
    if what == "write":
        kill_while_writing(number)
    elif what == "group":
        os.setsid()
        observer, options["workers"] = Killer(signal.SIGTERM, step=number, group=True), 1
    elif what.startswith("sig"):
        observer = Killer(signal.Signals[what.upper()], step=number)
    else:
        observer = Killer(signal.SIGKILL, **{what: number})
    try:
        train("tiny_test_net", "digits", out, observer=observer, **options)
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        return 128 + stop.number
    return 0


def in_a_process(folder: Path, name: str, what: str, number: int) -> tuple[int, str]:
    errors = folder / f"{name}.txt"
    child = os.fork()
    if child == 0:
        sys.stderr = open(errors, "w", buffering=1)  # noqa: SIM115
        os._exit(run(folder / name, what, number))
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), errors.read_text()


if __name__ == "__main__":
    results = {}
    for text in sys.argv[2:]:
        name, _, when = text.partition("=")
        what, _, count = when.partition(":")
        results[name] = in_a_process(Path(sys.argv[1]), name, what, int(count))
    print(json.dumps(results))
