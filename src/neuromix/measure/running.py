"""measure_running: what a model takes on this machine - seconds and bytes - in one go."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from neuromix.core.errors import NeuromixError
from neuromix.measure.inputs import Inputs, batch_size, resized
from neuromix.measure.memory import Objective, forward_memory, training_memory
from neuromix.measure.timing import RUNS, WARM_UP, Latency, measure_latency

BATCH_SIZE = 8
BATCH_WARM_UP, BATCH_RUNS = 1, 5  # of a whole batch, which varies less
TIMED_RUNS = WARM_UP + RUNS + BATCH_WARM_UP + BATCH_RUNS


@dataclass(frozen=True)
class Running:
    """What a model takes on this machine.

    Attributes:
        latency: of one sample.
        batch: latency of a batch, whose `throughput` is in samples per second.
        forward_memory: peak bytes of a forward pass of `memory_batch_size` samples, without parameters and inputs.
        training_memory: of a training step: forward, loss, backward, gradients; None where it failed.
        training_failed: why, in one line.
    """

    latency: Latency
    batch: Latency
    forward_memory: int
    training_memory: int | None
    training_failed: str
    memory_batch_size: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: latency, throughput, memory."""
        return {
            "latency": self.latency.to_dict(),
            "throughput": {"samples_per_second": self.batch.throughput, **self.batch.to_dict()},
            "memory": {
                "forward": self.forward_memory,
                "training": self.training_memory,
                "training_failed": self.training_failed,
                "batch_size": self.memory_batch_size,
            },
        }


def measure_running(
    model: nn.Module,
    inputs: Inputs,
    *,
    size: int = BATCH_SIZE,
    objective: Objective | None = None,
    threads: int | None = None,
    on_run: Callable[[], object] | None = None,
) -> Running:
    """Latency of one sample, throughput of a batch, and peak memory of a forward pass and of a training step.

    The model is left as it was.

    Args:
        inputs: as of `measure_latency`; memory is that of all its samples.
        size: samples of the batch.
        objective: the loss of a model, as of `training_memory`; by default the sum of the output.
        threads: of PyTorch on the CPU; None leaves them as they are.
        on_run: called after each of TIMED_RUNS runs.

    Raises:
        ConfigError, ShapeError: as of `measure_latency`.
    """
    one, many = resized(model, inputs, 1), resized(model, inputs, size)
    training, failed = _training_memory(model, inputs, objective)
    return Running(
        latency=measure_latency(model, one, threads=threads, on_run=on_run),
        batch=measure_latency(
            model, many, threads=threads, on_run=on_run, warm_up=BATCH_WARM_UP, runs=BATCH_RUNS
        ),
        forward_memory=forward_memory(model, inputs),
        training_memory=training,
        training_failed=failed,
        memory_batch_size=batch_size(model, inputs),
    )


def _training_memory(model: nn.Module, inputs: Inputs, objective: Objective | None) -> tuple[int | None, str]:
    """Peak bytes, or why a network that runs cannot be trained, or not on so few samples."""
    try:
        if objective is not None:
            return training_memory(model, objective=objective), ""
        return training_memory(model, inputs), ""
    except (NeuromixError, RuntimeError, ValueError) as error:
        return None, f"{type(error).__name__}: {' '.join(str(error).split())}"
