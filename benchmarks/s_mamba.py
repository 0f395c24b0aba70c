"""S-Mamba on ETTh1 by the published protocol, against the published errors, a linear map and softmax attention.

    python benchmarks/s_mamba.py --data ETTh1.csv --json results/s_mamba.json

Look-back 96, horizons 96 to 720, the authors' hyper-parameters, as many seeds as asked for; errors are on the
standardised scale, over all test windows. Linear maps are trained in the same way, at the same rate and at a higher
one. Repeating the last value needs no training. Times are of a forward and backward pass over 50 and over 400 variates:
the tokens of S-Mamba, scanned or under softmax attention.

The ledger is written after every run; the same command goes on where a ledger with the same settings ends.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import mean, median
from typing import Any, NamedTuple

import torch
from ledger import mean_and_spread, parser, report

import neuromix
from neuromix.core import registry
from neuromix.core.model import call
from neuromix.training.api import train
from neuromix.training.run_folder import RunFolder

# horizon -> learning rate of the authors' script, and the published mse and mae.
ETTH1 = {
    96: (7e-5, 0.386, 0.405),
    192: (7e-5, 0.443, 0.437),
    336: (5e-5, 0.489, 0.468),
    720: (5e-5, 0.502, 0.489),
}
LINEAR_RATE = 1e-3  # a higher one, for linear maps


class Job(NamedTuple):
    """A network to be trained."""

    name: str
    model: str
    horizon: int
    lr: float
    seed: int
    config: Mapping[str, Any] = {}
    epochs: int = 10

    @property
    def key(self) -> str:
        return f"{self.name}, {self.horizon}, seed {self.seed}"


ATTENTION = {"directions": "none", "mixer": ["attention", {}]}


def jobs(seeds: int) -> list[Job]:
    """All networks; the first ones say most."""
    found = []
    for seed in range(seeds):
        found += [Job("S-Mamba", "s_mamba", s, lr, seed) for s, (lr, *_) in ETTH1.items()]
    for seed in range(seeds):
        at_96 = functools.partial(Job, model="s_mamba", horizon=96, lr=ETTH1[96][0], seed=seed)
        found += [
            at_96("S-Mamba, 3 epochs", epochs=3),
            at_96("one direction", config={"directions": "forward"}),
            at_96("softmax attention", config=ATTENTION),
        ]
        for s, (lr, *_) in ETTH1.items():
            found.append(Job("linear map", "linear_forecast", s, lr, seed))
            found.append(Job(f"linear map, lr {LINEAR_RATE:g}", "linear_forecast", s, LINEAR_RATE, seed))
    return found


def trained(job: Job, data: Path, quick: bool) -> dict[str, Any]:
    """Test scores of a job, its epochs and its seconds."""
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        result = train(
            job.model,
            "forecasting",
            folder,
            task_config={"data": str(data)},
            model_config={"horizon": job.horizon, **job.config},
            lr=job.lr,
            seed=job.seed,
            epochs=1 if quick else job.epochs,
            max_steps=2 if quick else None,
        )
        epochs = [line["validation"]["mse"] for line in RunFolder(folder).records()]
    return {
        **result.test,
        "validation": epochs,
        "best_epoch": epochs.index(min(epochs)) + 1,
        "seconds": round(time.perf_counter() - begin, 1),
    }


@functools.cache
def repeated(data: Path, horizon: int) -> dict[str, float]:
    """Scores of repeating the last value."""
    task = registry.build("task", ("forecasting", {"data": str(data), "horizon": horizon}))
    windows, metrics = task.data("test"), task.metrics()
    for begin in range(0, len(windows), 256):
        rows = range(begin, min(begin + 256, len(windows)))
        batch = task.collate([windows.sample(i, torch.Generator()) for i in rows])
        metrics.update(batch["series"][:, -1:].expand_as(batch["future"]), batch)
    return metrics.compute()


def seconds(variates: int, config: Mapping[str, Any], times: int) -> float:
    """Median time of forward and backward over so many variates."""
    net = neuromix.create_model("s_mamba", variates=variates, calendar=0, dim=64, depth=1, **config)
    batch, taken = net.example(8), []
    for _ in range(times + 1):
        begin = time.perf_counter()
        call(net, batch).square().mean().backward()
        taken.append(time.perf_counter() - begin)
    return median(taken[1:])


def scaling(quick: bool) -> dict[str, dict[str, float]]:
    """How much longer eight times as many variates take."""
    found = {}
    ways: Mapping[str, Mapping[str, Any]] = {"scan": {}, "attention": ATTENTION}
    for name, config in ways.items():
        times = {n: seconds(n, config, 1 if quick else 9) for n in (50, 400)}
        found[name] = {f"seconds_{n}": t for n, t in times.items()} | {"ratio": times[400] / times[50]}
    return found


def table(runs: Mapping[str, Any], done: list[Job], data: Path, cost: Mapping[str, Any]) -> list[list[str]]:
    """A line for each kind of network and horizon that has been trained so far."""
    rows = []
    for name, horizon in dict.fromkeys((job.name, job.horizon) for job in done):
        found = [runs[job.key] for job in done if (job.name, job.horizon) == (name, horizon)]
        mse, mae = ([run[score] for run in found] for score in ("mse", "mae"))
        _, *published = ETTH1[horizon]
        gap = [
            f"{mean(values) / claim - 1:+.1%}" for values, claim in zip((mse, mae), published, strict=True)
        ]
        told = (
            [f"{published[0]:.3f} / {published[1]:.3f}", " / ".join(gap)] if name == "S-Mamba" else ["–", "–"]
        )
        rows.append([name, str(horizon), mean_and_spread(mse, 3), mean_and_spread(mae, 3), *told])
    for horizon in dict.fromkeys(job.horizon for job in done):
        last = repeated(data, horizon)
        rows.append(["last value", str(horizon), f"{last['mse']:.3f}", f"{last['mae']:.3f}", "–", "–"])
    for name, told in cost.items():
        rows.append([f"time of 400 variates over 50, {name}", "–", f"{told['ratio']:.1f}", "–", "–", "–"])
    return rows


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--data", type=Path, required=True, help="ETTh1.csv")
    args = options.parse_args()
    # The ledger names the file, not where it lies.
    sys.argv = [Path(text).name if Path(text) == args.data else text for text in sys.argv]
    settings = {"data": args.data.name, "quick": args.quick}
    torch.set_num_threads(1)
    runs = _known(args, settings)
    done: list[Job] = []
    for job in jobs(1 if args.quick else args.seeds):
        if job.key not in runs:
            runs[job.key] = trained(job, args.data, args.quick)
            print(f"{job.key}: {runs[job.key]}", flush=True)
        done.append(job)
        _write(args, runs, done, settings, {})
    _write(args, runs, done, settings, scaling(args.quick))


def _known(args: argparse.Namespace, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The runs of a ledger with the same settings."""
    if args.json is None or not args.json.is_file():
        return {}
    ledger = json.loads(args.json.read_text(encoding="utf-8"))
    return dict(ledger["runs"]) if ledger.get("settings") == settings else {}


def _write(
    args: argparse.Namespace,
    runs: Mapping[str, Any],
    done: list[Job],
    settings: Mapping[str, Any],
    cost: Mapping[str, Any],
) -> None:
    columns = ("Network", "Horizon", "Test MSE", "Test MAE", "Published MSE / MAE", "Difference")
    report(args, columns, table(runs, done, args.data, cost), runs=runs, settings=settings, scaling=cost)


if __name__ == "__main__":
    main()
