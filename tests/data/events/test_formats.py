"""Readers of event files against files made from the specifications, and what they say about damaged ones."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from neuromix.core.errors import DataError, MissingExtraError
from neuromix.data.events import Events, read_events, write_events
from neuromix.data.events.formats import isolated
from tests.data.events.files import (
    assert_same,
    some_events,
    write_aedat2,
    write_aedat3,
    write_aedat4,
    write_hdf5,
)


@pytest.mark.parametrize("name", ["a.npz", "a.csv", "a.txt", "a.bin"])
def test_what_is_written_is_read(tmp_path, name):
    events = some_events()
    write_events(tmp_path / name, events)
    assert_same(read_events(tmp_path / name, sensor=(20, 30)), events)
    own = read_events(tmp_path / name)
    assert (own.height, own.width) == (
        (20, 30) if name == "a.npz" else (events.y_N.max() + 1, events.x_N.max() + 1)
    )


def test_bin_records_have_forty_bits(tmp_path):
    # x 3, y 5, ON, t = 0x012345; an overflow; x 7, y 9, OFF, t = 1
    (tmp_path / "a.bin").write_bytes(bytes([3, 5, 0x81, 0x23, 0x45, 0, 240, 0, 0, 0, 7, 9, 0, 0, 1]))
    events = read_events(tmp_path / "a.bin", sort=True)
    assert events.t_N.tolist() == [2**13 + 1, 0x12345]
    assert (
        events.x_N.tolist() == [7, 3]
        and events.y_N.tolist() == [9, 5]
        and events.p_N.tolist() == [False, True]
    )


def test_bin_has_no_place_for_late_events(tmp_path):
    with pytest.raises(DataError, match=r"times below 2\^23"):
        write_events(tmp_path / "a.bin", Events([2**23], [0], [0], [1]))
    assert not (tmp_path / "a.bin").exists()


@pytest.mark.parametrize(("camera", "sensor"), [("DVS128", (128, 128)), ("DAVIS240C", (180, 240))])
def test_aedat2(tmp_path, camera, sensor):
    events = some_events(height=sensor[0], width=sensor[1])
    write_aedat2(tmp_path / "a.aedat", events, camera)
    assert_same(read_events(tmp_path / "a.aedat"), events)


def test_aedat2_leaves_out_what_is_no_event(tmp_path):
    words = np.array([[0x8000, 1], [0, 2], [0x10000, 3]], ">u4")
    (tmp_path / "a.aedat").write_bytes(b"#!AER-DAT2.0\r\n" + words.tobytes())
    events = read_events(tmp_path / "a.aedat")
    assert events.t_N.tolist() == [2]
    assert (int(events.x_N[0]), int(events.y_N[0]), bool(events.p_N[0])) == (127, 127, True)


def test_aedat2_data_may_begin_like_a_header_line_where_the_header_says_its_end(tmp_path):
    word = np.array([[0x23 << 24, 7]], ">u4")  # the byte of "#"
    head = b"#!AER-DAT2.0\r\n# AEChip: DAVIS346\r\n#End Of ASCII Header\r\n"
    (tmp_path / "a.aedat").write_bytes(head + word.tobytes())
    assert read_events(tmp_path / "a.aedat").y_N.tolist() == [259 - (0x23 << 2)]


def test_aedat3(tmp_path):
    events = some_events(height=128, width=128)
    write_aedat3(tmp_path / "a.aedat", events)
    assert_same(read_events(tmp_path / "a.aedat"), events)
    late = Events(events.t_N + 2**31, *events[1:])
    write_aedat3(tmp_path / "b.aedat", events, overflow=1)
    assert_same(read_events(tmp_path / "b.aedat"), late)


@pytest.mark.parametrize("since, until", [(0, 30_000), (30_000, 60_000), (90_000, None)])
def test_a_part_of_the_time(tmp_path, since, until):
    events = some_events(500, height=128, width=128)
    write_aedat3(tmp_path / "a.aedat", events, packets=20)
    write_events(tmp_path / "a.npz", events)
    expected = events.select((events.t_N >= since) & (events.t_N < (until or 2**40)))
    for name in ("a.aedat", "a.npz"):
        assert_same(read_events(tmp_path / name, since=since, until=until), expected)
    with pytest.raises(DataError, match=r"a\.npz holds no events of that time"):
        read_events(tmp_path / "a.npz", since=10**9)


def test_aedat4(tmp_path):
    pytest.importorskip("aedat")
    events = some_events(height=260, width=346)
    for name in ("a.aedat4", "b.aedat"):  # the first line tells the version
        write_aedat4(tmp_path / name, events)
        assert_same(read_events(tmp_path / name), events)


def test_hdf5_of_shd(tmp_path):
    pytest.importorskip("h5py")
    spikes = [(np.array([0.0, 0.5]), np.array([3, 699])), (np.array([0.25]), np.array([0]))]
    write_hdf5(tmp_path / "a.h5", spikes, [1, 0], ["null", "eins"])
    events = read_events(tmp_path / "a.h5")
    assert events.t_N.tolist() == [0, 500_000] and events.x_N.tolist() == [3, 699]
    assert events[4:] == (1, 700) and events.p_N.all()
    assert read_events(tmp_path / "a.h5", record=1).t_N.tolist() == [250_000]
    with pytest.raises(DataError, match=r"a\.h5, record 2, has 2 recordings; there is no number 2"):
        read_events(tmp_path / "a.h5", record=2)


def test_numpy_arrays_of_others(tmp_path):
    events = some_events()
    fields = np.zeros(events.size, [("x", "<u2"), ("y", "<u2"), ("t", "<i8"), ("p", "?"), ("spare", "f4")])
    for name, column in zip("txyp", events[:4], strict=True):
        fields[name] = column
    np.save(tmp_path / "fields.npy", fields)
    np.savez(tmp_path / "fields.npz", fields)
    np.save(tmp_path / "plain.npy", np.stack([events.x_N, events.y_N, events.t_N, events.p_N], axis=1))
    for name in ("fields.npy", "fields.npz", "plain.npy"):
        assert_same(read_events(tmp_path / name, sensor=(20, 30)), events)


@pytest.mark.parametrize(
    "text",
    [
        "1 2 30 1\n3 0 40 0\n",
        "# made by hand\n1, 2, 30, 1\n\n3,0,40,-1\n",
        "T;p;X;y\r\n30;1;1;2\r\n40;0;3;0\r\n",
    ],
)
def test_text(tmp_path, text):
    (tmp_path / "a.txt").write_text(text)
    assert_same(read_events(tmp_path / "a.txt"), Events([30, 40], [1, 3], [2, 0], [1, 0]))


BAD = {
    "empty.bin": (b"", "empty.bin is an empty file"),
    "short.bin": (bytes(13), "short.bin is cut off in record 2"),
    "late.bin": (
        bytes([0, 0, 0, 0, 9, 0, 0, 0, 0, 2]),
        "late.bin: event 1 is at 2 and the one before at 9; sort",
    ),
    "none.bin": (bytes([0, 240, 0, 0, 0]), "none.bin holds no events"),
    "empty.aedat": (b"", "empty.aedat is an empty file"),
    "other.aedat": (b"\x89PNG\r\n", "other.aedat begins with"),
    "short.aedat": (b"#!AER-DAT2.0\r\n" + bytes(12), "short.aedat is cut off in record 1"),
    "head.aedat": (b"#!AER-DAT2.0\r\n# no end", "head.aedat is cut off in line 2 of its header"),
    "short3.aedat": (b"#!AER-DAT3.1\r\n#!END-HEADER\r\n" + bytes(20), "is cut off in the header of packet 0"),
    "none.aedat": (b"#!AER-DAT3.1\r\n#!END-HEADER\r\n", "none.aedat holds no events"),
    "bad.npy": (b"\x93NUMPY\x01\x00", "bad.npy is damaged or no NumPy file"),
    "bad.npz": (b"PK\x03\x04 and no more", "bad.npz is damaged or no NumPy file"),
    "float.txt": (b"1 2 0.5 1\n", "float.txt, line 1: '1 2 0.5 1' is not four whole numbers"),
    "three.csv": (b"x,y,t,p\n1,2,3,1\n1,2,3\n", "three.csv, line 3: '1,2,3' is not four whole numbers"),
    "bytes.csv": (b"1 2 3 1\n\xff\xfe", "bytes.csv is no text: byte 8 is 255"),
    "none.csv": (b"# nothing\n", "none.csv has no lines"),
    "a.mp4": (b"1", "a.mp4 is no event file by its suffix '.mp4'; known: .bin, .aedat"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_named(tmp_path, name):
    data, message = BAD[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=re.escape(message)):
        read_events(tmp_path / name)


@pytest.mark.parametrize("name", ["a.bin", "a.aedat", "a.aedat4", "a.h5", "a.npz", "a.csv"])
def test_files_that_are_not_there(tmp_path, name):
    with pytest.raises(DataError, match=rf"cannot read .*{re.escape(name)}"):
        read_events(tmp_path / name)


def test_arrays_with_other_names_or_shapes(tmp_path):
    np.savez(tmp_path / "a.npz", t=[1], x=[1], y=[1])
    np.save(tmp_path / "b.npy", np.zeros((5, 3), int))
    np.save(tmp_path / "c.npy", np.array([{}], object), allow_pickle=True)
    np.savez(tmp_path / "d.npz", t=[1], x=[1], y=[1], p=[1], height=[4], width=1.5)
    for name, message in {
        "a.npz": "has no array 'p'",
        "b.npy": "is [5, 3]; expected [N, 4]",
        "c.npy": "is damaged or no NumPy file",
        "d.npz": "height and width must be whole numbers",
    }.items():
        with pytest.raises(DataError, match=re.escape(message)):
            read_events(tmp_path / name)


def test_a_sensor_that_is_too_small_names_file_and_event(tmp_path):
    write_events(tmp_path / "a.npz", some_events())
    with pytest.raises(DataError, match=r"a\.npz: event \d+ has y = \d+; the sensor is 2 pixels high"):
        read_events(tmp_path / "a.npz", sensor=(2, 30))


def test_record_is_for_files_of_many(tmp_path):
    write_events(tmp_path / "a.npz", some_events())
    with pytest.raises(DataError, match=r"holds one recording; record is for \.h5"):
        read_events(tmp_path / "a.npz", record=0)


def test_missing_libraries_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(isolated.importlib.util, "find_spec", lambda name: None)
    for name in ("a.h5", "a.aedat4"):
        (tmp_path / name).write_bytes(b"x")
        with pytest.raises(MissingExtraError, match=r'pip install "neuromix\[events\]"'):
            read_events(tmp_path / name)


def test_a_reader_process_that_is_lost_is_replaced(tmp_path, monkeypatch):
    pytest.importorskip("h5py")
    write_hdf5(tmp_path / "a.h5", [(np.array([0.5]), np.array([3]))], [0], ["a"])
    read_events(tmp_path / "a.h5")
    (process,) = (isolated._running[key] for key in isolated._running)
    process.kill()
    with pytest.raises(DataError, match=r"a\.h5, record 0, is damaged: h5py crashed on it"):
        read_events(tmp_path / "a.h5")
    assert read_events(tmp_path / "a.h5").size == 1


def test_other_layouts_of_hdf5_are_named(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["events/x"] = np.zeros(3)
    with pytest.raises(DataError, match="has no spikes/times; expected the layout of SHD"):
        read_events(tmp_path / "a.h5")


def test_writers_know_their_suffixes(tmp_path: Path):
    with pytest.raises(DataError, match=r"no event file is written as '\.h5'; known: \.bin, \.npz"):
        write_events(tmp_path / "a.h5", some_events())
