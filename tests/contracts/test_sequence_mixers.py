"""What every registered sequence mixer must obey, on its `tiny` options at width 16."""

from __future__ import annotations

import pytest
import torch
from torch.utils import _pytree as pytree

from neuromix.core.config import Spec
from neuromix.core.errors import ConfigError, ShapeError
from neuromix.core.state import map_state, state_bytes
from neuromix.mixers.mixer import make_mixer
from neuromix.mixers.sequence import SequenceMixer, Tokens, make_sequence_mixer
from tests.catalogue import own_entries

MIXERS = own_entries("sequence-mixer")
CAUSAL = {
    name: entry for name, entry in MIXERS.items() if make_sequence_mixer(Spec(name, entry.tiny), 16).causal
}
DIM, LENGTH = 16, 11
CLOSE = {"rtol": 1e-10, "atol": 1e-10}


def build(name: str) -> SequenceMixer:
    torch.manual_seed(0)
    mixer = make_sequence_mixer(Spec(name, MIXERS[name].tiny), DIM).double().eval()
    for parameter in mixer.parameters():  # nothing may hide behind a zero at the start
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return mixer


@pytest.fixture(params=CAUSAL)
def mixer(request) -> SequenceMixer:
    return build(request.param)


def sequence(length: int = LENGTH, batch: int = 2, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, length, DIM, generator=generator, dtype=torch.float64)


def warm_state(mixer: SequenceMixer):
    """A state that some tokens have gone into, as leaves that take gradients."""
    with torch.no_grad():
        state = mixer(sequence(5, seed=7), return_state=True)[1]
    return map_state(
        lambda leaf: leaf.detach().clone().requires_grad_(leaf.is_floating_point() or leaf.is_complex()),
        state,
    )


def floating(tree) -> list[torch.Tensor]:
    return [
        leaf
        for leaf in pytree.tree_leaves(tree)
        if isinstance(leaf, torch.Tensor) and (leaf.is_floating_point() or leaf.is_complex())
    ]


def stepped(mixer: SequenceMixer, x_BLD, state):
    outputs = []
    for x_BD in x_BLD.unbind(1):
        y_BD, state = mixer.step(x_BD, state)
        outputs.append(y_BD)
    return torch.stack(outputs, 1), state


def everything(mixer: SequenceMixer, run):
    """Outputs, last state, and the gradients of input, parameters and initial state."""
    x_BLD, state = sequence().requires_grad_(), warm_state(mixer)
    y_BLD, after = run(x_BLD, state)
    results = [y_BLD, *floating(after)]
    weighted = [
        (leaf.real * torch.linspace(-1, 1, leaf.numel(), dtype=torch.float64).view(leaf.shape)).sum()
        + (leaf.imag.square().sum() if leaf.is_complex() else 0)
        for leaf in results
    ]
    sources = [x_BLD, *mixer.parameters(), *floating(state)]
    grads = torch.autograd.grad(sum(weighted), sources, allow_unused=True)
    return results, [None if g is None else g.resolve_conj() for g in grads]


def assert_all_close(one, other):
    for parts in zip(one, other, strict=True):
        for a, b in zip(*parts, strict=True):
            zero = [t for t in (a, b) if t is not None]
            if len(zero) == 1:  # unused here, without effect there
                b = torch.zeros_like(zero[0])
                a = zero[0]
            if zero:
                torch.testing.assert_close(a, b, **CLOSE)


def test_all_forms_are_the_steps(mixer):
    expected = everything(mixer, lambda x, state: stepped(mixer, x, state))
    for form in mixer.forms:
        for size in (1, 3, 7, LENGTH) if form in ("chunk", "auto") else (64,):
            mixer.form, mixer.chunk_size = form, size
            found = everything(mixer, lambda x, state: mixer(x, state, return_state=True))
            assert_all_close(found, expected)


def test_segments_equal_the_whole(mixer):
    x_BLD = sequence(19)
    with torch.no_grad():
        whole, last = mixer(x_BLD, return_state=True)
        parts, state = [], None
        for part in x_BLD.split([7, 5, 7], 1):
            y, state = mixer(part, state, return_state=True)
            parts.append(y)
        torch.testing.assert_close(torch.cat(parts, 1), whole, **CLOSE)
        for a, b in zip(floating(state), floating(last), strict=True):
            torch.testing.assert_close(a, b, **CLOSE)
        y, state = mixer(x_BLD[:, :7], return_state=True)
        rest, _ = stepped(mixer, x_BLD[:, 7:], state)
        torch.testing.assert_close(torch.cat([y, rest], 1), whole, **CLOSE)


def test_a_padded_batch_gives_what_each_gives_alone(mixer):
    lengths, more = (5, 9, 1), sequence(3, batch=3, seed=4)
    x_BLD = sequence(9, batch=3)
    mask = torch.stack([torch.arange(9) >= 9 - n for n in lengths])
    x_BLD[~mask] = 1e3
    for form in mixer.forms:
        mixer.form = form
        with torch.no_grad():
            y, state = mixer(x_BLD, tokens=Tokens(mask), return_state=True)
            later, _ = mixer(more, state, return_state=True)
            for b, n in enumerate(lengths):
                alone, after = mixer(x_BLD[b : b + 1, 9 - n :], return_state=True)
                torch.testing.assert_close(y[b : b + 1, 9 - n :], alone, **CLOSE)
                torch.testing.assert_close(later[b : b + 1], mixer(more[b : b + 1], after), **CLOSE)


def test_packed_sequences_do_not_meet(mixer):
    lengths = (4, 1, 6)
    x_BLD = sequence(sum(lengths))
    ids = torch.repeat_interleave(torch.tensor([3, 8, 2]), torch.tensor(lengths)).expand(2, -1)
    more = sequence(2, seed=5)
    for form in mixer.forms:
        for size in (3, 64):
            mixer.form, mixer.chunk_size = form, size
            with torch.no_grad():
                y, state = mixer(x_BLD, tokens=Tokens(segments_BL=ids), return_state=True)
                apart = [mixer(part, return_state=True) for part in x_BLD.split(lengths, 1)]
                torch.testing.assert_close(y, torch.cat([part for part, _ in apart], 1), **CLOSE)
                torch.testing.assert_close(mixer(more, state), mixer(more, apart[-1][1]), **CLOSE)


def test_a_carried_state_belongs_to_the_first_segment(mixer):
    x_BLD, ids = sequence(6), torch.tensor([[1, 1, 1, 2, 2, 2]] * 2)
    with torch.no_grad():
        _, state = mixer(sequence(4, seed=9), return_state=True)
        y = mixer(x_BLD, state, tokens=Tokens(segments_BL=ids))
        torch.testing.assert_close(y[:, :3], mixer(x_BLD[:, :3], state), **CLOSE)
        torch.testing.assert_close(y[:, 3:], mixer(x_BLD[:, 3:]), **CLOSE)


def test_it_is_causal(mixer):
    x_BLD = sequence()
    with torch.no_grad():
        y = mixer(x_BLD)
        x_BLD[:, 6:] += 1.0
        torch.testing.assert_close(mixer(x_BLD)[:, :6], y[:, :6], **CLOSE)


def test_the_state_stays_as_large_as_it_is(mixer):
    with torch.no_grad():
        sizes = [state_bytes(mixer(sequence(n), return_state=True)[1]) for n in (3, 40)]
    assert (sizes[0] == sizes[1]) == mixer.constant_state
    first = mixer.initial_state(sequence()[:, 0])
    assert len(first[0]) == 2


@pytest.mark.parametrize("batch", [0, 1])
@pytest.mark.parametrize("length", [0, 1, 2])
def test_short_and_empty(mixer, batch, length):
    assert mixer(sequence(length, batch)).shape == (batch, length, DIM)


def test_nothing_is_mutated(mixer):
    x_BLD, state = sequence(), warm_state(mixer)
    before = [leaf.detach().clone() for leaf in (x_BLD, *floating(state))]
    with torch.no_grad():
        mixer(x_BLD, state, return_state=True)
        mixer.step(x_BLD[:, 0], state)
    for a, b in zip((x_BLD, *floating(state)), before, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", MIXERS)
def test_wrong_input_is_refused(name):
    mixer = build(name)
    for wrong in (torch.zeros(2, 3, DIM + 1), torch.zeros(3, DIM), torch.zeros(2, 3, DIM, dtype=torch.int64)):
        with pytest.raises(ShapeError, match="expects"):
            mixer(wrong)
    with pytest.raises(ShapeError, match="mask"):
        mixer(sequence(), tokens=Tokens(torch.ones(2, LENGTH + 1, dtype=torch.bool)))
    if hasattr(mixer.config, "form"):
        with pytest.raises(ConfigError, match="form"):
            make_sequence_mixer(Spec(name, {**MIXERS[name].tiny, "form": "none"}), DIM)


@pytest.mark.parametrize("name", MIXERS)
def test_in_bfloat16(name):
    mixer, x_BLD = build(name), sequence()
    with torch.no_grad():
        expected, y = mixer(x_BLD), mixer.bfloat16()(x_BLD.bfloat16())
    assert y.dtype == torch.bfloat16 and y.isfinite().all()
    assert (y.double() - expected).norm() < 0.1 * expected.norm() + 1e-3


@pytest.mark.parametrize("name", MIXERS)
def test_on_a_map(name):
    spec = Spec(
        "on_grid", {"mixer": Spec(name, MIXERS[name].tiny), "orders": ("rows", "snake-columns-backwards")}
    )
    mixer = make_mixer(spec, DIM).eval()
    x_BCHW = torch.randn(2, DIM, 3, 5)
    with torch.no_grad():
        y_BCHW = mixer(x_BCHW)
        by_rows, by_columns = mixer.mixers
        rows = by_rows(x_BCHW.flatten(2).mT).mT.reshape(x_BCHW.shape)
        # The snake reads columns downwards and upwards in turn; backwards it begins at its end.
        turned = torch.stack([c if i % 2 == 0 else c.flip(-1) for i, c in enumerate(x_BCHW.unbind(3))], 3)
        read = by_columns(turned.mT.flatten(2).flip(2).mT).mT.flip(2).reshape(2, DIM, 5, 3).mT
        columns = torch.stack([c if i % 2 == 0 else c.flip(-1) for i, c in enumerate(read.unbind(3))], 3)
    torch.testing.assert_close(y_BCHW, rows + columns)


def test_orders_are_undone():
    from neuromix.mixers.on_grid import ORDERS

    x_BCHW = torch.arange(2 * 3 * 4.0 * 5).view(2, 3, 4, 5)
    sequences = [order.forward(x_BCHW) for order in ORDERS.values()]
    assert len({tuple(s.flatten().tolist()) for s in sequences}) == 8
    for order, read in zip(ORDERS.values(), sequences, strict=True):
        assert torch.equal(order.inverse(read, 4, 5), x_BCHW)
