"""Batch, Ragged and collate."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuromix.core.batch import Batch, Ragged, collate
from neuromix.core.errors import ShapeError

lengths = st.lists(st.integers(0, 5), min_size=1, max_size=6)


def ragged(lengths: list[int], width: tuple[int, ...] = (2,)) -> Ragged:
    rows = [torch.randn(length, *width) for length in lengths]
    return Ragged.of(rows, time=[torch.arange(length) for length in lengths])


def same(a: Ragged, b: Ragged) -> bool:
    return (
        torch.equal(a.values, b.values)
        and torch.equal(a.offsets, b.offsets)
        and all(torch.equal(a.extras[name], b.extras[name]) for name in {*a.extras, *b.extras})
    )


@settings(deadline=None, max_examples=50)
@given(lengths, st.sampled_from([(), (3,), (2, 1)]))
def test_padded_and_packed_give_the_values_back(counts: list[int], width: tuple[int, ...]) -> None:
    field = ragged(counts, width)
    x, mask_BL = field.padded(fill=-1)
    assert x.shape == (len(counts), max(counts), *width) and mask_BL.sum(1).tolist() == counts
    assert torch.equal(x[mask_BL], field.values) and bool((x[~mask_BL] == -1).all())
    packed, segments = field.packed()
    assert torch.equal(packed[0], field.values)
    assert segments[0].tolist() == [b for b, count in enumerate(counts) for _ in range(count)]


@settings(deadline=None, max_examples=50)
@given(lengths, st.data())
def test_ragged_select_picks_whole_samples(counts: list[int], data: st.DataObject) -> None:
    field = ragged(counts)
    chosen = data.draw(st.lists(st.integers(-len(counts), len(counts) - 1), max_size=5))
    picked = field.select(chosen)
    singles = [field.select([index]) for index in chosen]
    assert picked.lengths.tolist() == [counts[index] for index in chosen]
    assert not chosen or same(picked, Ragged.cat(singles))


def test_padding_is_differentiable() -> None:
    values = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    offsets = torch.tensor([0, 1, 1, 3])
    assert torch.autograd.gradcheck(lambda v: Ragged(v, offsets).padded()[0], values)


@pytest.mark.parametrize(
    "offsets", [[0, 2], [1, 3], [0, 2, 1, 3], [], [[0, 3]]], ids=["short", "late", "falling", "none", "2-d"]
)
def test_offsets_that_do_not_cut_the_values_are_refused(offsets: list[int]) -> None:
    with pytest.raises(ShapeError, match="offsets"):
        Ragged(torch.zeros(3, 2), torch.tensor(offsets, dtype=torch.int64))


def test_ragged_refuses_what_does_not_fit() -> None:
    with pytest.raises(ShapeError, match="int64"):
        Ragged(torch.zeros(3), torch.tensor([0.0, 3.0]))
    with pytest.raises(ShapeError, match="time"):
        Ragged(torch.zeros(3), torch.tensor([0, 3]), {"time": torch.zeros(2)})
    with pytest.raises(ShapeError, match="one shape"):
        Ragged.of([torch.zeros(1, 2), torch.zeros(1, 3)])
    with pytest.raises(ShapeError, match="extras"):
        Ragged.cat([ragged([1]), Ragged.of([torch.zeros(1, 2)])])


def batch(counts: list[int]) -> Batch:
    return Batch({"image": torch.randn(len(counts), 1, 2), "events": ragged(counts)})


@settings(deadline=None, max_examples=50)
@given(lengths, st.integers(1, 8))
def test_split_gives_the_batch_back(counts: list[int], n: int) -> None:
    whole = batch(counts)
    parts = whole.split(n)
    sizes = [part.size for part in parts]
    assert len(parts) == min(n, len(counts)) and max(sizes) - min(sizes) <= 1
    assert torch.equal(torch.cat([part.tensor("image") for part in parts]), whole.tensor("image"))
    assert same(Ragged.cat([part["events"] for part in parts]), whole["events"])  # type: ignore[misc, arg-type]


def test_select_takes_integers_and_masks() -> None:
    whole = batch([2, 0, 1])
    assert whole.select([2, 0]).tensor("image").equal(whole.tensor("image")[[2, 0]])
    assert whole.select(torch.tensor([True, False, True])).size == 2
    assert whole.select([]).size == 0 and whole.select([]).split(4)[0].size == 0
    with pytest.raises(ShapeError, match="outside"):
        whole.select([3])
    with pytest.raises(ShapeError, match="mask"):
        whole.select(torch.tensor([True]))


def test_batch_is_a_mapping_that_moves_and_pickles() -> None:
    whole = batch([2, 1])
    assert list(whole) == ["image", "events"] and len(whole) == 2 and "image" in whole
    assert whole.to("meta").tensor("image").device.type == "meta"
    copy = pickle.loads(pickle.dumps(whole))
    assert same(copy["events"], whole["events"])  # type: ignore[arg-type]
    assert "Ragged of 2" in repr(whole)


def test_batch_refuses_what_does_not_fit() -> None:
    with pytest.raises(ShapeError, match="one size"):
        Batch({"a": torch.zeros(2), "b": torch.zeros(3)})
    with pytest.raises(ShapeError, match="first axis"):
        Batch({"a": torch.tensor(1.0)})
    with pytest.raises(ShapeError, match="without fields"):
        Batch({})
    with pytest.raises(ShapeError, match="label"):
        Batch({"a": torch.zeros(2)}).tensor("label")


def test_collate_stacks_joins_and_counts() -> None:
    samples: list[dict[str, Any]] = [
        {"x": torch.full((2,), i), "y": i, "w": 0.5, "e": ragged([i])} for i in range(3)
    ]
    made = collate(samples)
    assert made.tensor("x").tolist() == [[0, 0], [1, 1], [2, 2]]
    assert made.tensor("y").dtype == torch.int64 and made.tensor("w").dtype == torch.float32
    assert made["e"].lengths.tolist() == [0, 1, 2]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "samples, word",
    [
        ([], "no samples"),
        ([{"x": 1}, {"y": 1}], "same fields"),
        ([{"x": torch.zeros(2)}, {"x": torch.zeros(3)}], "unlike shapes"),
        ([{"x": torch.zeros(2)}, {"x": ragged([1])}], "some samples only"),
    ],
)
def test_collate_refuses_samples_that_differ(samples: list[dict[str, torch.Tensor]], word: str) -> None:
    with pytest.raises(ShapeError, match=word):
        collate(samples)
