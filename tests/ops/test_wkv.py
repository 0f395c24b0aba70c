"""WKV: its forms against each other and against the formula, its gradients, large exponents, padding and packing.

Shapes: B batch, L tokens, C channels.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuromix.core.errors import ShapeError, UnknownNameError
from neuromix.ops.wkv import FORMS, WkvState, empty_state, wkv, wkv_step

CLOSE = {"rtol": 1e-9, "atol": 1e-9}
PARALLEL = [form for form in FORMS if form != "loop"]


def random_inputs(batch=2, length=9, channels=3, seed=0, dtype=torch.float64, scale=1.0):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=dtype)

    k, v = scale * draw(batch, length, channels), draw(batch, length, channels)
    return k, v, -draw(channels).exp(), draw(channels)


def random_state(batch=2, channels=3, seed=5):
    generator = torch.Generator().manual_seed(seed)
    a, b, p = (torch.randn(batch, channels, generator=generator, dtype=torch.float64) for _ in range(3))
    return WkvState(a, b.exp(), p)


def by_formula(k, v, w, u):
    """The definition, with every weight written out."""
    rows = []
    for t in range(k.shape[1]):
        ages = torch.arange(t - 1, -1, -1, dtype=k.dtype)[:, None]
        weights = torch.cat([(ages * w + k[:, :t]).exp(), (u + k[:, t : t + 1]).exp()], 1)
        rows.append((weights * v[:, : t + 1]).sum(1) / weights.sum(1))
    return torch.stack(rows, 1)


def outcome(form, inputs, state, size=64, **options):
    """Outputs, last state and the gradients of everything that goes in."""
    leaves = [x.clone().requires_grad_() for x in (*inputs, *(state or ()))]
    given = WkvState(*leaves[4:]) if state else None
    y, last = wkv(*leaves[:4], given, form=form, chunk_size=size, **options)
    results = [y, *last]
    total = sum((x * torch.linspace(-1, 1, x.numel(), dtype=x.dtype).view_as(x)).sum() for x in results)
    return [*results, *torch.autograd.grad(total, leaves)]


@pytest.mark.parametrize("form", FORMS)
def test_it_is_the_formula(form):
    inputs = random_inputs()
    torch.testing.assert_close(wkv(*inputs, form=form, chunk_size=4)[0], by_formula(*inputs), **CLOSE)


@settings(deadline=None, max_examples=25)
@given(
    form=st.sampled_from(PARALLEL),
    batch=st.integers(0, 3),
    length=st.integers(1, 20),
    size=st.integers(1, 9),
    carried=st.booleans(),
    masked=st.booleans(),
    packed=st.booleans(),
    seed=st.integers(0, 99),
)
def test_every_form_is_the_loop(form, batch, length, size, carried, masked, packed, seed):
    generator = torch.Generator().manual_seed(seed)
    inputs = random_inputs(batch, length, seed=seed)
    options = {
        "mask_BL": torch.rand(batch, length, generator=generator) < 0.7 if masked else None,
        "segments_BL": torch.randint(3, (batch, length), generator=generator) if packed else None,
    }
    state = random_state(batch) if carried else None
    expected = outcome("loop", inputs, state, **options)
    for one, other in zip(outcome(form, inputs, state, size, **options), expected, strict=True):
        torch.testing.assert_close(one, other, **CLOSE)


@pytest.mark.parametrize("form", FORMS)
def test_gradients_are_those_of_finite_differences(form):
    inputs = [x.requires_grad_() for x in (*random_inputs(1, 5, 2), *random_state(1, 2))]
    assert torch.autograd.gradcheck(
        lambda k, v, w, u, *s: wkv(k, v, w, u, WkvState(*s), form=form, chunk_size=2)[0], inputs
    )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_large_exponents_do_not_overflow(form, dtype):
    k, v, w, u = random_inputs(1, 2048, 3, dtype=dtype)
    k = torch.where(torch.rand(k.shape, generator=torch.Generator().manual_seed(1)) < 0.5, 60.0, -60.0).to(
        dtype
    )
    leaves = [x.requires_grad_() for x in (k, v, w * 1e-3, u)]
    y, last = wkv(*leaves, form=form)
    grads = torch.autograd.grad(y.square().sum(), leaves)
    assert all(x.isfinite().all() for x in (y, *last, *grads))
    exact = wkv(*(x.detach().double() for x in leaves), form="loop")[0]
    assert (y - exact).abs().max() < (1e-9 if dtype == torch.float64 else 1e-3)


def test_an_average_never_leaves_the_range_of_its_values():
    k, v, w, u = random_inputs(2, 40, scale=20.0)
    y, _ = wkv(k, v, w, u)
    assert (y <= v.cummax(1).values + 1e-12).all() and (y >= v.cummin(1).values - 1e-12).all()


def test_steps_are_the_whole():
    k, v, w, u = random_inputs(2, 12)
    y, last = wkv(k, v, w, u)
    state, rows = empty_state(k[:, 0]), []
    for k_BC, v_BC in zip(k.unbind(1), v.unbind(1), strict=True):
        y_BC, state = wkv_step(k_BC, v_BC, w, u, state)
        rows.append(y_BC)
    torch.testing.assert_close(torch.stack(rows, 1), y, **CLOSE)
    torch.testing.assert_close(state, last, **CLOSE)


@pytest.mark.parametrize("form", FORMS)
def test_parts_are_the_whole(form):
    inputs = k, v, w, u = random_inputs(2, 13)
    y, last = wkv(*inputs)
    first, state = wkv(k[:, :5], v[:, :5], w, u, form=form, chunk_size=3)
    rest, end = wkv(k[:, 5:], v[:, 5:], w, u, state, form=form, chunk_size=3)
    torch.testing.assert_close(torch.cat([first, rest], 1), y, **CLOSE)
    torch.testing.assert_close(end, last, **CLOSE)


def test_half_precision_adds_up_in_float32():
    k, v, w, u = random_inputs(2, 300, dtype=torch.float32)
    y, state = wkv(k.bfloat16(), v.bfloat16(), w.bfloat16(), u.bfloat16())
    assert y.dtype == torch.bfloat16 and state.a.dtype == torch.float32
    exact, _ = wkv(*(x.bfloat16().float() for x in (k, v, w, u)))
    assert (y.float() - exact).abs().max() <= 0.01 * exact.abs().max()


def test_no_token_changes_nothing():
    k, v, w, u = random_inputs(2, 0)
    state = random_state()
    y, last = wkv(k, v, w, u, state)
    assert y.shape == (2, 0, 3) and all(torch.equal(a, b) for a, b in zip(last, state, strict=True))


def test_what_does_not_fit_is_refused():
    k, v, w, u = random_inputs()
    with pytest.raises(ShapeError, match="expects"):
        wkv(k, v[:, 1:], w, u)
    with pytest.raises(ShapeError, match="expects"):
        wkv(k, v, w[1:], u)
    with pytest.raises(ShapeError, match="state"):
        wkv(k, v, w, u, random_state(3))
    with pytest.raises(UnknownNameError, match="form"):
        wkv(k, v, w, u, form="parallel")
    with pytest.raises(ShapeError, match="chunk_size"):
        wkv(k, v, w, u, form="chunk", chunk_size=0)
