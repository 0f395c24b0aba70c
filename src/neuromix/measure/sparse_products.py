"""The products of sparse convolutions: counted by pairs of neighbouring sites, never by the grid around them.

Shapes: N input rows, M output rows, K taps, I input and O output channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

import neuromix.ops.sparse_conv  # noqa: F401 (defines the op)
from neuromix.measure.operands import sent
from neuromix.measure.products import Product, counts


@dataclass(frozen=True)
class SparseConvolution(Product):
    """y[m] = sum over taps of x[table[k, m]] @ weight[k]: I*O multiply-adds for each pair in the table."""

    x_NI: Tensor
    weight_KIO: Tensor
    table_KM: Tensor

    @property
    def macs(self) -> int:  # type: ignore[override]
        return int((self.table_KM >= 0).sum()) * self.weight_KIO.shape[1:].numel()

    @property
    def dense(self) -> int:  # type: ignore[override]
        return self.macs

    @property
    def outputs(self) -> int:  # type: ignore[override]
        return self.table_KM.shape[1] * self.weight_KIO.shape[2]

    @property
    def factors(self) -> tuple[Tensor, Tensor]:
        return (self.x_NI, self.weight_KIO)

    @property
    def operands(self) -> tuple[Tensor, ...]:
        return (self.x_NI,)

    def additions(self, sender: int, by_value: bool, pairs: bool) -> int:
        """Sum over input rows of the spikes there times the pairs that read them, times O."""
        spikes_N = sent(self.x_NI, (1,), by_value)
        return int((spikes_N * self._reads().sum(0)).sum()) * self.weight_KIO.shape[2]

    def effective(self) -> int:
        """Sum over taps and input channels of the non-zero inputs read there, times the non-zero weights there."""
        inputs_KI = self._reads().double() @ (self.x_NI != 0).double()  # exact: far below 2^53
        return int((inputs_KI * (self.weight_KIO != 0).sum(2)).sum())

    def _reads(self) -> Tensor:
        """[K, N], int64: whether tap k reads row n."""
        reads_KN = self.table_KM.new_zeros(len(self.table_KM), len(self.x_NI), dtype=torch.int64)
        tap, output = (self.table_KM >= 0).nonzero(as_tuple=True)
        reads_KN[tap, self.table_KM[tap, output].long()] = 1
        return reads_KN


@counts(torch.ops.neuromix.sparse_conv)
def _sparse_convolution(x_NI: Tensor, weight_KIO: Tensor, table_KM: Tensor, *_: Tensor) -> list[Product]:
    return [SparseConvolution(x_NI, weight_KIO, table_KM)]


@counts(torch.ops.neuromix.neighbour_table)
def _neighbour_table(*_: object) -> list[Product]:
    """Comparisons of whole numbers: nothing is multiplied."""
    return []
