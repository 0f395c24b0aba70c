"""Data sets and the loader: every sample is a pure function of (seed, epoch, index).

All chance in a sample (augmentation, or the whole sample where it is generated) comes from a generator
made of these three numbers, and the order of an epoch from (seed, epoch). So the batches of an epoch are the
same whatever the number of workers, and a run that stops after batch k goes on with batch k+1 exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info

from neuromix.core.batch import Batch, Ragged, collate
from neuromix.core.errors import ConfigError, DataError, NeuromixError

Sample = Mapping[str, Tensor | Ragged | float]  # numbers (int, bool, float) become tensors when collated
Collate = Callable[[Sequence[Sample]], Batch]

_ORDER, _SAMPLE = 0, 1  # keeps the streams of the order and of the samples apart


class Dataset(Protocol):
    """A finite set of samples; an endless generator is one with a chosen epoch length."""

    def __len__(self) -> int:
        """Number of samples in an epoch."""
        ...

    def sample(self, index: int, generator: torch.Generator) -> Sample:
        """The sample `index` in [0, len); draws from `generator` only, and changes nothing."""
        ...


def sample_generator(seed: int, epoch: int, index: int) -> torch.Generator:
    """A fresh CPU generator for one sample of one epoch.

    Seeds of neighbouring arguments are unrelated. PyTorch's CPU generator keeps 32 bits of its seed, so of a
    million samples about a hundred share their draws with another one.

    Args:
        seed: of the run, >= 0.
        epoch: >= 0.
        index: of the sample in the data set, >= 0.
    """
    return _generator(seed, _SAMPLE, epoch, index)


def _generator(seed: int, *key: int) -> torch.Generator:
    mixed = np.random.SeedSequence(seed, spawn_key=key).generate_state(1)[0]
    return torch.Generator().manual_seed(int(mixed))


class Loader:
    """Iterates the batches of an epoch, for one of several ranks, from any batch on.

    The global batch b holds positions [b * batch_size, (b+1) * batch_size) of the epoch's order, and rank r
    takes every world_size-th sample of it from the r-th on; so the ranks' shares are disjoint, and another
    number of ranks sees the same global batches. The last batch may be short:

    - by default (evaluation) it is shared out exactly: every sample comes once, shares differ by one sample,
      and a rank whose share would be empty has one batch less;
    - with `pad` (training) samples from the start of the order are repeated until the shares are equal;
    - with `drop_last` (training) it is left out.

    Args:
        dataset: what is iterated.
        batch_size: samples of a global batch, a multiple of world_size.
        seed: of the run, >= 0.
        epoch: the epoch that `iter(loader)` gives.
        start_batch: the batch that `iter(loader)` starts with, in [0, len(loader)].
        shuffle: a new order each epoch, else 0, 1, 2, ...
        drop_last: leave a short last batch out.
        pad: repeat samples in a short last batch until the ranks' shares are equal.
        rank: of this process, in [0, world_size).
        world_size: number of processes that share the batches.
        workers: processes that make batches ahead; 0 makes them in this one. They live as long as the loader.
        pin_memory: put batches into page-locked memory, for copies to a GPU.
        collate: samples -> Batch.

    Raises:
        ConfigError: an argument out of its range.
        DataError: nothing is left after `drop_last`, or start_batch lies behind the last batch.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        *,
        seed: int = 0,
        epoch: int = 0,
        start_batch: int = 0,
        shuffle: bool = False,
        drop_last: bool = False,
        pad: bool = False,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 0,
        pin_memory: bool = False,
        collate: Collate = collate,
    ) -> None:
        _require(world_size >= 1 and 0 <= rank < world_size, f"rank is in [0, {world_size}); given {rank}")
        _require(
            batch_size >= 1 and batch_size % world_size == 0,
            f"batch_size is a positive multiple of the {world_size} ranks that share it; given {batch_size}",
        )
        _require(seed >= 0 and epoch >= 0, f"seed and epoch are 0 or more; given {seed} and {epoch}")
        _require(workers >= 0, f"workers is 0 or more; given {workers}")
        self.dataset, self.batch_size, self.seed, self.shuffle = dataset, batch_size, seed, shuffle
        self.drop_last, self.pad, self.rank, self.world_size = drop_last, pad, rank, world_size
        self.epoch, self.start_batch = epoch, start_batch
        if drop_last and len(dataset) < batch_size:
            raise DataError(
                f"drop_last leaves no batch of {batch_size} from {len(dataset)} samples; lower batch_size"
            )
        self._check_start(start_batch)
        self._plan: list[_Key] = []  # the sampler: the batches of the iteration that begins
        self._turn = object()
        self._batches: DataLoader[Batch | _Failure] = DataLoader(
            _Fetch(dataset, seed, collate),  # type: ignore[arg-type]  # a map-style data set by protocol
            sampler=self._plan,
            batch_size=None,  # the sampler names whole batches
            collate_fn=_unchanged,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=pin_memory,
            generator=torch.Generator(),  # else every epoch would draw from the global generator
        )

    def __len__(self) -> int:
        """Batches of a whole epoch on this rank."""
        full, tail = divmod(len(self.dataset), self.batch_size)
        has_tail = not self.drop_last and (tail > 0 if self.pad else tail > self.rank)
        return full + has_tail

    def __iter__(self) -> Iterator[Batch]:
        return self.batches(self.epoch, self.start_batch)

    def batches(self, epoch: int, start_batch: int = 0) -> Iterator[Batch]:
        """The batches of `epoch` from `start_batch` on. Only one iteration at a time goes on.

        Raises:
            DataError: a sample cannot be made, start_batch lies behind the last batch, or another iteration
                of this loader has begun meanwhile.
        """
        self._check_start(start_batch)
        # The workers are shared by all iterations, so a new one takes them over; the old one must not go on.
        turn = self._turn = object()
        self._plan[:] = self._keys(epoch)[start_batch:]
        for batch in self._batches:
            if self._turn is not turn:
                raise DataError(
                    "this loader has begun another iteration; use a second Loader to have two at once"
                )
            if isinstance(batch, _Failure):
                raise batch.error()
            yield batch

    def _keys(self, epoch: int) -> list[_Key]:
        """What this rank reads in each batch of an epoch."""
        batches = torch.split(self._order(epoch), self.batch_size)[: len(self)]
        return [_Key(epoch, batch[self.rank :: self.world_size].tolist()) for batch in batches]

    def _order(self, epoch: int) -> Tensor:
        count = len(self.dataset)
        if not self.shuffle:
            order = torch.arange(count)
        else:
            order = torch.randperm(count, generator=_generator(self.seed, _ORDER, epoch))
        if self.pad and count:
            missing = -count % self.world_size
            order = torch.cat([order, order[torch.arange(missing) % count]])
        return order

    def _check_start(self, start_batch: int) -> None:
        if not 0 <= start_batch <= len(self):
            raise DataError(
                f"cannot start at batch {start_batch} of {len(self)}; did data or batch_size change since?"
            )


class _Key(NamedTuple):
    """One batch to be made: everything that a worker has to know."""

    epoch: int
    indices: list[int]


class _Failure(NamedTuple):
    """An error on its way out of a worker; PyTorch would put the worker's traceback into its message."""

    kind: type[NeuromixError]
    message: str

    def error(self) -> NeuromixError:
        # __new__ sets the message whatever arguments the kind's own constructor takes.
        return self.kind.__new__(self.kind, self.message)


class _Fetch:
    """Makes whole batches from keys, in a worker or in the main process."""

    def __init__(self, dataset: Dataset, seed: int, collate: Collate) -> None:
        self._dataset, self._seed, self._collate = dataset, seed, collate

    def __getitem__(self, key: _Key) -> Batch | _Failure:
        try:
            draws = (sample_generator(self._seed, key.epoch, index) for index in key.indices)
            return self._collate(
                [self._dataset.sample(*pair) for pair in zip(key.indices, draws, strict=True)]
            )
        except NeuromixError as error:
            if get_worker_info() is None:
                raise
            return _Failure(type(error), str(error))


def _unchanged(batch: Any) -> Any:
    return batch


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)
