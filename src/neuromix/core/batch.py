"""Batches: named fields of one set of samples, of equal length (tensors) or unlike lengths (`Ragged`).

Shapes: B batch, N all rows of a ragged field together, L the longest row; `...` is the shape of one row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from neuromix.core.errors import ShapeError

Indices = Tensor | Sequence[int]


class _RaggedFields(NamedTuple):
    values: Tensor  # [N, ...]
    offsets: Tensor  # [B+1], int64: sample b owns the rows offsets[b] to offsets[b+1]
    extras: Mapping[str, Tensor]  # each [N, ...]: coordinates, times, identities


class Ragged(_RaggedFields):
    """Samples of unlike lengths, laid end to end.

    Args:
        values: [N, ...], the rows of all samples, any dtype.
        offsets: [B+1], int64, from 0 to N and never falling; sample b owns rows offsets[b] to offsets[b+1].
        extras: further tensors [N, ...] that go with the rows (coordinates, times, identities).

    Raises:
        ShapeError: the offsets do not cut the values, or an extra has another number of rows.

    Example:
        >>> Ragged.of([torch.ones(2), torch.zeros(1)]).padded(fill=7)[0]
        tensor([[1., 1.],
                [0., 7.]])
    """

    __slots__ = ()

    def __new__(cls, values: Tensor, offsets: Tensor, extras: Mapping[str, Tensor] | None = None) -> Ragged:
        extras = dict(extras or {})
        _check_offsets(values, offsets)
        for name, extra in extras.items():
            if extra.ndim == 0 or len(extra) != len(values):
                raise ShapeError(
                    f"ragged extra {name!r} has shape {list(extra.shape)}; expected {len(values)} rows, as the values"
                )
        return super().__new__(cls, values, offsets, extras)

    @classmethod
    def of(cls, rows: Sequence[Tensor], **extras: Sequence[Tensor]) -> Ragged:
        """Joins one tensor [n_b, ...] a sample; each extra is such a list too. At least one sample is needed."""
        if not rows:
            raise ShapeError("a ragged field of no samples has no shape; give at least one tensor")
        lengths = torch.tensor([0] + [len(row) for row in rows])
        joined = {name: _join(name, parts) for name, parts in extras.items()}
        return cls(_join("values", rows), lengths.cumsum(0).to(rows[0].device), joined)

    @classmethod
    def cat(cls, parts: Sequence[Ragged]) -> Ragged:
        """Joins the samples of several ragged fields with the same extras into one."""
        if not parts:
            raise ShapeError("a ragged field of no parts has no shape; give at least one")
        names = parts[0].extras.keys()
        if any(part.extras.keys() != names for part in parts):
            raise ShapeError(
                f"ragged parts differ in their extras: {[sorted(part.extras) for part in parts]}"
            )
        lengths = torch.cat([part.lengths for part in parts])
        return cls(
            _join("values", [part.values for part in parts]),
            _offsets(lengths),
            {name: _join(name, [part.extras[name] for part in parts]) for name in names},
        )

    @property
    def size(self) -> int:
        """Number of samples B."""
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Tensor:
        """Rows of each sample: [B], int64."""
        return self.offsets.diff()

    def padded(self, fill: float = 0) -> tuple[Tensor, Tensor]:
        """One row a sample, filled up on the right.

        Returns:
            x [B, L, ...] with `fill` where a sample has ended, and mask [B, L], bool, True on real rows;
            `x[mask]` gives the values back.
        """
        lengths_B = self.lengths
        longest = int(lengths_B.max()) if self.size else 0
        mask_BL = torch.arange(longest, device=lengths_B.device) < lengths_B[:, None]
        x = self.values.new_full((self.size, longest, *self.values.shape[1:]), fill)
        # masked_scatter is differentiable, so that padding may stand in the middle of a network.
        where = mask_BL.reshape(*mask_BL.shape, *(1,) * (self.values.ndim - 1)).expand_as(x)
        return x.masked_scatter(where, self.values), mask_BL

    def packed(self) -> tuple[Tensor, Tensor]:
        """All samples in one sequence.

        Returns:
            x [1, N, ...] and segments [1, N], int64: the number of the sample that owns the row.
        """
        samples_B = torch.arange(self.size, device=self.offsets.device)
        return self.values[None], samples_B.repeat_interleave(self.lengths)[None]

    def select(self, indices: Indices) -> Ragged:
        """The samples at `indices` (int, or a bool mask [B]), in that order."""
        chosen = _as_indices(indices, self.size, self.offsets.device)
        lengths = self.lengths[chosen]
        offsets = _offsets(lengths)
        # Row r of the result is row r - (start in the result) + (start in the source) of the source.
        shift = (self.offsets[:-1][chosen] - offsets[:-1]).repeat_interleave(lengths)
        rows = torch.arange(len(shift), device=shift.device) + shift
        return Ragged(self.values[rows], offsets, {name: extra[rows] for name, extra in self.extras.items()})

    def to(self, device: torch.device | str) -> Ragged:
        """The same samples on `device`."""
        return Ragged(*self._map(lambda tensor: _move(tensor, device)))

    def pin_memory(self) -> Ragged:
        """The same samples in page-locked memory, from where copies to a GPU run in the background."""
        return Ragged(*self._map(Tensor.pin_memory))

    def _map(self, change: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        extras = {name: change(extra) for name, extra in self.extras.items()}
        return change(self.values), change(self.offsets), extras


class Batch(Mapping[str, Tensor | Ragged]):
    """Named fields of one set of samples; every field has the samples on its first axis.

    Args:
        fields: name -> Tensor [B, ...] or Ragged of B samples.

    Raises:
        ShapeError: no field, a tensor without a batch axis, or fields of unlike sizes.

    Example:
        >>> Batch({"image": torch.zeros(3, 1, 8, 8), "label": torch.zeros(3, dtype=torch.int64)}).size
        3
    """

    def __init__(self, fields: Mapping[str, Tensor | Ragged]) -> None:
        self._fields = dict(fields)
        sizes = {name: _size(name, field) for name, field in self._fields.items()}
        if not sizes:
            raise ShapeError("a batch without fields has no size; give at least one field")
        if len(set(sizes.values())) > 1:
            raise ShapeError(f"the fields of a batch need one size; given {sizes}")

    def __getitem__(self, name: str) -> Tensor | Ragged:
        return self._fields[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        """Number of fields, as of any mapping; the number of samples is `size`."""
        return len(self._fields)

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name}: {_describe(field)}" for name, field in self.items())
        return f"Batch({shapes})"

    @property
    def size(self) -> int:
        """Number of samples B."""
        return next(_size(name, field) for name, field in self.items())

    def tensor(self, name: str) -> Tensor:
        """The field `name`, which must be there and be a plain tensor [B, ...].

        Raises:
            ShapeError: no such field, or it is ragged.
        """
        field = self.get(name)
        if not isinstance(field, Tensor):
            raise ShapeError(f"expected a tensor field {name!r} in {self}")
        return field

    def replace(self, **fields: Tensor | Ragged) -> Batch:
        """A batch with these fields replaced or added."""
        return Batch({**self, **fields})

    def select(self, indices: Indices) -> Batch:
        """The samples at `indices` (int, or a bool mask [B]), in that order.

        Raises:
            ShapeError: an index outside the batch, or a mask of another length.
        """

        def pick(field: Tensor | Ragged) -> Tensor | Ragged:
            if isinstance(field, Ragged):
                return field.select(indices)
            return field[_as_indices(indices, len(field), field.device)]

        return Batch({name: pick(field) for name, field in self.items()})

    def split(self, n: int) -> list[Batch]:
        """At most n parts in order, none empty, sizes differing by one at most; an empty batch is one part.

        Raises:
            ShapeError: n < 1.
        """
        if n < 1:
            raise ShapeError(f"a batch splits into 1 part or more; given {n}")
        parts = torch.arange(self.size).tensor_split(max(1, min(n, self.size)))
        return [self.select(part) for part in parts]

    def to(self, device: torch.device | str) -> Batch:
        """The same samples on `device`; from pinned memory the copy runs in the background."""
        return Batch(
            {
                name: field.to(device) if isinstance(field, Ragged) else _move(field, device)
                for name, field in self.items()
            }
        )

    def pin_memory(self) -> Batch:
        """The same samples in page-locked memory, from where copies to a GPU run in the background."""
        return Batch({name: field.pin_memory() for name, field in self.items()})


def collate(samples: Sequence[Mapping[str, Tensor | Ragged | float]]) -> Batch:
    """Makes a batch of samples: tensors are stacked, ragged fields joined, numbers become a tensor [B].

    Integers become int64, floats float32, booleans bool.

    Raises:
        ShapeError: no sample, samples with other fields, or tensors of unlike shapes.
    """
    if not samples:
        raise ShapeError("a batch of no samples has no fields; give at least one sample")
    names = samples[0].keys()
    for sample in samples:
        if sample.keys() != names:
            raise ShapeError(
                f"samples of one batch need the same fields; given {list(names)} and {list(sample)}"
            )
    return Batch({name: _collate_field(name, [sample[name] for sample in samples]) for name in names})


def _collate_field(name: str, values: Sequence[Tensor | Ragged | float]) -> Tensor | Ragged:
    ragged = [value for value in values if isinstance(value, Ragged)]
    if len(ragged) == len(values):
        return Ragged.cat(ragged)
    if ragged:
        raise ShapeError(f"field {name!r} is ragged in some samples only")
    tensors = [torch.as_tensor(value) for value in values]
    shapes = {tuple(tensor.shape) for tensor in tensors}
    if len(shapes) > 1:
        raise ShapeError(
            f"field {name!r} has unlike shapes {sorted(shapes)}; bring them to one size or use Ragged"
        )
    return torch.stack(tensors)


def _move(tensor: Tensor, device: torch.device | str) -> Tensor:
    # A background copy to a GPU is ordered before what uses it there; one to the CPU could be read half done.
    return tensor.to(device, non_blocking=torch.device(device).type != "cpu")


def _check_offsets(values: Tensor, offsets: Tensor) -> None:
    if values.ndim == 0:
        raise ShapeError("ragged values need a first axis of rows; given a scalar")
    if offsets.ndim != 1 or len(offsets) == 0 or offsets.dtype != torch.int64:
        raise ShapeError(
            f"ragged offsets are int64 of shape [B+1]; given {offsets.dtype} {list(offsets.shape)}"
        )
    # Reading the numbers of a GPU tensor would make every step wait for it; there the shapes are checked only.
    if offsets.device.type == "cpu" and (
        offsets[0] != 0 or offsets[-1] != len(values) or bool((offsets.diff() < 0).any())
    ):
        raise ShapeError(
            f"ragged offsets rise from 0 to the {len(values)} rows of values; given {offsets.tolist()}"
        )


def _offsets(lengths: Tensor) -> Tensor:
    return torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])


def _join(name: str, parts: Sequence[Tensor]) -> Tensor:
    shapes = {tuple(part.shape[1:]) for part in parts}
    if len(shapes) > 1 or any(part.ndim == 0 for part in parts):
        raise ShapeError(
            f"ragged {name} need rows of one shape; given {[list(part.shape) for part in parts]}"
        )
    return torch.cat(list(parts))


def _size(name: str, field: Tensor | Ragged) -> int:
    if isinstance(field, Ragged):
        return field.size
    if not isinstance(field, Tensor) or field.ndim == 0:
        raise ShapeError(f"batch field {name!r} needs the samples on its first axis; given {field!r}")
    return len(field)


def _describe(field: Tensor | Ragged) -> str:
    if isinstance(field, Ragged):
        return f"Ragged of {field.size} x {list(field.values.shape[1:])}"
    return f"{str(field.dtype).removeprefix('torch.')} {list(field.shape)}"


def _as_indices(indices: Indices, size: int, device: torch.device) -> Tensor:
    """Integer positions from integers or a mask; checked where that needs no waiting for a GPU."""
    chosen = torch.as_tensor(indices)
    if chosen.dtype == torch.bool:
        if chosen.shape != (size,):
            raise ShapeError(f"a mask over {size} samples has shape [{size}]; given {list(chosen.shape)}")
        chosen = chosen.nonzero()[:, 0]
    elif chosen.ndim != 1 or (chosen.numel() and chosen.is_floating_point()):
        raise ShapeError(
            f"indices are a list of integers; given {chosen.dtype} of shape {list(chosen.shape)}"
        )
    chosen = chosen.to(torch.int64)
    if chosen.device.type == "cpu" and bool(((chosen < -size) | (chosen >= size)).any()):
        raise ShapeError(f"indices {chosen.tolist()} reach outside a batch of {size}")
    return chosen.to(device)
