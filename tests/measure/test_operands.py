"""Spikes or real numbers, from values."""

from __future__ import annotations

import math

import pytest
import torch

from neuromix.measure.operands import LARGEST_SPIKE, values_of


@pytest.mark.parametrize(
    ("values", "level"),
    [
        ([0.0, 0.0, 0.0], 0),
        ([1.0, 1.0, 1.0], 1),
        ([0.0, 1.0, 0.0], 1),
        ([0.0, 4.0, 2.0], 4),
        ([0.0, float(LARGEST_SPIKE)], LARGEST_SPIKE),
        ([0.0, LARGEST_SPIKE + 1.0], None),
        ([0.0, -1.0], None),
        ([0.0, 0.5], None),
        ([1.0, math.nan], None),
        ([1.0, math.inf], None),
        ([-0.0, 1.0], 1),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_level(values, level, dtype):
    assert values_of(torch.tensor(values, dtype=dtype)).level == level


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64])
def test_integer_dtypes(dtype):
    seen = values_of(torch.tensor([[0, 1], [1, 1]], dtype=dtype))
    assert (seen.elements, seen.nonzero, seen.total, seen.level) == (4, 3, 3, 1)
    assert seen.rate == seen.mean == 0.75


def test_empty_is_no_work():
    seen = values_of(torch.zeros(0, 3))
    assert (seen.level, seen.rate, seen.mean) == (0, 0.0, 0.0)


def test_one_real_number_among_many_spikes_is_found():
    x = torch.zeros(4, 5000)
    x[0, 3] = 0.25
    assert values_of(x).level is None
    assert values_of(x).nonzero == 1


def test_views_and_complex():
    assert values_of(torch.ones(4, 6).mT[::2]).level == 1
    assert values_of(torch.ones(3, dtype=torch.complex64)).level is None
    assert values_of(torch.ones(())).level == 1


def test_meta_counts_as_real():
    assert values_of(torch.empty(3, device="meta")).level is None
