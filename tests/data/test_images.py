"""Image data sets: what they read, how they split, and what they say about bad input."""

from __future__ import annotations

import io
import json
import pickle
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from neuromix.core.errors import ConfigError, DataError, MissingExtraError, UnknownNameError
from neuromix.data import parquet as parquet_module
from neuromix.data.augment import policy
from neuromix.data.dataset import Loader, sample_generator
from neuromix.data.images import ImageDataset, open_images

Image = pytest.importorskip("PIL.Image")
pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def pixels(value: int, size: tuple[int, int] = (4, 6), mode: str = "RGB") -> Any:
    """A picture of height x width pixels, the left half of value `value`, the right half black."""
    array = np.zeros(size, np.uint8)
    array[:, : size[1] // 2] = value
    return Image.fromarray(array).convert(mode)


def encoded(value: int, **how: Any) -> bytes:
    stream = io.BytesIO()
    pixels(value, **how).save(stream, "PNG")
    return stream.getvalue()


def write_folder(folder: Path, counts: dict[str, int], suffix: str = ".png", **how: Any) -> Path:
    """Writes `counts` pictures a class; the class and number of a picture are in its brightness."""
    for label, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels(100 * label + 10 * i, **how).save(folder / name / f"{i}{suffix}")
    return folder


def write_parquet(
    folder: Path,
    labels: Sequence[Any],
    name: str = "train-00000-of-00001",
    images: Sequence[bytes | None] | None = None,
    image: str = "img",
    label: str = "label",
    names: list[str] | None = None,
    type_: Any = None,
) -> Path:
    folder.mkdir(exist_ok=True)
    cells = [
        {"bytes": data, "path": None} for data in (images or [encoded(i % 256) for i in range(len(labels))])
    ]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({image: pa.array(cells, kind), label: pa.array(labels, type_ or pa.int64())})
    if names:
        features = {"info": {"features": {label: {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    pq.write_table(table, folder / f"{name}.parquet", row_group_size=7)
    return folder


def sample(data: ImageDataset, index: int, seed: int = 0) -> dict[str, Any]:
    return data.sample(index, sample_generator(seed, 0, index))


def parts(data: ImageDataset) -> dict[str, int]:
    return {part: len(data.split(part)) for part in data.splits}


def assert_disjoint(data: ImageDataset) -> None:
    rows = np.concatenate(list(data.splits.values()))
    assert len(np.unique(rows)) == len(rows)


# digits


def test_digits_describe_themselves_and_split_the_same_everywhere() -> None:
    data = open_images("digits")
    assert parts(data) == {"train": 1100, "validation": 197, "test": 500}
    assert_disjoint(data)
    assert (data.channels, data.height, data.width) == (1, 8, 8) and data.classes == tuple("0123456789")
    for part in data.splits:
        counts = np.bincount(data.source.labels[data.splits[part]])
        assert counts.max() - counts.min() <= 5  # stratified
    # Published figures hold for these rows only.
    assert data.splits["test"][:6].tolist() == [2, 7, 14, 22, 23, 25]
    assert data.splits["validation"][:6].tolist() == [11, 16, 36, 37, 56, 61]


def test_digits_are_normalised_and_resized() -> None:
    data = open_images("digits", size=(20, 12))
    batch = next(iter(Loader(data, 1100)))
    image_BCHW = batch.tensor("image")
    assert image_BCHW.shape == (1100, 1, 20, 12) and image_BCHW.dtype == torch.float32
    assert abs(float(image_BCHW.mean())) < 0.05 and abs(float(image_BCHW.std()) - 1) < 0.05
    assert batch.tensor("label").tolist() == data.source.labels[data.splits["train"]].tolist()


def test_samples_depend_on_the_generator_only_through_augmentation() -> None:
    data = open_images("digits", augment=policy("digits"))
    first, again, other = sample(data, 3), sample(data, 3), sample(data, 3, seed=1)
    assert torch.equal(first["image"], again["image"]) and not torch.equal(first["image"], other["image"])
    plain = data.split("test")
    assert plain.augment is None and torch.equal(sample(plain, 3)["image"], sample(plain, 3, seed=1)["image"])


# a folder of class folders


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".JPEG"])
def test_folder_reads_classes_in_order(tmp_path: Path, suffix: str) -> None:
    write_folder(tmp_path, {"dog": 5, "cat": 8}, suffix)
    (tmp_path / "cat" / "notes.txt").write_text("passed over")
    (tmp_path / ".cache").mkdir()
    data = open_images(tmp_path)
    assert data.classes == ("cat", "dog")
    assert (data.channels, data.height, data.width) == (3, 4, 6)
    assert sum(parts(data).values()) == 13 and min(parts(data).values()) >= 2
    assert_disjoint(data)
    for part in data.splits:
        for index in range(len(data.split(part))):
            given = sample(data.split(part), index)
            mean, std = (torch.tensor(values)[:, None, None] for values in (data.mean, data.std))
            shown = given["image"] * std + mean
            assert bool(shown[0, 0, 0] > 0.3) == (given["label"] == 0)  # the cats are bright
            assert float(shown[:, :, -1].abs().max()) < 0.1


def test_pictures_keep_their_values(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a": 3, "b": 3})
    data = open_images(tmp_path, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    for row in range(6):
        expected = (100 * (row // 3) + 10 * (row % 3)) / 255
        image_CHW = data.source.read(row)
        torch.testing.assert_close(image_CHW[:, :, :3], torch.full((3, 4, 3), expected))
    assert sample(data, 0)["image"].min() == 0


def test_part_folders_are_kept_and_missing_parts_are_cut_from_train(tmp_path: Path) -> None:
    write_folder(tmp_path / "train", {"a": 10, "b": 10})
    assert parts(open_images(tmp_path)) == {"train": 14, "validation": 2, "test": 4}
    without = open_images(tmp_path)
    write_folder(tmp_path / "val", {"a": 3, "b": 3})
    with_val = open_images(tmp_path)
    assert parts(with_val) == {"train": 16, "validation": 6, "test": 4}
    # A validation part does not change what is tested.
    assert with_val.splits["test"].tolist() == without.splits["test"].tolist()
    write_folder(tmp_path / "test", {"a": 1, "b": 2})
    assert parts(open_images(tmp_path)) == {"train": 20, "validation": 6, "test": 3}


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    write_folder(tmp_path, {"bus": 3, "train": 3})
    assert open_images(tmp_path).classes == ("bus", "train")


@pytest.mark.parametrize("mode, channels", [("L", 1), ("LA", 1), ("1", 1), ("RGB", 3), ("RGBA", 3), ("P", 3)])
def test_modes(tmp_path: Path, mode: str, channels: int) -> None:
    write_folder(tmp_path, {"a": 3, "b": 3}, mode=mode)
    data = open_images(tmp_path)
    assert data.channels == channels and sample(data, 0)["image"].shape == (channels, 4, 6)


def test_16_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    for name, value in (("a", 256 * 51), ("b", 256 * 102)):
        (tmp_path / name).mkdir()
        for i in range(3):
            Image.fromarray(np.full((2, 2), value, np.uint16)).save(tmp_path / name / f"{i}.png")
    data = open_images(tmp_path)
    assert data.channels == 1
    assert float(data.source.read(0).mean()) == pytest.approx(0.2)


def test_grey_pictures_in_a_colour_set_become_rgb(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a": 3, "b": 3})
    pixels(50, mode="L").save(tmp_path / "a" / "grey.png")
    data = open_images(tmp_path)
    assert all(
        sample(data.split(p), i)["image"].shape[0] == 3 for p, n in parts(data).items() for i in range(n)
    )


def test_size_covers_and_crops_the_centre(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a": 3, "b": 3}, size=(4, 12))
    data = open_images(tmp_path, size=4)
    image_CHW = data.source.read(3, 3, data.resize)  # columns 4 to 7 of 12, of which 6 and 7 are black
    torch.testing.assert_close(image_CHW[0, 0], torch.tensor([100.0, 100.0, 0.0, 0.0]) / 255)
    with pytest.raises(ConfigError, match="size"):
        open_images(tmp_path, size=0)
    with pytest.raises(ConfigError, match="std"):
        open_images(tmp_path, std=(1.0, 0.0, 1.0))


def test_unlike_sizes_need_a_size(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a": 4, "b": 4})
    pixels(9, (5, 6)).save(tmp_path / "b" / "odd.png")
    with pytest.raises(DataError, match=r"(?s)b/.*\.png has .* pixels and others .*give a size"):
        open_images(tmp_path)
    assert sample(open_images(tmp_path, size=4), 0)["image"].shape == (3, 4, 4)


@pytest.mark.parametrize("damage", ["truncated", "text", "empty"])
def test_broken_images_are_named_or_skipped_and_counted(tmp_path: Path, damage: str) -> None:
    write_folder(tmp_path, {"a": 4, "b": 4}, size=(40, 40))
    path = tmp_path / "b" / "0.png"
    path.write_bytes({"truncated": path.read_bytes()[:60], "text": b"not a picture", "empty": b""}[damage])
    with pytest.raises(DataError, match=r"b/0\.png is not a sound .*skip_broken"):
        data = open_images(tmp_path)
        [sample(data.split(part), i) for part, count in parts(data).items() for i in range(count)]
    data = open_images(tmp_path, skip_broken=True)
    assert data.skipped == 1 and sum(parts(data).values()) == 7
    [sample(data.split(part), i) for part, count in parts(data).items() for i in range(count)]


def test_a_class_of_broken_images_only_cannot_be_skipped(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a": 3, "b": 0})
    (tmp_path / "b" / "0.png").write_text("no")
    with pytest.raises(DataError, match="class 'b' are broken"):
        open_images(tmp_path, skip_broken=True)


# Parquet


def test_parquet_reads_every_row_across_files_and_row_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet_module, "CACHE_BYTES", 1)  # one row group at a time
    write_parquet(tmp_path, [i % 2 for i in range(20)], "train-00000-of-00002")
    write_parquet(
        tmp_path, [i % 2 for i in range(9)], "train-00001-of-00002", [encoded(200 + i) for i in range(9)]
    )
    write_parquet(tmp_path, [0, 1, 1], "test-00000-of-00001", [encoded(100 + i) for i in range(3)])
    data = open_images(tmp_path)
    assert parts(data) == {"train": 26, "validation": 3, "test": 3} and data.classes == ("0", "1")
    expected = [*range(20), *range(200, 209), *range(100, 103)]
    for row in np.random.RandomState(0).permutation(32):
        assert round(float(data.source.read(int(row))[0, 0, 0]) * 255) == expected[row]
    assert data.source.where(28).endswith("train-00001-of-00002.parquet, row 8")
    copy = pickle.loads(pickle.dumps(data))
    assert torch.equal(sample(copy, 5)["image"], sample(data, 5)["image"])


def test_parquet_in_workers(tmp_path: Path) -> None:
    write_parquet(tmp_path, [i % 2 for i in range(30)])
    data = open_images(tmp_path)
    plain, workers = Loader(data, 8, shuffle=True), Loader(data, 8, shuffle=True, workers=1)
    for a, b in zip(plain, workers, strict=True):
        assert torch.equal(a.tensor("image"), b.tensor("image"))


def test_parquet_takes_class_names_and_the_other_column_name(tmp_path: Path) -> None:
    write_parquet(tmp_path, [0, 1] * 5, image="image", names=["cat", "dog", "never seen"])
    assert open_images(tmp_path).classes == ("cat", "dog", "never seen")


def test_broken_parquet_rows_are_named_or_skipped(tmp_path: Path) -> None:
    images = [encoded(i) for i in range(12)]
    write_parquet(tmp_path, [0, 1] * 6, images=[*images[:8], b"junk", None, *images[10:]])
    with pytest.raises(DataError, match=r"parquet, row (8|9)"):
        data = open_images(tmp_path)
        [sample(data.split(part), i) for part, count in parts(data).items() for i in range(count)]
    assert open_images(tmp_path, skip_broken=True).skipped == 2


@pytest.mark.parametrize(
    "how, message",
    [
        ({"labels": [0, 1, -1]}, "-1 is negative"),
        ({"labels": [0, 1, None]}, "1 of 3 labels are null"),
        ({"labels": [0, 2, 0, 2]}, "no training image has 1"),
        ({"labels": [1, 2] * 3}, "no training image has 0"),
        ({"labels": [0, 10**15]}, "no training image has 1"),
        ({"labels": [0, 0, 0]}, "one class only"),
        ({"labels": [0, 1, 5], "names": ["a", "b"]}, "label 5 is not among the 2 classes"),
        ({"labels": [0, 1], "image": "picture"}, "no column 'img' or 'image'; it has picture, label"),
        ({"labels": [0, 1], "label": "fine_label"}, "no column 'label'; it has img, fine_label"),
        ({"labels": ["a", "b"], "type_": pa.string()}, "'label' is string"),
        ({"labels": []}, "has no rows"),
        ({"labels": [0, 1] * 3, "name": "test-0"}, "no train-"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_parquet_tables(tmp_path: Path, how: dict[str, Any], message: str) -> None:
    write_parquet(tmp_path, **how)
    with pytest.raises(DataError, match=message) as error:
        open_images(tmp_path)
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


def test_test_labels_outside_the_training_classes(tmp_path: Path) -> None:
    write_parquet(tmp_path, [0, 1] * 4)
    write_parquet(tmp_path, [2], "test-0")
    with pytest.raises(DataError, match="label 2 is not among"):
        open_images(tmp_path)


@pytest.mark.parametrize("damage", [lambda data: data[:200], lambda data: b"PK no parquet", lambda data: b""])
def test_files_that_are_not_parquet(tmp_path: Path, damage: Any) -> None:
    path = write_parquet(tmp_path, [0, 1] * 9) / "train-00000-of-00001.parquet"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=r"00001\.parquet is not a sound Parquet file") as error:
        open_images(tmp_path)
    assert "\n" not in str(error.value)


def test_damage_inside_a_parquet_file_is_found_when_read(tmp_path: Path) -> None:
    path = write_parquet(tmp_path, [0, 1] * 9) / "train-00000-of-00001.parquet"
    data = bytearray(path.read_bytes())
    data[4:60] = bytes(56)  # the first page of images
    path.write_bytes(data)
    with pytest.raises(DataError, match="not a sound"):
        opened = open_images(tmp_path)
        [opened.source.read(row) for row in range(7)]


def test_an_image_column_of_another_kind(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [b"", b""], "label": [0, 1]}), tmp_path / "train-0.parquet")
    with pytest.raises(DataError, match="'image' is binary; expected a struct"):
        open_images(tmp_path)


# bad folders and names


def flat(folder: Path) -> None:
    pixels(1).save(folder / "a.png")


def one_class(folder: Path) -> None:
    write_folder(folder, {"only": 4})


def empty_class(folder: Path) -> None:
    write_folder(folder, {"a": 3, "b": 0})


def other_types(folder: Path) -> None:
    write_folder(folder, {"a": 3})
    (folder / "b").mkdir()
    pixels(1).save(folder / "b" / "x.bmp")


def few(folder: Path) -> None:
    write_folder(folder, {"a": 3, "b": 2})


def unknown_test_class(folder: Path) -> None:
    write_folder(folder / "train", {"a": 3, "b": 3})
    write_folder(folder / "test", {"a": 1, "c": 1})


def empty_test(folder: Path) -> None:
    write_folder(folder / "train", {"a": 3, "b": 3})
    (folder / "test").mkdir()


def nested_parquet(folder: Path) -> None:
    write_parquet(folder / "plain_text", [0, 1] * 3)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda folder: None, "is empty; expected"),
        (flat, "no class folders; expected"),
        (one_class, "one class only, 'only'"),
        (empty_class, "b holds nothing"),
        (other_types, r"b holds only \.bmp; expected images in \.png"),
        (few, "class 'b' has too few samples"),
        (unknown_test_class, "class 'c', which .*train does not have"),
        (empty_test, "test has no class folders"),
        (nested_parquet, "in .*plain_text; give that folder"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_bad_folders(tmp_path: Path, make: Any, message: str) -> None:
    make(tmp_path)
    with pytest.raises(DataError, match=message) as error:
        open_images(tmp_path)
    assert "\n" not in str(error.value)


def test_bad_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.csv").write_text("a,b")
    for name, message in {
        "digts": "did you mean digits",
        "cifar10": "give the folder",
        str(tmp_path / "nowhere"): "does not exist",
        str(tmp_path / "file.csv"): "is a file",
    }.items():
        with pytest.raises(DataError, match=message):
            open_images(name)
    with pytest.raises(UnknownNameError, match="validation"):
        open_images("digits").split("validatoin")


def test_missing_extras_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "folder", {"a": 3, "b": 3})
    write_parquet(tmp_path / "parquet", [0, 1] * 3)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(MissingExtraError, match=r"neuromix\[vision\]"):
        open_images(tmp_path / "parquet")
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingExtraError, match=r"neuromix\[vision\]"):
        open_images(tmp_path / "folder")
    assert len(open_images("digits")) == 1100  # the embedded digits need neither
