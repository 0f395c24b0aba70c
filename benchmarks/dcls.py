"""What delays are worth: learnt, fixed at random, and none, for nets of one size.

    python benchmarks/dcls.py --data recordings --json results/dcls.json

`lags` is the made-up task in which the class is the time between two spikes. `--data` names a folder of spoken digits
(FSDD), with its official test recordings; without it that half is left out. All nets of a row have as many neurons,
epochs and learning rate; weights are chosen on validation recordings, and the score is that of delays of whole steps.
The last row times a layer of 512 x 512 synapses over 31 steps, by one tap a synapse and by the dense kernel, in turn.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from ledger import mean_and_spread, parser, report
from torch.nn import functional as F

from neuromix.layers.delay import Delay
from neuromix.training.api import train

KINDS: Mapping[str, Mapping[str, Any]] = {
    "learnt": {},
    "fixed": {"learn_delays": False},
    "none": {"learn_delays": False, "max_delay": 1},
}
LAGS: dict[str, Any] = {"model": "dcls_lags", "task_config": {"data": "lags"}, "epochs": 20}
DIGITS: dict[str, Any] = {
    "model": "dcls_nano",
    "model_config": {"hidden": (16, 16), "max_delay": 15},
    "task_config": {"representation": ["cochlea", {"bin_ms": 20.0}], "steps": 35},
    "epochs": 15,
}


def accuracy(setting: Mapping[str, Any], kind: str, seed: int, folder: Path, quick: bool) -> float:
    """Test accuracy in percent."""
    setting = {**setting, "model_config": {**setting.get("model_config", {}), **KINDS[kind]}}
    if quick:
        setting |= {"epochs": 1, "max_steps": 2}
    return 100 * train(task="audio", out=folder / f"{kind}-{seed}", seed=seed, **setting).test["accuracy"]


def of_all_kinds(setting: Mapping[str, Any], options: argparse.Namespace) -> dict[str, list[float]]:
    """Kind of delays -> test accuracy of each seed."""
    with tempfile.TemporaryDirectory() as folder:
        return {
            kind: [
                accuracy(setting, kind, seed, Path(folder), options.quick) for seed in range(options.seeds)
            ]
            for kind in KINDS
        }


def gathered_over_dense(times: int) -> float:
    """Time of one tap a synapse as a share of that of the dense kernel, one sample of 100 steps."""
    layer = Delay(512, 512, 31).eval()
    discrete, kernel = layer.discrete(), layer.kernel(smooth=False).detach()
    x_TBI = torch.randint(0, 2, (100, 1, 512), generator=torch.Generator().manual_seed(0)).float()
    padded = F.pad(x_TBI.permute(1, 2, 0), (30, 15))
    shares = [
        milliseconds(lambda: discrete(x_TBI)) / milliseconds(lambda: F.conv1d(padded, kernel))
        for _ in range(times)
    ]
    return median(shares)


@torch.no_grad()
def milliseconds(run: Callable[[], Any]) -> float:
    """Time of one run, after one that warms up."""
    run()
    begin = time.perf_counter()
    run()
    return 1000 * (time.perf_counter() - begin)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--data", type=Path, help="folder of FSDD; left out: the made-up task alone")
    options = options.parse_args()
    settings = {"lags": LAGS}
    if options.data is not None:
        digits = {**DIGITS["task_config"], "data": str(options.data)}
        settings["spoken digits"] = {**DIGITS, "task_config": digits}
    found = {name: of_all_kinds(setting, options) for name, setting in settings.items()}
    expected = {
        "lags": {
            "learnt": "above 95",
            "fixed": "at least 5 points below learnt",
            "none": "12.5, which is chance",
        },
        "spoken digits": {"learnt": "best", "fixed": "between", "none": "least"},
    }
    rows = [
        (f"{name}: {kind} delays", f"{mean_and_spread(scores)} %", expected[name][kind])
        for name, kinds in found.items()
        for kind, scores in kinds.items()
    ]
    gaps = {name: mean(kinds["learnt"]) - mean(kinds["fixed"]) for name, kinds in found.items()}
    rows += [(f"{name}: learnt minus fixed, points", f"{gap:.1f}", "above 0") for name, gap in gaps.items()]
    share = gathered_over_dense(3 if options.quick else 15)
    rows.append(("time of a layer, one tap a synapse over dense", f"{share:.2f}", "below 1"))
    report(options, ("", "Found", "Expected"), rows, accuracy=found, seeds=options.seeds, time_ratio=share)


if __name__ == "__main__":
    main()
