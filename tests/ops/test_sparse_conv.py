"""Sparse convolution: the kernels against the formula, forward and backward, on tables of all kinds.

Shapes: N input rows, M output rows, K taps, I input channels, O output channels.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from neuromix.core.errors import NeuromixError, ShapeError
from neuromix.ops import references_only
from neuromix.ops._native import native
from neuromix.ops.sparse_conv import (
    neighbour_table,
    neighbour_table_reference,
    sparse_conv,
    sparse_conv_reference,
)

SIZES = st.integers(0, 9)


def random_tables(taps: int, outputs: int, rows: int, seed: int) -> tuple[Tensor, Tensor]:
    """Pairs drawn at random, no row and no output twice in a tap: the table, and the same read backwards."""
    generator = torch.Generator().manual_seed(seed)
    table = torch.full((taps, outputs), -1, dtype=torch.int32)
    inverse = torch.full((taps, rows), -1, dtype=torch.int32)
    for k in range(taps):
        pairs = int(torch.randint(min(outputs, rows) + 1, (), generator=generator))
        at = torch.randperm(outputs, generator=generator)[:pairs]
        row = torch.randperm(rows, generator=generator)[:pairs]
        table[k, at], inverse[k, row] = row.int(), at.int()
    return table, inverse


def operands(taps, outputs, rows, inputs, channels, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, inputs, dtype=dtype, generator=generator).clamp(min=0)  # half of it is silent
    weight = torch.randn(taps, inputs, channels, dtype=dtype, generator=generator)
    return x, weight, *random_tables(taps, outputs, rows, seed)


def by_pairs(x, weight, table):
    """One pair after the other."""
    y = x.new_zeros(table.shape[1], weight.shape[2])
    for k, row in enumerate(table.tolist()):
        for m, n in enumerate(row):
            if n >= 0:
                y[m] += x[n] @ weight[k]
    return y


def results(x, weight, table, inverse):
    x, weight = x.clone().requires_grad_(), weight.clone().requires_grad_()
    y = sparse_conv(x, weight, table, inverse)
    (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)).sum().backward()
    return y.detach(), x.grad, weight.grad


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 4),
    SIZES,
    SIZES,
    st.integers(1, 7),
    st.sampled_from([1, 3, 4, 16, 21, 64, 90]),
    st.integers(0, 99),
)
def test_kernel_equals_the_formula_and_its_gradients(taps, outputs, rows, inputs, channels, seed):
    arguments = operands(taps, outputs, rows, inputs, channels, seed)
    torch.testing.assert_close(sparse_conv_reference(*arguments[:3]), by_pairs(*arguments[:3]))
    with references_only():
        expected = results(*arguments)
    for actual, wanted in zip(results(*arguments), expected, strict=True):
        torch.testing.assert_close(actual, wanted)


def test_float32_and_views():
    x, weight, table, inverse = operands(5, 70, 60, 8, 40, dtype=torch.float32)
    expected = by_pairs(x.double(), weight.double(), table).float()
    torch.testing.assert_close(sparse_conv(x, weight, table, inverse), expected, rtol=1e-4, atol=1e-5)
    apart = torch.stack([x, x], 2)[..., 0], weight.mT.contiguous().mT, table.T.contiguous().T, inverse
    assert not any(tensor.is_contiguous() for tensor in apart[:3])
    torch.testing.assert_close(sparse_conv(*apart), expected, rtol=1e-4, atol=1e-5)


def test_the_dtype_is_that_of_the_weight():
    x, weight, table, inverse = operands(3, 5, 5, 4, 6, dtype=torch.float32)
    low = weight.bfloat16()
    assert sparse_conv(x, low, table, inverse).dtype == torch.bfloat16
    assert sparse_conv(x.bfloat16(), weight, table, inverse).dtype == torch.float32


def test_gradcheck():
    x, weight, table, inverse = operands(3, 6, 5, 2, 3)
    x, weight = x.requires_grad_(), weight.requires_grad_()
    assert torch.autograd.gradcheck(lambda x, w: sparse_conv(x, w, table, inverse), (x, weight))


def test_no_gradient_where_none_is_asked_for():
    x, weight, table, inverse = operands(3, 6, 5, 2, 3)
    sparse_conv(x, weight.requires_grad_(), table, inverse).sum().backward()
    assert x.grad is None and weight.grad is not None


def test_silence_costs_nothing_and_gives_nothing():
    x, weight, table, inverse = operands(3, 6, 5, 2, 3)
    weight[:] = float("inf")
    if native is not None:  # the formula would multiply
        assert torch.equal(
            sparse_conv(torch.zeros_like(x), weight, table, inverse), torch.zeros(6, 3).double()
        )
    x[:], weight[:] = float("nan"), 1.0
    assert bool(sparse_conv(x, weight, table, inverse)[(table >= 0).any(0)].isnan().all())


def test_second_derivatives_are_refused():
    x, weight, table, inverse = operands(3, 6, 5, 2, 3)
    y = sparse_conv(x.requires_grad_(), weight, table, inverse)
    with pytest.raises(NeuromixError, match="references_only"):
        torch.autograd.grad((y**2).sum(), x, create_graph=True)


def test_as_an_op_of_pytorch():
    x, weight, table, inverse = operands(3, 6, 5, 2, 3)
    arguments = (x.requires_grad_(), weight.requires_grad_(), table, inverse)
    torch.library.opcheck(torch.ops.neuromix.sparse_conv, arguments)


def test_several_threads():
    arguments = operands(27, 3000, 3000, 16, 16, dtype=torch.float32)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = results(*arguments)
        torch.set_num_threads(2)
        for actual, wanted in zip(results(*arguments), expected, strict=True):
            torch.testing.assert_close(actual, wanted, rtol=0, atol=0)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    "change",
    [
        lambda x, w, t, i: (x[:, :1], w, t, i),
        lambda x, w, t, i: (x, w[:2], t, i),
        lambda x, w, t, i: (x, w, t.long(), i),
        lambda x, w, t, i: (x, w, t, i[:, :-1]),
        lambda x, w, t, i: (x.long(), w, t, i),
        lambda x, w, t, i: (x[None], w, t, i),
    ],
)
def test_what_does_not_fit_is_refused(change):
    with pytest.raises(ShapeError, match=r"expected floating point x \[N, I\]"):
        sparse_conv(*change(*operands(3, 6, 5, 2, 3)))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(-40, 40), unique=True, max_size=30),
    st.lists(st.integers(-9, 9), min_size=1, max_size=5),
)
def test_neighbours_by_their_keys(keys, shifts):
    keys_N = torch.tensor(keys, dtype=torch.int64)
    expected = torch.tensor(
        [[keys.index(key + shift) if key + shift in keys else -1 for key in keys] for shift in shifts],
        dtype=torch.int32,
    ).view(len(shifts), len(keys))
    assert torch.equal(neighbour_table(keys_N, shifts), expected)
    assert torch.equal(neighbour_table_reference(*keys_N.sort(), shifts), expected)
