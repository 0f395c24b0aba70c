"""Latency and throughput: how long a run takes on this machine, as the median of many, with its spread.

Nothing else in the library depends on the clock; figures of two machines, or of one that others share, do not
compare.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from neuromix.core.errors import ConfigError
from neuromix.measure.inputs import Inputs, batch_size, device_of, resized, runner
from neuromix.measure.untouched import untouched

LOW, HIGH = 10, 90  # percentiles that are given as the spread
WARM_UP, RUNS = 5, 30


@dataclass(frozen=True)
class Latency:
    """How long one run takes.

    Attributes:
        median, low, high: seconds; the 50th, 10th and 90th percentile of the runs.
        runs: that were timed; `warm_up` runs before them were not.
        threads: of PyTorch on the CPU.
        batch_size: samples in a run; None where it is not known.
    """

    median: float
    low: float
    high: float
    runs: int
    warm_up: int
    threads: int
    batch_size: int | None = None

    @property
    def throughput(self) -> float:
        """Samples per second: batch_size / median.

        Raises:
            ConfigError: the batch size is not known.
        """
        if self.batch_size is None:
            raise ConfigError("throughput needs the batch size of what was timed; give latency a batch_size")
        return self.batch_size / self.median

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def latency(
    run: Callable[[], object],
    *,
    warm_up: int = WARM_UP,
    runs: int = RUNS,
    threads: int | None = None,
    device: torch.device | str | None = None,
    batch_size: int | None = None,
    on_run: Callable[[], object] | None = None,
) -> Latency:
    """Times a function without arguments, as it is: mode and gradients are the caller's.

    Args:
        warm_up: runs before, which are not timed.
        runs: that are timed, one by one.
        threads: of PyTorch on the CPU while it runs; None leaves them as they are.
        device: where it computes; a GPU is waited for before each look at the clock.
        batch_size: samples in a run, for `Latency.throughput`.
        on_run: called after each run, outside of the measured time.

    Raises:
        ConfigError: no run, a negative warm-up, or no thread.

    Example:
        >>> latency(lambda: torch.ones(8) @ torch.ones(8), threads=1).median < 1
        True
    """
    if runs < 1 or warm_up < 0 or (threads is not None and threads < 1):
        raise ConfigError(
            f"a latency needs runs >= 1, warm_up >= 0 and threads >= 1; "
            f"given runs={runs}, warm_up={warm_up}, threads={threads}"
        )
    on = torch.device(device or "cpu")
    seconds = []
    with _threads(threads):
        for _ in range(warm_up + runs):
            seconds.append(_timed(run, on))
            if on_run is not None:
                on_run()
        used = torch.get_num_threads()
    low, median, high = (float(q) for q in np.percentile(seconds[warm_up:], (LOW, 50, HIGH)))
    return Latency(median, low, high, runs, warm_up, used, batch_size)


def measure_latency(model: nn.Module, inputs: Inputs, **how: Any) -> Latency:
    """The latency of one forward pass in eval mode and without gradients; the model is left as it was.

    Args:
        inputs: a Batch (the fields that the model names), the tensor that it takes, or several of them; on the
            device of the model.
        how: `warm_up`, `runs`, `threads` and `on_run` of `latency`.

    Raises:
        ConfigError, ShapeError: as of `latency`; the model does not take the inputs.
    """
    fast_attention = torch.backends.mha.get_fastpath_enabled()
    with untouched(model):
        # Counting has to see the products inside of attention; the clock wants what the user runs.
        torch.backends.mha.set_fastpath_enabled(fast_attention)
        size = batch_size(model, inputs)
        return latency(runner(model, inputs), device=device_of(model), batch_size=size, **how)


def throughput(model: nn.Module, inputs: Inputs, size: int | None = None, **how: Any) -> float:
    """Samples per second at a batch size: size / median seconds, timed as `measure_latency` does.

    Args:
        size: samples in a run: those of `inputs`, repeated or cut; None takes `inputs` as they are.
        how: as of `measure_latency`.

    Raises:
        ConfigError, ShapeError: as of `measure_latency`; a size below 1.
    """
    return measure_latency(model, inputs if size is None else resized(model, inputs, size), **how).throughput


def _timed(run: Callable[[], object], device: torch.device) -> float:
    _wait_for(device)
    begin = time.perf_counter()
    run()
    _wait_for(device)
    return time.perf_counter() - begin


def _wait_for(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


@contextmanager
def _threads(number: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    try:
        if number is not None:
            torch.set_num_threads(number)
        yield
    finally:
        torch.set_num_threads(before)
