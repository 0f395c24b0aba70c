"""Place recognition by modules of spiking circuits: silencing, ensembles, sequences, and all modules at once.

    python benchmarks/ensemble_vpr.py --json results/ensemble_vpr.json

A made up street of 20 places, another one in each run, dealt to 4 modules of 5 places and 25 neurons: 15 places are
tested, 5 choose the threshold of hyperactive neurons and the epoch. Each run trains an ensemble of five members, which
differ in what places go to what module, in start weights and in delays, with the method stdp. Members are scored alone
and together, with and without hyperactive neurons, and with sequences of 4 images.

The last row times the test images through all modules of a run at once, and one image and one module at a time by the
same program; the input spikes are the same, and the counts must be.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from ledger import mean_and_spread, parser, report

from neuromix.core import registry
from neuromix.core.batch import Batch
from neuromix.core.config import Spec
from neuromix.data.dataset import Loader
from neuromix.methods.stdp import STDPConfig, choose_threshold
from neuromix.models.vision.ensemble_vpr import EnsembleVPR
from neuromix.training.api import train
from neuromix.training.task import Task

FIRST_STREET = 1000  # on others, whatever could be chosen was chosen


def place_config(seed: int) -> dict[str, Any]:
    return {"data": "synthetic-places", "places": 20, "street": {"seed": FIRST_STREET + seed}}


def place_task(seed: int = 0, **values: Any) -> Task:
    task: Task = registry.build("task", Spec("place-recognition", {**place_config(seed), **values}))
    return task


def test_batch(seed: int) -> Batch:
    task = place_task(seed)
    data = task.data("test")
    return next(iter(Loader(data, len(data), collate=task.collate)))


def recall(model: EnsembleVPR, counts: torch.Tensor, batch: Batch, **values: Any) -> dict[str, float]:
    """Scores in percent of counted spikes."""
    metrics = place_task(**values).metrics()
    metrics.update(model.recognise(counts), batch)
    return {name: 100 * value for name, value in metrics.compute().items()}


def scores(model: EnsembleVPR, seed: int) -> dict[str, float]:
    """Recall@1 in percent of the members (their mean) and of the ensemble, in the ways that are compared."""
    task, candidates, batch = place_task(seed), STDPConfig().candidates, test_batch(seed)
    counts = model(batch.tensor("image")).counts
    both = recall(model, counts, batch)
    found = {"ensemble": both["recall@1"], "ensemble, all neurons": both["recall@1_unregularised"]}
    found["ensemble, sequences"] = recall(model, counts, batch, sequence_length=4)["recall@1"]
    alone: dict[str, list[float]] = {"member": [], "member, all neurons": [], "member, sequences": []}
    for number, own in enumerate(counts.chunk(model.config.members, 1)):
        member = model.member(number)
        choose_threshold(member, task, candidates, 256)
        both = recall(member, own, batch)
        alone["member"].append(both["recall@1"])
        alone["member, all neurons"].append(both["recall@1_unregularised"])
        alone["member, sequences"].append(recall(member, own, batch, sequence_length=4)["recall@1"])
    return found | {name: fmean(values) for name, values in alone.items()}


def batched_ratio(model: EnsembleVPR, batch: Batch, images: int) -> tuple[float, int, bool]:
    """How much longer one by one takes than all at once, of how many pairs, and whether the counts are the same."""
    circuits = model.circuits
    events = model.spikes(batch.tensor("image")[:images])
    begin = time.perf_counter()
    together_MBN = circuits.respond(events, images)
    at_once, begin = time.perf_counter() - begin, time.perf_counter()
    same, whole = True, (circuits.weight.data, circuits.theta.data, circuits.delay)
    for module in range(len(together_MBN)):
        one = slice(module, module + 1)
        circuits.weight.data, circuits.theta.data, circuits.delay = (tensor[one] for tensor in whole)
        for image in range(images):
            counts = circuits.respond(events.of_rows(image, image + 1), 1)
            same &= torch.equal(counts[0, 0], together_MBN[module, image])
    one_by_one = time.perf_counter() - begin
    circuits.weight.data, circuits.theta.data, circuits.delay = whole
    return one_by_one / at_once, len(together_MBN) * images, same


def main() -> None:
    options = parser(__doc__).parse_args()
    members, epochs, images = (2, 1, 2) if options.quick else (5, 10, 15)
    found = []
    with tempfile.TemporaryDirectory() as path:
        for seed in range(options.seeds):
            run = train(
                "ensemble_vpr_nano",
                "place-recognition",
                Path(path) / str(seed),
                model_config={"members": members},
                task_config=place_config(seed),
                epochs=epochs,
                seed=seed,
            )
            model = run.model().eval()
            assert isinstance(model, EnsembleVPR)
            found.append(scores(model, seed))
            print(seed, found[-1], flush=True)
    ratio, pairs, same = batched_ratio(model, test_batch(options.seeds - 1), images)
    columns = {name: [one[name] for one in found] for name in found[0]}

    def shown(name: str) -> str:
        return f"{mean_and_spread(columns[name])} %"

    def compared(name: str, other: str) -> str:
        return f"{shown(name)} against {shown(other)}"

    rows = [
        ("One member, hyperactive neurons silenced: recall@1", shown("member"), "at least 80 %"),
        ("... against all neurons", compared("member", "member, all neurons"), "not less"),
        ("Ensemble, likewise", compared("ensemble", "ensemble, all neurons"), "not less"),
        (f"Ensemble of {members} against its mean member", compared("ensemble", "member"), "not less"),
        (
            "Member, sequences of 4 images against single ones",
            compared("member, sequences", "member"),
            "not less",
        ),
        ("Ensemble, likewise", compared("ensemble, sequences", "ensemble"), "not less"),
        (
            f"Test mode, {pairs} pairs of module and image: one by one over all at once",
            f"{ratio:.1f} times, {'the same' if same else 'other'} counts",
            "20 times, the same",
        ),
    ]
    report(
        options,
        ("", "Found", "Claimed"),
        rows,
        recall_at_1=columns,
        members=members,
        epochs=epochs,
        ratio=ratio,
        same_counts=same,
    )


if __name__ == "__main__":
    main()
