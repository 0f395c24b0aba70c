"""Scores of place recognition, and its data."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from neuromix.core import registry
from neuromix.core.batch import Batch
from neuromix.core.config import Spec
from neuromix.core.errors import ConfigError, ShapeError


class Output(NamedTuple):
    scores: Tensor
    unregularised: Tensor
    unassigned: Tensor


def task(**values):
    return registry.build(
        "task", Spec("place-recognition", {"data": "synthetic-places", "places": 4, **values})
    )


def scored(task, scores, labels, unregularised=None, unassigned=None):
    scores = torch.as_tensor(scores)
    unregularised = scores if unregularised is None else torch.as_tensor(unregularised)
    unassigned = torch.full((len(scores),), -1.0) if unassigned is None else torch.as_tensor(unassigned)
    metrics = task.metrics()
    for i in range(len(scores)):  # one query at a time
        part = slice(i, i + 1)
        batch = Batch({"label": torch.tensor(labels[part])})
        metrics.update(Output(scores[part], unregularised[part], unassigned[part]), batch)
    return metrics.compute()


def test_recall_with_and_without_regularisation():
    right = torch.eye(4)[1:]
    found = scored(task(), right, [1, 2, 3], unregularised=right.flip(0))
    assert found["recall@1"] == 1.0 and found["recall@1_unregularised"] == pytest.approx(1 / 3, abs=1e-6)
    assert found["auc_pr"] == 1.0
    assert [name for name in found if name.startswith("recall") and "_" not in name] == ["recall@1"]


def test_recall_at_more():
    scores = [[9.0, 0, 5, 1], [9, 0, 1, 2]]
    found = scored(task(recall_numbers=[1, 2, 3]), scores, [2, 3])
    assert (found["recall@1"], found["recall@2"]) == (0.0, 1.0)


def test_a_plain_model_gives_scores_alone():
    metrics = task().metrics()
    metrics.update(torch.eye(4), Batch({"label": torch.arange(4)}))
    found = metrics.compute()
    assert found["recall@1"] == 1.0 and not any("unregularised" in name for name in found)


def test_rivals_of_the_split_alone():
    scores = [[9.0, 3, 0, 0], [9, 0, 3, 0], [9, 0, 0, 3]]
    assert scored(task(), scores, [1, 2, 3])["recall@1"] == 0.0
    assert scored(task(rivals="split"), scores, [1, 2, 3])["recall@1"] == 1.0


def test_rows_by_index_as_released():
    # Place 1 has no neuron, so that the row of place 2 is row 1; neurons that never fired are a row before all.
    scores = [[5.0, -1, 0, 0], [0, -1, 0, 0], [0, -1, 5, 0], [0, -1, 0, 5]]
    by_label = scored(task(), scores, [0, 1, 2, 3])
    assert by_label["recall@1"] == 0.75
    without, shifted = task(row_index=True), [1.0, 9, 1, 1]
    assert scored(without, scores, [0, 1, 2, 3])["recall@1"] == 0.25
    # With that row, place 2 is in row 2, and query 1 is won by row 0.
    assert scored(without, scores, [0, 1, 2, 3], unassigned=shifted)["recall@1"] == 0.5


def test_sequences():
    scores = torch.eye(6) * 2
    scores[2, 2], scores[2, 5] = 0.0, 2.0
    names = list(range(6))
    assert scored(task(places=6), scores, names)["recall@1"] == pytest.approx(5 / 6, abs=1e-6)
    assert scored(task(places=6, sequence_length=3), scores, names)["recall@1"] == 1.0


def test_the_order_of_batches_does_not_matter():
    scores = torch.rand(4, 4, generator=torch.Generator().manual_seed(0))
    ordered = scored(task(sequence_length=2), scores, [0, 1, 2, 3])
    assert scored(task(sequence_length=2), scores[[2, 0, 3, 1]], [2, 0, 3, 1]) == ordered


def test_what_a_model_is_told():
    found = task(size=12)
    config = registry.find("model", "ensemble_vpr_nano")[1]
    assert found.prepare(config) == {"places": 4, "input_size": (12, 12)}
    assert found.training()["batch_size"] == 8
    assert "4 places, 1 of them for calibration" in found.notes()[0]


def test_bad_values_are_one_clear_line():
    with pytest.raises(ConfigError, match="needs data"):
        registry.build("task", "place-recognition")
    with pytest.raises(ConfigError, match="recall_numbers need a 1"):
        task(recall_numbers=[5])
    with pytest.raises(ConfigError, match="window must be odd"):
        task(window=4)
    with pytest.raises(ShapeError, match=r"\[B, 4\]"):
        task().metrics().update(torch.zeros(2, 3), Batch({"label": torch.zeros(2)}))
    with pytest.raises(ConfigError, match="1 to 4 images"):
        scored(task(sequence_length=5), torch.eye(4), [0, 1, 2, 3])
