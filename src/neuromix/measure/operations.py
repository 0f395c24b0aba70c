"""What is counted: arithmetic and data movement, each a kind and a word length."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

# (kind, bits) -> how many.
Operation: TypeAlias = tuple[str, int]
# A whole number where operations are counted; a firing rate times MACs need not be one.
Counts: TypeAlias = Mapping[Operation, float]

# Multiply-accumulate, accumulate, shift.
ARITHMETIC = ("mac", "ac", "shift")
# Traffic without reuse: every operand of every operation is an access.
ACCESSES = (
    "weight_read",
    "input_read",
    "register_read",
    "register_write",
    "sum_read",
    "sum_write",
    "output_write",
    "state_read",
    "state_write",
)
# Traffic with ideal reuse: every number is moved once.
TRANSFERS = ("weight_load", "input_load", "output_store", "state_load", "state_store")
TRAFFIC = ACCESSES + TRANSFERS


def label(operation: Operation) -> str:
    """The name of an operation in tables and JSON: ("mac", 32) is "mac32"."""
    kind, bits = operation
    return f"{kind}{bits}"


def is_operation(name: str) -> bool:
    """Whether a table may price `name`: a known kind, alone or with a word length."""
    found = re.fullmatch(r"([a-z_]+)([1-9]\d*)?", name)
    return found is not None and found[1] in ARITHMETIC + TRAFFIC


def is_traffic(operation: Operation) -> bool:
    """Whether it moves data and computes nothing."""
    return operation[0] in TRAFFIC


def total(counts: Iterable[Counts]) -> Counts:
    """The sum of counts."""
    summed: Counter[Any] = Counter()
    for operations in counts:
        summed.update(operations)
    return summed
