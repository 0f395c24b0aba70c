"""How figures are written on a page: few digits, the unit that fits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

NOTHING = "–"
_SPACE = "\u00a0"  # a figure and its unit stay on one line

# Names of units and their sizes, the largest first.
Units: TypeAlias = Sequence[tuple[str, float]]
COUNT: Units = (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3), ("", 1.0))
ENERGY: Units = (("mJ", 1.0), ("µJ", 1e-3), ("nJ", 1e-6))  # of mJ
TIME: Units = (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6))
SIZE: Units = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("B", 1.0))


def percent(share: float | None, digits: int = 1) -> str:
    """0.984 -> "98.4 %"."""
    return NOTHING if is_unknown(share) else f"{100 * share:.{digits}f}{_SPACE}%"  # type: ignore[operator]


def count(number: float | None) -> str:
    """13_400_000 -> "13.4 M"; whole numbers below 10,000 as they are."""
    if number is not None and abs(number) < 1e4:
        return f"{number:,.0f}"
    return in_units(number, COUNT)


def energy(millijoules: float | None) -> str:
    """0.0123 -> "12.3 µJ"."""
    return in_units(millijoules, ENERGY)


def duration(seconds: float | None) -> str:
    """0.00187 -> "1.87 ms"."""
    return in_units(seconds, TIME)


def size(number: float | None) -> str:
    """1_234_567 bytes -> "1.23 MB"."""
    return in_units(number, SIZE)


def seconds(duration: float | None) -> str:
    """73 -> "1 min 13 s"."""
    if is_unknown(duration):
        return NOTHING
    assert duration is not None
    minutes, rest = divmod(round(duration), 60)
    return f"{minutes}{_SPACE}min {rest}{_SPACE}s" if minutes else f"{rest}{_SPACE}s"


def in_units(number: float | None, units: Units) -> str:
    """Three digits, in the largest unit of which there is a whole one."""
    if is_unknown(number):
        return NOTHING
    assert number is not None
    name, size = unit_of([number], units)
    return f"{significant(number / size)}{_SPACE}{name}".rstrip(_SPACE)


def unit_of(numbers: Sequence[float], units: Units) -> tuple[str, float]:
    """The unit that suits all of these: the largest that their geometric mean holds; zeros do not count."""
    logs = [math.log(abs(number)) for number in numbers if number]
    middle = math.exp(sum(logs) / len(logs)) if logs else 0.0
    return next(((name, size) for name, size in units if middle >= size * (1 - 1e-9)), units[-1])


def significant(number: float, digits: int = 3) -> str:
    """Three digits that count, without an exponent: 13.4, 0.00213, 1,240."""
    rounded = float(f"{number:.{digits}g}")
    if rounded == 0:
        return "0"
    decimals = digits - 1 - math.floor(math.log10(abs(rounded)))
    return f"{rounded:,.{max(decimals, 0)}f}"


def is_unknown(number: float | None) -> bool:
    """Whether there is no number to write."""
    return number is None or not math.isfinite(number)
