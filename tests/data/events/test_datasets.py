"""Event data sets: simulated ones, folders in the layouts of known data sets, and those of tonic."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from neuromix.core.errors import ConfigError, DataError, UnknownNameError
from neuromix.data.dataset import Loader, sample_generator
from neuromix.data.events import EventDataset, Events, from_tonic, open_events, write_events
from neuromix.data.events.augment import policy
from neuromix.data.events.recordings import GESTURES
from neuromix.data.events.representations import ByTime, Cloud
from neuromix.data.images import open_images
from tests.data.events.files import assert_same, some_events, write_aedat2, write_aedat3, write_hdf5


def sample(data: EventDataset, index: int, seed: int = 0, epoch: int = 0):
    return data.sample(index, sample_generator(seed, epoch, index))


def parts(data: EventDataset) -> dict[str, int]:
    return {part: len(data.split(part)) for part in data.splits}


def write_classes(folder: Path, counts: dict[str, int], suffix: str = ".npz") -> Path:
    """Files of events; the class and the number of a file are in its first time."""
    for label, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            events = some_events(200, 6, 8)
            write_events(folder / name / f"{i}{suffix}", Events(events.t_N + 1000 * label + i, *events[1:]))
    return folder


# simulated


@pytest.fixture(scope="module")
def digits() -> EventDataset:
    return open_events("digits-dvs")


def test_digits_have_the_rows_and_classes_of_the_images(digits):
    images = open_images("digits")
    assert digits.classes == images.classes and (digits.height, digits.width) == (16, 16)
    assert {part: rows.tolist() for part, rows in digits.splits.items()} == {
        part: rows.tolist() for part, rows in images.splits.items()
    }
    given = sample(digits, 3)
    assert (
        given["image"].shape == (8, 2, 16, 16)
        and given["label"] == images.sample(3, torch.Generator())["label"]
    )
    assert 300 < float(given["image"].sum()) < 20_000


def test_a_recording_is_the_same_in_every_run_and_a_fresh_one_a_function_of_seed_epoch_and_index(digits):
    test = digits.split("test")
    assert torch.equal(sample(test, 5)["image"], sample(test, 5, seed=9, epoch=2)["image"])
    fresh = digits.split("train", fresh=True)
    once, again, later = sample(fresh, 5), sample(fresh, 5), sample(fresh, 5, epoch=1)
    assert torch.equal(once["image"], again["image"]) and not torch.equal(once["image"], later["image"])
    assert not torch.equal(sample(fresh, 5)["image"], sample(digits, 5)["image"])


def test_batches_do_not_depend_on_workers(digits):
    fresh = digits.split("train", policy("shift"), fresh=True)
    alone, shared = (
        next(iter(Loader(fresh, 4, seed=3, shuffle=True, workers=workers))).tensor("image")
        for workers in (0, 1)
    )
    assert torch.equal(alone, shared)


def test_the_simulation_can_be_changed(digits):
    noisy = open_events("digits-dvs", simulation={"camera.shot_rate": 50.0}, size=(12, 20))
    assert (noisy.height, noisy.width) == (12, 20)
    assert noisy.events(0, torch.Generator()).size > digits.events(0, torch.Generator()).size
    with pytest.raises(UnknownNameError, match="did you mean shot_rate"):
        open_events("digits-dvs", simulation={"camera.shot_rat": 1.0})
    with pytest.raises(ConfigError, match="pictures must be at least 2"):
        open_events("digits-dvs", simulation={"pictures": 1})


@pytest.mark.parametrize("wrong", [{"size": 0}, {"size": (4, -1)}, {"sensor": (0, 4)}, {"size": 10_000}])
def test_sizes_are_checked(wrong):
    with pytest.raises(ConfigError, match="is 1 to 8192 pixels"):
        open_events("digits-dvs", **wrong)


def test_any_folder_of_images_can_be_shown(tmp_path):
    Image = pytest.importorskip("PIL.Image")
    for name in ("dark", "light"):
        (tmp_path / name).mkdir()
        for i in range(3):
            pixels = np.random.default_rng(i).integers(0, 80, (10 + i, 10, 3)) + 100 * (name == "light")
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / name / f"{i}.png")
    for name in ("images-dvs", "cifar10-dvs-sim"):
        data = open_events(f"{name}:{tmp_path}", size=24)
        assert data.classes == ("dark", "light") and data.events(0, torch.Generator()).size > 100
        assert data.source.where(0).startswith("simulated from ")


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        ("digits-dvs:folder", {}, "'digits-dvs:folder' is no data; expected digits-dvs alone"),
        ("cifar10-dvs-sim", {}, "expected cifar10-dvs-sim:FOLDER, the folder of the images"),
        ("digits-dvs", {"sensor": (3, 3)}, "digits-dvs is simulated: its sensor is as large as `size` says"),
        (
            "digit-dvs",
            {},
            "unknown data 'digit-dvs': no such folder, and no such name; did you mean digits-dvs",
        ),
    ],
)
def test_data_that_are_not_there(data, options, message):
    with pytest.raises(DataError, match=re.escape(message)):
        open_events(data, **options)


# folders


@pytest.mark.parametrize("suffix", [".npz", ".csv", ".bin"])
def test_a_folder_of_class_folders(tmp_path, suffix):
    data = open_events(write_classes(tmp_path, {"left": 10, "right": 12}, suffix))
    assert data.classes == ("left", "right") and parts(data) == {"train": 16, "validation": 2, "test": 4}
    assert (data.height, data.width) == (6, 8)
    for part in data.splits:
        split = data.split(part)
        for index in range(len(split)):
            first = int(split.events(index, torch.Generator()).t_N[0])
            expected = some_events(200, 6, 8).t_N[0] + 1000 * sample(split, index)["label"]
            assert 0 <= first - expected < 12
    assert len(pickle.dumps(data)) < 20_000


def test_other_representations_sizes_and_part_folders(tmp_path):
    write_classes(tmp_path / "train", {"a": 5, "b": 5})
    write_classes(tmp_path / "test", {"a": 2, "b": 3})
    data = open_events(tmp_path, representation=Cloud(points=7), size=4)
    assert parts(data) == {"train": 8, "validation": 2, "test": 5}
    batch = next(iter(Loader(data, 3)))
    assert batch["cloud"].lengths.tolist() == [7, 7, 7]
    frames = open_events(tmp_path, representation=ByTime(frames=3), size=(4, 5))
    assert sample(frames, 0)["image"].shape == (3, 2, 4, 5)


def test_a_sensor_can_be_told_and_must_be_large_enough(tmp_path):
    write_classes(tmp_path, {"a": 3, "b": 3}, ".bin")
    assert open_events(tmp_path, sensor=(34, 34)).height == 34
    with pytest.raises(DataError, match=r"\.bin: event \d+ has y = \d; the sensor is 2 pixels high"):
        sample(open_events(tmp_path, sensor=(2, 8)), 0)


def test_broken_recordings_are_named_or_skipped(tmp_path):
    write_classes(tmp_path, {"a": 4, "b": 4})
    (tmp_path / "b" / "2.npz").write_bytes(b"PK nothing")
    with pytest.raises(DataError, match=r"b/2\.npz is damaged"):
        data = open_events(tmp_path, sensor=(6, 8))
        [sample(data.split(part), i) for part, count in parts(data).items() for i in range(count)]
    data = open_events(tmp_path, sensor=(6, 8), skip_broken=True)
    assert data.skipped == 1 and sum(parts(data).values()) == 7


def test_unsorted_files_are_refused_or_sorted(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        for i in range(3):
            (tmp_path / name / f"{i}.txt").write_text("1 1 9 1\n1 1 4 0\n")
    with pytest.raises(DataError, match=r"\.txt: event 1 is at 4 and the one before at 9; sort the events"):
        open_events(tmp_path)
    assert open_events(tmp_path, sort=True).events(0, torch.Generator()).t_N.tolist() == [4, 9]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "has no class folders; expected .*/CLASS/RECORDING.npz"),
        (lambda path: write_classes(path, {"a": 3}), "has one class only, 'a'"),
        (
            lambda path: (path / "a").mkdir(),
            "class folder .*/a holds nothing; expected event files in .bin, .aedat",
        ),
        (lambda path: write_classes(path, {"a": 1, "b": 1}), "class 'a' has too few samples"),
    ],
)
def test_folders_without_data(tmp_path, make, message):
    make(tmp_path)
    with pytest.raises(DataError, match=message):
        open_events(tmp_path)


def test_nmnist(tmp_path):
    for part, count in (("Train", 3), ("Test", 1)):
        write_classes(tmp_path / part, {str(digit): count for digit in range(10)}, ".bin")
    data = open_events(tmp_path)
    assert parts(data) == {"train": 20, "validation": 10, "test": 10}
    assert (data.height, data.width) == (34, 34) and data.classes == tuple("0123456789")


def test_cifar10_dvs_tests_on_the_last_of_each_class(tmp_path):
    for name in ("airplane", "bird"):
        (tmp_path / name).mkdir()
        for number in (0, 5, 11, 899, 900, 999):
            write_aedat2(tmp_path / name / f"cifar10_{name}_{number}.aedat", some_events(5, 128, 128))
    data = open_events(tmp_path)
    names = {data.source.pieces[row].path.name for row in data.splits["test"]}
    assert names == {
        f"cifar10_{name}_{number}.aedat" for name in ("airplane", "bird") for number in (900, 999)
    }
    assert parts(data) == {"train": 6, "validation": 2, "test": 4} and data.height == 128


def write_gestures(folder: Path) -> Events:
    events = some_events(400, 128, 128)
    for user in ("user01_fluorescent", "user02_led", "user24_led"):
        write_aedat3(folder / f"{user}.aedat", events, packets=10)
        lines = [
            "class,startTime_usec,endTime_usec",
            "1,0,20000",
            "1,20000,40000",
            "11,40000,70000",
            "11,70000,90000",
        ]
        (folder / f"{user}_labels.csv").write_text("\n".join(lines))
    (folder / "trials_to_train.txt").write_text("user01_fluorescent.aedat\nuser02_led.aedat\n")
    (folder / "trials_to_test.txt").write_text("user24_led.aedat\n")
    return events


def test_dvs128_gesture(tmp_path):
    events = write_gestures(tmp_path)
    data = open_events(tmp_path, size=32)
    assert parts(data) == {"train": 6, "validation": 2, "test": 4} and data.classes == GESTURES
    test = data.split("test")
    assert [sample(test, i)["label"] for i in range(4)] == [0, 0, 10, 10]
    assert_same(data.source.read(10), events.select((events.t_N >= 40_000) & (events.t_N < 70_000)))
    assert data.source.where(10) == f"{tmp_path}/user24_led.aedat, 40000 to 70000 us"


@pytest.mark.parametrize(
    ("line", "message"),
    [("12,0,5", "line 2: no class 12 from 0 to 5"), ("1,a,5", "line 2: '1,a,5' is not class,start,end")],
)
def test_bad_gesture_labels_are_named(tmp_path, line, message):
    write_gestures(tmp_path)
    (tmp_path / "user02_led_labels.csv").write_text(f"class,start,end\n{line}\n")
    with pytest.raises(DataError, match=f"user02_led_labels.csv, {re.escape(message)}"):
        open_events(tmp_path)


def test_shd(tmp_path):
    pytest.importorskip("h5py")
    chance = np.random.default_rng(0)
    for part, count in (("train", 8), ("test", 4)):
        spikes = [(np.sort(chance.random(30)), chance.integers(0, 700, 30)) for _ in range(count)]
        write_hdf5(tmp_path / f"shd_{part}.h5", spikes, [i % 2 for i in range(count)], ["zero", "null"])
    data = open_events(tmp_path, representation=ByTime(frames=5))
    assert parts(data) == {"train": 6, "validation": 2, "test": 4} and data.classes == ("zero", "null")
    image = sample(data, 0)["image"]
    assert image.shape == (5, 2, 1, 700) and not image[:, 0].any() and float(image.sum()) == 30


# tonic


class Tonic:
    """What a data set of tonic has."""

    sensor_size = (8, 6, 2)
    classes = ("left", "right")

    def __init__(self, count: int) -> None:
        self.targets = [i % 2 for i in range(count)]

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index):
        events = some_events(20, 6, 8, seed=index)
        array = np.zeros(20, [("x", "i2"), ("y", "i2"), ("t", "i8"), ("p", "?")])
        for name, column in zip("txyp", events[:4], strict=True):
            array[name] = column
        return array, self.targets[index]


def test_data_sets_of_tonic():
    data = from_tonic(Tonic(12), Tonic(4))
    assert parts(data) == {"train": 10, "validation": 2, "test": 4} and data.classes == ("left", "right")
    assert_same(data.split("test").events(3, torch.Generator()), some_events(20, 6, 8, seed=3))
    assert parts(from_tonic(Tonic(20), size=4)) == {"train": 14, "validation": 2, "test": 4}
    with pytest.raises(DataError, match="list is no data set of tonic"):
        from_tonic([1, 2, 3])


def test_a_data_set_of_the_library_itself(tmp_path):
    tonic = pytest.importorskip("tonic")
    spikes = [(np.sort(np.random.default_rng(i).random(9)), np.arange(9)) for i in range(6)]
    pytest.importorskip("h5py")

    class Local(tonic.datasets.hsd.HSD):
        """SHD from a file that is there, so that nothing is downloaded."""

        data_filename = "shd_train.h5"

        def __init__(self) -> None:
            tonic.dataset.Dataset.__init__(self, str(tmp_path))
            self.location_on_system = str(tmp_path)

    write_hdf5(tmp_path / "shd_train.h5", spikes, [0, 1, 0, 1, 0, 1], ["a", "b"])
    data = from_tonic(Local())
    events = data.events(0, torch.Generator())
    assert (events.height, events.width, events.size) == (1, 700, 9) and events.p_N.all()
