"""Spoken digits heard frame by frame: how good the answer is when part of a recording has been heard.

    python benchmarks/lmuformer.py --data recordings --json results/lmuformer.json

`--data` names the folder of FSDD, with its official test recordings. The nets are LMUFormer with and without spikes, of
one size and trained alike; weights are chosen on validation recordings. Streaming takes every test recording one frame
of 10 ms at a time: after a share of it has been heard, the answer is the one that the net gives then, which is about
all but the last five frames; before the first answer it counts as wrong.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from ledger import mean_and_spread, parser, report
from torch import Tensor

import neuromix
from neuromix.core.model import Model
from neuromix.core.state import state_bytes
from neuromix.measure import profile
from neuromix.training.api import open_run, train

NETS = {"lmuformer_nano": "without spikes", "spiking_lmuformer_nano": "spiking"}
SHARES = (0.25, 0.5, 0.68, 0.75, 1.0)


def recordings(run: Path) -> tuple[Tensor, Tensor, Tensor]:
    """The test recordings of a run, [B, T, N] with zeros at the end, their lengths and their labels."""
    task = open_run(run, task_config={"steps": None}).task
    data = task.data("test")
    batch = task.collate([data.sample(i, torch.Generator()) for i in range(len(data))])
    return batch.tensor("audio"), batch.tensor("length"), batch.tensor("label")


@torch.no_grad()
def heard(net: Model, audio_BTN: Tensor, length_B: Tensor, label_B: Tensor) -> dict[str, float]:
    """Share of a recording -> accuracy in percent, of a session that is given a frame at a time."""
    session, answers = neuromix.stream(net).session(), []
    for x_BN in audio_BTN.unbind(1):
        logits = session.step(x_BN)
        answers.append(torch.full_like(label_B, -1) if logits is None else logits.argmax(1))
    answer_TB, found = torch.stack(answers), {}
    for share in SHARES:
        last_B = (length_B * share).round().long().clamp_min(1) - 1
        right_B = answer_TB.gather(0, last_B[None])[0] == label_B
        found[f"{share:.0%}"] = 100 * float(right_B.float().mean())
    found["state"] = float(state_bytes(session.state)) / len(label_B)
    return found


def measured(name: str, seed: int, folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """All figures of one run."""
    run = folder / f"{name}-{seed}"
    limit: dict[str, Any] = {"max_steps": 2} if options.quick else {}
    config = {"data": str(options.data)}
    result = train(
        name, "audio", run, task_config=config, epochs=1 if options.quick else 6, seed=seed, **limit
    )
    net, sounds = result.model().eval(), recordings(run)
    cost = profile(net, sounds[0][:32, :64])
    return {
        "whole": 100 * result.test["accuracy"],
        **heard(net, *sounds),
        "parameters": net.num_parameters(),
        "synaptic_operations": cost.synaptic_operations,
        "macs": cost.macs_dense,
        "energy": 1000 * cost.energy["45nm"],
    }


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--data", type=Path, required=True, help="folder of FSDD")
    options = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = {
            name: [measured(name, seed, Path(folder), options) for seed in range(options.seeds)]
            for name in NETS
        }

    def cell(name: str, key: str, digits: int = 1) -> str:
        return mean_and_spread([run[key] for run in found[name]], digits)

    rows = [(f"{about}: test accuracy, %", cell(name, "whole"), "above 85") for name, about in NETS.items()]
    rows += [
        (f"{about}: {share:.0%} of a recording heard, %", cell(name, f"{share:.0%}"), "rising")
        for name, about in NETS.items()
        for share in SHARES
    ]
    rows += [
        (
            "lost by the last 32 % of a recording, without spikes, points",
            f"{_lost(found['lmuformer_nano'])}",
            "little",
        ),
        (
            "lost by the last 32 % of a recording, spiking, points",
            f"{_lost(found['spiking_lmuformer_nano'])}",
            "little",
        ),
    ]
    for name, about in NETS.items():
        rows += [
            (f"{about}: parameters", f"{found[name][0]['parameters']:,}", "–"),
            (f"{about}: energy of 64 frames at 45 nm, µJ", cell(name, "energy"), "–"),
            (f"{about}: state of a stream, bytes", f"{found[name][0]['state']:,.0f}", "whatever the length"),
        ]
    report(options, ("", "Found", "Expected"), rows, runs=found, seeds=options.seeds)


def _lost(runs: list[dict[str, float]]) -> str:
    return mean_and_spread([run["100%"] - run["68%"] for run in runs])


if __name__ == "__main__":
    main()
