"""How trained spiking nets hold out against attacks: PGD by three surrogates on digits, SDA on binary event frames.

    python benchmarks/pdsg_sda.py --json results/pdsg_sda.json

For each seed it trains pdsg_resnet_nano on the digits and on digits-dvs with binary frames. The first net is attacked
on all test images by the same PGD, its neurons going backward by PDSG, by a fixed surrogate that is deliberately
narrow, and by the surrogate that it was trained with, which an attacker would not know. The second one is attacked by
SDA on some test samples, with every pixel that changes counted.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ledger import mean_and_spread, parser, report

from neuromix.core.config import Spec
from neuromix.methods.attacks.attack_run import attack_run
from neuromix.training.api import train

NARROW = Spec("rectangle", {"width": 0.02})
SURROGATES: Mapping[str, Spec | str] = {"pdsg": "pdsg", "narrow": NARROW, "training": "keep"}
EPS = (2 / 255, 8 / 255, 16 / 255)


def dense(seed: int, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Attack success rates of PGD on a net for digits: surrogate -> a rate for each eps."""
    run = train(
        "pdsg_resnet_nano", "digits", folder / f"digits-{seed}", epochs=options.epochs, seed=seed, threads=1
    )
    rates = {}
    for name, surrogate in SURROGATES.items():
        attacks = [
            attack_run(
                run.run,
                Spec("pgd", {"eps": eps}),
                surrogate=surrogate,
                samples=options.images,
                seed=seed,
                train_config={"batch_size": 500},
            )
            for eps in EPS
        ]
        rates[name] = [attack.robustness.success_rate for attack in attacks]
    return {"accuracy": run.test["accuracy"], "success_rate": rates}


def sparse(seed: int, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """What SDA needs on a net for event frames."""
    run = train(
        "pdsg_resnet_nano",
        "digits-dvs",
        folder / f"dvs-{seed}",
        task_config={"representation": ["count", {"most": 1}]},
        epochs=options.epochs,
        seed=seed,
        threads=1,
    )
    found = attack_run(run.run, "sda", samples=options.samples, seed=seed).robustness
    return {"accuracy": run.test["accuracy"], "changed": found.l0, **found.to_dict()}


def table(denses: list[dict[str, Any]], sparses: list[dict[str, Any]]) -> list[list[str]]:
    """A row a figure: what, what was found over the seeds, what is asked."""

    def percent(values: list[float], digits: int = 1) -> str:
        return f"{mean_and_spread([100 * value for value in values], digits)} %"

    rows = [["Digits: test accuracy", percent([one["accuracy"] for one in denses]), ""]]
    for place, eps in enumerate(EPS):
        for name in SURROGATES:
            rates = [one["success_rate"][name][place] for one in denses]
            asked = "above the narrow one's" if name == "pdsg" else ""
            rows.append([f"PGD, eps {round(255 * eps)}/255, success by {name}", percent(rates), asked])
    shares = [one["l0_median_share"] for one in sparses if one["l0_median_share"] is not None]
    rows += [
        ["Binary events: test accuracy", percent([one["accuracy"] for one in sparses]), ""],
        ["SDA: success", percent([one["attack_success_rate"] for one in sparses]), "100 %"],
        ["SDA: fewer than 200 flips", percent([one["success_rate_l0_below_200"] for one in sparses]), ""],
        ["SDA: median of the flips, of all pixels", percent(shares, 2) if shares else "-", "below 5 %"],
    ]
    return rows


def main() -> None:
    """Trains, attacks, and writes what was found."""
    options = parser(__doc__)
    options.add_argument("--epochs", type=int, default=12, help="of each training")
    options.add_argument("--images", type=int, default=500, help="test images that PGD attacks")
    options.add_argument("--samples", type=int, default=30, help="test samples that SDA attacks, a seed")
    given = options.parse_args()
    if given.quick:
        given.seeds, given.epochs, given.images, given.samples = 1, 1, 40, 4
    with tempfile.TemporaryDirectory() as path:
        denses = [dense(seed, Path(path), given) for seed in range(given.seeds)]
        sparses = [sparse(seed, Path(path), given) for seed in range(given.seeds)]
    report(
        given,
        ["", "Found", "Asked"],
        table(denses, sparses),
        settings={"epochs": given.epochs, "eps": EPS, "narrow": [NARROW.name, NARROW.options]},
        dense=denses,
        sparse=sparses,
    )


if __name__ == "__main__":
    main()
