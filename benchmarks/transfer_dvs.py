"""Learning from still images beside events (method transfer-dvs), against events alone, with 10 recordings a class.

    python benchmarks/transfer_dvs.py --json results/transfer_dvs.json

The images are the 1100 training digits of scikit-learn, the recordings 100 of them before a simulated event camera that
jumps. Each way has the same net, steps, rate and batches; only the losses differ. Weights are chosen on the
recordings of 197 other digits, and scored on those of 500 more, which nothing selects by. The ablations leave out one
part each. The last rows compare the net that is left with one that never had a static branch.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import torch
from ledger import mean_and_spread, parser, report

from neuromix import create_model
from neuromix.core.config import Spec
from neuromix.core.edits import apply_edit
from neuromix.core.registry import register_task
from neuromix.data.events.simulated import SimulatedEvents
from neuromix.data.events.value import Events
from neuromix.layers.static_branch import without_static_branch
from neuromix.tasks.event_classification import EventClassification, EventClassificationConfig
from neuromix.training.api import train

MODEL, STEPS, PER_CLASS, EPOCHS = "transfer_vgg_nano", 4, 10, 100  # an epoch has 3 steps
EVENTS_ALONE: dict[str, Any] = {
    "method": "bptt",
    "method_config": {"loss": "tet", "segment": 1, "mse": 1e-3, "mse_target": 0.5},
}
WAYS: Mapping[str, dict[str, Any]] = {
    "events alone": EVENTS_ALONE,
    "transfer": {"method": "transfer-dvs"},
    "transfer without domain loss": {"method": "transfer-dvs", "method_config": {"domain": 0.0}},
    "transfer without learnt weights": {"method": "transfer-dvs", "method_config": {"s": "off"}},
    "transfer without sliding": {"method": "transfer-dvs", "method_config": {"sliding": False}},
}


class Kept(SimulatedEvents):
    """Recordings that are simulated once: without a generator each is the same every time."""

    def __init__(self, data: str) -> None:
        super().__init__(data)
        self._kept: dict[int, Events] = {}

    def read(self, row: int, generator: torch.Generator | None = None) -> Events:
        if generator is not None:
            return super().read(row, generator)
        if row not in self._kept:
            self._kept[row] = super().read(row)
        return self._kept[row]


KEPT = Kept("digits-dvs")


@register_task("kept-digits-dvs", variants={"kept-digits-dvs": {"data": "digits-dvs"}})
class KeptDigits(EventClassification):
    """The digits before a simulated camera, whose recordings are kept in memory."""

    def __init__(self, config: EventClassificationConfig) -> None:
        super().__init__(config)
        self.recordings = replace(self.recordings, source=KEPT)


def accuracy(way: dict[str, Any], seed: int, quick: bool) -> float:
    """Test accuracy in percent."""
    with tempfile.TemporaryDirectory() as folder:
        run = train(
            MODEL,
            "kept-digits-dvs",
            Path(folder) / "run",
            task_config={
                "samples_per_class": PER_CLASS,
                "fresh": False,
                "representation": ("count", {"frames": STEPS}),
                "label_smoothing": 0.0,
            },
            epochs=1 if quick else EPOCHS,
            seed=seed,
            checkpoint_seconds=3600.0,
            **way,
        )
        return 100 * run.test["accuracy"]


def cost() -> tuple[float, float]:
    """Parameters and time of the finished net as multiples of those of the plain one."""
    plain = create_model(MODEL).eval()
    both = apply_edit(plain, Spec("static_branch", {"time_steps": STEPS})).eval()
    finished, image = without_static_branch(both), torch.rand(STEPS, 64, 2, 16, 16)

    def seconds(net: torch.nn.Module) -> float:
        begin = time.perf_counter()
        with torch.no_grad():
            net(image)
        return time.perf_counter() - begin

    ratios = [seconds(finished) / seconds(plain) for _ in range(30)]
    return finished.num_parameters() / plain.num_parameters(), median(ratios)


def measure(job: tuple[str, int, bool]) -> float:
    """Test accuracy in percent of one way with one seed."""
    name, seed, quick = job
    return accuracy(WAYS[name], seed, quick)


def main() -> None:
    options = parser(__doc__).parse_args()
    begin = time.perf_counter()
    jobs = [(name, seed, options.quick) for name in WAYS for seed in range(options.seeds)]
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        scores = dict(zip(jobs, pool.map(measure, jobs), strict=True))
    found = {name: [scores[name, seed, options.quick] for seed in range(options.seeds)] for name in WAYS}
    gain = {
        name: [one - alone for one, alone in zip(found[name], found["events alone"], strict=True)]
        for name in ("transfer", "transfer without learnt weights")
    }
    parameters, seconds = cost()
    rows = [(f"test accuracy, {name}", f"{mean_and_spread(scores)} %", "–") for name, scores in found.items()]
    rows += [
        *(
            (f"{name}, minus events alone, points", mean_and_spread(g), "at least 5")
            for name, g in gain.items()
        ),
        ("parameters at inference over the plain net's", f"{parameters:g}", "1"),
        ("time at inference over the plain net's", f"{seconds:.2f}", "1"),
    ]
    report(
        options,
        ("", "Found", "Expected"),
        rows,
        accuracy=found,
        gain=gain,
        seeds=options.seeds,
        epochs=EPOCHS,
        samples_per_class=PER_CLASS,
        seconds=round(time.perf_counter() - begin, 1),
    )


if __name__ == "__main__":
    main()
