"""The loader: its order depends on (seed, epoch) only, whatever the workers, the ranks and where it starts."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuromix.core.batch import Batch
from neuromix.core.errors import ConfigError, DataError, UnknownNameError
from neuromix.data.dataset import Loader, sample_generator

sizes = st.integers(0, 40)


class Numbers:
    """Samples that tell their index and what they drew."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def sample(self, index: int, generator: torch.Generator) -> dict[str, Any]:
        return {"index": index, "noise": torch.rand(2, generator=generator)}


class Faulty(Numbers):
    def sample(self, index: int, generator: torch.Generator) -> dict[str, Any]:
        if index == 5:
            raise DataError("picture.png is broken")
        if index == 7:
            raise UnknownNameError("field", "colour", ["image"])  # its constructor takes no single message
        return super().sample(index, generator)


def indices(batches: Any) -> list[list[int]]:
    return [batch.tensor("index").tolist() for batch in batches]


def equal(a: list[Batch], b: list[Batch]) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x.tensor(name), y.tensor(name)) for x, y in zip(a, b, strict=True) for name in x
    )


@settings(deadline=None, max_examples=50)
@given(sizes, st.integers(1, 9), st.integers(0, 3), st.integers(0, 3), st.booleans(), st.data())
def test_restart_gives_the_batches_that_would_have_followed(
    count: int, size: int, seed: int, epoch: int, shuffle: bool, data: st.DataObject
) -> None:
    whole = list(Loader(Numbers(count), size, seed=seed, epoch=epoch, shuffle=shuffle))
    start = data.draw(st.integers(0, len(whole)))
    resumed = Loader(Numbers(count), size, seed=seed, epoch=epoch, shuffle=shuffle, start_batch=start)
    assert equal(whole[start:], list(resumed)) and len(resumed) == len(whole)
    seen = [index for batch in indices(whole) for index in batch]
    assert sorted(seen) == list(range(count)) and (shuffle or seen == list(range(count)))


@settings(deadline=None, max_examples=50)
@given(
    sizes, st.integers(1, 4), st.integers(1, 4), st.sampled_from(["exact", "pad", "drop_last"]), st.booleans()
)
def test_ranks_share_the_global_batches(count: int, share: int, world: int, tail: str, shuffle: bool) -> None:
    size = share * world
    if tail == "drop_last":
        count += size
    how: dict[str, Any] = {"shuffle": shuffle, "seed": 3, **({tail: True} if tail != "exact" else {})}
    alone = indices(Loader(Numbers(count), size, **{**how, "pad": False}))
    loaders = [Loader(Numbers(count), size, rank=rank, world_size=world, **how) for rank in range(world)]
    ranks = [indices(loader) for loader in loaders]
    assert [len(rank) for rank in ranks] == [len(loader) for loader in loaders]
    for b, expected in enumerate(alone):
        together = Counter(index for rank in ranks for index in (rank[b] if b < len(rank) else []))
        extra = together - Counter(expected)
        assert not Counter(expected) - together  # nothing is lost
        if tail == "pad":
            assert len({len(rank[b]) for rank in ranks}) == 1 and extra.total() < world
        else:
            assert not extra  # and nothing counted twice


def test_workers_change_nothing_and_serve_several_epochs() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    plain = Loader(Numbers(23), 4, seed=5, shuffle=True)
    with_workers = Loader(Numbers(23), 4, seed=5, shuffle=True, workers=2)
    for epoch, start in ((0, 0), (1, 0), (1, 3)):
        assert equal(list(plain.batches(epoch, start)), list(with_workers.batches(epoch, start)))
    next(with_workers.batches(2))  # left half way: the next iteration starts afresh
    assert equal(list(plain.batches(3)), list(with_workers.batches(3)))
    assert torch.equal(before, torch.get_rng_state())  # the global generator is not touched


def test_errors_cross_from_workers_as_one_line() -> None:
    for workers in (0, 2):
        for start, kind, message in ((1, DataError, "picture.png is broken"), (2, UnknownNameError, None)):
            with pytest.raises(kind) as error:
                list(Loader(Faulty(9), 3, start_batch=start, workers=workers))
            assert "\n" not in str(error.value) and message in (None, str(error.value))


def test_epochs_and_seeds_give_other_orders_and_draws() -> None:
    first = next(iter(Loader(Numbers(30), 30, seed=1, shuffle=True)))
    for seed, epoch in ((2, 0), (1, 1)):
        batch = next(iter(Loader(Numbers(30), 30, seed=seed, epoch=epoch, shuffle=True)))
        assert not torch.equal(first.tensor("index"), batch.tensor("index"))
        assert not torch.equal(first.tensor("noise").sort(0)[0], batch.tensor("noise").sort(0)[0])
    draws = {
        float(torch.rand((), generator=sample_generator(*key))) for key in ((0, 0, 1), (0, 1, 0), (1, 0, 0))
    }
    assert len(draws) == 3


def test_order_is_pinned() -> None:
    """A run resumed by a later version goes on in the same order."""
    assert indices(Loader(Numbers(8), 8, seed=1, epoch=2, shuffle=True)) == [[5, 3, 4, 7, 0, 1, 6, 2]]


def test_a_second_iteration_stops_the_first() -> None:
    loader = Loader(Numbers(6), 2)
    first = iter(loader)
    next(first)
    assert indices(loader) == [[0, 1], [2, 3], [4, 5]]
    with pytest.raises(DataError, match="second Loader"):
        next(first)


@pytest.mark.parametrize(
    "arguments",
    [
        {"batch_size": 0},
        {"batch_size": 3, "world_size": 2},
        {"batch_size": 2, "rank": 2, "world_size": 2},
        {"batch_size": 1, "world_size": 0},
        {"batch_size": 1, "seed": -1},
        {"batch_size": 1, "epoch": -1},
        {"batch_size": 1, "workers": -1},
    ],
)
def test_arguments_out_of_range(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Loader(Numbers(4), **arguments)


def test_nothing_to_iterate() -> None:
    assert list(Loader(Numbers(0), 2, shuffle=True, pad=True)) == []
    with pytest.raises(DataError, match="lower batch_size"):
        Loader(Numbers(3), 4, drop_last=True)
    for start in (-1, 3):
        with pytest.raises(DataError, match="cannot start"):
            Loader(Numbers(4), 2, start_batch=start)
