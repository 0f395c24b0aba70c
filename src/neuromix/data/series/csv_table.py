"""Reading a CSV file with a column of dates, and refusing whatever would spoil a forecast unseen."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from neuromix.core.errors import DataError, MissingExtraError
from neuromix.data.series.calendar import common_step, rhythm
from neuromix.data.series.table import SeriesTable, Times, Values

if TYPE_CHECKING:
    import pandas as pd

DATE_COLUMNS = (
    "date",
    "datetime",
    "timestamp",
    "time",
    "ds",
)  # names, in any case, that a date column goes by
Gaps: TypeAlias = Literal["refuse", "ignore"]


def read_csv(path: str | Path, *, date_column: str = "", gaps: Gaps = "refuse") -> SeriesTable:
    """Reads a CSV file: one column of dates, every other one numbers, a row a time.

    Args:
        date_column: its name; "": the one named as in DATE_COLUMNS.
        gaps: whether missing rows are an error; "ignore" takes the rows as if none were missing.

    Raises:
        DataError: the file is missing, empty or no CSV; it has no dates; a date or number is missing or is none; dates
            are doubled, out of order, or irregular. Column and row are told; rows are counted from 1 below the header.
        MissingExtraError: pandas is not installed.
    """
    frame = _read(Path(path).expanduser())
    name = Path(path).name
    date = _date_column(frame, name, date_column)
    times_R = _times(frame[date], name)
    columns = [column for column in frame.columns if column != date]
    if not columns:
        raise DataError(f"{name} has no column but {date!r}; expected at least one of numbers")
    values_RN = np.stack([_numbers(frame[column], name, times_R) for column in columns], 1)
    _require_regular(times_R, name, gaps)
    return SeriesTable(name, times_R, tuple(map(str, columns)), values_RN)


def _read(path: Path) -> pd.DataFrame:
    try:
        import pandas as pd
    except ImportError as error:
        raise MissingExtraError("reading CSV files of series", "series") from error
    if not path.is_file():
        told = "is a folder" if path.is_dir() else "is not there"
        raise DataError(f"series data {path} {told}: expected a CSV file with a column of dates")
    if b"\0" in path.read_bytes()[:4096]:
        raise DataError(f"{path} is a binary file; expected a CSV file with a column of dates")
    try:
        with warnings.catch_warnings():
            # A row that is longer than the header would be cut.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = pd.read_csv(path, index_col=False, low_memory=False, encoding="utf-8-sig")
    except pd.errors.EmptyDataError as error:
        raise DataError(f"{path} is empty") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no text in UTF-8; expected a CSV file with a column of dates") from error
    except (pd.errors.ParserError, pd.errors.ParserWarning, ValueError, OSError) as error:
        raise DataError(f"{path} is no CSV file: {' '.join(str(error).split())}") from error
    if frame.empty:
        raise DataError(f"{path} has a header and no rows")
    unnamed = [i for i, column in enumerate(frame.columns, 1) if str(column).startswith("Unnamed: ")]
    if unnamed:
        raise DataError(f"{path}: column {unnamed[0]} has no name; name it in the header, or leave it out")
    return frame


def _date_column(frame: pd.DataFrame, name: str, wanted: str) -> str:
    columns = [str(column) for column in frame.columns]
    if wanted:
        found = [column for column in columns if column == wanted]
    else:
        found = [column for known in DATE_COLUMNS for column in columns if column.lower() == known]
    if not found:
        told = f"no column {wanted!r}" if wanted else "no date column"
        raise DataError(
            f"{name} has {told}; its columns are {', '.join(columns[:8])}{', ...' if len(columns) > 8 else ''}; "
            f"name the one of dates: --set task.date_column=NAME"
        )
    return found[0]


def _times(column: pd.Series[Any], name: str) -> Times:
    """The dates, rising; those with a time zone in UTC."""
    import pandas as pd

    if pd.api.types.is_numeric_dtype(column) and column.notna().any():
        raise DataError(
            f"{name}, column {column.name!r} holds numbers such as {column[column.first_valid_index()]}; "
            "expected dates such as 2016-07-01 13:00:00"
        )
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", UserWarning
        )  # pandas says so where it takes the day for the first number
        dates = pd.to_datetime(column, errors="coerce", utc=True)
    bad = np.flatnonzero(dates.isna())
    if bad.size:
        given = column.iloc[bad[0]]
        told = (
            "is empty" if pd.isna(given) else f"holds {str(given)[:40]!r}, which is no date like the others"
        )
        raise DataError(f"{name}, row {bad[0] + 1}: column {column.name!r} {told}")
    times_R: Times = dates.dt.tz_localize(None).to_numpy().astype("datetime64[s]")
    step_R = np.diff(times_R).astype(np.int64)
    for wrong, told in ((step_R == 0, "has the same date as the row before"),
                        (step_R < 0, "comes before the date of the row above")):  # fmt: skip
        if wrong.any():
            row = int(wrong.argmax()) + 1
            raise DataError(
                f"{name}, row {row + 1}: {_said(times_R[row])} {told}; sort the rows, each date once"
            )
    return times_R


def _numbers(column: pd.Series[Any], name: str, times_R: Times) -> Values:
    import pandas as pd

    numbers: Values = pd.to_numeric(column, errors="coerce").to_numpy(np.float64)
    bad = np.flatnonzero(~np.isfinite(numbers))
    if bad.size:
        row, given = int(bad[0]), column.iloc[bad[0]]
        told = "is empty" if pd.isna(given) else f"holds {str(given)[:40]!r}, which is no finite number"
        more = f", as are {len(bad) - 1} more" if len(bad) > 1 else ""
        raise DataError(
            f"{name}, row {row + 1} ({_said(times_R[row])}): column {column.name!r} {told}{more}; "
            "fill it in, or leave the column out"
        )
    return numbers


def _require_regular(times_R: Times, name: str, gaps: Gaps) -> None:
    if gaps == "ignore" or len(times_R) < 2:
        return
    step, step_R = common_step(times_R), np.diff(times_R)
    odd = np.flatnonzero(step_R != step)
    if odd.size and rhythm(times_R) is None:
        row = int(odd[0]) + 1
        raise DataError(
            f"{name}, row {row + 1}: {_said(times_R[row])} comes {_length(step_R[row - 1])} after the row before "
            f"instead of {_length(step)}; fill the gap, or take the rows as they are: --set task.gaps=ignore"
        )


def _said(time: np.datetime64) -> str:
    return str(time).replace("T", " ")


def _length(step: np.timedelta64) -> str:
    return str(step.astype("timedelta64[s]").item())
