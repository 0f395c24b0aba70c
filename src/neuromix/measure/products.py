"""Products: the ops that multiply and accumulate, as a table from op to what it multiplies.

One multiply-add counts as 1. An op of another library joins the table with `@counts(torch.ops.lib.name)`; an op
that is neither here nor known to be free (see `free`) is reported by name, never taken for zero.

Shapes: M rows and N columns of a matrix product, K what it sums over; Z batch; B samples, C channels.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from neuromix.measure.operands import sent

aten = torch.ops.aten


class Product(ABC):
    """A bilinear operation of two factors.

    Attributes:
        macs: multiply-adds by the shapes, borders included.
        dense: those between two numbers: a place of the kernel that lies on a border meets none.
        outputs: numbers that it gives.
    """

    macs: int
    dense: int
    outputs: int

    @property
    @abstractmethod
    def factors(self) -> tuple[Tensor, Tensor]:
        """What is multiplied."""

    @property
    @abstractmethod
    def operands(self) -> tuple[Tensor, ...]:
        """The first factors, that may carry activations; a weight among them is told apart by where it comes from."""

    @abstractmethod
    def additions(self, sender: int, by_value: bool, pairs: bool) -> int:
        """Additions that happen if operand `sender` holds spikes and nothing is added where it is zero.

        Args:
            by_value: an integer spike n makes n additions instead of one.
            pairs: nothing is added either where the other operand is zero (it is an activation too).
        """

    @abstractmethod
    def effective(self) -> int:
        """Multiply-adds in which neither factor is zero."""


@dataclass(frozen=True)
class MatrixProduct(Product):
    """a_ZMK @ b_ZKN, Z any number of axes or none: Z*M*K*N multiply-adds."""

    a_ZMK: Tensor
    b_ZKN: Tensor

    @property
    def macs(self) -> int:  # type: ignore[override]
        return self.a_ZMK.numel() * self.b_ZKN.shape[-1]

    @property
    def dense(self) -> int:  # type: ignore[override]
        return self.macs

    @property
    def outputs(self) -> int:  # type: ignore[override]
        return math.prod(self.a_ZMK.shape[:-1]) * self.b_ZKN.shape[-1]

    @property
    def factors(self) -> tuple[Tensor, Tensor]:
        return (self.a_ZMK, self.b_ZKN)

    @property
    def operands(self) -> tuple[Tensor, ...]:
        return self.factors

    def additions(self, sender: int, by_value: bool, pairs: bool) -> int:
        """Sum over z, k of the spikes that one operand has at k times the entries that they meet in the other."""
        spikes, other = (self.a_ZMK, self.b_ZKN.mT) if sender == 0 else (self.b_ZKN.mT, self.a_ZMK)
        sent_ZK = sent(spikes, (-2,), by_value)
        if not pairs or other.is_meta:
            return int(sent_ZK.sum()) * other.shape[-2]
        return int((sent_ZK * (other != 0).sum(-2)).sum())

    def effective(self) -> int:
        """Sum over z, k of the entries of a at k that are not zero, times those of b."""
        a_ZK, b_ZK = (_nonzero(x, -2) for x in (self.a_ZMK, self.b_ZKN.mT))
        return int((a_ZK.to(b_ZK.device) * b_ZK).sum())


@dataclass(frozen=True)
class Convolution(Product):
    """A convolution of any number of axes: kernel size * output places * Cin * Cout / groups multiply-adds a sample.

    A transposed one is counted from its input places, as each of them meets the whole kernel.
    """

    input: Tensor  # [B, Cin, ...]
    weight: Tensor  # [Cout, Cin/groups, ...], or [Cin, Cout/groups, ...] if transposed
    stride: Sequence[int]
    padding: Sequence[int]
    dilation: Sequence[int]
    transposed: bool
    output_padding: Sequence[int]
    groups: int

    @property
    def macs(self) -> int:  # type: ignore[override]
        places = self.input.shape[2:] if self.transposed else self._output_sides()
        return self.input.shape[0] * math.prod(places) * self.weight.numel()

    @property
    def dense(self) -> int:  # type: ignore[override]
        samples, channels, *places = self.input.shape
        return samples * channels * self._fan_out() * int(self._reads(torch.ones(1, *places)).sum())

    @property
    def outputs(self) -> int:  # type: ignore[override]
        channels = self._fan_out() * self.groups
        return self.input.shape[0] * channels * math.prod(self._output_sides())

    @property
    def factors(self) -> tuple[Tensor, Tensor]:
        return (self.input, self.weight)

    @property
    def operands(self) -> tuple[Tensor, ...]:
        return (self.input,)

    def additions(self, sender: int, by_value: bool, pairs: bool) -> int:
        """Sum over input places of the spikes there times the outputs that they reach: fewer at the borders."""
        spikes_P = sent(self.input, (0, 1), by_value)
        return int(self._reads(spikes_P[None]).sum()) * self._fan_out()

    def effective(self) -> int:
        """Sum over input channels and taps of the non-zero inputs read there, times the non-zero weights there."""
        reads_CK = self._reads(_nonzero(self.input, 0))
        if self.transposed:
            weights_CK = _nonzero(self.weight, 1)
        else:
            grouped = self.weight.reshape(self.groups, -1, *self.weight.shape[1:])
            weights_CK = _nonzero(grouped, 1).flatten(0, 1)
        return int((reads_CK * weights_CK).sum())

    def _fan_out(self) -> int:
        """Output channels that an input channel feeds."""
        return self.weight.shape[1] if self.transposed else self.weight.shape[0] // self.groups

    def _reads(self, counts_CP: Tensor) -> Tensor:
        """Sums numbers at input places P over those that each tap K of the kernel meets: [C, P...] -> [C, K...]."""
        reads = counts_CP.double()  # exact: far below 2^53
        for taps_KP in self._taps():
            reads = torch.tensordot(reads, taps_KP.to(reads), dims=([1], [1]))
        return reads

    def _axes(self) -> list[tuple[int, int, int, int, int, int]]:
        """Input side, kernel, stride, padding, dilation and output padding of each axis."""
        sides, kernel = self.input.shape[2:], self.weight.shape[2:]

        def spread(values: Sequence[int]) -> Sequence[int]:
            return list(values) * len(sides) if len(values) == 1 else values

        geometry = (self.stride, self.padding, self.dilation, self.output_padding)
        return list(zip(sides, kernel, *map(spread, geometry), strict=True))

    def _output_sides(self) -> list[int]:
        if self.transposed:
            return [(side - 1) * s - 2 * p + d * (k - 1) + e + 1 for side, k, s, p, d, e in self._axes()]
        return [(side + 2 * p - d * (k - 1) - 1) // s + 1 for side, k, s, p, d, _ in self._axes()]

    def _taps(self) -> list[Tensor]:
        """For each axis, [K, P]: whether kernel place k meets input place p, at the one output where it can."""
        axes = zip(self._axes(), self._output_sides(), strict=True)
        if self.transposed:
            return [_taps_written(side, k, s, p, d, out) for (side, k, s, p, d, _), out in axes]
        return [_taps_read(side, k, s, p, d, out) for (side, k, s, p, d, _), out in axes]


@dataclass(frozen=True)
class GatheredSum(Product):
    """y[o] = sum over m of weight[o, m] * table[rows[o, m]]: O*M*X multiply-adds."""

    rows_OM: Tensor
    table_RX: Tensor
    weight_OM: Tensor

    @property
    def macs(self) -> int:  # type: ignore[override]
        return self.rows_OM.numel() * self.table_RX.shape[1]

    @property
    def dense(self) -> int:  # type: ignore[override]
        return self.macs

    @property
    def outputs(self) -> int:  # type: ignore[override]
        return len(self.rows_OM) * self.table_RX.shape[1]

    @property
    def factors(self) -> tuple[Tensor, Tensor]:
        return (self.table_RX, self.weight_OM)

    @property
    def operands(self) -> tuple[Tensor, ...]:
        return (self.table_RX,)

    def additions(self, sender: int, by_value: bool, pairs: bool) -> int:
        """Sum over the rows that are read of the spikes in them."""
        sent_R = sent(self.table_RX, (-1,), by_value)
        return self.macs if sent_R.is_meta or self.rows_OM.is_meta else int(sent_R[self.rows_OM].sum())

    def effective(self) -> int:
        """Sum over the rows that are read with a weight of the entries in them that are not zero."""
        if self.rows_OM.is_meta:
            return self.macs
        return int((_nonzero(self.table_RX, 1)[self.rows_OM] * (self.weight_OM != 0)).sum())


def _nonzero(x: Tensor, axis: int) -> Tensor:
    """Numbers along an axis that are not zero; of a tensor without values, all of them."""
    if x.is_meta:
        return torch.full_like(x.select(axis, 0), x.shape[axis], dtype=torch.int64, device="cpu")
    return (x != 0).sum(axis)


def _taps_read(side: int, kernel: int, stride: int, padding: int, dilation: int, outputs: int) -> Tensor:
    """Output o reads places o*stride - padding + k*dilation; those outside 0..side-1 are padding."""
    places_KO = torch.arange(kernel)[:, None] * dilation - padding + torch.arange(outputs) * stride
    read_KP = torch.zeros(kernel, side, dtype=torch.bool)
    tap, output = ((places_KO >= 0) & (places_KO < side)).nonzero(as_tuple=True)
    read_KP[tap, places_KO[tap, output]] = True
    return read_KP


def _taps_written(side: int, kernel: int, stride: int, padding: int, dilation: int, outputs: int) -> Tensor:
    """Input i writes to places i*stride - padding + k*dilation; those outside the output are cut off."""
    places_KI = torch.arange(kernel)[:, None] * dilation - padding + torch.arange(side) * stride
    return (places_KI >= 0) & (places_KI < outputs)


# Op -> its arguments in the order of its schema -> the products that it makes.
Builder = Callable[..., list[Product]]
PRODUCTS: dict[Any, Builder] = {}


def counts(*ops: Any) -> Callable[[Builder], Builder]:
    """Registers how to count ops, given as `torch.ops.namespace.name`."""

    def decorate(builder: Builder) -> Builder:
        PRODUCTS.update(dict.fromkeys(ops, builder))
        return builder

    return decorate


def products_of(op: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Product] | None:
    """The products that a call of an op makes; None for an op that is not in the table."""
    build = PRODUCTS.get(op.overloadpacket)
    return None if build is None else build(*positional(op, args, kwargs))


def positional(op: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    """All arguments of a call in the order of the op's schema, defaults included."""
    missing = op._schema.arguments[len(args) :]
    return [*args, *(kwargs.get(argument.name, argument.default_value) for argument in missing)]


@counts(aten.mm, aten.bmm, aten._int_mm, aten.linalg_matmul)
def _matrix_product(a: Tensor, b: Tensor, *_: Any) -> list[Product]:
    return [MatrixProduct(a, b)]


@counts(aten.addmm, aten.baddbmm, aten.addbmm, aten._addmm_activation)
def _matrix_product_and_sum(_bias: Tensor, a: Tensor, b: Tensor, *_: Any) -> list[Product]:
    return [MatrixProduct(a, b)]


@counts(aten.mv)
def _matrix_vector(a: Tensor, x: Tensor, *_: Any) -> list[Product]:
    return [MatrixProduct(a, x[:, None])]


@counts(aten.addmv)
def _matrix_vector_and_sum(_bias: Tensor, a: Tensor, x: Tensor, *_: Any) -> list[Product]:
    return [MatrixProduct(a, x[:, None])]


@counts(aten.dot, aten.vdot)
def _inner_product(a: Tensor, b: Tensor, *_: Any) -> list[Product]:
    return [MatrixProduct(a[None], b[:, None])]


@counts(aten.addr)
def _outer_product(_bias: Tensor, a: Tensor, b: Tensor, *_: Any) -> list[Product]:
    return [MatrixProduct(a[:, None], b[None])]


@counts(aten.convolution, aten._convolution, aten.convolution_overrideable)
def _convolution(x: Tensor, weight: Tensor, _bias: Tensor | None, *geometry: Any) -> list[Product]:
    return [Convolution(x, weight, *geometry[:6])]


@counts(aten._embedding_bag, aten._embedding_bag_forward_only)
def _gathered_sum(table: Tensor, indices: Tensor, offsets: Tensor, *options: Any) -> list[Product]:
    """Rows that are added up with weights, as `layers.delay` does; without weights nothing is multiplied."""
    weight = options[3]
    if weight is None:
        return []
    shape = (offsets.numel(), -1)
    return [GatheredSum(indices.reshape(shape), table, weight.reshape(shape))]


@counts(
    aten._scaled_dot_product_flash_attention_for_cpu,
    aten._scaled_dot_product_flash_attention,
    aten._scaled_dot_product_efficient_attention,
    aten._scaled_dot_product_cudnn_attention,
    aten._scaled_dot_product_fused_attention_overrideable,
)
def _softmax_attention(q_BHLK: Tensor, k_BHSK: Tensor, v_BHSV: Tensor, *_: Any) -> list[Product]:
    """q k^T, and softmax weights - real, none zero, and never seen from here - times v. Masks save nothing."""
    sharing = q_BHLK.shape[1] // k_BHSK.shape[1]
    if sharing > 1:
        k_BHSK, v_BHSV = (x.repeat_interleave(sharing, dim=1) for x in (k_BHSK, v_BHSV))
    weights_BHLS = torch.empty(*q_BHLK.shape[:-1], k_BHSK.shape[-2], device="meta")
    return [MatrixProduct(q_BHLK, k_BHSK.mT), MatrixProduct(weights_BHLS, v_BHSV)]


@counts(aten.mkldnn_rnn_layer)
def _recurrent_layer(x_TBI: Tensor, w_GI: Tensor, w_GH: Tensor, *_: Any) -> list[Product]:
    """An LSTM layer in one op: inputs, and hidden states - real, and never seen from here - times all gates G."""
    hidden_TBH = torch.empty(*x_TBI.shape[:-1], w_GH.shape[1], device="meta")
    return [MatrixProduct(x_TBI, w_GI.t()), MatrixProduct(hidden_TBH, w_GH.t())]
