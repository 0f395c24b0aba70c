"""Figures keep three digits and their unit."""

from __future__ import annotations

import pytest

from neuromix.report import numbers


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (numbers.percent(0.984), "98.4 %"),
        (numbers.percent(1), "100.0 %"),
        (numbers.percent(None), "–"),
        (numbers.percent(float("nan")), "–"),
        (numbers.count(0), "0"),
        (numbers.count(1797), "1,797"),
        (numbers.count(226_258), "226 k"),
        (numbers.count(15_024_128), "15.0 M"),
        (numbers.count(6.473e9), "6.47 G"),
        (numbers.count(None), "–"),
        (numbers.energy(16.7), "16.7 mJ"),
        (numbers.energy(0.00517), "5.17 µJ"),
        (numbers.energy(3e-7), "0.300 nJ"),
        (numbers.energy(0), "0 nJ"),
        (numbers.duration(0.00187), "1.87 ms"),
        (numbers.duration(2e-6), "2.00 µs"),
        (numbers.duration(None), "–"),
        (numbers.size(1_234_567), "1.23 MB"),
        (numbers.size(0), "0 B"),
        (numbers.seconds(12.4), "12 s"),
        (numbers.seconds(73.2), "1 min 13 s"),
        (numbers.significant(1234.5), "1,230"),
        (numbers.significant(0.00213), "0.00213"),
        (numbers.significant(9.999), "10.0"),
    ],
)
def test_shown(shown: str, expected: str) -> None:
    assert shown.replace("\u00a0", " ") == expected


def test_one_unit_for_many() -> None:
    assert numbers.unit_of([0.0005, 0.002, 0.05], numbers.TIME) == ("ms", 1e-3)
    assert numbers.unit_of([1.0], numbers.ENERGY) == ("mJ", 1.0)
    assert numbers.unit_of([0.0, 0.0], numbers.COUNT) == ("", 1.0)
    assert numbers.unit_of([], numbers.SIZE) == ("B", 1.0)
