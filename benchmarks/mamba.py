"""Induction heads: Mamba, and the same net with step width, input and output weights that do not see the tokens.

    python benchmarks/mamba.py --json results/mamba.json

A sequence of 16 kinds of tokens has a special one twice, the second time at its end; the answer is the token that
followed the first. Two layers of width 32 train on 32 tokens and answer sequences of up to 256.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from ledger import mean_and_spread, parser, report

from neuromix.core import registry
from neuromix.core.config import Spec
from neuromix.training.api import train
from neuromix.training.evaluate import evaluate

LENGTHS = (32, 64, 128, 256)


def accuracies(selective: bool, seed: int, folder: Path, quick: bool) -> dict[int, float]:
    """Share of right answers in percent, at each length."""
    run = train(
        "mamba",
        "induction-heads",
        folder,
        model_config={"dim": 32, "layers": 2, "mixer": Spec("mamba", {"selective": selective})},
        task_config={"length": 32, "samples": 320 if quick else 3200},
        epochs=1 if quick else 6,
        batch_size=32,
        lr=3e-3,
        weight_decay=0.0,
        seed=seed,
    )
    net = run.model().eval()
    tasks = {n: registry.build("task", Spec("induction-heads", {"length": n})) for n in LENGTHS}
    return {n: 100 * evaluate(net, task, "test")["accuracy"] for n, task in tasks.items()}


def main() -> None:
    options = parser(__doc__).parse_args()
    torch.set_num_threads(min(2, torch.get_num_threads()))
    seeds = 1 if options.quick else options.seeds
    names = {True: "delta, B and C of each token", False: "constant delta, B and C"}
    with tempfile.TemporaryDirectory() as path:
        found = {
            names[selective]: [
                accuracies(selective, seed, Path(path) / f"{selective}-{seed}", options.quick)
                for seed in range(seeds)
            ]
            for selective in names
        }
    expected = {(names[True], 32): "98 or more", (names[True], 256): "90 or more"}
    rows = [
        (
            f"{name}, {length} tokens",
            f"{mean_and_spread([run[length] for run in runs])} %",
            expected.get((name, length), "–" if name == names[True] else "near chance, 6.7"),
        )
        for name, runs in found.items()
        for length in LENGTHS
    ]
    report(options, ("", "Found", "Expected"), rows, accuracy=found, seeds=seeds)


if __name__ == "__main__":
    main()
