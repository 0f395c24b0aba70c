"""Time, page faults and memory with `neuromix.tune_allocator()` and without it.

Set-ups: `train_step`, forward, backward and AdamW of meta_spikeformer_15m at 64x64, batch 4, T = 4, whose tensors
are mostly too small to be mapped apart; `inference`, the same net at 224x224, batch 1; `lif`, forward and backward
of 512 k neurons at T = 16. The first and the last are those of `neuromix bench`.

Two processes, one tuned and one with glibc's defaults, take their steps in turn; medians count, since the machine
may be shared. Page faults are those of one step, the peak is the resident memory of the process.

    python benchmarks/allocator.py --out results/allocator.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import neuromix
from neuromix.bench import lif, train_step
from neuromix.core.files import write_json

WARM_UP = 5  # steps that do not count: the process is still growing


def prepare_inference() -> Callable[[], object]:
    """A whole forward pass."""
    model = neuromix.create_model("meta_spikeformer_15m", time_steps=4).eval()
    image = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    return torch.inference_mode()(lambda: model(image))


SET_UPS: dict[str, Callable[[], Callable[[], object]]] = {
    "train_step": lambda: train_step.prepare("meta_spikeformer_15m_64", "neuromix"),
    "inference": prepare_inference,
    "lif": lambda: lif.prepare_vision("neuromix", steps=16, neurons=512 * 1024),
}


def take_steps(set_up: str, kind: str) -> None:
    """What a child does: a step for each line that it reads, and a line of JSON after it."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    if kind == "tuned" and not neuromix.tune_allocator():
        sys.exit("tune_allocator() has no effect here")
    step = SET_UPS[set_up]()
    for _ in sys.stdin:
        faults, begin = page_faults(), time.perf_counter()
        step()
        seconds = time.perf_counter() - begin
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        took = {"seconds": seconds, "page_faults": page_faults() - faults, "peak_bytes": peak}
        print(json.dumps(took), flush=True)


def page_faults() -> int:
    """Page faults of this process so far that needed no disk."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


class Child:
    """A process that takes training steps when asked to."""

    def __init__(self, set_up: str, kind: str, threads: int) -> None:
        chosen = ("MALLOC_", "GLIBC_TUNABLES")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(chosen)}
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--child", set_up, kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**environment, "OMP_NUM_THREADS": str(threads)},
        )

    def step(self) -> dict[str, Any]:
        assert self.process.stdin and self.process.stdout
        print(file=self.process.stdin, flush=True)
        took: dict[str, Any] = json.loads(self.process.stdout.readline())
        return took

    def end(self) -> None:
        self.process.communicate()


def measure(set_up: str, rounds: int, threads: int) -> dict[str, Any]:
    """Both processes in turn, round after round."""
    children = {kind: Child(set_up, kind, threads) for kind in ("system", "tuned")}
    steps: dict[str, list[dict[str, Any]]] = {kind: [] for kind in children}
    for _ in range(WARM_UP + rounds):
        for kind, child in children.items():
            steps[kind].append(child.step())
    for child in children.values():
        child.end()
    return {kind: summary(took[WARM_UP:]) for kind, took in steps.items()}


def summary(took: list[dict[str, Any]]) -> dict[str, Any]:
    """Of the steps of one process."""
    seconds = [step["seconds"] for step in took]
    return {
        "median_s": statistics.median(seconds),
        "best_s": min(seconds),
        "page_faults": statistics.median(step["page_faults"] for step in took),
        "peak_bytes": took[-1]["peak_bytes"],
    }


def result_of(measurements: dict[str, Any], rounds: int, threads: int) -> dict[str, Any]:
    """All of it, with ratios A_over_B: time of A over time of B."""
    return {
        "benchmark": "allocator",
        "ratios": {
            f"system_over_tuned_{set_up}": round(each["system"]["median_s"] / each["tuned"]["median_s"], 3)
            for set_up, each in measurements.items()
        },
        "measurements": measurements,
        "environment": {
            "neuromix": neuromix.__version__,
            "torch": torch.__version__,
            "libc": " ".join(platform.libc_ver()),
            "machine": platform.machine(),
            "processors": os.cpu_count(),
            "threads": threads,
            "rounds": rounds,
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--set-up", choices=SET_UPS, nargs="+", default=list(SET_UPS))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="also write everything to this file")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        take_steps(*args.child)
        return
    measurements = {set_up: measure(set_up, args.rounds, args.threads) for set_up in args.set_up}
    result = result_of(measurements, args.rounds, args.threads)
    print(json.dumps(result, indent=2))
    if args.out:
        write_json(args.out, result)


if __name__ == "__main__":
    main()
