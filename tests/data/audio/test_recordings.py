from __future__ import annotations

import numpy as np
import pytest

from neuromix.core import registry
from neuromix.core.errors import ConfigError, DataError, UnknownNameError
from neuromix.data.audio import open_audio
from neuromix.data.audio.recordings import by_speaker
from tests.data.audio.sounds import tone, write_spoken, write_wav


def numbers(dataset, part):
    return sorted(int(dataset.source.files[row].stem.split("_")[2]) for row in dataset.splits[part])


def test_spoken_digits_have_their_official_test_part(tmp_path):
    dataset = open_audio(write_spoken(tmp_path, digits=3, speakers=("ann", "bob")))
    assert dataset.classes == ("0", "1", "2")
    assert set(numbers(dataset, "test")) == set(range(5))
    assert set(numbers(dataset, "validation")) == set(range(5, 10))
    assert set(numbers(dataset, "train")) == {10, 11} and len(dataset) == 3 * 2 * 2


def test_the_folder_above_the_recordings_will_do(tmp_path):
    write_spoken(tmp_path / "recordings")
    assert len(open_audio(tmp_path).split("test")) == 2 * 5


def test_few_recordings_are_split_as_others_are(tmp_path):
    dataset = open_audio(write_spoken(tmp_path, numbers=5))
    assert all(len(dataset.split(part)) for part in ("train", "validation", "test"))


def test_class_folders_and_samples(tmp_path):
    for name, hertz in (("low", 300), ("high", 900)):
        for i in range(4):
            write_wav(tmp_path / name / f"{i}.wav", tone(hertz, 0.1 + 0.1 * i))
    dataset = open_audio(tmp_path)
    assert dataset.classes == ("high", "low") and dataset.channels == 70
    rows = [dataset.sample(i, None) for i in range(len(dataset))]
    assert all(row["audio"].shape == (row["length"], 70) for row in rows)
    assert len({row["length"] for row in rows}) > 1
    cut = open_audio(tmp_path, steps=15).sample(0, None)
    assert cut["audio"].shape == (15, 70)


def test_an_ear_hears_a_recording_once(tmp_path):
    dataset = open_audio(write_spoken(tmp_path))
    first = dataset.sample(0, None)["audio"]
    for path in tmp_path.iterdir():
        path.unlink()
    assert dataset.split("train").sample(0, None)["audio"] is first
    with pytest.raises(DataError, match="cannot read"):
        dataset.sample(1, None)


def test_a_file_that_has_changed_is_heard_anew(tmp_path):
    first = open_audio(write_spoken(tmp_path)).sample(0, None)["audio"]
    assert open_audio(tmp_path).sample(0, None)["audio"] is first
    write_wav(tmp_path / "0_ann_10.wav", tone(2000, 0.4))
    assert open_audio(tmp_path).sample(0, None)["audio"].shape != first.shape


def test_broken_recordings_are_left_out_if_so_asked(tmp_path):
    write_spoken(tmp_path)
    (tmp_path / "0_ann_10.wav").write_bytes(b"")
    assert open_audio(tmp_path, skip_broken=True).skipped == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "no class folders"),
        (lambda folder: write_wav(folder / "a.wav", tone(440)), "without a class"),
        (lambda folder: write_spoken(folder, digits=1), "one class only"),
        (lambda folder: (folder / "a").mkdir(), "holds nothing"),
    ],
)
def test_bad_folders_are_told_in_one_line(tmp_path, make, message):
    make(tmp_path)
    with pytest.raises(DataError, match=message):
        open_audio(tmp_path)


def test_bad_arguments(tmp_path):
    with pytest.raises(DataError, match="is not there"):
        open_audio(tmp_path / "none")
    with pytest.raises(DataError, match="is a file"):
        open_audio(write_wav(tmp_path / "0_a_0.wav", tone(440)))
    write_spoken(tmp_path)
    with pytest.raises(ConfigError, match="cochlea or log-mel"):
        open_audio(tmp_path, representation=registry.build("audio-representation", "bins"))
    with pytest.raises(ConfigError, match="steps"):
        open_audio(tmp_path, steps=0)
    with pytest.raises(UnknownNameError):
        open_audio(tmp_path).split("tset")


def write_shd(folder, speakers=None):
    h5py = pytest.importorskip("h5py")
    from tests.data.events.files import write_hdf5

    chance = np.random.default_rng(0)
    for part, count in (("train", 20), ("test", 4)):
        spikes = [(np.sort(chance.random(30)), chance.integers(0, 700, 30)) for _ in range(count)]
        write_hdf5(folder / f"shd_{part}.h5", spikes, [i % 2 for i in range(count)], ["zero", "null"])
    if speakers is not None:
        with h5py.File(folder / "shd_train.h5", "a") as file:
            file["extra/speaker"] = np.array(speakers)


def test_recorded_spikes_are_summed_by_five_in_bins_of_ten_ms(tmp_path):
    write_shd(tmp_path)
    dataset = open_audio(tmp_path)
    assert dataset.classes == ("zero", "null") and dataset.channels == 140
    x_TN = dataset.sample(0, None)["audio"]
    events = dataset.source.read(int(dataset.splits["train"][0]))
    assert x_TN.sum() == events.size
    assert len(x_TN) == events.duration // 10_000 + 1
    with pytest.raises(ConfigError, match="representation=bins"):
        open_audio(tmp_path, representation=registry.build("audio-representation", "log-mel"))


def test_validation_is_of_other_speakers_where_they_are_known(tmp_path):
    speakers = [i // 4 for i in range(20)]
    write_shd(tmp_path, speakers)
    dataset = open_audio(tmp_path)
    assert [speakers[row] for row in dataset.splits["validation"]] == [4] * 4
    assert len(dataset.splits["train"]) == 16 and len(dataset.split("test")) == 4


def test_no_speaker_goes_whose_class_would_go_too():
    rows, labels = np.arange(6), np.array([0, 0, 0, 0, 1, 1])
    kept, held = by_speaker(rows, np.array([1, 1, 2, 2, 3, 3]), labels)
    assert held.tolist() == [2, 3] and kept.tolist() == [0, 1, 4, 5]
