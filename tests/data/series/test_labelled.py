"""Labelled series: the .ts format and arrays, and what is wrong with a file."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuromix.core.errors import ConfigError, DataError
from neuromix.data.series.labelled import open_labelled
from neuromix.data.series.ts_format import read_ts

HEADER = """#A comment
%another one
@problemName Two
@timeStamps false
@univariate false
@dimensions 2
@equalLength false
@classLabel true walk run
@data
"""
ROWS = "1,2,3:4,5,6:walk\n0.5,?:-1e-2,7:run\n"


def write(folder, text, name="Two_TRAIN.ts"):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    return folder / name


def test_a_file(tmp_path):
    found = read_ts(write(tmp_path, HEADER + "\n# between\n" + ROWS))
    assert found.classes == ("walk", "run") and found.labels == ["walk", "run"]
    np.testing.assert_array_equal(found.series[0], [[1, 4], [2, 5], [3, 6]])
    np.testing.assert_array_equal(found.series[1], np.array([[0.5, -0.01], [np.nan, 7]], np.float32))


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_what_is_written_comes_back(tmp_path_factory, data):
    channels = data.draw(st.integers(1, 3))
    value = st.floats(-1e6, 1e6, width=32)
    series, rows = [], []
    for _ in range(data.draw(st.integers(1, 4))):
        length = data.draw(st.integers(1, 5))
        x = np.array([[data.draw(value) for _ in range(channels)] for _ in range(length)], np.float32)
        series.append(x)
        rows.append(":".join(",".join(map(repr, column)) for column in x.T.tolist()) + ":b")
    text = f"@univariate {str(channels == 1).lower()}\n@classLabel true a b\n@data\n" + "\n".join(rows)
    found = read_ts(write(tmp_path_factory.mktemp("ts"), text))
    for one, other in zip(found.series, series, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "no line @data"),
        ("1,2:3\n", "line 1: expected a header line"),
        (HEADER, "no sample after @data"),
        (HEADER.replace("@data", ""), "no line @data"),
        (
            HEADER.replace("@classLabel true walk run", "@classLabel false") + ROWS,
            "does not name its classes",
        ),
        (HEADER.replace("@classLabel true walk run\n", "") + ROWS, "does not name its classes"),
        (HEADER.replace("walk run", "run run") + ROWS, "names a class twice"),
        (HEADER.replace("@classLabel true walk run", "@targetLabel true") + ROWS, "numbers as targets"),
        (HEADER.replace("@timeStamps false", "@timeStamps true") + ROWS, "has time stamps"),
        (HEADER.replace("@dimensions 2", "@dimensions two") + ROWS, "@dimensions is a whole number"),
        (HEADER.replace("@dimensions 2", "@dimensions 3") + ROWS, "line 10 has 2 channels; expected 3"),
        (
            HEADER.replace("@equalLength false", "@equalLength true\n@seriesLength 3") + ROWS,
            "line 12 has 2 steps",
        ),
        (HEADER + "1,2:3,4:swim\n", "has the class 'swim'; the header lists walk, run"),
        (HEADER + "1,2:3:walk\n", "channels of unlike lengths"),
        (HEADER + "1,2:3,x:walk\n", "'x' is no number"),
        (HEADER + "1,:3,4:walk\n", "'' is no number"),
        (HEADER + ":3:walk\n", "a channel without values"),
        (HEADER + "1,2,3\n", "has no class"),
        (HEADER + "1,inf:3,4:walk\n", "infinite value"),
        (HEADER + "(0,1),(1,2):(0,3),(1,4):walk\n", "has time stamps"),
        (HEADER + "1,2:3,4:walk\n1,2:walk\n", "has 1 channels; expected 2"),
    ],
)
def test_broken_files(tmp_path, text, match):
    with pytest.raises(DataError, match=match) as caught:
        read_ts(write(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match="cannot read"):
        read_ts(tmp_path / "none.ts")
    (tmp_path / "binary.ts").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(DataError, match="no text file"):
        read_ts(tmp_path / "binary.ts")


def rows(count, classes=("walk", "run")):
    chance = np.random.RandomState(0)
    lines = (
        f"{','.join(map(str, chance.rand(4) + i % 2))}:{','.join(map(str, chance.rand(4)))}:{classes[i % 2]}"
        for i in range(count)
    )
    return "\n".join(lines) + "\n"


def test_a_folder_of_ts_files(tmp_path):
    write(tmp_path, HEADER + rows(20) + "1,?,?,4:?,?,?,?:run\n")
    write(tmp_path, HEADER + rows(6), "Two_TEST.ts")
    data = open_labelled(tmp_path)
    parts = {part: data.split(part) for part in ("train", "validation", "test")}
    assert [len(part) for part in parts.values()] == [19, 2, 6]
    assert (data.classes, data.channels, data.filled) == (("walk", "run"), 2, 6)
    np.testing.assert_allclose(data.series[20][:, 0], [1, 2, 3, 4])  # between neighbours
    np.testing.assert_array_equal(data.series[20][:, 1], 0)
    whole = torch.cat([data.sample(i, torch.Generator())["series"] for i in range(19)])
    torch.testing.assert_close(whole.mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(whole.std(0, correction=0), torch.ones(2), atol=1e-5, rtol=0)
    raw = open_labelled(tmp_path, normalise="none", steps=6).split("test").sample(1, torch.Generator())
    assert raw["series"].shape == (6, 2) and not raw["series"][4:].any() and raw["label"] == 1


def test_a_folder_of_arrays(tmp_path):
    x = np.random.RandomState(0).randn(12, 5, 3)
    np.save(tmp_path / "x_train.npy", x)
    np.save(tmp_path / "y_train.npy", np.arange(12) % 2 + 3)
    data = open_labelled(tmp_path, normalise="none")
    assert data.classes == ("3", "4") and {*data.splits} == {"train", "validation", "test"}
    np.testing.assert_allclose(
        data.sample(0, torch.Generator())["series"], x[data.splits["train"][0]], rtol=1e-5
    )
    np.save(tmp_path / "y_train.npy", np.zeros((12, 2)))
    with pytest.raises(DataError, match="one class a sample"):
        open_labelled(tmp_path)
    (tmp_path / "y_train.npy").write_bytes(b"none")
    with pytest.raises(DataError, match="cannot read"):
        open_labelled(tmp_path)
    (tmp_path / "y_train.npy").unlink()
    with pytest.raises(DataError, match="is not there"):
        open_labelled(tmp_path)


def test_folders_that_do_not_fit(tmp_path):
    with pytest.raises(DataError, match="is not a folder"):
        open_labelled(tmp_path / "none")
    with pytest.raises(DataError, match="no NAME_TRAIN"):
        open_labelled(tmp_path)
    write(tmp_path, HEADER + rows(20))
    with pytest.raises(ConfigError, match="1 or more"):
        open_labelled(tmp_path, steps=0)
    other = HEADER.replace("walk run", "walk swim")
    write(tmp_path, other + rows(6, ("walk", "swim")), "Two_TEST.ts")
    with pytest.raises(DataError, match="classes walk, swim; expected 2, and out of walk, run"):
        open_labelled(tmp_path)
    write(tmp_path, HEADER + rows(4, ("run", "run")))
    (tmp_path / "Two_TEST.ts").unlink()
    with pytest.raises(DataError, match="one class only"):
        open_labelled(tmp_path)
    write(tmp_path, HEADER + rows(20), "Three_TRAIN.ts")
    with pytest.raises(DataError, match="several sets"):
        open_labelled(tmp_path)
