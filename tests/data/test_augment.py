"""Augmentations: driven by their generator alone, in range, on any size; mixes keep labels a distribution."""

from __future__ import annotations

import pickle
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuromix.core.batch import Batch
from neuromix.core.errors import ConfigError, ShapeError, UnknownNameError
from neuromix.data import augment as A

AUGMENTS: list[A.Augment] = [
    A.random_crop,
    A.horizontal_flip,
    partial(A.random_erasing, p=1.0),
    A.random_affine,
    A.colour_jitter,
    partial(A.rand_augment, count=8, magnitude=1.0),
    A.policy("natural"),
]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(deadline=None, max_examples=50)
@given(
    st.sampled_from(AUGMENTS),
    st.tuples(st.sampled_from([1, 3]), st.integers(1, 9), st.integers(1, 9)),
    st.integers(0, 99),
)
def test_augment_is_a_function_of_image_and_generator(
    change: A.Augment, shape: tuple[int, ...], seed: int
) -> None:
    image_CHW = torch.rand(shape, generator=generator(seed))
    kept = image_CHW.clone()
    once, again = change(image_CHW, generator(seed)), change(image_CHW, generator(seed))
    assert once.shape == image_CHW.shape and torch.equal(once, again)
    assert torch.equal(image_CHW, kept)  # sources hand out views of what they hold
    assert bool((once >= 0).all()) and bool((once <= 1 + 1e-6).all())


def test_warp_of_nothing_is_the_identity_and_shifts_are_exact() -> None:
    image_CHW = torch.rand(2, 4, 8)
    torch.testing.assert_close(A.warp(image_CHW), image_CHW)
    shifted = A.warp(image_CHW, shift=(0.25, 0.25))  # one pixel down, two to the right
    torch.testing.assert_close(shifted[:, 1:, 2:], image_CHW[:, :-1, :-2])
    assert bool((shifted[:, 0] == 0).all())


@pytest.mark.parametrize("height, width", [(5, 5), (4, 8)])
def test_warp_turns_by_the_angle_on_any_aspect(height: int, width: int) -> None:
    image_CHW = torch.rand(1, height, width)
    half_turn = A.warp(image_CHW, angle=torch.pi)
    torch.testing.assert_close(half_turn, image_CHW.flip(1, 2), atol=1e-5, rtol=0)


def test_quarter_turn_moves_a_point_to_where_it_belongs() -> None:
    image_CHW = torch.zeros(1, 5, 9)
    image_CHW[0, 2, 6] = 1  # two to the right of the centre
    moved = A.warp(image_CHW, angle=torch.pi / 2)
    assert float(moved[0, 0, 4]) + float(moved[0, 4, 4]) == pytest.approx(1, abs=1e-4)  # two above or below


def test_crop_shows_every_offset() -> None:
    image_CHW = torch.zeros(1, 3, 3)
    image_CHW[0, 1, 1] = 1
    draws = generator()
    places = {int(A.random_crop(image_CHW, draws, padding=1).argmax()) for _ in range(200)}
    assert places == set(range(9))


def batch(count: int, classes: int = 3) -> Batch:
    return Batch(
        {
            "image": torch.rand(count, 1, 5, 7),
            "label": torch.arange(count) % classes,
            "name": torch.arange(count),
        }
    )


@settings(deadline=None, max_examples=50)
@given(st.sampled_from([A.mixup, A.cutmix]), st.integers(0, 5), st.floats(0.05, 3), st.integers(0, 99))
def test_mixes_keep_labels_a_distribution(mix: A.Mix, count: int, alpha: float, seed: int) -> None:
    before = batch(count)
    kept = before.tensor("image").clone()
    mixed = mix(before, generator(seed), 3, alpha)
    label_BK = mixed.tensor("label")
    assert label_BK.shape == (count, 3) and label_BK.dtype == torch.float32
    torch.testing.assert_close(label_BK.sum(1), torch.ones(count))
    assert torch.equal(mixed.tensor("name"), before.tensor("name"))
    assert torch.equal(before.tensor("image"), kept)
    again = mix(mixed, generator(seed), 3, alpha)  # soft labels are taken too
    torch.testing.assert_close(again.tensor("label").sum(1), torch.ones(count))


@settings(deadline=None, max_examples=50)
@given(st.sampled_from([A.mixup, A.cutmix]), st.integers(0, 99))
def test_labels_weigh_what_the_image_shows(mix: A.Mix, seed: int) -> None:
    """With every image filled by its own class number, the mean of the image is the mean of the label."""
    label = torch.arange(4)
    image_BCHW = label.float()[:, None, None, None].expand(4, 1, 6, 5).clone()
    mixed = mix(Batch({"image": image_BCHW, "label": label}), generator(seed), 4, 1.0)
    expected = mixed.tensor("label") @ label.float()
    torch.testing.assert_close(mixed.tensor("image").mean((1, 2, 3)), expected)


def test_mixes_refuse_bad_labels() -> None:
    images = torch.rand(2, 1, 3, 3)
    with pytest.raises(ShapeError, match="labels are in"):
        A.mixup(Batch({"image": images, "label": torch.tensor([0, 3])}), generator(), 3)
    with pytest.raises(ShapeError, match="labels are"):
        A.cutmix(Batch({"image": images, "label": torch.rand(2)}), generator(), 3)
    with pytest.raises(ConfigError, match="alpha"):
        A.mixup(Batch({"image": images, "label": torch.tensor([0, 1])}), generator(), 3, alpha=0)


def test_policies_pickle_and_are_named() -> None:
    for name in A.POLICIES:
        image_CHW = torch.rand(3, 8, 8)
        copy = pickle.loads(pickle.dumps(A.policy(name)))
        assert torch.equal(copy(image_CHW, generator()), A.policy(name)(image_CHW, generator()))
    with pytest.raises(UnknownNameError, match="natural"):
        A.policy("naturel")
