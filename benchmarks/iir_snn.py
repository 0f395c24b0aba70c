"""The staircase from five time steps to one (method iir), against going to one step at once, on the digits.

    python benchmarks/iir_snn.py --json results/iir_snn.json

Both ways begin with the same analog net. The staircase trains for T = 5, 4, 3, 2, 1, each from the one before; the
direct way trains once, for T = 1. Accuracy is that of the test images; the weights of a stage are chosen on validation
images. The last row times 128 images at T = 1 and at T = 5, in turn.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import torch
from ledger import mean_and_spread, parser, report

from neuromix import load_checkpoint
from neuromix.core import registry
from neuromix.core.model import Model
from neuromix.training.api import train
from neuromix.training.evaluate import evaluate


def staircase(seed: int, steps: Sequence[int], folder: Path, quick: bool) -> dict[str, float]:
    """Test accuracy in percent of the net that each stage ended with."""
    run = train(
        "iir_vgg_nano",
        "digits",
        folder,
        method="iir",
        epochs=1 if quick else 3,
        seed=seed,
        method_config={"steps": tuple(steps), "ann_epochs": 1 if quick else 10, "calibration_steps": 50},
    )
    task = registry.build("task", "digits")
    names = ["ann", *(f"T={t}" for t in steps)]
    files = [*sorted(run.run.glob("stage-*.safetensors")), run.run / "best.safetensors"]
    nets = {
        name: load_checkpoint(file)
        for name, file in zip(names, files[: len(names) - 1] + files[-1:], strict=True)
    }
    return {name: 100 * evaluate(net.eval(), task, "test")["accuracy"] for name, net in nets.items()}


def milliseconds(net: Model, images: torch.Tensor, times: int) -> float:
    """Median time of a batch."""
    taken = []
    for _ in range(times):
        begin = time.perf_counter()
        with torch.no_grad():
            net(images)
        taken.append(1000 * (time.perf_counter() - begin))
    return median(taken)


def main() -> None:
    options = parser(__doc__).parse_args()
    ways = {"staircase": (5, 4, 3, 2, 1), "direct": (1,)}
    with tempfile.TemporaryDirectory() as path:
        found = {
            name: [
                staircase(seed, steps, Path(path) / f"{name}-{seed}", options.quick)
                for seed in range(options.seeds)
            ]
            for name, steps in ways.items()
        }
        nets = {t: load_checkpoint(Path(path) / "staircase-0" / file) for t, file in
                ((5, "stage-2.safetensors"), (1, "best.safetensors"))}  # fmt: skip
    images = torch.rand(128, 1, 8, 8)
    rounds = [
        (milliseconds(nets[1].eval(), images, 10), milliseconds(nets[5].eval(), images, 10)) for _ in range(5)
    ]
    share = median(one / five for one, five in rounds)
    gap = [one["T=5"] - one["T=1"] for one in found["staircase"]]
    gain = [one["T=1"] - other["T=1"] for one, other in zip(found["staircase"], found["direct"], strict=True)]
    rows = [
        (f"analog net, then {name}: {stage}", f"{mean_and_spread([one[stage] for one in runs])} %", "–")
        for name, runs in found.items()
        for stage in runs[0]
    ]
    rows += [
        ("T = 5 minus T = 1, points", mean_and_spread(gap), "at most 3"),
        ("staircase minus direct at T = 1, points", mean_and_spread(gain), "above 0"),
        ("time of 128 images, T = 1 over T = 5", f"{share:.2f}", "about 0.20"),
    ]
    report(options, ("", "Found", "Expected"), rows, accuracy=found, time_ratio=share, seeds=options.seeds)


if __name__ == "__main__":
    main()
