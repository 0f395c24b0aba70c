"""Recall, precision and sequences of matches."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuromix.core.errors import ConfigError, ShapeError
from neuromix.measure.retrieval import (
    distance_matrix,
    precision_recall,
    ranking,
    recall_at,
    sequence_distance,
)

LABELS = np.arange(3)


def test_perfect_matches():
    distance = distance_matrix(np.eye(3))
    assert recall_at(distance, LABELS, LABELS, [1, 3]) == [1.0, 1.0]
    curve = precision_recall(distance, LABELS, LABELS)
    assert curve.area == 1.0 and len(curve.precision) == len(curve.recall) == 100
    assert (curve.precision[0], curve.recall[0]) == (1.0, 0.0)


def test_precision_and_recall_by_hand():
    # Query 0 is right at distance 0, query 1 wrong at 1, query 2 right at 2.
    distance = np.array([[0.0, 1, 9], [5, 4, 9], [5, 4, 2]])
    curve = precision_recall(distance, LABELS, LABELS, thresholds=10)  # 0, 1, 2, ..., 9
    assert np.allclose(curve.precision[:4], [1, 1, 1 / 2, 2 / 3])
    assert np.allclose(curve.recall[:4], [0, 1 / 3, 1 / 2, 1])
    assert np.isclose(curve.area, 1 / 3 + (1 + 1 / 2) / 2 / 6 + (1 / 2 + 2 / 3) / 2 / 2)


def test_nothing_right():
    curve = precision_recall(np.zeros((2, 2)), np.array([5, 6]), np.array([0, 1]))
    assert curve.area == 0.0 and np.isfinite(curve.precision).all()


def test_rows_are_known_by_their_labels():
    """A place without a row shifts the rows after it; labels still fit."""
    scores = np.array([[3.0, 0, 0], [0, 0, 2]])  # places 0 and 2
    distance, rows = distance_matrix(scores), np.array([0, 2])
    assert recall_at(distance, rows, LABELS, [1]) == [2 / 3]
    assert recall_at(distance, np.arange(2), LABELS, [1]) == [1 / 3]  # as released, by the row


def test_ranking():
    ranked = ranking(np.array([[1.0, 0], [3, 0], [1, 0]]), np.array([4, 5, 9]))
    assert ranked[:, 0].tolist() == [5, 9, 4]
    assert ranked[:, 1].tolist() == [-1, 0, 1]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 99), st.data())
def test_sequences_sum_along_diagonals(rows, queries, seed, data):
    length = data.draw(st.integers(1, min(rows, queries)))
    distance = np.random.default_rng(seed).random((rows, queries))
    found = sequence_distance(distance, length)
    assert found.shape == (rows - length + 1, queries - length + 1)
    for i, j in np.ndindex(found.shape):
        assert np.isclose(found[i, j], sum(distance[i + k, j + k] for k in range(length)))


def test_sequences_mend_single_mistakes():
    distance = 1 - np.eye(8)
    distance[3, 3], distance[6, 3] = 1.0, 0.0
    labels = np.arange(8)
    assert recall_at(distance, labels, labels, [1]) == [7 / 8]
    four = sequence_distance(distance, 4)
    assert recall_at(four, labels[:5], labels[:5], [1]) == [1.0]


def test_bad_input_is_one_clear_line():
    with pytest.raises(ShapeError, match=r"got \[2, 2\] with 3 and 2 labels"):
        recall_at(np.zeros((2, 2)), LABELS, np.arange(2), [1])
    with pytest.raises(ConfigError, match="1 to 2 images"):
        sequence_distance(np.zeros((2, 5)), 3)
