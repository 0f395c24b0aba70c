"""The selective scan: all forms give the loop's outputs, states and gradients; masks, segments, odd sizes, dtypes.

Shapes: B batch, L tokens, D channels, N states of a channel, G groups.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuromix.core.errors import NeuromixError, ShapeError, UnknownNameError, UnsupportedError
from neuromix.ops import references_only
from neuromix.ops._native import native
from neuromix.ops.selective_scan import FORMS, selective_scan, selective_scan_step

OTHERS = [("scan", 1), ("chunk", 1), ("chunk", 3), ("chunk", 64), ("auto", 64)] + [("native", 1)] * (
    native is not None
)
needs_native = pytest.mark.skipif(native is None, reason="the C++ extension is not installed")


def operands(B=2, L=21, D=6, N=5, kind="token", groups=1, complex_=False, dtype=torch.float64, seed=0):
    """x, delta, A, B, C and a state, of which B and C are of a kind: constant, token or group."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape, like=dtype):
        return torch.randn(shape, dtype=like, generator=generator)

    wide = dtype.to_complex() if complex_ else dtype
    shape = {"constant": (D, N), "token": (B, L, N), "group": (B, L, groups, N)}[kind]
    A = -3 * torch.rand(D, N, dtype=dtype, generator=generator) - 0.01
    A = torch.complex(A, 2 * normal(D, N)) if complex_ else A
    delta = 2 * torch.rand(B, L, D, dtype=dtype, generator=generator)
    tensors = (
        normal(B, L, D),
        delta,
        A,
        normal(*shape, like=wide),
        normal(*shape, like=wide),
        normal(B, D, N, like=wide),
    )
    return [t.requires_grad_() for t in tensors]


def marks(B, L, seed=0):
    """A mask with padding anywhere, and segments that change anywhere."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(B, L, generator=generator) > 0.3
    return mask, (torch.rand(B, L, generator=generator) > 0.8).long().cumsum(1)


def results(inputs, **options):
    """y where there are tokens, the last state, and the gradients of a weighted sum of both."""
    y, state = selective_scan(*inputs, **options)
    mask = options.get("mask_BL")
    y = y if mask is None else torch.where(mask.unsqueeze(2), y, 0.0)
    generator = torch.Generator().manual_seed(1)
    of_y, of_state = (torch.randn(t.shape, dtype=torch.float64, generator=generator) for t in (y, state))
    loss = (y * of_y).sum() + (state.real * of_state).sum()
    return [y.detach(), state.detach(), *torch.autograd.grad(loss, inputs, materialize_grads=True)]


def assert_all_close(actual, expected, **tolerance):
    for name, a, e in zip(
        ("y", "state", "x", "delta", "A", "B", "C", "first state"), actual, expected, strict=True
    ):
        torch.testing.assert_close(a, e, **tolerance, msg=lambda text, name=name: f"{name}: {text}")


EXACT = {"rtol": 1e-10, "atol": 1e-10}


@pytest.mark.parametrize("complex_", [False, True])
@pytest.mark.parametrize(("kind", "groups"), [("constant", 1), ("token", 1), ("group", 1), ("group", 3)])
@pytest.mark.parametrize(("masked", "packed"), [(False, False), (True, False), (False, True), (True, True)])
def test_forms_agree(kind, groups, complex_, masked, packed):
    inputs = operands(kind=kind, groups=groups, complex_=complex_)
    mask, segments = marks(2, 21)
    options = {"mask_BL": mask if masked else None, "segments_BL": segments if packed else None}
    expected = results(inputs, form="loop", **options)
    for form, size in OTHERS:
        if form == "native" and (complex_ or kind == "constant"):
            continue
        assert_all_close(results(inputs, form=form, chunk_size=size, **options), expected, **EXACT)


@needs_native
@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 3),
    st.sampled_from([0, 1, 2, 63, 64, 65, 130]),
    st.sampled_from([1, 2, 15, 16, 17, 33, 65]),
    st.integers(1, 5),
    st.booleans(),
    st.integers(0, 99),
)
def test_native_equals_the_scan_of_any_size(B, L, D, N, marked, seed):
    inputs = operands(B, L, D, N, seed=seed)
    mask, segments = marks(B, L, seed)
    options = {"mask_BL": mask, "segments_BL": segments} if marked else {}
    expected = results(inputs, form="scan", **options)
    assert_all_close(results(inputs, form="native", **options), expected, rtol=1e-9, atol=1e-9)


@needs_native
@pytest.mark.parametrize("groups", [2, 5])
def test_native_with_groups_wider_than_a_slice(groups):
    inputs = operands(2, 70, 70 * groups, 3, "group", groups)
    assert_all_close(results(inputs, form="native"), results(inputs, form="scan"), **EXACT)


@needs_native
def test_native_float32_is_as_near_as_float32_can_be():
    inputs = operands(2, 200, 40, 8)
    expected = results(inputs, form="loop")
    single = [t.detach().float().requires_grad_() for t in inputs]
    for actual, wanted in zip(results(single, form="native"), expected, strict=True):
        assert actual.dtype == torch.float32
        assert (actual - wanted).abs().max() < 1e-5 * wanted.abs().max()


@needs_native
def test_native_gradients_do_not_depend_on_threads():
    inputs = [t.detach().float().requires_grad_() for t in operands(2, 70, 200, 4)]
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(results(inputs, form="native"))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("form", FORMS)
def test_gradcheck(form):
    inputs = operands(1, 5, 3, 2)
    mask, segments = marks(1, 5, 3)
    assert torch.autograd.gradcheck(
        lambda *t: selective_scan(*t, mask_BL=mask, segments_BL=segments, form=form, chunk_size=2), inputs
    )


@pytest.mark.parametrize("form", FORMS)
def test_pieces_with_the_state_equal_the_whole(form):
    x, delta, A, B, C, state = (t.detach() for t in operands())
    whole, last = selective_scan(x, delta, A, B, C, state, form=form)
    pieces = []
    for part in (slice(0, 7), slice(7, 12), slice(12, None)):
        piece, state = selective_scan(x[:, part], delta[:, part], A, B[:, part], C[:, part], state, form=form)
        pieces.append(piece)
    torch.testing.assert_close(torch.cat(pieces, 1), whole, **EXACT)
    torch.testing.assert_close(state, last, **EXACT)


@pytest.mark.parametrize(("kind", "groups"), [("token", 1), ("group", 2), ("constant", 1)])
def test_steps_equal_the_whole(kind, groups):
    x, delta, A, B, C, state = (t.detach() for t in operands(kind=kind, groups=groups))
    whole, last = selective_scan(x, delta, A, B, C, state)
    for t in range(x.shape[1]):
        B_t, C_t = (m[None] if kind == "constant" else m[:, t] for m in (B, C))
        y, state = selective_scan_step(x[:, t], delta[:, t], A, B_t, C_t, state)
        torch.testing.assert_close(y, whole[:, t], **EXACT)
    torch.testing.assert_close(state, last, **EXACT)


@pytest.mark.parametrize("form", FORMS)
def test_packed_segments_equal_sequences_apart(form):
    x, delta, A, B, C, state = (t.detach() for t in operands(1))
    segments = torch.tensor([[4] * 9 + [1] * 12])
    y, last = selective_scan(x, delta, A, B, C, state, segments_BL=segments, form=form, chunk_size=4)
    first, _ = selective_scan(*(t[:, :9] for t in (x, delta)), A, B[:, :9], C[:, :9], state, form=form)
    second, end = selective_scan(*(t[:, 9:] for t in (x, delta)), A, B[:, 9:], C[:, 9:], form=form)
    torch.testing.assert_close(y, torch.cat((first, second), 1), **EXACT)
    torch.testing.assert_close(last, end, **EXACT)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("decay", [-1e4, -1e30])
def test_strong_decays_forget_without_nan(form, decay):
    x, delta, A, B, C, state = (t.detach().float() for t in operands())
    inputs = [t.requires_grad_() for t in (x, delta, torch.full_like(A, decay), B, C, state)]
    y, last, *gradients = results(inputs, form=form, chunk_size=4)
    assert all(t.isfinite().all() for t in (y, last, *gradients))
    torch.testing.assert_close(y[:, 5], (delta * x)[:, 5] * (B * C)[:, 5].sum(-1, keepdim=True))


@pytest.mark.parametrize("form", FORMS)
def test_empty_batch_no_steps_and_low_precision(form):
    for B, L in ((0, 5), (2, 0), (0, 0), (2, 5)):
        x, delta, A, b, c, _ = (t.detach() for t in operands(B, L))
        low = [t.bfloat16() for t in (x, delta)]
        y, state = selective_scan(*low, A.float(), b.bfloat16(), c.bfloat16(), form=form)
        assert y.dtype == torch.bfloat16 and y.shape == (B, L, 6)
        assert state.dtype == torch.float32 and state.shape == (B, 6, 5)
        assert L or not state.any()


@pytest.mark.parametrize("form", FORMS)
def test_memory_of_any_layout_is_read_and_left_alone(form):
    inputs = [t.detach() for t in operands()]
    strange = [t.mT.contiguous().mT for t in inputs]
    copies = [t.clone() for t in strange]
    torch.testing.assert_close(selective_scan(*strange, form=form), selective_scan(*inputs, form=form))
    assert all(torch.equal(a, b) for a, b in zip(strange, copies, strict=True))


@pytest.mark.parametrize("form", [form for form in FORMS if form != "native"])
def test_transforms(form):
    x, delta, A, B, C, _ = (t.detach() for t in operands(3, 9, 4, 2))

    def total(A, *rows):
        x, delta, B, C = (row[None] for row in rows)
        return selective_scan(x, delta, A, B, C, form=form, chunk_size=4)[0].sin().sum()

    apart = torch.func.vmap(torch.func.grad(total), (None, 0, 0, 0, 0))(A, x, delta, B, C)
    for row, found in enumerate(apart):
        rows = [t[row] for t in (x, delta, B, C)]
        A_r = A.clone().requires_grad_()
        (wanted,) = torch.autograd.grad(total(A_r, *rows), A_r)
        torch.testing.assert_close(found, wanted, **EXACT)
        _, slope = torch.func.jvp(lambda A, rows=rows: total(A, *rows), (A,), (A,))
        torch.testing.assert_close(slope, (wanted * A).sum(), **EXACT)


@pytest.mark.slow
@needs_native
def test_compiled_through_the_op():
    inputs = operands(1, 9, 4, 3)
    segments = marks(1, 9)[1]

    def run(*tensors):
        y, state = selective_scan(*tensors, segments_BL=segments, form="native")
        return (y.sin().sum() + state.sum(),)

    expected = torch.autograd.grad(run(*inputs), inputs)
    compiled = torch.compile(run, backend="aot_eager", fullgraph=True)
    for actual, wanted in zip(torch.autograd.grad(compiled(*inputs), inputs), expected, strict=True):
        torch.testing.assert_close(actual, wanted)


@pytest.mark.slow
@needs_native
def test_the_op_obeys_the_rules_of_ops():
    inputs = [t.detach().requires_grad_() for t in operands(2, 70, 5, 3, "group", 1)]
    arguments = (*inputs, torch.zeros(2, 70, dtype=torch.bool), True)
    torch.library.opcheck(torch.ops.neuromix.selective_scan.default, arguments)


def saved_bytes(inputs, **options):
    """Bytes that autograd keeps between forward and backward, beside the operands."""
    storages = {}
    own = {t.untyped_storage().data_ptr() for t in inputs}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        y, _state = selective_scan(*inputs, **options)
        kept = sum(size for size, _ in storages.values())
    assert y.requires_grad
    return kept


def test_what_is_kept_for_backward():
    B, L, D, N = 1, 512, 32, 16
    inputs = [t.detach().float().requires_grad_() for t in operands(B, L, D, N)]
    states = 4 * B * L * D * N
    assert saved_bytes(inputs, form="loop") > 2 * states
    if native is not None:
        assert saved_bytes(inputs, form="native") <= states / 64 + 4 * B * L * D
    assert saved_bytes(inputs, form="chunk", chunk_size=64) < states / 4


def test_references_only_and_second_derivatives():
    inputs = operands(1, 4, 2, 2)
    with references_only():
        y, _ = selective_scan(*inputs, form="auto")
        (grad,) = torch.autograd.grad(y.sum(), inputs[0], create_graph=True)
        grad.sum().backward()
    if native is not None:
        y, _ = selective_scan(*inputs, form="native")
        with pytest.raises(NeuromixError, match="second derivatives"):
            torch.autograd.grad(y.sum(), inputs[0], create_graph=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({0: torch.zeros(2, 21)}, "expected real x and delta"),
        ({1: torch.zeros(2, 20, 6)}, "expected real x and delta"),
        ({2: torch.zeros(5, 5)}, "expected real x and delta"),
        ({3: torch.zeros(2, 21, 4)}, "expected B"),
        ({4: torch.zeros(2, 21, 4, 5)}, "expected C"),
        ({3: torch.zeros(2, 21, 2, 5), 4: torch.zeros(2, 21, 3, 5)}, "same groups"),
        ({3: torch.zeros(2, 21, 5, dtype=torch.complex64)}, "complex B needs a complex A"),
        ({5: torch.zeros(2, 5, 6)}, "expected a state"),
        ({5: torch.zeros(2, 6, 5, dtype=torch.complex64)}, "complex state"),
    ],
)
def test_shapes_that_do_not_fit(change, message):
    inputs = [change.get(i, t.detach()) for i, t in enumerate(operands())]
    with pytest.raises(ShapeError, match=message):
        selective_scan(*inputs)


def test_options_that_do_not_fit():
    inputs = [t.detach() for t in operands()]
    with pytest.raises(ShapeError, match="bool mask"):
        selective_scan(*inputs, mask_BL=torch.ones(2, 21))
    with pytest.raises(ShapeError, match="segments"):
        selective_scan(*inputs, segments_BL=torch.ones(2, 20, dtype=torch.int64))
    with pytest.raises(ShapeError, match="chunk_size=0"):
        selective_scan(*inputs, chunk_size=0)
    with pytest.raises(UnknownNameError, match="form"):
        selective_scan(*inputs, form="fast")


@needs_native
@pytest.mark.parametrize(("channels", "length", "states"), [(150, 70, 5), (37, 33, 1), (16, 64, 16)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_native_across_its_blocks(channels, length, states, dtype):
    """More channels than a slice has, more steps than a chunk, and what is left over of both."""
    mask, segments = marks(2, length)
    given = operands(2, length, channels, states, groups=1, kind="group", dtype=dtype)
    options = {"mask_BL": mask, "segments_BL": segments}
    exact = results([t.detach().double().requires_grad_() for t in given], **options, form="loop")
    tolerance = {"rtol": 1e-5, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 1e-10, "atol": 1e-10}
    for ours, theirs in zip(results(given, **options, form="native"), exact, strict=True):
        torch.testing.assert_close(ours.double(), theirs, **tolerance)


@needs_native
def test_decays_of_any_width():
    """exp(delta A) in float32 from 0 over all that is not 0 to what overflows."""
    exponent = torch.cat((torch.linspace(-200, 88, 4001), torch.tensor([0.0, -1e-30, -3e4, float("-inf")])))
    x = torch.zeros(1, 1, len(exponent))
    one = torch.ones(1, 1, 1)
    _, state = selective_scan(
        x, torch.ones_like(x), exponent[:, None], one, one, torch.ones(1, len(exponent), 1), form="native"
    )
    exact = exponent.double().exp()
    normal = exact > torch.finfo(torch.float32).tiny
    state = state.flatten().double()
    # A in powers of two is rounded: the smaller the decay, the more that is.
    error = (state[normal] / exact[normal] - 1).abs()
    assert (error < 2e-7 * (1 + exponent[normal].abs())).all()
    assert (state[~normal] < torch.finfo(torch.float32).tiny).all() and (state >= 0).all()
    assert state[4001] == 1 and state[-1] == 0


@needs_native
def test_native_says_what_it_cannot_take():
    with pytest.raises(UnsupportedError, match="native"):
        selective_scan(*operands(complex_=True), form="native")
    with pytest.raises(UnsupportedError, match="native"):
        selective_scan(*operands(kind="constant"), form="native")
