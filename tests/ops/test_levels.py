"""Integer activations: the kernel against its reference, and the expansion into binary sub-steps."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuromix.core.errors import ShapeError
from neuromix.ops import references_only
from neuromix.ops.levels import binary_steps, integer_levels


def run(x_T: torch.Tensor, *options: float) -> tuple[torch.Tensor, torch.Tensor]:
    leaf = x_T.detach().clone().requires_grad_()
    y_T = integer_levels(leaf, *options)
    (gradient,) = torch.autograd.grad(y_T, leaf, torch.linspace(-1, 1, y_T.numel()).view_as(y_T).to(y_T))
    return y_T, gradient


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "options", [(4, 1.0, 1.0), (4, 4.0, 0.25), (4, 4.0, 0.5), (1, 1.0, 1.0), (7, 3.0, 1 / 7)]
)
def test_kernel_equals_reference(dtype: torch.dtype, options: tuple[int, float, float]) -> None:
    generator = torch.Generator().manual_seed(0)
    x_T = torch.randn(3, 2, 70_003, generator=generator) * 3
    x_T[0] = (x_T[0] * 4).round() / 8  # halves, where rounding decides, and the ends of the range
    results = run(x_T.to(dtype), *options)
    with references_only():
        expected = run(x_T.to(dtype), *options)
    assert torch.equal(results[0], expected[0])
    torch.testing.assert_close(results[1], expected[1])


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.floats(-3, 12, width=32), min_size=1, max_size=9),
    st.integers(1, 9),
    st.integers(0, 2**31),
)
def test_sub_steps_add_up_to_the_integers(values: list[float], levels: int, seed: int) -> None:
    x_T = torch.tensor([values])
    n_T = integer_levels(x_T, levels)
    s_TD = binary_steps(n_T, levels)
    assert torch.equal(n_T, ((x_T.clamp(0, levels) + 0.5).floor()))
    assert s_TD.shape == (1, levels, len(values)) and set(s_TD.unique().tolist()) <= {0.0, 1.0}
    assert torch.equal(s_TD.sum(1), n_T)
    assert (s_TD.diff(dim=1) <= 0).all()  # the spikes come first
    # A linear map of the integers is the sum of those of the sub-steps: exactly, where its sums are exact.
    weight = torch.randint(-8, 8, (len(values), 5), generator=torch.Generator().manual_seed(seed)).float()
    assert torch.equal((s_TD @ weight).sum(1), n_T @ weight)


@pytest.mark.parametrize("x_T", [torch.zeros(0, 3), torch.zeros(2, 3, dtype=torch.int64)])
def test_refused(x_T: torch.Tensor) -> None:
    with pytest.raises(ShapeError, match="a neuron needs"):
        integer_levels(x_T, 4)


def test_layouts_and_empty_batches() -> None:
    expanded = torch.randn(1, 2, 3, generator=torch.Generator().manual_seed(1)).expand(4, 2, 3) * 3
    assert torch.equal(integer_levels(expanded, 4), integer_levels(expanded.contiguous(), 4))
    strided = torch.randn(4, 6, 5).transpose(1, 2)[..., ::2]
    assert all(map(torch.equal, run(strided, 4), run(strided.contiguous(), 4)))
    assert run(torch.zeros(2, 0, 3), 4)[1].shape == (2, 0, 3)
