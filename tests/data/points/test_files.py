"""Point cloud files: what each format gives, and one line for each way in which a file is damaged."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from neuromix.core.errors import DataError
from neuromix.data.points import PointCloud, read_points

SQUARE = np.array([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0.5]])
OFF = "OFF\n# a square\n4 1 0\n0 0 0\n1 0 0\n1 1 0  # here\n0 1 0.5\n4 0 1 2 3\n"
FORMATS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def ply(format: str, *, faces: bool = True) -> bytes:
    """The square with normals, intensities and labels, and an element that nobody asks for."""
    lines = ["ply", f"format {format} 1.0", "comment a square", "element camera 1", "property double angle"]
    lines += ["element vertex 4", *(f"property float {name}" for name in "xyz")]
    lines += [
        *(f"property double n{name}" for name in "xyz"),
        "property uchar intensity",
        "property int label",
    ]
    if faces:
        lines += ["element face 2", "property list uchar int vertex_indices", "property uchar red"]
    order, rows, lists = FORMATS[format], [], [([0, 1, 2, 3], 7), ([0, 2, 3], 9)]
    head = "\n".join([*lines, "end_header"]) + "\n"
    if not order:
        rows = ["0.5", *(f"{x} {y} {z} 0 0 1 {10 * i} {i - 1}" for i, (x, y, z) in enumerate(SQUARE))]
        rows += [f"{len(corners)} {' '.join(map(str, corners))} {red}" for corners, red in lists if faces]
        return (head + "\n".join(rows) + "\n").encode()
    body = struct.pack(f"{order}d", 0.5)
    for i, point in enumerate(SQUARE):
        body += struct.pack(f"{order}3f3dBi", *point, 0, 0, 1, 10 * i, i - 1)
    for corners, red in lists if faces else []:
        body += struct.pack(f"{order}B{len(corners)}iB", len(corners), *corners, red)
    return head.encode() + body


@pytest.mark.parametrize("start", ["OFF\n4 1 0", "OFF 4 1 0", "OFF4 1 0", "OFF\r\n4 1 0\r"])
def test_off(tmp_path, start):
    cloud = read_points(written(tmp_path, "a.off", OFF.replace("OFF\n# a square\n4 1 0", start)))
    assert np.array_equal(cloud.xyz_N3, SQUARE)
    assert cloud.faces_F3.tolist() == [[0, 1, 2], [0, 2, 3]]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("faces", [True, False])
def test_ply(tmp_path, format, faces):
    cloud = read_points(written(tmp_path, "a.PLY", ply(format, faces=faces)))
    assert np.array_equal(cloud.xyz_N3, SQUARE)
    assert np.array_equal(cloud.normal_N3, [[0, 0, 1]] * 4)
    assert cloud.strength_N.tolist() == [0, 10, 20, 30] and cloud.label_N.tolist() == [-1, 0, 1, 2]
    assert (
        cloud.faces_F3 is None if not faces else cloud.faces_F3.tolist() == [[0, 1, 2], [0, 2, 3], [0, 2, 3]]
    )


def test_arrays_and_text(tmp_path):
    np.savez(
        tmp_path / "a.npz",
        xyz=SQUARE,
        normal=SQUARE + 1,
        strength=np.arange(4),
        label=[0, -1, 5, 2],
        other=3,
    )
    cloud = read_points(tmp_path / "a.npz")
    assert np.array_equal(cloud.normal_N3, SQUARE + 1) and cloud.label_N.tolist() == [0, -1, 5, 2]
    columns = np.concatenate([SQUARE, SQUARE + 1, np.arange(4)[:, None]], 1)
    for width, has in {3: (False, False), 4: (False, True), 6: (True, False), 7: (True, True)}.items():
        kept = columns[:, :width] if width != 4 else columns[:, [0, 1, 2, 6]]
        np.save(tmp_path / "a.npy", kept.astype(np.float32))
        np.savetxt(tmp_path / "a.txt", kept, delimiter=",", header="x y z")
        for name in ("a.npy", "a.txt"):
            cloud = read_points(tmp_path / name)
            assert np.array_equal(cloud.xyz_N3, SQUARE)
            assert (cloud.normal_N3 is not None, cloud.strength_N is not None) == has


class Evil:
    def __reduce__(self):
        return (print, ("unpickled",))


def object_array() -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([Evil()], object), allow_pickle=True)
    return file.getvalue()


def npz(**arrays) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def claims_much() -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"shape": (2**60, 3), "fortran_order": False, "descr": "<f8"})
    return file.getvalue()


def zipped(content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("xyz.npy", content)
    return file.getvalue()


BINARY = ply("binary_little_endian")
DAMAGED = [
    ("a.off", "", "is an empty file"),
    ("a.off", "COFF\n", "begins with 'COFF'; expected OFF"),
    ("a.off", b"\xff\xfe\x00", "is no text"),
    ("a.off", "OFF\n", "expected how many points"),
    ("a.off", "OFF\nfour 1 0\n", "expected how many points"),
    ("a.off", OFF.replace("4 1 0", "4 3 0"), "is cut off: 4 points and 3 faces"),
    ("a.off", OFF.replace("1 0 0\n", "1 0\n", 1), "is not a point"),
    ("a.off", OFF.replace("1 0 0\n", "1 0 zero\n", 1), "line 5: '1 0 zero' is not a point"),
    ("a.off", OFF.replace("1 0 0\n", "1 0 nan\n", 1), "coordinates of point 1 are"),
    ("a.off", OFF.replace("4 0 1 2 3", "4 0 1 2"), "is not a face"),
    ("a.off", OFF.replace("4 0 1 2 3", "2 0 1"), "face 0 has 2 corners"),
    ("a.off", OFF.replace("4 0 1 2 3", "3 0 1 9"), r"corners \[0, 1, 9\] of 4 points"),
    ("a.off", "OFF\n0 0 0\n", "coordinates are|holds no points"),
    ("a.ply", "plx\n", "expected ply"),
    ("a.ply", "ply\nformat ascii 1.0\n", "header without its end"),
    ("a.ply", "ply\nend_header\n", "does not tell its format"),
    ("a.ply", "ply\nformat ascii 1.0\nproperty float x\nend_header\n", "line 3: 'property float x'"),
    ("a.ply", "ply\nformat ascii 1.0\nelement vertex many\nend_header\n", "no line of a PLY header"),
    ("a.ply", "ply\nformat ascii 1.0\nend_header\n", "no vertices with x, y and z"),
    ("a.ply", ply("ascii").replace(b"property float z", b"property float w"), "no vertices with x, y and z"),
    ("a.ply", ply("ascii")[:-40], "is cut off: 4 of vertex are told|is cut off: 2 of face|is not"),
    ("a.ply", ply("ascii").replace(b"1.0 1.0 0.0", b"1.0 1.0 up"), "vertex 2: "),
    ("a.ply", ply("ascii").replace(b"3 0 2 3 9", b"9 0 2 3 9"), "face 1: "),
    ("a.ply", ply("ascii") + b"\xff", "is told to be text and is not"),
    ("a.ply", BINARY[:-3], "is cut off within its 2 of face: 2 bytes are missing"),
    ("a.ply", BINARY[:-40], "is cut off within its 4 of vertex|is cut off within its 2 of face"),
    ("a.ply", BINARY.replace(b"element vertex 4", b"element vertex 99999999999999"), "is cut off within"),
    ("a.ply", BINARY.replace(b"property float y", b"property float x"), "has a property twice"),
    ("a.npy", b"not numpy", "is damaged or no NumPy file"),
    ("a.npy", object_array(), "is damaged or no NumPy file"),
    ("a.npy", pickle.dumps(Evil()), "is damaged or no NumPy file"),
    ("a.npy", claims_much(), "is damaged or no NumPy file"),
    ("a.npz", npz(xyz=SQUARE)[:60], "is damaged or no NumPy file"),
    ("a.npz", zipped(object_array()), "is damaged or no NumPy file"),
    ("a.npz", npz(), "has no array 'xyz'; it has none"),
    ("a.npz", npz(a=SQUARE, b=SQUARE), r"it has \['a', 'b'\]"),
    ("a.npz", npz(xyz=SQUARE[:, :2]), r"coordinates are \[4, 2\]"),
    ("a.npz", npz(xyz=SQUARE[:0]), "holds no points"),
    ("a.npz", npz(xyz=SQUARE, label=np.arange(3)), r"labels are \[3\]; expected \[4\]"),
    ("a.npz", npz(xyz=SQUARE, label=np.array([0, 1, 2, 0.5])), "whole numbers from -1 on; number 3 is 0.5"),
    ("a.npz", npz(xyz=SQUARE, strength=np.array([1, np.inf, 1, 1])), "strengths of point 1"),
    ("a.npz", npz(xyz=SQUARE, faces=np.array([[0, 1, 4]])), r"corners \[0, 1, 4\]"),
    ("a.npz", npz(xyz=np.array(["a", "b", "c"])), "expected numbers of 2 axes"),
    ("a.npy", npz(xyz=SQUARE[:, :2]), r"coordinates are \[4, 2\]"),
    ("a.txt", "1 2 3\n1 2\n", "line 2 has 2 numbers; expected 3"),
    ("a.txt", "1 2 x\n", "line 1: '1 2 x' is not a line of numbers"),
    ("a.txt", "1 2\n", r"holds \[1, 2\] numbers"),
    ("a.txt", "# nothing\n", "holds no points"),
    ("a.txt", "1 2 nan\n", "coordinates of point 0"),
    ("a.obj", "v 1 2 3", "is no point cloud file by its suffix '.obj'; known: .off"),
]


@pytest.mark.parametrize(("name", "content", "told"), DAMAGED, ids=range(len(DAMAGED)))
def test_damaged_files_are_refused_in_one_line(tmp_path, capsys, name, content, told):
    path = written(tmp_path, name, content)
    with pytest.raises(DataError, match=told) as raised:
        read_points(path)
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)
    assert "unpickled" not in capsys.readouterr().out


def test_no_file(tmp_path):
    with pytest.raises(DataError, match="cannot read"):
        read_points(tmp_path / "a.off")


def test_every_cut_of_a_binary_file_is_told(tmp_path):
    whole = ply("binary_big_endian")
    for end in range(0, len(whole), 5):
        with pytest.raises(DataError):
            read_points(written(tmp_path, "a.ply", whole[:end]))


@pytest.mark.parametrize("xyz", [[[0, 0]], [0, 0, 0], [], [[np.nan, 0, 0]], "points"])
def test_a_cloud_is_checked_where_it_is_made(xyz):
    with pytest.raises(DataError, match="the point cloud"):
        PointCloud(xyz)
