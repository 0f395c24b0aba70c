"""Time and memory of a training step with SLTT, SLTT-K and BPTT on a spiking PreAct ResNet-18.

Time is measured in turn, rule after rule, in one process. Peak memory is measured in a process of its own for each
rule and number of steps T, in three ways: `allocated`, what PyTorch's allocator has given out at most within a
training step, gradients included; `peak`, the resident memory of the process; and `training`, that less what the
process held before its first step. Every process runs with the same allocator settings, which keep glibc from
giving memory back and mapping it anew.

    python benchmarks/sltt_memory_time.py --json sltt.json
"""

from __future__ import annotations

import argparse
import itertools
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
from torch import Tensor
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from neuromix.core.checkpoint import create_model
from neuromix.core.model import Model
from neuromix.core.stream import stream
from neuromix.methods.segments import in_segments, unrolled
from neuromix.methods.sltt import choose_steps, sltt

ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 32)}
LR = 0.01


def bptt(model: Model, image: Tensor, label: Tensor) -> None:
    """All steps at once, and their graph kept."""
    F.cross_entropy(model(image), label).backward()


def bptt_per_step(model: Model, image: Tensor, label: Tensor) -> None:
    """Step by step, as SLTT runs, and the graph of all steps kept."""
    with in_segments(model, 1):
        loss = F.cross_entropy(model(image), label)
    loss.backward()


def bptt_checkpoint(model: Model, image: Tensor, label: Tensor) -> None:
    """Step by step, and each step run again in backward."""
    with in_segments(model, 1, checkpoint=True):
        loss = F.cross_entropy(model(image), label)
    loss.backward()


def sltt_with(k: int | None, skip_rest: bool = False) -> Callable[[Model, Tensor, Tensor], None]:
    """SLTT at all steps, or at k of them; perhaps without the steps after the last of these."""

    def rule(model: Model, image: Tensor, label: Tensor) -> None:
        x_T = unrolled(model, model.encode(image))
        chosen = choose_steps(k, len(x_T), torch.default_generator)

        def loss(output: Tensor) -> dict[str, Tensor]:
            return {"cross_entropy": F.cross_entropy(output, label)}

        for _ in sltt(stream(model), x_T, loss, chosen=chosen, skip_rest=skip_rest):
            pass

    return rule


RULES = {
    "bptt": bptt,
    "bptt_per_step": bptt_per_step,
    "bptt_checkpoint": bptt_checkpoint,
    "sltt": sltt_with(None),
    "sltt_1": sltt_with(1),
    "sltt_1_skip_rest": sltt_with(1, skip_rest=True),
}


class Trainer:
    """A net, a batch and an optimiser."""

    def __init__(self, args: argparse.Namespace, steps: int) -> None:
        torch.manual_seed(0)
        torch.set_num_threads(args.threads)
        self.model = create_model(args.model, time_steps=steps).train()
        self.optimiser = torch.optim.SGD(self.model.parameters(), lr=LR, momentum=0.9, foreach=True)
        self.image = torch.randn(args.batch, 3, args.side, args.side)
        self.label = torch.randint(10, (args.batch,))

    def step(self, rule: str) -> None:
        self.optimiser.zero_grad()
        RULES[rule](self.model, self.image, self.label)
        self.optimiser.step()


def time_rules(args: argparse.Namespace) -> dict[str, Any]:
    """Seconds of a training step for each rule: wall clock and processor time, all rounds."""
    trainer = Trainer(args, args.steps)
    wall: dict[str, list[float]] = {rule: [] for rule in RULES}
    cpu: dict[str, list[float]] = {rule: [] for rule in RULES}
    for number in range(args.repeats + 1):
        for rule in RULES:
            start, start_cpu = time.perf_counter(), time.process_time()
            trainer.step(rule)
            if number > 0:  # the first round warms up
                wall[rule].append(time.perf_counter() - start)
                cpu[rule].append(time.process_time() - start_cpu)
    return {"wall_s": wall, "cpu_s": cpu}


def measure_memory(args: argparse.Namespace, rule: str, steps: int) -> dict[str, int]:
    """Peak memory of training steps, in bytes."""
    trainer = Trainer(args, steps)
    before = resident()
    for _ in range(3):
        trainer.step(rule)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"allocated": allocated(trainer, rule), "peak": peak, "training": peak - before, "before": before}


def allocated(trainer: Trainer, rule: str) -> int:
    """What PyTorch's allocator has given out at most within a step, above what it had before."""
    trainer.optimiser.zero_grad()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        trainer.step(rule)
    events = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    return max(itertools.accumulate(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())))


def resident() -> int:
    """Resident memory of this process, in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def in_process(args: argparse.Namespace, *job: str) -> Any:
    """The result of a job of this script in a process of its own."""
    options = [
        f"--{name}={getattr(args, name)}"
        for name in ("model", "batch", "side", "threads", "steps", "repeats")
    ]
    command = [sys.executable, __file__, *options, "--job", *job]
    done = subprocess.run(command, env={**os.environ, **ALLOCATOR}, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All measurements, and ratios of medians named A_over_B."""
    times = in_process(args, "time")
    memory = {
        rule: {steps: in_process(args, "memory", rule, str(steps)) for steps in args.memory_steps}
        for rule in ("sltt", "bptt", "bptt_checkpoint")
    }
    median = {kind: {rule: statistics.median(s) for rule, s in each.items()} for kind, each in times.items()}
    few, many = min(args.memory_steps), max(args.memory_steps)
    ratios = {}
    for kind, each in median.items():
        suffix = "" if kind == "wall_s" else "_cpu"
        for rule in ("sltt", "sltt_1", "sltt_1_skip_rest", "bptt_checkpoint"):
            ratios[f"{rule}_over_bptt{suffix}"] = each[rule] / each["bptt"]
            ratios[f"{rule}_over_bptt_per_step{suffix}"] = each[rule] / each["bptt_per_step"]
    for rule, each in memory.items():
        for kind in ("allocated", "peak", "training"):
            ratios[f"{rule}_{kind}_t{many}_over_t{few}"] = each[many][kind] / each[few][kind]
    return {
        "ratios": ratios,
        "measurements": {"step": times, "median": median, "memory": memory},
        "environment": {
            "torch": torch.__version__,
            "machine": platform.machine(),
            "processors": os.cpu_count(),
            "allocator": ALLOCATOR,
            **{
                name: getattr(args, name)
                for name in ("model", "batch", "side", "threads", "steps", "repeats")
            },
        },
    }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="spiking_preact_resnet18")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--steps", type=int, default=8, help="time steps T of the timed training step")
    parser.add_argument("--repeats", type=int, default=16)
    parser.add_argument("--memory-steps", type=int, nargs="+", default=[4, 64])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="also write everything to this file")
    parser.add_argument("--job", nargs="+", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    args = parse()
    if args.job:
        kind, *rest = args.job
        result = time_rules(args) if kind == "time" else measure_memory(args, rest[0], int(rest[1]))
        print(json.dumps(result))
        return
    result = measure(args)
    for name, ratio in result["ratios"].items():
        print(f"{name:45} {ratio:6.3f}")
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
