"""Small CSV files of series."""

from __future__ import annotations

from pathlib import Path

import numpy as np

START = np.datetime64("2016-07-01T00:00:00")


def hourly(rows: int) -> list[str]:
    """Dates, an hour apart."""
    return [str(time).replace("T", " ") for time in START + np.arange(rows) * np.timedelta64(3600, "s")]


def write_series(
    path: Path, rows: int = 200, columns: tuple[str, ...] = ("a", "b", "OT"), seed: int = 0
) -> Path:
    """A file of smooth columns with a little noise, each with a unit of its own."""
    random, hour_R1 = np.random.RandomState(seed), np.arange(rows)[:, None]
    phase_N = np.arange(len(columns))
    values_RN = 10 * phase_N + (1 + phase_N) * np.sin(2 * np.pi * (hour_R1 / 24 + phase_N / 7))
    values_RN += random.normal(0, 0.05, values_RN.shape)
    write_lines(path, [",".join(("date", *columns)), *(
        ",".join((date, *(f"{value:.6f}" for value in row)))
        for date, row in zip(hourly(rows), values_RN, strict=True)
    )])  # fmt: skip
    return path


def write_lines(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
