"""How well references are found again: distance matrix, ranking, recall@N, precision and recall, sequences.

A matrix of scores has a row a reference and a column a query. What a row and a query show is told by labels; a
match is right where they agree.

Shapes: R rows (references), Q queries, K places in a ranking.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from neuromix.core.errors import ConfigError, ShapeError

Array = npt.NDArray[Any]


def distance_matrix(scores_RQ: Array) -> Array:
    """max(S) - S, with the largest score of the whole matrix."""
    distance_RQ: Array = scores_RQ.max() - scores_RQ
    return distance_RQ


def ranking(scores_RQ: Array, labels_R: Array) -> Array:
    """The labels of each query from the best score to the worst, [R, Q]; of equal scores the later row leads.

    A query whose scores are all 0 says nothing: it gets -1, 0, 1, ..., R - 2.
    """
    ranked_RQ = labels_R[np.argsort(scores_RQ, axis=0, kind="stable")[::-1]]
    silent_Q = ~scores_RQ.any(0)
    ranked_RQ[:, silent_Q] = np.arange(-1, len(labels_R) - 1)[:, None]
    return ranked_RQ


def recall_at(distance_RQ: Array, labels_R: Array, labels_Q: Array, numbers: Sequence[int]) -> list[float]:
    """The share of queries with a right match among their N nearest references, for each N.

    Of equal distances the earlier row is nearer.

    Raises:
        ShapeError: labels do not fit the matrix, or it is empty.
    """
    _require_fit(distance_RQ, labels_R, labels_Q)
    right_RQ = labels_R[np.argsort(distance_RQ, axis=0, kind="stable")] == labels_Q
    return [float(right_RQ[:number].any(0).mean()) for number in numbers]


class PrecisionRecall(NamedTuple):
    """A curve, and the area under it; recall never falls along it."""

    precision: Array
    recall: Array
    area: float


def precision_recall(
    distance_RQ: Array, labels_R: Array, labels_Q: Array, thresholds: int = 99
) -> PrecisionRecall:
    """Precision and recall of best matches that are accepted up to a distance.

    The best match of a query is its nearest row, the first of equals. Thresholds lie evenly from the least to the
    largest distance. An accepted match is a true or a false positive, and every rejected query a false negative:
    P = TP / (TP + FP), R = TP / (TP + FN), 0 where TP is 0. The point (P 1, R 0) goes first.

    Raises:
        ShapeError: as `recall_at`.
    """
    _require_fit(distance_RQ, labels_R, labels_Q)
    best_Q = distance_RQ.argmin(0)
    nearest_Q, right_Q = distance_RQ.min(0), labels_R[best_Q] == labels_Q
    limits = np.linspace(distance_RQ.min(), distance_RQ.max(), thresholds)
    accepted = nearest_Q <= limits[:, None]
    true = (accepted & right_Q).sum(1)
    precision = np.append(1.0, true / np.maximum(accepted.sum(1), 1))
    recall = np.append(0.0, true / np.maximum(true + (~accepted).sum(1), 1))
    return PrecisionRecall(precision, recall, float(np.trapezoid(precision, recall)))


def sequence_distance(distance_RQ: Array, length: int) -> Array:
    """Distances of sequences [R - L + 1, Q - L + 1]: sum over k of D[i + k, j + k]. Rows and queries are in order.

    Raises:
        ConfigError: the length is below 1, or longer than the references or the queries.
    """
    from scipy.signal import convolve2d

    if not 1 <= length <= min(distance_RQ.shape):
        raise ConfigError(
            f"sequences are of 1 to {min(distance_RQ.shape)} images of these references and queries, got {length}"
        )
    return np.asarray(convolve2d(distance_RQ, np.eye(length), mode="valid"))


def _require_fit(distance_RQ: Array, labels_R: Array, labels_Q: Array) -> None:
    if distance_RQ.shape != (len(labels_R), len(labels_Q)) or distance_RQ.size == 0:
        raise ShapeError(
            f"a matrix [references, queries] fits its labels and is not empty; got {list(distance_RQ.shape)} with "
            f"{len(labels_R)} and {len(labels_Q)} labels"
        )
