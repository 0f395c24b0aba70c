"""Reading CSV files of series: what is right, and one line for each thing that can be wrong."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from neuromix.core.errors import DataError, MissingExtraError
from neuromix.data.series import read_csv
from tests.data.series.files import hourly, write_lines, write_series

GOOD = [f"{date},{i},{i * 0.5}" for i, date in enumerate(hourly(6))]


def file_of(tmp_path, lines, header="date,a,b"):
    return write_lines(tmp_path / "s.csv", [header, *lines])


def refused(tmp_path, lines, *told, header="date,a,b", **options):
    with pytest.raises(DataError) as error:
        read_csv(file_of(tmp_path, lines, header), **options)
    message = str(error.value)
    assert "\n" not in message
    for text in told:
        assert text in message, message


def test_a_table_is_read_as_it_stands(tmp_path):
    table = read_csv(file_of(tmp_path, GOOD))
    assert (table.name, table.columns, len(table)) == ("s.csv", ("a", "b"), 6)
    np.testing.assert_array_equal(table.values, [[i, i / 2] for i in range(6)])
    assert table.values.dtype == np.float64
    assert str(table.times[1]) == "2016-07-01T01:00:00"


@pytest.mark.parametrize("header", ["Date,a,b", "TIMESTAMP,a,b", "ds,a,b", "\ufeffdate,a,b"])
def test_usual_names_of_date_columns_are_known(tmp_path, header):
    assert read_csv(file_of(tmp_path, GOOD, header)).columns == ("a", "b")


def test_the_date_column_may_be_named_and_stand_anywhere(tmp_path):
    lines = [",".join((b, a, date)) for date, a, b in (line.split(",") for line in GOOD)]
    table = read_csv(file_of(tmp_path, lines, "b,a,when"), date_column="when")
    assert table.columns == ("b", "a")


def test_dates_in_other_forms(tmp_path):
    table = read_csv(file_of(tmp_path, [f"1990/1/{day} 0:00,1,2" for day in (1, 2, 3, 4)]))
    assert str(table.times[3]) == "1990-01-04T00:00:00"
    with_zone = read_csv(file_of(tmp_path, [f"2020-01-0{day}T00:00:00+01:00,1,2" for day in (1, 2, 3)]))
    assert str(with_zone.times[0]) == "2019-12-31T23:00:00"


def test_months_are_no_gaps(tmp_path):
    assert len(read_csv(file_of(tmp_path, [f"2020-{month:02}-01,1,2" for month in range(1, 13)]))) == 12


def test_missing_rows(tmp_path):
    lines = [*GOOD[:3], *GOOD[4:]]
    refused(tmp_path, lines, "row 4", "2016-07-01 04:00:00", "2:00:00", "1:00:00", "task.gaps=ignore")
    assert len(read_csv(file_of(tmp_path, lines), gaps="ignore")) == 5


def test_text_in_a_column_of_numbers(tmp_path):
    lines = [*GOOD[:2], "2016-07-01 02:00:00,2,warm", *GOOD[3:]]
    refused(tmp_path, lines, "row 3", "2016-07-01 02:00:00", "column 'b'", "'warm'", "no finite number")


@pytest.mark.parametrize(("cell", "told"), [("", "is empty"), ("NaN", "is empty"), ("inf", "'inf'")])
def test_missing_numbers(tmp_path, cell, told):
    lines = [*GOOD[:4], f"2016-07-01 04:00:00,{cell},2", f"2016-07-01 05:00:00,{cell},2"]
    refused(tmp_path, lines, "row 5", "column 'a'", told, "as are 1 more")


def test_a_row_that_is_too_short_or_too_long(tmp_path):
    refused(tmp_path, [*GOOD[:2], "2016-07-01 02:00:00,2", *GOOD[3:]], "row 3", "column 'b' is empty")
    refused(tmp_path, [*GOOD[:2], GOOD[2] + ",9", *GOOD[3:]], "no CSV file")
    refused(tmp_path, [line + ",9" for line in GOOD], "no CSV file")


def test_doubled_and_disordered_dates(tmp_path):
    refused(tmp_path, [*GOOD[:3], GOOD[2], *GOOD[3:]], "row 4", "2016-07-01 02:00:00", "same date")
    refused(tmp_path, [GOOD[0], GOOD[2], GOOD[1]], "row 3", "2016-07-01 01:00:00", "before")


def test_dates_that_are_none(tmp_path):
    refused(tmp_path, [*GOOD[:2], "soon,1,2"], "row 3", "'date'", "'soon'")
    refused(tmp_path, [*GOOD[:2], ",1,2"], "row 3", "'date'", "is empty")
    refused(tmp_path, ["1,1,2", "2,1,2"], "'date'", "numbers such as 1")


def test_no_dates_and_no_numbers(tmp_path):
    refused(tmp_path, ["1,2,3"], "no date column", "x, a, b", "task.date_column=", header="x,a,b")
    refused(tmp_path, GOOD, "no column 'when'", date_column="when")
    refused(tmp_path, hourly(3), "no column but 'date'", header="date")


def test_a_column_without_a_name(tmp_path):
    refused(
        tmp_path, [f"{i},{line}" for i, line in enumerate(GOOD)], "column 1 has no name", header=",date,a,b"
    )


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (b"date,a\n", "no rows"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "binary"),
        (b"date,a\n2020-01-01,\xff\xfe\n", "no text in UTF-8"),
        (b'date,a\n2020-01-01,"1\n', "no CSV file"),
    ],
)
def test_files_that_are_no_tables(tmp_path, content, told):
    path = tmp_path / "s.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=told):
        read_csv(path)


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(DataError, match="is not there"):
        read_csv(tmp_path / "s.csv")
    with pytest.raises(DataError, match="is a folder"):
        read_csv(tmp_path)


def test_without_pandas_the_extra_is_named(tmp_path, monkeypatch):
    path = write_series(tmp_path / "s.csv", 5)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingExtraError, match=r"neuromix\[series\]"):
        read_csv(path)
