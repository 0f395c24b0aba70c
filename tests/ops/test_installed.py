"""Kernels of other libraries: how arguments and results are converted, against stand-ins of the same signatures.

The stand-ins compute the reference in the layouts of those libraries; the kernels themselves need a GPU.
"""

from __future__ import annotations

import types

import pytest
import torch

from neuromix.core.errors import UnsupportedError
from neuromix.ops import _installed, references_only
from neuromix.ops.recurrence import recurrence
from neuromix.ops.selective_scan import selective_scan

CLOSE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture
def calls(monkeypatch):
    """Stand-ins for both libraries, said to be on a GPU; the names of those that were called."""
    called = []

    def gla(q, k, v, g=None, scale=None, initial_state=None, output_final_state=False, **_):
        called.append("gla" if g.dim() == 4 else "simple_gla")
        assert k.shape == q.shape and q.shape[:3] == v.shape[:3] and q.dtype == k.dtype == v.dtype
        assert g.dtype == initial_state.dtype == torch.float32 and output_final_state
        assert all(t.is_contiguous() for t in (q, k, v, g, initial_state))
        with references_only():
            return recurrence(q, k, v, g, initial_state, scale=scale, form="loop")

    def scan(
        u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, return_last_state=False
    ):
        called.append("mamba_ssm")
        assert u.dtype == delta.dtype == B.dtype and A.dtype == torch.float32 and return_last_state
        assert not delta_softplus and D is z is delta_bias is None
        to_tokens = [t.movedim(-1, 1) for t in (u, delta, B, C)]
        with references_only():
            y, last = selective_scan(*to_tokens[:2], A, *to_tokens[2:], form="loop")
        return y.mT, last

    modules = {
        "fla.ops.gla": types.SimpleNamespace(chunk_gla=gla),
        "fla.ops.simple_gla": types.SimpleNamespace(chunk_simple_gla=gla),
        "mamba_ssm.ops.selective_scan_interface": types.SimpleNamespace(selective_scan_fn=scan),
    }
    monkeypatch.setattr(_installed, "_function", lambda module, name: getattr(modules[module], name))
    monkeypatch.setattr(_installed, "_is_installed", lambda library: True)
    monkeypatch.setattr(_installed, "_is_on_gpu", lambda x: True)
    return called


def attention(kind, dtype=torch.float32):
    torch.manual_seed(0)
    shape = {"const": (4,), "head": (2, 9, 4), "key": (2, 9, 4, 3)}[kind]
    q, k, v = (torch.randn(2, 9, heads, width, dtype=dtype) for heads, width in ((2, 3), (2, 3), (4, 5)))
    tensors = (q, k, v, -torch.rand(shape), torch.randn(2, 4, 3, 5))
    return [t.requires_grad_() for t in tensors]


def scanned(groups=None, dtype=torch.float32):
    torch.manual_seed(0)
    shape = (2, 9, 3) if groups is None else (2, 9, groups, 3)
    tensors = (
        torch.randn(2, 9, 4),
        torch.rand(2, 9, 4),
        -torch.rand(4, 3),
        torch.randn(shape),
        torch.randn(shape),
    )
    return [t.to(dtype).requires_grad_() for t in tensors]


@pytest.mark.parametrize(("kind", "name"), [("const", "simple_gla"), ("head", "simple_gla"), ("key", "gla")])
@pytest.mark.parametrize("form", ["auto", "fla"])
@pytest.mark.parametrize("masked", [False, True])
def test_fla_gives_the_reference_and_its_gradients(calls, kind, name, form, masked):
    inputs = attention(kind)
    options = {"scale": 0.5, "mask_BL": torch.rand(2, 9) > 0.3 if masked else None}
    expected = recurrence(*inputs, **options, form="chunk")
    assert not calls
    found = recurrence(*inputs, **options, form=form)
    assert calls == [name]
    torch.testing.assert_close(found, expected, **CLOSE)
    sums = (sum(t.sum() for t in pair) for pair in (found, expected))
    torch.testing.assert_close(*(torch.autograd.grad(total, inputs) for total in sums), **CLOSE)


def test_fla_keeps_the_dtype_of_values(calls):
    o, state = recurrence(*attention("key", torch.bfloat16))
    assert calls == ["gla"] and o.dtype == torch.bfloat16 and state.dtype == torch.float32


@pytest.mark.parametrize("form", ["auto", "fla"])
def test_what_fla_cannot_do_goes_to_the_chunk_form(calls, form):
    inputs = attention("key")
    recurrence(*inputs, segments_BL=torch.zeros(2, 9, dtype=torch.int64), form=form)
    recurrence(*inputs, exclusive=True, form=form)
    recurrence(*(t.double() for t in inputs), form=form)
    recurrence(*(t[:0] if t.dim() > 1 else t for t in inputs), form=form)
    with references_only():
        recurrence(*inputs, form=form)
    assert not calls


@pytest.mark.parametrize("groups", [None, 1, 2])
@pytest.mark.parametrize("form", ["auto", "mamba_ssm"])
@pytest.mark.parametrize("masked", [False, True])
def test_mamba_ssm_gives_the_reference_and_its_gradients(calls, groups, form, masked):
    inputs = scanned(groups)
    mask = torch.rand(2, 9) > 0.3 if masked else None
    expected = selective_scan(*inputs, mask_BL=mask, form="chunk")
    assert not calls
    found = selective_scan(*inputs, mask_BL=mask, form=form)
    assert calls == ["mamba_ssm"]
    torch.testing.assert_close(found, expected, **CLOSE)
    weights = torch.randn(2, 9, 4) if mask is None else torch.randn(2, 9, 4) * mask[:, :, None]
    grads = (torch.autograd.grad((y * weights).sum(), inputs) for y, _ in (found, expected))
    torch.testing.assert_close(*grads, **CLOSE)


def test_mamba_ssm_refuses_a_gradient_that_it_would_drop(calls):
    inputs = scanned()
    y, last = selective_scan(*inputs)
    with pytest.raises(UnsupportedError, match="gradient of the last state"):
        torch.autograd.grad(y.sum() + last.sum(), inputs)


@pytest.mark.parametrize("form", ["auto", "mamba_ssm"])
def test_what_mamba_ssm_cannot_do_goes_elsewhere(calls, form):
    inputs = scanned()
    selective_scan(*inputs, torch.zeros(2, 4, 3), form=form)
    selective_scan(*inputs, segments_BL=torch.zeros(2, 9, dtype=torch.int64), form=form)
    selective_scan(*scanned(dtype=torch.float64), form=form)
    selective_scan(*inputs[:3], torch.randn(4, 3), torch.randn(4, 3), form=form)
    assert not calls


def test_by_name_where_they_are_not_at_hand():
    with pytest.raises(UnsupportedError, match="flash-linear-attention"):
        recurrence(*attention("key"), form="fla")
    with pytest.raises(UnsupportedError, match="mamba-ssm"):
        selective_scan(*scanned(), form="mamba_ssm")
