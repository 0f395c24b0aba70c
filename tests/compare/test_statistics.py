"""Intervals, paired tests, Holm's correction and ranks: against scipy, by hand, and for any numbers."""

from __future__ import annotations

import itertools
import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from neuromix.compare.statistics import (
    LEVEL,
    holm,
    interval_of_difference,
    is_significant,
    p_over_samples,
    p_over_seeds,
    ranks,
    summary,
)

SCORES = st.floats(0, 1).map(lambda x: round(x, 4))


def scores(least: int, most: int) -> st.SearchStrategy[list[tuple[float, float]]]:
    return st.lists(st.tuples(SCORES, SCORES), min_size=least, max_size=most)


def test_a_summary_by_hand():
    found = summary([0.9, None, 0.92, 0.97])
    values = np.array([0.9, 0.92, 0.97])
    assert found["n"] == 3
    assert found["mean"] == pytest.approx(0.93)
    assert found["std"] == pytest.approx(values.std(ddof=1))
    # t(2 degrees of freedom, 97.5 %) = 4.3027
    assert found["high"] - found["mean"] == pytest.approx(4.302653 * values.std(ddof=1) / math.sqrt(3))
    assert (found["low"], found["high"]) == pytest.approx(
        stats.t.interval(0.95, 2, loc=values.mean(), scale=stats.sem(values))
    )


def test_a_summary_of_few_values():
    assert summary([]) == {"mean": None, "std": None, "low": None, "high": None, "n": 0}
    assert summary([None]) == summary([])
    assert summary([3]) == {"mean": 3.0, "std": None, "low": None, "high": None, "n": 1}
    assert summary([3, 3]) == {"mean": 3.0, "std": 0.0, "low": 3.0, "high": 3.0, "n": 2}


@given(scores(3, 8))
@settings(deadline=None)
def test_over_seeds_is_the_paired_t_test(pairs):
    a, b = zip(*pairs, strict=True)
    difference = np.subtract(a, b)
    if difference.std() > 1e-3:  # below, scipy warns that digits are lost
        assert p_over_seeds(a, b) == pytest.approx(stats.ttest_rel(a, b).pvalue)
        low, high = stats.ttest_rel(a, b).confidence_interval(1 - LEVEL)
        assert interval_of_difference(a, b) == pytest.approx((low, high))


def test_one_seed_says_nothing():
    assert p_over_seeds([0.9], [0.1]) is None
    assert interval_of_difference([0.9], [0.1]) is None


def test_seeds_without_spread():
    assert p_over_seeds([0.9, 0.9], [0.9, 0.9]) == 1.0
    assert p_over_seeds([1.0, 1.0], [0.0, 0.0]) == 0.0
    assert p_over_seeds([0.9, 0.9], [0.9, 0.9], resolution=0.1) == 1.0
    # Two accuracies over ten samples that differ by one sample twice: the same difference may well be chance.
    assert p_over_seeds([0.9, 0.8], [0.8, 0.7], resolution=0.1) == pytest.approx(
        2 * stats.t.sf(math.sqrt(6) * math.sqrt(2), 1)
    )
    assert p_over_seeds([0.9, 0.8], [0.8, 0.7], resolution=0.1) > LEVEL


@given(scores(2, 8), st.floats(0, 0.1))
@settings(deadline=None)
def test_a_resolution_never_makes_a_test_surer(pairs, resolution):
    a, b = zip(*pairs, strict=True)
    assert p_over_seeds(a, b, resolution) >= p_over_seeds(a, b)


@pytest.mark.parametrize(("wins", "losses"), [(5, 0), (6, 1), (3, 3), (9, 2), (1, 0), (0, 0)])
def test_over_samples_is_mcnemars_exact_test(wins, losses):
    a = [1] * wins + [0] * losses + [1] * 40 + [0] * 7
    b = [0] * wins + [1] * losses + [1] * 40 + [0] * 7
    exact = stats.binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
    assert p_over_samples(a, b) == pytest.approx(exact)


def test_over_samples_by_trying_all_signs():
    a, b = np.array([2, 1, 3, 1, 2, 0, 3]) / 3, np.array([1, 1, 1, 0, 3, 0, 0]) / 3
    d = np.rint(3 * (a - b))
    sums = [
        sum(s * x for s, x in zip(signs, d, strict=True)) for signs in itertools.product((-1, 1), repeat=7)
    ]
    exact = np.mean(np.abs(sums) >= abs(d.sum()))
    assert p_over_samples(a, b) == pytest.approx(exact)


def test_over_many_samples_it_is_nearly_the_t_test():
    rng = np.random.default_rng(1)
    a, b = rng.random((2, 400)) < [[0.93], [0.88]]
    with warnings.catch_warnings(action="error"):
        p = p_over_samples(a, b)
    assert p == p_over_samples(a, b)  # the flips are the same each time
    assert p == pytest.approx(stats.ttest_rel(a.astype(float), b.astype(float)).pvalue, rel=0.35)


@given(scores(2, 30))
@settings(max_examples=25, deadline=None)
def test_tests_have_no_favourite(pairs):
    a, b = zip(*pairs, strict=True)
    for test in (p_over_seeds, p_over_samples):
        p = test(a, b)
        assert 0 <= p <= 1
        assert p == pytest.approx(test(b, a), rel=0.2, abs=0.02)
        assert test(a, a) == 1.0


def test_holm_by_hand():
    p = {("a", "b"): 0.01, ("a", "c"): 0.04, ("b", "c"): 0.03, ("c", "d"): 0.005, ("a", "d"): None}
    expected = {("a", "b"): 0.03, ("a", "c"): 0.06, ("b", "c"): 0.06, ("c", "d"): 0.02, ("a", "d"): None}
    assert holm(p) == pytest.approx(expected)
    assert list(holm(p)) == list(p)
    assert holm({}) == {}


@given(
    st.dictionaries(
        st.tuples(st.text(max_size=2), st.text(max_size=2)), st.one_of(st.none(), st.floats(0, 1))
    )
)
def test_holm_lies_between_none_and_bonferroni(p):
    adjusted = holm(p)
    known = {pair: value for pair, value in p.items() if value is not None}
    assert adjusted.keys() == p.keys()
    for pair, value in known.items():
        assert value <= adjusted[pair] <= min(1.0, len(known) * value) + 1e-12
    ordered = sorted(known, key=known.__getitem__)
    assert all(adjusted[x] <= adjusted[y] for x, y in itertools.pairwise(ordered))


def test_a_difference_counts_only_if_both_tests_find_it():
    assert is_significant(0.01, 0.01)
    assert is_significant(LEVEL, LEVEL)
    assert not is_significant(0.01, 0.06)
    assert not is_significant(0.06, 0.01)
    assert not is_significant(None, 0.0)
    assert not is_significant(0.0, None)


def test_ranks():
    assert ranks(["a", "b", "c"], {}) == {"a": 1, "b": 1, "c": 1}
    assert ranks(["a", "b", "c"], {"c": ["a", "b"]}) == {"a": 1, "b": 1, "c": 3}
    # b is told apart from neither a nor c, which are told apart.
    assert ranks(["a", "b", "c"], {"c": ["a"]}) == {"a": 1, "b": 1, "c": 2}
    # A model that is not ranked pushes nobody down.
    assert ranks(["b", "c"], {"b": ["a"], "c": ["a", "b"]}) == {"b": 1, "c": 2}


@given(st.lists(st.integers(0, 9), min_size=1, max_size=8))
def test_ranks_of_models_that_are_all_told_apart_are_those_of_a_race(marks):
    names = [str(i) for i in range(len(marks))]
    better = {n: [m for m in names if marks[int(m)] > marks[int(n)]] for n in names}
    assert list(ranks(names, better).values()) == stats.rankdata([-mark for mark in marks], "min").tolist()
