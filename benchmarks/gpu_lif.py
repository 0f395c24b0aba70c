"""LIF neurons on a GPU, forward and backward: our kernels, SpikingJelly's, and the copy bandwidth of the device.

Per neuron and step 20 bytes must move in float32, 10 in bfloat16: forward reads x and writes the spikes, backward
reads x and a gradient and writes a gradient. `copy` moves as many. Contestants take turns within a process; there is
one process for each implementation that SpikingJelly has, which it chooses once. Prints one JSON object.

    python benchmarks/gpu_lif.py > gpu_lif.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import torch

import neuromix
from neuromix.bench.peers import SpikingJellyLIF
from neuromix.neurons import LIF

NEURONS = {"512k": 512 * 1024, "8M": 8 * 1024 * 1024}
STEPS = (4, 16)
DTYPES = (torch.float32, torch.bfloat16)
TENSORS_MOVED = 5  # of x's size: two forward, three backward
CHOICE = "SJ_LIF_CUDA_IMPLEMENTATION"  # which implementation SpikingJelly takes, read when it is imported
IMPLEMENTATIONS = ("cuda", "triton", "torch")
Run = Callable[[], Any]


def training_step(
    neuron: Callable[[torch.Tensor], torch.Tensor], steps: int, neurons: int, dtype: Any
) -> Run:
    """Forward and backward of a layer of neurons."""
    x_TN = torch.randn(steps, neurons, device="cuda").to(dtype).requires_grad_()
    grad_TN = torch.randn(steps, neurons, device="cuda").to(dtype)

    def once() -> None:
        x_TN.grad = None
        neuron(x_TN).backward(grad_TN)

    return once


def copy(steps: int, neurons: int, dtype: Any) -> Run:
    """The bytes that must move, half of them read and half written."""
    source = torch.randn(TENSORS_MOVED * steps * neurons // 2, device="cuda").to(dtype)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def time_in_turn(contestants: dict[str, Run], rounds: int) -> dict[str, float]:
    """Median seconds of each, by the device's clock, over rounds in which each runs once.

    The device is kept busy until the launches are queued, so that the time of kernels counts and not that of Python.
    """
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(-5, rounds):  # the first compile, and warm up
        for name, run in contestants.items():
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            torch.cuda._sleep(1_000_000)
            begin.record()
            run()
            end.record()
            torch.cuda.synchronize()
            if turn >= 0:
                times[name].append(begin.elapsed_time(end) / 1000)
    return {name: statistics.median(values) for name, values in times.items()}


def measure(rounds: int) -> dict[str, Any]:
    """Ours, the copy, and SpikingJelly with the implementation that the environment names."""
    result: dict[str, Any] = {}
    for dtype in DTYPES:
        for steps in STEPS:
            for name, neurons in NEURONS.items():
                size = (steps, neurons, dtype)
                contestants = {"copy": copy(*size), "neuromix": training_step(LIF(tau=2.0), *size)}
                try:
                    theirs = training_step(SpikingJellyLIF(), *size)
                    theirs()
                    contestants["spikingjelly"] = theirs
                except Exception as error:  # whatever it raises where its implementation is not to be had
                    missing = f"{type(error).__name__}: {error}"
                else:
                    missing = None
                seconds = time_in_turn(contestants, rounds)
                set_up = f"{str(dtype).removeprefix('torch.')}_T{steps}_{name}"
                result[set_up] = summary(seconds, size) | ({"missing": missing} if missing else {})
                del contestants
                torch.cuda.empty_cache()
    return result


def summary(seconds: dict[str, float], size: tuple[int, int, torch.dtype]) -> dict[str, Any]:
    steps, neurons, dtype = size
    moved = TENSORS_MOVED * steps * neurons * dtype.itemsize
    pairs = [("neuromix", "copy"), ("spikingjelly", "neuromix")]
    ratios = {f"{a}_over_{b}": seconds[a] / seconds[b] for a, b in pairs if a in seconds}
    return {
        "median_s": seconds,
        "gigabytes_per_s": {name: moved / value / 1e9 for name, value in seconds.items()},
        "ratios": {name: round(ratio, 3) for name, ratio in ratios.items()},
    }


def measure_all(rounds: int) -> dict[str, Any]:
    """One process after the other, each with one implementation of SpikingJelly."""
    measurements = {}
    for implementation in IMPLEMENTATIONS:
        command = [sys.executable, __file__, "--rounds", str(rounds), "--within"]
        environment = os.environ | {CHOICE: implementation}
        run = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        measurements[f"spikingjelly_{implementation}"] = json.loads(run.stdout)
    return {
        "benchmark": "gpu_lif",
        "measurements": measurements,
        "environment": {
            "device": torch.cuda.get_device_name(),
            "neuromix": neuromix.__version__,
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "python": platform.python_version(),
            "rounds": rounds,
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=50, help="turns of every contestant")
    parser.add_argument("--within", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print("gpu_lif: no CUDA GPU was found; this benchmark measures nothing else", file=sys.stderr)
        sys.exit(2)
    print(json.dumps(measure(args.rounds) if args.within else measure_all(args.rounds), indent=2))


if __name__ == "__main__":
    main()
