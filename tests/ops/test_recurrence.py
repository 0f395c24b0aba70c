"""The recurrence: all forms give the loop's outputs, states and gradients, whatever the decays.

Shapes: B batch, L tokens, H heads, G heads of queries and keys, K key width, V value width.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuromix.core.errors import ShapeError, UnknownNameError
from neuromix.ops.recurrence import FORMS, recurrence, recurrence_step

KINDS = ["head_const", "key_const", "complex", "head", "key"]
OTHERS = [("parallel", 1), ("auto", 64), ("chunk", 1), ("chunk", 3), ("chunk", 8), ("chunk", 64)]
EXACT = {"rtol": 1e-10, "atol": 1e-10}
NAMES = ("o", "state", "q", "k", "v", "log_decay", "first state", "bonus")


def operands(kind, B=2, L=21, H=4, G=2, K=4, V=3, seed=0, dtype=torch.float64, strength=20.0):
    """q, k, v, log_decay of a kind (many near 0, some near -strength) and a state."""
    generator = torch.Generator().manual_seed(seed)
    shape = {"head_const": (H,), "head": (B, L, H), "key": (B, L, H, K)}.get(kind, (H, K))
    wide = dtype.to_complex() if kind == "complex" else dtype

    def normal(*size, like=dtype):
        return torch.randn(size, dtype=like, generator=generator)

    decay = -strength * torch.rand(shape, dtype=dtype, generator=generator) ** 4
    decay = torch.complex(decay, 3 * normal(*shape)) if kind == "complex" else decay
    q, k, state = normal(B, L, G, K, like=wide), normal(B, L, G, K, like=wide), normal(B, H, K, V, like=wide)
    return [t.requires_grad_() for t in (q, k, normal(B, L, H, V), decay, state)]


def marks(B, L, seed=0):
    """A mask with padding anywhere, and segments that change anywhere."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(B, L, generator=generator) > 0.3
    return mask, (torch.rand(B, L, generator=generator) > 0.8).long().cumsum(1)


def results(inputs, **options):
    """o where there are tokens, the last state, and the gradients of a weighted sum of both."""
    o, state = recurrence(*inputs, scale=0.7, **options)
    if options.get("mask_BL") is not None:
        o = torch.where(options["mask_BL"][:, :, None, None], o, 0.0)
    generator = torch.Generator().manual_seed(1)
    of_o, of_state = (torch.randn(t.shape, dtype=torch.float64, generator=generator) for t in (o, state))
    loss = (o * of_o).sum() + (state.real * of_state).sum()
    inputs = [*inputs, options["bonus_HK"]] if options.get("bonus_HK") is not None else inputs
    return [o.detach(), state.detach(), *torch.autograd.grad(loss, inputs, materialize_grads=True)]


def assert_all_close(actual, expected, **tolerance):
    for name, a, e in zip(NAMES, actual, expected, strict=False):
        torch.testing.assert_close(a, e, **tolerance, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reads", ["inclusive", "exclusive", "bonus"])
@pytest.mark.parametrize(("masked", "packed"), [(False, False), (True, False), (False, True), (True, True)])
def test_forms_agree(kind, reads, masked, packed):
    inputs = operands(kind)
    mask, segments = marks(2, 21)
    bonus = torch.linspace(-1, 2, 16, dtype=torch.float64).view(4, 4).requires_grad_()
    options = {
        "exclusive": reads != "inclusive",
        "bonus_HK": bonus if reads == "bonus" else None,
        "mask_BL": mask if masked else None,
        "segments_BL": segments if packed else None,
    }
    expected = results(inputs, form="loop", **options)
    for form, size in OTHERS:
        assert_all_close(results(inputs, form=form, chunk_size=size, **options), expected, **EXACT)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(KINDS),
    st.integers(0, 2),
    st.integers(0, 19),
    st.sampled_from([(1, 1), (3, 1), (2, 2), (6, 3)]),
    st.integers(1, 5),
    st.integers(1, 5),
    st.integers(1, 20),
    st.booleans(),
    st.integers(0, 99),
)
def test_chunks_of_any_shape_equal_the_loop(kind, B, L, heads, K, V, size, exclusive, seed):
    inputs = operands(kind, B, L, *heads, K, V, seed)
    expected = results(inputs, form="loop", exclusive=exclusive)
    found = results(inputs, form="chunk", chunk_size=size, exclusive=exclusive)
    assert_all_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_gradcheck(kind, form):
    inputs = operands(kind, 1, 5, 2, 1, 2, 2, strength=3.0)
    mask, segments = marks(1, 5, 3)

    def run(*tensors):
        o, state = recurrence(*tensors, mask_BL=mask, segments_BL=segments, form=form, chunk_size=2)
        return o, torch.view_as_real(state) if state.is_complex() else state

    assert torch.autograd.gradcheck(run, inputs)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("exclusive", [False, True])
def test_steps_equal_the_whole(kind, exclusive):
    q, k, v, decay, state = (t.detach() for t in operands(kind))
    options = {"scale": 0.3, "exclusive": exclusive}
    whole, last = recurrence(q, k, v, decay, state, **options)
    for t in range(q.shape[1]):
        decay_t = decay[:, t] if decay.dim() > 2 else decay[None] if kind == "key_const" else decay
        o, state = recurrence_step(q[:, t], k[:, t], v[:, t], decay_t, state, **options)
        torch.testing.assert_close(o, whole[:, t], **EXACT)
    torch.testing.assert_close(state, last, **EXACT)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_pieces_with_the_state_equal_the_whole(kind, form):
    q, k, v, decay, state = (t.detach() for t in operands(kind))
    whole, last = recurrence(q, k, v, decay, state, form=form, chunk_size=4)
    pieces = []
    for part in (slice(0, 7), slice(7, 12), slice(12, None)):
        decay_part = decay[:, part] if decay.dim() > 2 else decay
        piece, state = recurrence(
            q[:, part], k[:, part], v[:, part], decay_part, state, form=form, chunk_size=4
        )
        pieces.append(piece)
    torch.testing.assert_close(torch.cat(pieces, 1), whole, **EXACT)
    torch.testing.assert_close(state, last, **EXACT)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_padding_and_packing_equal_rows_apart(kind, form):
    q, k, v, decay, state = (t.detach() for t in operands(kind, B=1))

    def apart(part, first=None):
        decay_part = decay[:, part] if decay.dim() > 2 else decay
        return recurrence(q[:, part], k[:, part], v[:, part], decay_part, first, form=form, chunk_size=4)

    mask = torch.tensor([[False] * 6 + [True] * 15])
    o, last = recurrence(q, k, v, decay, state, mask_BL=mask, form=form, chunk_size=4)
    alone, end = apart(slice(6, None), state)
    torch.testing.assert_close(o[:, 6:], alone, **EXACT)
    torch.testing.assert_close(last, end, **EXACT)

    segments = torch.tensor([[7] * 9 + [3] * 12])
    o, last = recurrence(q, k, v, decay, state, segments_BL=segments, form=form, chunk_size=4)
    first, _ = apart(slice(0, 9), state)
    second, end = apart(slice(9, None))
    torch.testing.assert_close(o, torch.cat((first, second), 1), **EXACT)
    torch.testing.assert_close(last, end, **EXACT)


def test_padding_has_no_segment_of_its_own():
    q, k, v, decay, state = (t.detach() for t in operands("head", B=1))
    mask = torch.ones(1, 21, dtype=torch.bool)
    mask[0, [0, 1, 8, 9, 20]] = False
    segments = torch.where(mask, 5, -1)
    expected = recurrence(q, k, v, decay, state, mask_BL=mask)
    found = recurrence(q, k, v, decay, state, mask_BL=mask, segments_BL=segments)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["head", "key"])
@pytest.mark.parametrize("value", [-1e4, -1e30, float("-inf")])
def test_a_very_strong_decay_is_a_reset(kind, form, value):
    q, k, v, decay, state = (t.detach().float() for t in operands(kind, L=50, strength=1.0))
    at = [17, 33, 34]
    segments = torch.zeros(2, 50, dtype=torch.int64)
    for t in at:
        segments[:, t:] += 1
    expected = recurrence(q, k, v, decay, state, segments_BL=segments, form="loop")
    strong = decay.clone()
    strong[:, at] = value
    inputs = [t.requires_grad_() for t in (q, k, v, strong, state)]
    for size in (5, 64):
        found = recurrence(*inputs, form=form, chunk_size=size)
        for actual, wanted in zip(found, expected, strict=True):
            torch.testing.assert_close(actual, wanted, rtol=1e-5, atol=1e-5)
        gradients = torch.autograd.grad(sum(t.sum() for t in found), inputs)
        assert all(g.isfinite().all() for g in gradients)


@pytest.mark.parametrize("kind", ["head", "key"])
def test_float32_after_strong_decays_has_all_its_digits(kind):
    q, k, v, decay, state = (t.detach() for t in operands(kind, L=130, strength=1.0))
    decay[:, ::9] = -1e4  # a running sum of these would leave three digits
    expected, _ = recurrence(q, k, v, decay, state, form="loop")
    found, _ = recurrence(*(t.float() for t in (q, k, v, decay, state)), form="chunk")
    assert (found - expected).abs().max() < 2e-6 * expected.abs().max()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_empty_batch_no_steps_and_low_precision(kind, form):
    for B, L in ((0, 5), (2, 0), (2, 5)):
        q, k, v, decay, _ = (t.detach() for t in operands(kind, B, L))
        low = [t if t.is_complex() else t.bfloat16() for t in (q, k, v, decay)]
        low = [t.to(torch.complex64) if t.is_complex() else t for t in low]
        o, state = recurrence(*low, form=form)
        assert o.dtype == torch.bfloat16 and o.shape == (B, L, 4, 3)
        assert state.dtype == (torch.complex64 if kind == "complex" else torch.float32)
        assert state.shape == (B, 4, 4, 3) and (L or not state.any())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_memory_of_any_layout_is_read_and_left_alone(kind, form):
    inputs = [t.detach() for t in operands(kind)]
    strange = [t.transpose(-1, 0).contiguous().transpose(-1, 0) for t in inputs]
    copies = [t.clone() for t in strange]
    torch.testing.assert_close(recurrence(*strange, form=form), recurrence(*inputs, form=form))
    assert all(torch.equal(a, b) for a, b in zip(strange, copies, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["head", "key"])
def test_compiled(kind):
    inputs = operands(kind, 1, 9)

    def run(*tensors):
        o, state = recurrence(*tensors, form="chunk", chunk_size=4)
        return o.sin().sum() + state.sum()

    expected = torch.autograd.grad(run(*inputs), inputs)
    compiled = torch.compile(run, backend="aot_eager", fullgraph=True)
    for actual, wanted in zip(torch.autograd.grad(compiled(*inputs), inputs), expected, strict=True):
        torch.testing.assert_close(actual, wanted)


def saved_bytes(kind, L):
    """Bytes that autograd keeps between forward and backward."""
    storages = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    inputs = operands(kind, 1, L, 2, 2, 8, 8, dtype=torch.float32)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        _output = recurrence(*inputs, form="chunk", chunk_size=16)
        return sum(size for size, _ in storages.values())


@pytest.mark.parametrize("kind", KINDS)
def test_memory_for_backward_is_linear_in_the_length(kind):
    short, middle, long = (saved_bytes(kind, L) for L in (128, 256, 512))
    assert abs((long - middle) - 2 * (middle - short)) <= 0.02 * long


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({0: torch.zeros(2, 21, 4)}, "expected q and k"),
        ({1: torch.zeros(2, 21, 2, 5)}, "expected q and k"),
        ({2: torch.zeros(2, 21, 3, 3)}, "multiple of G"),
        ({2: torch.zeros(2, 21, 4, 3, dtype=torch.int64)}, "expected q and k"),
        ({3: torch.zeros(2, 21)}, "expected log_decay"),
        ({3: torch.zeros(2, 20, 4)}, "expected log_decay"),
        ({4: torch.zeros(2, 4, 3, 4)}, "expected a state"),
        ({4: torch.zeros(2, 4, 4, 3, dtype=torch.complex64)}, "complex log_decay"),
    ],
)
def test_shapes_that_do_not_fit(change, message):
    inputs = [change.get(i, t.detach()) for i, t in enumerate(operands("head"))]
    with pytest.raises(ShapeError, match=message):
        recurrence(*inputs)


def test_options_that_do_not_fit():
    inputs = [t.detach() for t in operands("head")]
    with pytest.raises(ShapeError, match="exclusive=True"):
        recurrence(*inputs, bonus_HK=torch.zeros(4, 4))
    with pytest.raises(ShapeError, match="expected a bonus"):
        recurrence(*inputs, bonus_HK=torch.zeros(4, 3), exclusive=True)
    with pytest.raises(ShapeError, match="bool mask"):
        recurrence(*inputs, mask_BL=torch.ones(2, 21))
    with pytest.raises(ShapeError, match="chunk_size=0"):
        recurrence(*inputs, chunk_size=0)
    with pytest.raises(UnknownNameError, match="form"):
        recurrence(*inputs, form="fast")
