"""Exact additions of convolutions and matrix products against counting them one by one."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from neuromix.measure import profile
from neuromix.measure.products import Convolution, MatrixProduct


@st.composite
def convolutions(draw):
    axes = draw(st.integers(1, 3))
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    transposed = draw(st.booleans())
    several = lambda low, high: draw(st.lists(st.integers(low, high), min_size=axes, max_size=axes))  # noqa: E731
    kernel, stride, dilation = several(1, 3), several(1, 3), several(1, 2)
    padding = [
        draw(st.integers(0, d * (k - 1))) if transposed else draw(st.integers(0, 3))
        for d, k in zip(dilation, kernel, strict=True)
    ]
    sides = [
        draw(st.integers(max(1, d * (k - 1) + 1 - 2 * p), 6))
        for d, k, p in zip(dilation, kernel, padding, strict=True)
    ]
    extra = [
        draw(st.integers(0, max(s, d) - 1)) if transposed else 0
        for s, d in zip(stride, dilation, strict=True)
    ]
    outputs = [
        (side - 1) * s - 2 * p + d * (k - 1) + e + 1
        for side, s, p, d, k, e in zip(sides, stride, padding, dilation, kernel, extra, strict=True)
    ]
    assume(not transposed or min(outputs) > 0)
    c_in, c_out = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 2))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    x = torch.randint(
        0, draw(st.sampled_from([2, 4])), (draw(st.integers(1, 2)), c_in, *sides), generator=generator
    ).float()
    weight = (
        torch.ones(c_in, c_out // groups, *kernel)
        if transposed
        else torch.ones(c_out, c_in // groups, *kernel)
    )
    return Convolution(x, weight, stride, padding, dilation, transposed, extra, groups)


def run(c: Convolution, x: torch.Tensor) -> torch.Tensor:
    return torch.ops.aten.convolution(
        x, c.weight, None, c.stride, c.padding, c.dilation, c.transposed, c.output_padding, c.groups
    )


@settings(max_examples=60, deadline=None)
@given(convolutions())
def test_convolution_counts_what_a_convolution_with_ones_adds(c):
    # With weights of one each output is the number of additions (or values) that reach it.
    assert c.additions(0, by_value=True, pairs=False) == run(c, c.input).sum()
    assert c.additions(0, by_value=False, pairs=False) == run(c, (c.input != 0).float()).sum()


@settings(max_examples=60, deadline=None)
@given(convolutions())
def test_convolution_macs_are_all_pairs_of_kernel_and_place(c):
    places = c.input.shape[2:] if c.transposed else run(c, c.input).shape[2:]
    c_out = c.weight.shape[1] * c.groups if c.transposed else c.weight.shape[0]
    kernel = math.prod(c.weight.shape[2:])
    assert c.macs == kernel * math.prod(places) * c.input.shape[0] * c.input.shape[1] * c_out // c.groups


def test_no_border_no_difference():
    # Without padding and overlap every input reaches as many outputs: exact is rate * MACs.
    x = (torch.rand(2, 4, 6, 6) < 0.3).float()
    c = Convolution(x, torch.ones(8, 4, 2, 2), [2, 2], [0, 0], [1, 1], False, [0, 0], 1)
    assert c.additions(0, by_value=False, pairs=False) == pytest.approx(float(x.mean()) * c.macs)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), st.integers(0, 99))
def test_matrix_product_counts_pairs(z, m, k, n, seed):
    generator = torch.Generator().manual_seed(seed)
    a = torch.randint(0, 3, (z, m, k), generator=generator).float()
    b = torch.randint(0, 3, (z, k, n), generator=generator).float()
    product = MatrixProduct(a, b)
    pairs = ((a != 0).float() @ (b != 0).float()).sum()
    assert product.macs == z * m * k * n
    assert product.additions(0, by_value=False, pairs=True) == pairs
    assert product.additions(1, by_value=False, pairs=True) == pairs
    assert product.additions(0, by_value=True, pairs=True) == (a @ (b != 0).float()).sum()
    assert product.additions(1, by_value=True, pairs=True) == ((a != 0).float() @ b).sum()
    assert product.additions(0, by_value=False, pairs=False) == (a != 0).sum() * n
    assert product.additions(1, by_value=False, pairs=False) == (b != 0).sum() * m


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs):
        return self.function(*inputs)


X, W, B = torch.rand(2, 3, 4), torch.rand(2, 4, 5), torch.rand(2, 3, 5)
Q = torch.rand(2, 4, 6, 8)


@pytest.mark.parametrize(
    ("function", "macs"),
    [
        (lambda: X @ W, 120),
        (lambda: torch.bmm(X, W), 120),
        (lambda: torch.baddbmm(B, X, W), 120),
        (lambda: torch.addbmm(B[0], X, W), 120),
        (lambda: torch.mm(X[0], W[0]), 60),
        (lambda: torch.addmm(B[0], X[0], W[0]), 60),
        (lambda: torch.mv(X[0], W[0, :, 0]), 12),
        (lambda: torch.addmv(B[0, :, 0], X[0], W[0, :, 0]), 12),
        (lambda: torch.dot(X[0, 0], W[0, :, 0]), 4),
        (lambda: torch.addr(B[0], X[0, :, 0], W[0, 0]), 15),
        (lambda: torch.einsum("bmk,bkn->bmn", X, W), 120),
        (lambda: torch.einsum("bmk,bkn->n", X, W), 40),
        (lambda: F.linear(X, W[0].T), 120),
        (lambda: torch.linalg.multi_dot([X[0], W[0], torch.rand(5, 2)]), 64),
        (lambda: F.conv1d(X, torch.rand(6, 3, 2)), 2 * 6 * 3 * 2 * 3),
        (lambda: F.conv_transpose1d(X, torch.rand(3, 6, 2)), 2 * 6 * 3 * 2 * 4),
        (lambda: F.scaled_dot_product_attention(Q, Q, Q), 2 * 2 * 4 * 6 * 6 * 8),
        (
            lambda: F.scaled_dot_product_attention(Q, Q[:, :2], Q[:, :2], enable_gqa=True),
            2 * 2 * 4 * 6 * 6 * 8,
        ),
        (lambda: F.scaled_dot_product_attention(Q, Q, Q, torch.ones(6, 6)), 2 * 2 * 4 * 6 * 6 * 8),
    ],
)
@pytest.mark.parametrize("inference", [False, True])
def test_every_way_to_multiply_is_counted(function, macs, inference):
    with torch.inference_mode(inference):
        seen = profile(Function(lambda x: function()), torch.zeros(1, 1))
    assert seen.macs_dense == macs
    assert not seen.not_counted


def test_agrees_with_the_flop_counter_of_pytorch():
    from torch.utils.flop_counter import FlopCounterMode

    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.GELU(),
        nn.Conv2d(8, 8, 5, stride=2, padding=2, groups=8),
        nn.ConvTranspose2d(8, 4, 2, stride=2),
        nn.Flatten(2),
        Function(lambda x: (x @ x.mT).softmax(-1) @ x),
        nn.Linear(64, 10),
    ).eval()
    x = torch.rand(2, 3, 8, 8)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(x)
    assert profile(net, x).macs_dense * len(x) * 2 == counter.get_total_flops()  # a multiply-add is two flops
