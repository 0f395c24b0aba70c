"""Routes, made up and from folders, and patch normalisation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from neuromix.core.errors import ConfigError, DataError, NeuromixError, ShapeError
from neuromix.data.patch_norm import as_bytes, grey, patch_normalised
from neuromix.data.places import open_places
from neuromix.data.synthetic_places import Street


def sample(data, index):
    return data.sample(index, torch.Generator())


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3, 5, 7]), st.integers(0, 99))
def test_patches_by_hand(height, width, window, seed):
    image = np.random.default_rng(seed).integers(0, 256, (height, width)).astype(float)
    found = patch_normalised(torch.from_numpy(image), window)
    reach = window // 2
    for y, x in np.ndindex(height, width):
        patch = image[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1]
        expected = (image[y, x] - patch.mean()) / patch.std() if patch.std() > 0 else 0.0
        assert np.isclose(found[y, x].item(), np.clip(expected, -1, 1))


def test_bytes_are_truncated():
    assert as_bytes(torch.tensor([-1.0, 0.0, 0.999, 1.0])).tolist() == [0, 127, 254, 255]


def test_grey_weighs_colours():
    colour = torch.tensor([1.0, 0, 0])[:, None, None]
    assert grey(colour).item() == pytest.approx(0.299)
    assert grey(torch.ones(1, 2, 2)).tolist() == [[1, 1], [1, 1]]


def test_a_patch_has_a_centre():
    with pytest.raises(ShapeError, match="odd window"):
        patch_normalised(torch.zeros(5, 5), 4)


def test_parts_of_a_made_up_street():
    data = open_places("synthetic-places", places=8)
    assert [len(data.split(part)) for part in ("train", "validation", "test")] == [16, 2, 6]
    train = [sample(data, i) for i in range(16)]
    assert [s["label"] for s in train] == 2 * list(range(8))
    assert [s["traverse"] for s in train] == 8 * [0] + 8 * [1]
    assert [sample(data.split("test"), i)["label"] for i in range(6)] == [2, 3, 4, 5, 6, 7]
    assert {sample(data.split("validation"), 0)["traverse"], sample(data.split("test"), 0)["traverse"]} == {2}
    image = train[0]["image"]
    assert image.shape == (1, 28, 28) and image.dtype == torch.float32
    assert torch.equal((image * 255).round(), image * 255) and image.min() >= 0 and image.max() <= 1
    assert torch.equal(image, sample(open_places("synthetic-places", places=8), 0)["image"])


def test_a_street_without_changes_is_the_same_on_every_traverse():
    still = Street(light=0, season=0, shift=0, noise=0)
    data = open_places("synthetic-places", places=4, street=still)
    first, again, query = sample(data, 1), sample(data, 5), sample(data.split("validation"), 0)
    assert torch.equal(first["image"], again["image"])
    assert torch.equal(sample(data, 0)["image"], query["image"])
    assert not torch.equal(first["image"], query["image"])


@pytest.mark.parametrize("change", ["light", "season", "shift", "noise"])
def test_each_change_changes_the_query(change):
    none = {"light": 0.0, "season": 0.0, "shift": 0.0, "noise": 0.0}
    still = open_places("synthetic-places", places=4, window=None, street=Street(**none)).split("test")
    other = open_places("synthetic-places", places=4, window=None, street=Street(**{**none, change: 0.3}))
    assert not torch.equal(sample(still, 0)["image"], sample(other.split("test"), 0)["image"])


def write(folder, names, side=20, value=None):
    folder.mkdir(parents=True)
    for number, name in enumerate(names):
        pixels = np.full((side, side + 4, 3), value if value is not None else 20 * number, np.uint8)
        pixels[:number, :] = 255
        Image.fromarray(pixels).save(folder / name)


def test_folders_are_traverses(tmp_path):
    names = [f"{k}.png" for k in range(12)]  # 2 before 10
    for traverse in ("autumn", "spring", "winter"):
        write(tmp_path / traverse, names)
    data = open_places(tmp_path, size=(8, 9))
    assert data.route.traverses == ("autumn", "spring", "winter") and data.route.places == 12
    assert len(data) == 24 and sample(data, 0)["image"].shape == (1, 8, 9)
    chosen = open_places(
        tmp_path, references=["winter"], query="spring", every=3, places=3, window=None, size=8
    )
    assert chosen.route.traverses == ("winter", "spring") and len(chosen) == 3
    plain = open_places(tmp_path, window=None, size=8)
    assert torch.equal(sample(chosen, 2)["image"], sample(plain, 6)["image"])


def test_bad_folders_are_one_clear_line(tmp_path):
    with pytest.raises(DataError, match="no folder"):
        open_places(tmp_path / "missing")
    with pytest.raises(DataError, match="a reference and a query"):
        open_places(tmp_path)
    write(tmp_path / "a", ["0.png", "1.png", "2.png"])
    write(tmp_path / "b", ["0.png", "1.png"])
    with pytest.raises(DataError, match=r"\{'a': 3, 'b': 2\}"):
        open_places(tmp_path)
    with pytest.raises(DataError, match="asked for are a, c"):
        open_places(tmp_path, references=["a"], query="c")
    (tmp_path / "b" / "2.png").write_bytes(b"no image")
    data = open_places(tmp_path)
    with pytest.raises(DataError, match=r"2\.png"):
        sample(data.split("test"), 1)
    with pytest.raises(DataError, match="has 3 places, needed are 9"):
        open_places(tmp_path, places=9)


def test_numbers_of_places_are_checked():
    for calibration in (0, 4):
        with pytest.raises(ConfigError, match="1 to 3 calibrate"):
            open_places("synthetic-places", places=4, calibration=calibration)
    with pytest.raises(NeuromixError, match="split"):
        open_places("synthetic-places").split("tset")
    with pytest.raises(ConfigError, match="season"):
        Street(season=2.0)
