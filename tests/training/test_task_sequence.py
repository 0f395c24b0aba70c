"""Accuracy matrix and its figures."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuromix.core.errors import ConfigError
from neuromix.training.task_sequence import AccuracyMatrix, SequenceReport

ROWS = ((0.9,), (0.7, 0.8), (0.8, 0.6, 0.7))


def test_figures_by_hand():
    matrix = AccuracyMatrix(ROWS)
    assert matrix.average == pytest.approx(0.7)
    assert matrix.backward_transfer == pytest.approx(((0.8 - 0.9) + (0.6 - 0.8)) / 2)
    assert matrix.forgetting == pytest.approx(((0.9 - 0.8) + (0.8 - 0.6)) / 2)
    assert AccuracyMatrix(((0.5,), (0.9, 0.8), (0.7, 0.8, 0.9))).forgetting == pytest.approx((0.2 + 0.0) / 2)


def test_one_task_has_no_forgetting_to_speak_of():
    matrix = AccuracyMatrix(((0.9,),))
    assert (matrix.average, matrix.backward_transfer, matrix.forgetting) == (0.9, None, None)
    assert AccuracyMatrix().average is None


@given(st.lists(st.floats(0, 1), min_size=2, max_size=6))
def test_nothing_is_forgotten_where_accuracies_stay(accuracies):
    matrix = AccuracyMatrix()
    for i in range(len(accuracies)):
        matrix = matrix.with_row(i, accuracies[: i + 1])
    assert matrix.backward_transfer == matrix.forgetting == 0


def test_a_row_takes_the_place_of_what_was_there():
    matrix = AccuracyMatrix(ROWS)
    assert matrix.with_row(1, (0.1, 0.2)).rows == ((0.9,), (0.1, 0.2))
    for i, row in ((0, ()), (4, (0.1,) * 5), (1, (0.1,))):
        with pytest.raises(ConfigError, match=f"row {i} of 3 has"):
            matrix.with_row(i, row)


def test_a_report_goes_through_json():
    empty = {kind: AccuracyMatrix() for kind in SequenceReport.KINDS}
    report = SequenceReport("task", ("a", "b"), empty).after(0, {"task_aware": [0.9], "task_agnostic": [0.4]})
    again = SequenceReport.from_dict(json.loads(json.dumps(report.to_dict())))
    assert again == report
    assert report.main.rows == ((0.9,),)
    assert SequenceReport("class", ("a", "b"), report.matrices).main.rows == ((0.4,),)
    assert report.to_dict()["forgetting"] is None
