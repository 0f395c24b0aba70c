"""Jobs on a Ray cluster: one that is started on this machine for them, or one that is there."""

from __future__ import annotations

import importlib
import logging
import os
import socket
import time
import uuid
from pathlib import Path
from typing import Any

import neuromix
from neuromix.compare.job import RESULT, Job
from neuromix.compare.process import JobProcess, Outcome, What
from neuromix.core.errors import MissingExtraError, RunError
from neuromix.core.files import write_text

MARKER = ".cluster"  # a file that every machine of the cluster must see
_ALL = 1_000_000  # jobs that a cluster is given at a time: it knows itself how many it has room for
_GRACE = 60.0  # seconds in which a job that is asked to stop does so
_PATIENCE = 30.0  # seconds until a machine that does not see a file is taken to have another file system
_STORE = 80 << 20  # bytes of Ray's object store, near its minimum: results are files


def require_extra() -> Any:
    """The module `ray`.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise MissingExtraError("a comparison with several runs at a time", "sweep") from error


class RayPool:
    """Runs each job in a task of Ray's, which starts a process for it as `LocalPool` does.

    Args:
        out: folder of the comparison; all machines must see it under the same path.
        workers: jobs at a time; None leaves it to the cluster.
        address: of a cluster that is there, "auto" for the one of this machine; None starts one here. Where this
            process is connected to a cluster already, that one is taken.
        threads: of each job, which takes so many CPUs of a cluster that is there.
        device: a job for "cuda" takes a GPU, or on this machine its share of those that there are.

    Raises:
        MissingExtraError: Ray is not installed.
        RunError: there is no cluster, or a machine of it does not see `out` or has another version of neuromix.
    """

    def __init__(
        self, out: Path, *, workers: int | None, address: str | None, threads: int, device: str
    ) -> None:
        ray = require_extra()
        self._ray, self._out = ray, out
        self._jobs: dict[Any, Job] = {}
        self.places = workers or _ALL
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody
        self._is_ours = not ray.is_initialized()
        if self._is_ours:
            _connect(ray, address, workers or 1)
        cpus, gpus = (
            (1, ray.cluster_resources().get("GPU", 0) / self.places) if address is None else (threads, 1)
        )
        self._run = ray.remote(_run).options(
            num_cpus=cpus, num_gpus=min(1, gpus) if device == "cuda" else 0, max_retries=0
        )
        if address is not None:
            _require_shared(ray, out)

    def start(self, what: What, job: Job) -> None:
        self._jobs[self._run.remote(what, str(self._out), job.to_dict())] = job

    def ended(self, seconds: float) -> list[tuple[Job, Outcome]]:
        ready, _ = self._ray.wait(list(self._jobs), num_returns=1, timeout=seconds)
        ended = [(self._jobs.pop(task), self._outcome(task)) for task in ready]
        for job, outcome in ended:
            if outcome.status == "done":
                _text(self._out / job.folder / RESULT, _PATIENCE)  # until this machine sees it too
        return ended

    def stop(self) -> None:
        for task in self._jobs:
            self._ray.cancel(task)

    def close(self) -> None:
        for task in self._jobs:
            self._ray.cancel(task, force=True)
        if self._is_ours:
            self._ray.shutdown()

    def _outcome(self, task: Any) -> Outcome:
        try:
            return Outcome(*self._ray.get(task))
        except self._ray.exceptions.TaskCancelledError:
            return Outcome("stopped")
        except self._ray.exceptions.RayError as error:
            return Outcome("failed", f"lost by the cluster: {_first_line(error)}")


def _run(what: What, out: str, values: dict[str, Any]) -> tuple[str, str | None]:
    """The task: has a job done by a process of its own."""
    process = JobProcess(what, Path(out), Job.from_dict(values))
    try:
        while (outcome := process.wait(0.1)) is None:  # in short turns, between which it can be cancelled
            pass
        return outcome.status, outcome.error
    except KeyboardInterrupt:  # how a task is cancelled
        process.stop()
        if process.wait(_GRACE) is None:
            process.kill()
        raise


def _connect(ray: Any, address: str | None, cpus: int) -> None:
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address is not None:
            _require_answer(address)
            ray.init(address=address, **quiet)
        else:
            ray.init(
                address="local", num_cpus=cpus, include_dashboard=False, object_store_memory=_STORE, **quiet
            )
    except (OSError, ValueError, RuntimeError) as error:
        where = f"the Ray cluster at {address}" if address is not None else "a Ray cluster on this machine"
        raise RunError(f"cannot use {where}: {_first_line(error)}") from error


def _require_answer(address: str) -> None:
    """Whether anything is there; Ray itself would try for ten minutes."""
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=_PATIENCE).close()


def _require_shared(ray: Any, out: Path) -> None:
    """Asks every machine of the cluster for the text in a file of `out`, and for its version of neuromix."""
    strategies = importlib.import_module("ray.util.scheduling_strategies")
    text = uuid.uuid4().hex
    write_text(out / MARKER, text)
    nodes = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
    look = ray.remote(_look)
    tasks = {
        address: look.options(
            num_cpus=0,
            scheduling_strategy=strategies.NodeAffinitySchedulingStrategy(node, soft=False),
            max_retries=0,
        ).remote(str(out / MARKER), _PATIENCE)
        for node, address in nodes.items()
    }
    for address, task in tasks.items():
        try:
            seen, version = ray.get(task, timeout=_GRACE)
        except ray.exceptions.RayError as error:
            raise RunError(
                f"machine {address} of the cluster cannot run neuromix: {_first_line(error)}"
            ) from error
        if seen != text:
            raise RunError(
                f"machine {address} of the cluster does not see {out}; give a folder that all machines share"
            )
        if version != neuromix.__version__:
            raise RunError(
                f"machine {address} of the cluster has neuromix {version}, this one {neuromix.__version__}"
            )
    (out / MARKER).unlink(missing_ok=True)


def _look(file: str, patience: float) -> tuple[str | None, str]:
    return _text(Path(file), patience), neuromix.__version__


def _text(file: Path, patience: float) -> str | None:
    """What is in a file that another machine wrote: a network file system may take its time to show it."""
    until = time.monotonic() + patience
    while True:
        try:
            return file.read_text(encoding="utf-8")
        except FileNotFoundError:
            if time.monotonic() > until:
                return None
        time.sleep(0.1)


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
