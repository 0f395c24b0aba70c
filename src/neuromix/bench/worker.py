"""The process of one contestant (see `contest`): prepares once, then runs whenever it is told to."""

from __future__ import annotations

import importlib
import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any


def main() -> None:
    """Answers each line of standard input with one line on standard output."""
    # What libraries print must not get between the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    run: Callable[[], Any] | None = None
    at_rest = 0
    for line in sys.stdin:
        message = json.loads(line)
        if isinstance(message, dict):
            answer, run, at_rest = _prepare(message)
        elif message == "go":
            assert run is not None
            answer = {"seconds": _turn(run)}
        else:
            answer = {"peak_bytes": max(0, _peak_bytes() - at_rest)}
        print(json.dumps(answer), file=answers, flush=True)


# A turn is several runs: while the others had theirs, caches and clock went down. Where a run takes longer than
# LONG_S that does not matter, and it is the whole turn.
LONG_S = 1.0
TURN_S = 0.25
MOST_RUNS = 10


def _turn(run: Callable[[], Any]) -> float:
    """The median of the runs of a turn, the first left out."""
    first = _seconds(run)
    if first > LONG_S:
        return first
    seconds = [_seconds(run)]
    while sum(seconds) < TURN_S and len(seconds) < MOST_RUNS:
        seconds.append(_seconds(run))
    return statistics.median(seconds)


def _seconds(run: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def _prepare(message: dict[str, Any]) -> tuple[dict[str, Any], Callable[[], Any] | None, int]:
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    module, _, function = message["prepare"].partition(":")
    try:
        prepare = getattr(importlib.import_module(module), function)
        at_rest = _peak_bytes()
        return {}, prepare(**message["options"]), at_rest
    except ModuleNotFoundError as error:
        return {"missing": f"{error.name} is not installed"}, None, 0


def _peak_bytes() -> int:
    """The most resident memory so far. On Linux, what getrusage tells includes the parent before it became us."""
    try:
        with open("/proc/self/status", encoding="ascii") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    main()
