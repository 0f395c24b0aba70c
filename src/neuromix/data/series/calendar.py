"""What a date tells a network, how far apart dates are, and how they go on.

Shapes: R rows, F = 4 features.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neuromix.data.series.table import Times

FEATURES = ("hour", "weekday", "day of the month", "day of the year")


def calendar_features(times_R: Times) -> Tensor:
    """Hour, weekday, day of the month and day of the year, each from -0.5 to 0.5: [R, F], float32.

    hour/23 - 0.5, weekday/6 - 0.5 with Monday 0, (day - 1)/30 - 0.5 and (day of the year - 1)/365 - 0.5.
    """
    day_R = times_R.astype("datetime64[D]")
    number_R = day_R.astype(np.int64)  # days since 1970-01-01, which was a Thursday
    hour_R = (times_R - day_R) // np.timedelta64(1, "h")
    weekday_R = (number_R + 3) % 7
    of_month_R = number_R - day_R.astype("datetime64[M]").astype("datetime64[D]").astype(np.int64)
    of_year_R = number_R - day_R.astype("datetime64[Y]").astype("datetime64[D]").astype(np.int64)
    shares = (hour_R / 23, weekday_R / 6, of_month_R / 30, of_year_R / 365)
    return torch.from_numpy(np.stack(shares, 1) - 0.5).float()


def common_step(times_R: Times) -> np.timedelta64:
    """The most frequent distance between neighbouring rows, of R >= 2."""
    steps, counts = np.unique(np.diff(times_R), return_counts=True)
    step: np.timedelta64 = steps[counts.argmax()]
    return step


def rhythm(times_R: Times) -> Any:
    """The rhythm of three or more dates as pandas says it, such as "MS": each first of a month. None: there is none."""
    import pandas as pd

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that it will be an object; both are taken
        return pd.infer_freq(pd.DatetimeIndex(times_R)) if len(times_R) > 2 else None


def continued(times_R: Times, count: int) -> Times:
    """The `count` dates that follow, in the rhythm of those given, or where there is none at their common step."""
    step = common_step(times_R)
    if (np.diff(times_R) == step).all() or (found := rhythm(times_R)) is None:
        steady: Times = times_R[-1] + step * np.arange(1, count + 1)
        return steady
    import pandas as pd

    dates = pd.date_range(times_R[-1], periods=count + 1, freq=found)[1:]
    following: Times = dates.to_numpy().astype("datetime64[s]")
    return following
