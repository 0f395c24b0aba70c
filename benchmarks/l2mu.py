"""Activities from a watch by a net of spiking neurons alone, dense and with half its weights gone.

    python benchmarks/l2mu.py --data BasicMotions --json results/l2mu.json

`--data` names a folder with BasicMotions_TRAIN.ts and BasicMotions_TEST.ts: acceleration and turning of a watch, six
channels of 100 samples, four activities, 40 windows to learn from and 40 to test on. Samples go into the net as they
are in the file; the net is `l2mu_nano`. After training half the weights of each layer are set to zero, the smallest
ones, and the net is trained for five more epochs. Of 40 windows one is 2.5 points.

Settings were chosen by cross-validation within the windows to learn from; the test windows had no part in it. Channels
brought to deviation 1, as the task does by default, did worse there.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from ledger import mean_and_spread, parser, report

from neuromix import load_checkpoint
from neuromix.core.edits import apply_edit
from neuromix.core.model import Model
from neuromix.measure import profile
from neuromix.training.api import open_run, train
from neuromix.training.evaluate import evaluate
from neuromix.training.task import Task


def accuracy(net: Model, task: Task) -> float:
    """On the test windows, in percent."""
    return 100 * evaluate(net.eval(), task, "test")["accuracy"]


def cost(net: Model, task: Task) -> dict[str, float]:
    """What NeuroBench asks for, a window."""
    data = task.data("test")
    batch = task.collate([data.sample(i, torch.Generator()) for i in range(len(data))])
    seen = profile(net.eval(), batch)
    return {
        "activation_sparsity": seen.activation_sparsity or 0.0,
        "connection_sparsity": seen.connection_sparsity or 0.0,
        "effective_acs": seen.effective_acs,
        "effective_macs": seen.effective_macs,
        "footprint": float(seen.footprint),
    }


def measured(seed: int, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """All figures of one run."""
    run, begin = folder / str(seed), time.perf_counter()
    result = train(
        "l2mu_nano",
        "series-classification",
        run,
        task_config={"data": str(options.data), "normalise": "none"},
        method="prune_magnitude",
        method_config={"tuning_epochs": 1 if options.quick else 5},
        epochs=1 if options.quick else 30,
        lr=2e-3,
        weight_decay=0.0,
        seed=seed,
    )
    seconds, task = time.perf_counter() - begin, open_run(run).task
    dense, pruned = load_checkpoint(run / "stage-1.safetensors"), result.model()
    return {
        "dense": accuracy(dense, task),
        "pruned": accuracy(apply_edit(dense, "prune_magnitude"), task),
        "tuned": accuracy(pruned, task),
        "cost": {"dense": cost(dense, task), "tuned": cost(pruned, task)},
        "parameters": dense.num_parameters(),
        "seconds": seconds,
    }


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--data", type=Path, required=True, help="folder of BasicMotions")
    options = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = [measured(seed, Path(folder), options) for seed in range(options.seeds)]

    def cell(key: str) -> str:
        return mean_and_spread([run[key] for run in found])

    lost = mean_and_spread([run["dense"] - run["tuned"] for run in found])
    rows: list[tuple[str, str, str]] = [
        ("test accuracy, %", cell("dense"), "above 85"),
        ("half the weights set to zero, %", cell("pruned"), "–"),
        ("and 5 epochs more, %", cell("tuned"), "–"),
        ("lost by pruning, points", lost, "below 2"),
        ("training of both, minutes", mean_and_spread([run["seconds"] / 60 for run in found]), "below 5"),
        ("parameters", f"{found[0]['parameters']:,}", "–"),
    ]
    for name, about in (("dense", "dense"), ("tuned", "pruned")):
        costs = [run["cost"][name] for run in found]
        rows += [
            (
                f"{about}: activation sparsity",
                mean_and_spread([c["activation_sparsity"] for c in costs], 2),
                "–",
            ),
            (f"{about}: effective additions a window", f"{_mean(costs, 'effective_acs'):,.0f}", "–"),
            (f"{about}: effective multiply-adds a window", f"{_mean(costs, 'effective_macs'):,.0f}", "–"),
        ]
    rows.append(
        ("footprint of the dense net, kB", f"{found[0]['cost']['dense']['footprint'] / 1000:.1f}", "–")
    )
    report(options, ("", "Found", "Expected"), rows, runs=found, seeds=options.seeds)


def _mean(costs: list[dict[str, float]], key: str) -> float:
    return sum(c[key] for c in costs) / len(costs)


if __name__ == "__main__":
    main()
