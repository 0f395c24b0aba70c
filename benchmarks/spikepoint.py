"""SpikePoint on four motions, without the two ideas that make up for the lost signs, and on the digits before a camera.

    python benchmarks/spikepoint.py --json results/spikepoint.json

Every network is trained as `neuromix train` does it, from as many seeds as asked for. Rate codes are drawn, so a score
on the test clips is itself left to chance: it is the mean over three codes.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ledger

from neuromix.core import registry
from neuromix.training.api import train
from neuromix.training.evaluate import evaluate
from neuromix.training.run_folder import RunFolder

MODEL = "spikepoint_nano"
CODES = 3
# The ideas are taken away from a net that is trained in a quarter of the time, and compared with it.
SMALL: Mapping[str, Any] = {"points": 128, "groups": 32, "neighbours": 8, "dims": (16, 32, 64)}


class Trial(NamedTuple):
    """One line of the table."""

    name: str
    data: str
    epochs: int
    expected: str
    model: Mapping[str, Any] = {}  # values that differ from MODEL
    representation: Mapping[str, Any] = {}


MOTIONS = "four-motions:400"
TRIALS = (
    Trial("four motions", MOTIONS, 40, "90 or more"),
    Trial("four motions, a smaller net", MOTIONS, 15, "", SMALL),
    Trial("signs kept, and lost in coding", MOTIONS, 15, "lower", SMALL, {"folded": False}),
    Trial("without the corner", MOTIONS, 15, "lower", SMALL, {"origin": "none"}),
    Trial("with neither", MOTIONS, 15, "lower", SMALL, {"folded": False, "origin": "none"}),
    Trial("digits-dvs", "digits-dvs", 8, ""),
)


def score(trial: Trial, seed: int, folder: Path, quick: bool) -> tuple[list[float], float]:
    """Test accuracy in percent with each code, and the seconds that training took."""
    begin = time.perf_counter()
    result = train(
        MODEL,
        "events",
        folder,
        task_config={
            "data": "four-motions:40" if quick else trial.data,
            **{f"representation.{name}": value for name, value in trial.representation.items()},
        },
        model_config=trial.model,
        epochs=1 if quick else trial.epochs,
        max_steps=2 if quick else None,
        threads=1,
        workers=1,  # reads data on the second core
        seed=seed,
    )
    seconds = time.perf_counter() - begin
    task, model = registry.build("task", RunFolder(result.run).recipe().task), result.model()
    scores = [evaluate(model, task, "test", seed=code)["accuracy"] for code in range(1 if quick else CODES)]
    return [100 * accuracy for accuracy in scores], seconds


def main() -> None:
    options = ledger.parser(__doc__ or "").parse_args()
    seeds = range(1 if options.quick else options.seeds)
    rows: list[list[str]] = []
    runs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for number, trial in enumerate(TRIALS):
            means, spent = [], []
            for seed in seeds:
                scores, seconds = score(trial, seed, Path(folder) / f"{number}-{seed}", options.quick)
                means.append(sum(scores) / len(scores))
                spent.append(seconds)
                runs.append({"trial": trial.name, "seed": seed, "accuracies": scores, "seconds": seconds})
            took = f"{sum(spent) / len(spent):.0f}"
            rows.append([trial.name, took, ledger.mean_and_spread(means), trial.expected])
    columns = ["trained on", "seconds", "test accuracy, %", "expected"]
    settings = {"model": MODEL, "trials": [trial._asdict() for trial in TRIALS], "codes": CODES}
    ledger.report(options, columns, rows, settings=settings, runs=runs)


if __name__ == "__main__":
    main()
