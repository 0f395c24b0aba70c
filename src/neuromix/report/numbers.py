"""How figures are written on a page: few digits, the unit that fits."""

from __future__ import annotations

import math

NOTHING = "–"
_SPACE = "\u00a0"  # a figure and its unit stay on one line


def percent(share: float | None, digits: int = 1) -> str:
    """0.984 -> "98.4 %"."""
    return NOTHING if _is_unknown(share) else f"{100 * share:.{digits}f}{_SPACE}%"  # type: ignore[operator]


def count(number: float | None) -> str:
    """13_400_000 -> "13.4 M"; whole numbers below 10,000 as they are."""
    if _is_unknown(number):
        return NOTHING
    assert number is not None
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(number) >= (size if size > 1e3 else 1e4):
            return f"{significant(number / size)}{_SPACE}{unit}"
    return f"{number:,.0f}"


def energy(millijoules: float | None) -> str:
    """0.0123 -> "12.3 µJ"."""
    if _is_unknown(millijoules):
        return NOTHING
    assert millijoules is not None
    for unit, size in (("mJ", 1.0), ("µJ", 1e-3)):
        if abs(millijoules) >= size:
            return f"{significant(millijoules / size)}{_SPACE}{unit}"
    return f"{significant(millijoules / 1e-6)}{_SPACE}nJ"


def seconds(duration: float | None) -> str:
    """73 -> "1 min 13 s"."""
    if _is_unknown(duration):
        return NOTHING
    assert duration is not None
    minutes, rest = divmod(round(duration), 60)
    return f"{minutes}{_SPACE}min {rest}{_SPACE}s" if minutes else f"{rest}{_SPACE}s"


def significant(number: float, digits: int = 3) -> str:
    """Three digits that count, without an exponent: 13.4, 0.00213, 1,240."""
    rounded = float(f"{number:.{digits}g}")
    if rounded == 0:
        return "0"
    decimals = digits - 1 - math.floor(math.log10(abs(rounded)))
    return f"{rounded:,.{max(decimals, 0)}f}"


def _is_unknown(number: float | None) -> bool:
    return number is None or not math.isfinite(number)
