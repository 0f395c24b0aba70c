"""What scores of several runs say: intervals over seeds, and which differences between two models are real.

Two things could have turned out otherwise: the seed of a training and the samples of the test split. A difference that
is due to lucky seeds shows in the scores of the runs; one that is due to a lucky test split does not, since all runs
share that split, but it shows in the scores of its samples. So each pair of models is tested over both, and a
difference counts only where both tests find it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import stats

LEVEL = 0.05  # of the tests; the intervals are those of 1 - LEVEL
FLIPS = 9_999  # random sign flips where there are too many to try them all

Numbers: TypeAlias = Sequence[float] | npt.NDArray[np.float64]
Pair: TypeAlias = tuple[str, str]


def summary(values: Sequence[float | None]) -> dict[str, float | int | None]:
    """Mean, standard deviation (n - 1) and 95 % interval of the mean (Student's t), of the values that are known.

    Returns:
        mean, std, low, high, n; null where there are too few values for it.
    """
    known = np.array([value for value in values if value is not None], np.float64)
    if len(known) == 0:
        return {"mean": None, "std": None, "low": None, "high": None, "n": 0}
    mean = float(known.mean())
    if len(known) == 1:
        return {"mean": mean, "std": None, "low": None, "high": None, "n": 1}
    std = float(known.std(ddof=1))
    half = _half_width(std, len(known))
    return {"mean": mean, "std": std, "low": mean - half, "high": mean + half, "n": len(known)}


def interval_of_difference(a: Numbers, b: Numbers) -> tuple[float, float] | None:
    """95 % interval of the mean of a - b over paired values; None for fewer than two pairs."""
    difference = _differences(a, b)
    if len(difference) < 2:
        return None
    mean, half = float(difference.mean()), _half_width(float(difference.std(ddof=1)), len(difference))
    return mean - half, mean + half


def p_over_seeds(a: Numbers, b: Numbers, resolution: float = 0.0) -> float | None:
    """Paired t-test: the chance of a mean difference as large as this, if the two were equal but for their seeds.

    Args:
        a, b: scores of the runs of two models; those at one position have the same seed.
        resolution: the step in which scores move, 1 / N for an accuracy over N samples. A few differences that are
            equal, or nearly, only by this rounding would seem to have no spread at all; their standard deviation
            is taken as at least that of the rounding of two scores, resolution / sqrt(6).

    Returns:
        The two-sided p-value; None for fewer than two pairs.
    """
    difference = _differences(a, b)
    n = len(difference)
    if n < 2:
        return None
    mean = float(difference.mean())
    std = max(float(difference.std(ddof=1)), resolution / math.sqrt(6))
    if std == 0:
        return 1.0 if mean == 0 else 0.0
    return float(2 * stats.t.sf(abs(mean) / std * math.sqrt(n), n - 1))


def p_over_samples(a: Numbers, b: Numbers) -> float | None:
    """Sign-flip test: the chance of a mean difference as large as this, if each sample might favour either model.

    Every sample's difference is given either sign; all ways are tried where they are few, else `FLIPS` random ones
    (the same in every run). For one run a model, with samples right or wrong, it is McNemar's exact test.

    Args:
        a, b: scores of two models on each test sample, means over their runs.

    Returns:
        The two-sided p-value; None for fewer than two samples.
    """
    difference = _differences(a, b)
    if len(difference) < 2:
        return None
    # Samples on which both do equally well have no sign: leaving them out changes nothing.
    difference = difference[difference != 0]
    if len(difference) < 2:
        return 1.0
    test = stats.permutation_test(
        (difference / np.abs(difference).max(),),
        lambda x, axis: x.sum(axis=axis).round(9),  # equal sums of thirds are equal
        permutation_type="samples",
        vectorized=True,
        n_resamples=FLIPS,
        batch=max(1, 10_000_000 // len(difference)),
        rng=np.random.default_rng(0),
    )
    return min(1.0, float(test.pvalue))


def holm(p_values: Mapping[Pair, float | None]) -> dict[Pair, float | None]:
    """Holm's correction: p-values that may be compared with the level although many were looked at.

    The k-th smallest of m is multiplied by m - k + 1, and none falls below the one before it.

    Args:
        p_values: of each pair; None where there is no test, which then does not count.
    """
    known = sorted((p, pair) for pair, p in p_values.items() if p is not None)
    adjusted: dict[Pair, float | None] = dict.fromkeys(p_values)
    largest = 0.0
    for rank, (p, pair) in enumerate(known):
        largest = max(largest, min(1.0, p * (len(known) - rank)))
        adjusted[pair] = largest
    return adjusted


def is_significant(p_seeds: float | None, p_samples: float | None) -> bool:
    """Whether a difference counts: both tests were made, and both find it."""
    return all(p is not None and p <= LEVEL for p in (p_seeds, p_samples))


def ranks(names: Sequence[str], better: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Rank = 1 + the number of models that are significantly better.

    So models between which nothing is certain share a rank, unless a third one tells them apart.

    Args:
        names: the models that are ranked.
        better: model -> those that are significantly better than it.
    """
    return {name: 1 + len(set(better.get(name, ())) & set(names)) for name in names}


def _differences(a: Numbers, b: Numbers) -> npt.NDArray[np.float64]:
    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    assert first.shape == second.shape
    return first - second


def _half_width(std: float, n: int) -> float:
    return float(stats.t.ppf(1 - LEVEL / 2, n - 1)) * std / math.sqrt(n)
