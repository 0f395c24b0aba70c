"""Early exit at run time: steps saved and accuracy kept, on the digits, of a converted net and of one trained to spike.

    python benchmarks/dynamic_confidence.py --json results/dynamic_confidence.json

The threshold and the divisor are chosen on validation images (`neuromix eval RUN --early-exit auto`); the figures are
of the test images. The bound is that of a policy which knows the labels. The last rows time the test images one by
one, with early exit and to the end, in turn.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from ledger import mean_and_spread, parser, report

from neuromix.core import registry
from neuromix.core.batch import Batch
from neuromix.core.model import Model
from neuromix.methods.dynamic_confidence import ExitPolicy, early_exit
from neuromix.methods.early_exit import evaluate_early_exit
from neuromix.training.api import train

NETS: dict[str, dict[str, Any]] = {
    "quantised_resnet_nano": {"method": "ann-to-snn", "epochs": 8},
    "spiking_vgg_nano": {"epochs": 8, "model_config": {"time_steps": 8}},
}


def one(model: str, seed: int, folder: Path, quick: bool) -> dict[str, float]:
    """Trains one net and tries its policy."""
    options = NETS[model] | ({"epochs": 1} if quick else {})
    done = train(model, "digits", folder, seed=seed, **options)
    found = evaluate_early_exit(done.run)
    never = evaluate_early_exit(done.run, threshold=2.0, divisor=1.0)
    task = registry.build("task", "digits")
    test = task.data("test")
    images = task.collate([test.sample(i, torch.Generator()) for i in range(30 if quick else 200)])
    return {
        "full": 100 * found.full.scores["accuracy"],
        "accuracy": 100 * found.evaluation.scores["accuracy"],
        "steps": found.steps,
        "time_steps": found.time_steps,
        "bound_accuracy": 100 * found.potential.accuracy,
        "bound_steps": found.potential.steps,
        "never_minus_full": 100 * (never.evaluation.scores["accuracy"] - found.full.scores["accuracy"]),
        "time_ratio": time_ratio(done.model().eval(), found.policy, images),
    }


def time_ratio(model: Model, policy: ExitPolicy, images: Batch) -> float:
    """Time of the images with early exit over that without, one image at a time."""
    ratios, never = [], policy.replace(threshold=2.0)
    for _ in range(3):
        taken = []
        for how in (policy, never):
            begin = time.perf_counter()
            for image in images.tensor("image"):
                early_exit(model, how, image[None])
            taken.append(time.perf_counter() - begin)
        ratios.append(taken[0] / taken[1])
    return median(ratios)


def main() -> None:
    options = parser(__doc__).parse_args()
    rows, found = [], {}
    with tempfile.TemporaryDirectory() as path:
        for model in NETS:
            runs = [
                one(model, seed, Path(path) / f"{model}-{seed}", options.quick)
                for seed in range(options.seeds)
            ]
            found[model] = runs

            def column(name: str, digits: int = 1, runs: list[dict[str, float]] = runs) -> str:
                return mean_and_spread([run[name] for run in runs], digits)

            lost = mean_and_spread([run["full"] - run["accuracy"] for run in runs])
            saved = mean_and_spread([100 * (1 - run["steps"] / run["time_steps"]) for run in runs])
            rows += [
                (model, "accuracy with all steps", f"{column('full')} %", "–"),
                (model, "accuracy lost by early exit, points", lost, "at most 0.5"),
                (model, "steps saved", f"{saved} %", "at least 30 %"),
                (model, "mean steps", f"{column('steps', 2)} of {runs[0]['time_steps']:.0f}", "–"),
                (
                    model,
                    "steps of the bound",
                    f"{column('bound_steps', 2)} at {column('bound_accuracy')} %",
                    "–",
                ),
                (model, "threshold above 1: points from all steps", column("never_minus_full"), "0"),
                (
                    model,
                    "time of an image over that of all steps",
                    column("time_ratio", 2),
                    "falls with the steps",
                ),
            ]
    report(options, ("Model", "", "Found", "Expected"), rows, runs=found, seeds=options.seeds)


if __name__ == "__main__":
    main()
