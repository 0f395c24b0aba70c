"""Products: the ops that multiply and accumulate, as a table from op to what it multiplies.

One multiply-add counts as 1. An op of another library joins the table with `@counts(torch.ops.lib.name)`; an op
that is neither here nor known to be free (see `free`) is reported by name, never taken for zero.

Shapes: M rows and N columns of a matrix product, K what it sums over; Z batch; B samples, C channels.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from neuromix.measure.operands import sent

aten = torch.ops.aten


class Product(ABC):
    """A bilinear operation: `macs` multiply-adds between its operands."""

    macs: int

    @property
    @abstractmethod
    def operands(self) -> tuple[Tensor, ...]:
        """The tensors that may carry activations; a weight among them is told apart by where it comes from."""

    @abstractmethod
    def additions(self, sender: int, by_value: bool, pairs: bool) -> int:
        """Additions that happen if operand `sender` holds spikes and nothing is added where it is zero.

        Args:
            by_value: an integer spike n makes n additions instead of one.
            pairs: nothing is added either where the other operand is zero (it is an activation too).
        """


@dataclass(frozen=True)
class MatrixProduct(Product):
    """a_ZMK @ b_ZKN, Z any number of axes or none: Z*M*K*N multiply-adds."""

    a_ZMK: Tensor
    b_ZKN: Tensor

    @property
    def macs(self) -> int:  # type: ignore[override]
        return self.a_ZMK.numel() * self.b_ZKN.shape[-1]

    @property
    def operands(self) -> tuple[Tensor, ...]:
        return (self.a_ZMK, self.b_ZKN)

    def additions(self, sender: int, by_value: bool, pairs: bool) -> int:
        """Sum over z, k of the spikes that one operand has at k times the entries that they meet in the other."""
        spikes, other = (self.a_ZMK, self.b_ZKN.mT) if sender == 0 else (self.b_ZKN.mT, self.a_ZMK)
        sent_ZK = sent(spikes, (-2,), by_value)
        if not pairs or other.is_meta:
            return int(sent_ZK.sum()) * other.shape[-2]
        return int((sent_ZK * (other != 0).sum(-2)).sum())


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
    def operands(self) -> tuple[Tensor, ...]:
        return (self.input,)

    def additions(self, sender: int, by_value: bool, pairs: bool) -> int:
        """Sum over input places of the spikes there times the outputs that they reach: fewer at the borders."""
        reached = sent(self.input, (0, 1), by_value)
        for taps in self._taps():
            reached = (reached * taps.to(reached.device).reshape(-1, *(1,) * (reached.dim() - 1))).sum(0)
        channels = self.weight.shape[1] if self.transposed else self.weight.shape[0] // self.groups
        return int(reached) * channels

    def _axes(self) -> list[tuple[int, int, int, int, int]]:
        """Input side, kernel, stride, padding and dilation of each axis."""
        sides, kernel = self.input.shape[2:], self.weight.shape[2:]

        def spread(values: Sequence[int]) -> Sequence[int]:
            return list(values) * len(sides) if len(values) == 1 else values

        return list(
            zip(sides, kernel, spread(self.stride), spread(self.padding), spread(self.dilation), strict=True)
        )

    def _output_sides(self) -> list[int]:
        return [(side + 2 * p - d * (k - 1) - 1) // s + 1 for side, k, s, p, d in self._axes()]

    def _taps(self) -> list[Tensor]:
        """For each axis and each place on it: the number of (output place, kernel place) pairs that read it."""
        if not self.transposed:
            outputs = zip(self._axes(), self._output_sides(), strict=True)
            return [_taps_read(side, k, s, p, d, out) for (side, k, s, p, d), out in outputs]
        extra = list(self.output_padding)
        extra = extra * len(self._axes()) if len(extra) == 1 else extra
        return [_taps_written(*axis, more) for axis, more in zip(self._axes(), extra, strict=True)]


def _taps_read(side: int, kernel: int, stride: int, padding: int, dilation: int, outputs: int) -> Tensor:
    """Output o reads places o*stride - padding + k*dilation; those outside 0..side-1 are padding."""
    places = torch.arange(outputs)[:, None] * stride - padding + torch.arange(kernel) * dilation
    return torch.bincount(places[(places >= 0) & (places < side)], minlength=side)


def _taps_written(side: int, kernel: int, stride: int, padding: int, dilation: int, extra: int) -> Tensor:
    """Input i writes to places i*stride - padding + k*dilation; those outside the output are cut off."""
    outputs = (side - 1) * stride - 2 * padding + dilation * (kernel - 1) + extra + 1
    places = torch.arange(side)[:, None] * stride - padding + torch.arange(kernel) * dilation
    return ((places >= 0) & (places < outputs)).sum(1)


# Op -> its arguments in the order of its schema -> the products that it makes.
Builder = Callable[..., list[Product]]
PRODUCTS: dict[Any, Builder] = {}


def counts(*ops: Any) -> Callable[[Builder], Builder]:
    """Registers how to count ops, given as `torch.ops.namespace.name`."""

    def decorate(builder: Builder) -> Builder:
        PRODUCTS.update(dict.fromkeys(ops, builder))
        return builder

    return decorate


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
