"""Damaged files of every format give events or a DataError, and nothing else."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuromix.core.errors import DataError
from neuromix.data.events import Events, read_events, write_events
from neuromix.data.events.formats import isolated
from tests.data.events.files import some_events, write_aedat2, write_aedat3, write_aedat4, write_hdf5

ISOLATED = {"a.h5": "h5py", "a.aedat4": "aedat"}  # format -> what reads it in a process of its own


def write(name: str, path: Path) -> None:
    small, large = some_events(30), some_events(30, 128, 128)
    if name == "a.h5":
        chance = np.random.default_rng(0)
        spikes = [(np.sort(chance.random(20)), chance.integers(0, 700, 20)) for _ in range(3)]
        write_hdf5(path, spikes, [0, 1, 0], ["a", "b"])
    elif name == "2.aedat":
        write_aedat2(path, large)
    elif name == "3.aedat":
        write_aedat3(path, large)
    elif name == "a.aedat4":
        write_aedat4(path, large)
    elif name.endswith(".npy"):
        np.save(path, np.stack([small.x_N, small.y_N, small.t_N, small.p_N], axis=1))
    else:
        write_events(path, small)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(isolated, "SECONDS", 5.0)


# Where bytes are changed, as a share of the file: often in its first part, where headers are.
PLACE = st.one_of(st.floats(0, 1, exclude_max=True), st.floats(0, 0.2))
CHANGES = st.lists(st.tuples(PLACE, st.integers(0, 255)), max_size=4)


def read_damaged(folder: Path, name: str, changes: list[tuple[float, int]], kept: float) -> None:
    sound = folder / f"sound_{name}"
    if not sound.exists():
        write(name, sound)
    data = bytearray(sound.read_bytes())
    for place, byte in changes:
        data[int(place * len(data))] = byte
    (folder / name).write_bytes(data[: round(kept * len(data))])
    try:
        events = read_events(folder / name, sort=True)
    except DataError as error:
        assert name in str(error) and "\n" not in str(error)
        return
    assert isinstance(events, Events) and events.size


@pytest.mark.parametrize("name", ["a.bin", "2.aedat", "3.aedat", "a.npy", "a.npz", "a.csv"])
@settings(deadline=None, max_examples=80)
@given(changes=CHANGES, kept=st.one_of(st.just(1.0), st.floats(0, 1)))
def test_damaged_files(folder, name, changes, kept):
    read_damaged(folder, name, changes, kept)


@pytest.mark.parametrize("name", ISOLATED)
def test_damaged_files_of_libraries_that_crash(folder, impatient, name):
    if importlib.util.find_spec(ISOLATED[name]) is None:
        pytest.skip(f"{ISOLATED[name]} is not installed")

    @settings(deadline=None, max_examples=25, derandomize=True, database=None)
    @given(changes=CHANGES, kept=st.one_of(st.just(1.0), st.floats(0, 1)))
    def damage(changes, kept):
        read_damaged(folder, name, changes, kept)

    damage()


@pytest.mark.slow
@pytest.mark.parametrize("name", ISOLATED)
def test_many_damaged_files_of_libraries_that_crash(folder, impatient, name):
    pytest.importorskip(ISOLATED[name])
    chance = np.random.default_rng(0)
    for _ in range(1500):
        count = int(chance.integers(1, 4))
        changes = list(zip(chance.random(count), chance.integers(0, 256, count), strict=True))
        read_damaged(folder, name, changes, 1.0)
