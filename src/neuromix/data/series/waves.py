"""A made-up series, for trying things out: sensors that follow the day, the week, the weather and one another."""

from __future__ import annotations

import numpy as np

from neuromix.data.series.table import SeriesTable

WAVES = "waves"  # the data that are made, not read
_VARIATES, _SEED = 6, 7


def make_waves(rows: int = 4000) -> SeriesTable:
    """Hourly rows of six sensors, always the same ones.

    Each has a daily and a weekly cycle of its own strength and phase, and hears - some hours late - of one weather that
    none of them shows alone: x_i(t) = day_i(t) + week_i(t) + w(t - delay_i) + noise.
    """
    random = np.random.RandomState(_SEED)  # frozen by NumPy's compatibility policy
    hour_R1 = np.arange(rows)[:, None]
    strength_2N, phase_2N = (
        random.uniform(0.5, 2, (2, _VARIATES)),
        random.uniform(0, 2 * np.pi, (2, _VARIATES)),
    )
    cycles = [strength_2N[i] * np.sin(2 * np.pi * hour_R1 / period + phase_2N[i])
              for i, period in enumerate((24, 168))]  # fmt: skip
    delay_N = np.arange(_VARIATES) * 3
    shock = random.normal(0, 0.3, rows + int(delay_N.max()))
    weather = np.zeros_like(shock)
    for t in range(1, len(shock)):
        weather[t] = 0.97 * weather[t - 1] + shock[t]
    heard_RN = weather[hour_R1 + delay_N.max() - delay_N]
    level_N, unit_N = random.uniform(5, 40, _VARIATES), random.uniform(0.5, 5, _VARIATES)
    values_RN = level_N + unit_N * (sum(cycles) + heard_RN + random.normal(0, 0.2, (rows, _VARIATES)))
    times = np.datetime64("2024-01-01T00:00:00") + np.arange(rows) * np.timedelta64(3600, "s")
    return SeriesTable(WAVES, times, tuple(f"sensor_{i}" for i in range(1, _VARIATES + 1)), values_RN)
