"""Attention to chosen keys: the blocked form against the formula, and what it keeps for backward."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuromix.ops import selected_attention as room
from neuromix.ops.selected_attention import selected_attention, selected_attention_reference


def inputs(rows, queries, keys, chosen, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (
        torch.randn(rows, n, 4, dtype=dtype, generator=generator, requires_grad=True)
        for n in (queries, keys, keys)
    )
    index = torch.randint(-1, keys, (rows, queries, chosen), generator=generator)
    return q, k, v, index


@settings(max_examples=20, deadline=None)
@given(
    rows=st.integers(0, 3), queries=st.integers(1, 7), keys=st.integers(1, 9), chosen=st.integers(1, 4),
    clamp=st.sampled_from([None, 1.0]), at_once=st.sampled_from([1, 64, 1 << 20]),
)  # fmt: skip
def test_blocks_are_the_formula(rows, queries, keys, chosen, clamp, at_once):
    given_inputs = inputs(rows, queries, keys, chosen)
    weight = torch.linspace(-1, 1, rows * queries * 4, dtype=torch.float64).view(rows, queries, 4)
    before, room._AT_ONCE = room._AT_ONCE, at_once
    try:
        results = [
            (
                o := function(*given_inputs, scale=0.7, clamp=clamp),
                torch.autograd.grad((o * weight).sum(), given_inputs[:3]),
            )
            for function in (selected_attention, selected_attention_reference)
        ]
    finally:
        room._AT_ONCE = before
    (o, grads), (expected, expected_grads) = results
    torch.testing.assert_close(o, expected)
    for one, other in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(one, other)


def test_gradcheck():
    q, k, v, index = inputs(2, 3, 5, 2)
    assert torch.autograd.gradcheck(
        lambda *x: selected_attention(*x, index, scale=0.5, clamp=10.0), (q, k, v)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_dtypes(dtype):
    q, k, v, index = inputs(2, 6, 8, 3, dtype)
    o = selected_attention(q, k, v, index, scale=0.5)
    o.sum().backward()
    assert o.dtype == q.grad.dtype == dtype
    expected = selected_attention_reference(q.double(), k.double(), v.double(), index, scale=0.5)
    torch.testing.assert_close(o.double(), expected, rtol=0.05, atol=0.05)


def test_a_query_without_keys_gives_zero_and_no_gradient():
    q, k, v, index = inputs(1, 2, 4, 2)
    index[0, 1] = -1
    o = selected_attention(q, k, v, index, scale=1.0)
    o.sum().backward()
    assert torch.equal(o[0, 1], torch.zeros(4, dtype=o.dtype)) and not q.grad[0, 1].any()
    assert all(x.grad.isfinite().all() for x in (q, k, v))
