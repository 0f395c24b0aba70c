"""NumPy files that are damaged in any place give arrays or one kind of error."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuromix.core.arrays import DamagedArrayError, load_arrays


def file_of(kind: str) -> bytes:
    file = io.BytesIO()
    if kind == "npy":
        np.save(file, np.zeros(3, [("t", "<i8"), ("x", "<u2")]))
    else:
        np.savez(file, t=np.arange(4), x=np.ones(2))
    return file.getvalue()


FILES = {kind: file_of(kind) for kind in ("npy", "npz")}


def test_arrays_come_back():
    assert load_arrays(io.BytesIO(FILES["npy"])).shape == (3,)
    assert load_arrays(io.BytesIO(FILES["npz"]))["t"].tolist() == [0, 1, 2, 3]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(FILES)), st.data())
def test_damage_is_told_in_one_line(kind, data):
    contents = bytearray(FILES[kind])
    for _ in range(data.draw(st.integers(1, 3))):
        contents[data.draw(st.integers(0, len(contents) - 1))] = data.draw(st.integers(0, 255))
    try:
        load_arrays(io.BytesIO(contents[: data.draw(st.integers(0, len(contents)))]))
    except DamagedArrayError as error:
        assert str(error) and "\n" not in str(error)


def test_a_header_that_does_not_end(tmp_path):
    header = b"{'descr': (((('<i8',"
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    with pytest.raises(DamagedArrayError):
        load_arrays(tmp_path / "a.npy")


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_arrays(tmp_path / "a.npy")
