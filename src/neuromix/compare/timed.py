"""Latency and throughput of a trained model on this machine, which should do nothing else meanwhile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from neuromix.compare.environment import environment
from neuromix.compare.job import Job
from neuromix.compare.measured import spaced_samples
from neuromix.core import registry
from neuromix.core.checkpoint import load_checkpoint
from neuromix.measure.timing import measure_latency, throughput
from neuromix.training.run_folder import RunFolder
from neuromix.training.task import Task

BATCH = 32  # samples at a time for the throughput; the latency is that of one


def timed(job: Job, folder: Path) -> dict[str, Any]:
    """Times the model of a finished run on test samples, on the CPU, with the threads that it was trained with."""
    threads = job.recipe.train.threads or 1
    task: Task = registry.build("task", job.recipe.task)
    model = load_checkpoint(RunFolder(folder).weights).eval()
    one = measure_latency(model, spaced_samples(task, 1), threads=threads)
    many = throughput(model, spaced_samples(task, BATCH), BATCH, threads=threads, warm_up=1, runs=5)
    return {"latency": one.to_dict(), "throughput": many, "environment": environment(threads)}
