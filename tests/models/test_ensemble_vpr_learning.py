"""Learning the places of a street: what silencing, ensembles and sequences are good for."""

from __future__ import annotations

from statistics import fmean

import pytest

from neuromix import train
from neuromix.core import registry
from neuromix.core.config import Spec
from neuromix.data.dataset import Loader
from neuromix.methods.stdp import STDPConfig, choose_threshold


@pytest.mark.slow
def test_three_modules_of_five_places_recognise_them(tmp_path):
    street = {"data": "synthetic-places", "places": 20, "calibration": 5}
    run = train(
        "ensemble_vpr_nano", "place-recognition", tmp_path / "run", task_config=street, epochs=10,
        model_config={"members": 3},
    )  # fmt: skip
    assert run.test["recall@1"] >= max(0.8, run.test["recall@1_unregularised"])
    model = run.model().eval()

    def recall(net, counts, **values):
        task = registry.build("task", Spec("place-recognition", {**street, **values}))
        metrics = task.metrics()
        metrics.update(net.recognise(counts), batch)
        return metrics.compute()["recall@1"]

    task = registry.build("task", Spec("place-recognition", street))
    batch = next(iter(Loader(task.data("test"), 15, collate=task.collate)))
    counts, alone = model(batch["image"]).counts, []
    for number, own in enumerate(counts.chunk(3, 1)):
        member = model.member(number)
        choose_threshold(member, task, STDPConfig().candidates, 15)
        alone.append(recall(member, own))
    assert recall(model, counts) >= fmean(alone)
    assert recall(model, counts, sequence_length=4) >= recall(model, counts)
