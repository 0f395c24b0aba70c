"""Time series: CSV files with dates, the splits that published figures are of, calendar features, windows."""

from neuromix.data.series.calendar import calendar_features, continued
from neuromix.data.series.csv_table import read_csv
from neuromix.data.series.splits import part_rows, protocol_of
from neuromix.data.series.table import SeriesTable
from neuromix.data.series.windows import Windows

__all__ = [
    "SeriesTable",
    "Windows",
    "calendar_features",
    "continued",
    "part_rows",
    "protocol_of",
    "read_csv",
]
