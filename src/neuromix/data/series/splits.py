"""Which rows of a table are for training, validation and testing: the protocols that published figures are of.

Rows are cut in the order of time. The look-back of the first windows of a part may reach into the part before.

| protocol | training | validation | test |
| --- | --- | --- | --- |
| `ett-hourly` | 12 months of 30 days | the next 4 | the next 4; what follows is not used |
| `ett-minutely` | the same with 4 rows an hour | | |
| `ratio` | the first 70 % | what is between | the last 20 % |
| `solar` | the first 70 % | the next 10 % | the last 20 % |
| `pems` | the first 60 % | the next 20 % | the last 20 %; no part reaches into another |
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Literal, TypeAlias

from neuromix.core.errors import ConfigError, DataError

Protocol: TypeAlias = Literal["ett-hourly", "ett-minutely", "ratio", "solar", "pems"]

PARTS = ("train", "validation", "test")
_MONTH = 30 * 24  # hours


def protocol_of(name: str) -> Protocol:
    """The protocol of a file by its name: ETTh1.csv, ETTm1.csv, or any other."""
    lower = name.lower()
    return (
        "ett-hourly" if lower.startswith("etth") else "ett-minutely" if lower.startswith("ettm") else "ratio"
    )


def part_rows(protocol: Protocol, rows: int, look_back: int, horizon: int, name: str) -> Mapping[str, range]:
    """The rows of each part, look-back included.

    Raises:
        ConfigError: look_back or horizon below 1.
        DataError: a part has no window of look_back + horizon rows.
    """
    if look_back < 1 or horizon < 1:
        raise ConfigError(f"look_back and horizon are 1 or more; given {look_back} and {horizon}")
    ends = _ends(protocol, rows)
    if ends["test"][1] > rows:
        raise DataError(
            f"{name} has {rows} rows; the protocol {protocol} needs {ends['test'][1]}: --set task.split=ratio"
        )
    overlap = 0 if protocol == "pems" else look_back
    parts = {part: range(max(0, begin - overlap), end) for part, (begin, end) in ends.items()}
    for part, part_range in parts.items():
        if len(part_range) < look_back + horizon:
            raise DataError(
                f"{name} has {rows} rows, {len(part_range)} of them for {part}; "
                f"one window takes look_back + horizon = {look_back} + {horizon}"
            )
    return parts


def _ends(protocol: Protocol, rows: int) -> dict[str, tuple[int, int]]:
    """Where each part begins, without look-back, and ends."""
    if protocol in ("ett-hourly", "ett-minutely"):
        month = _MONTH * (4 if protocol == "ett-minutely" else 1)
        cuts = (0, 12 * month, 16 * month, 20 * month)
    elif protocol == "pems":
        cuts = (0, int(0.6 * rows), int(0.8 * rows), rows)
    else:
        cuts = (0, int(0.7 * rows), rows - int(0.2 * rows), rows)
    ends = dict(zip(PARTS, itertools.pairwise(cuts), strict=True))
    if protocol == "solar":
        ends["validation"] = (cuts[1], cuts[1] + int(0.1 * rows))
    return ends
