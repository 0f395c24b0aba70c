"""Runs: rows taken apart into their sequences and put together again."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuromix.ops.runs import Runs, positions


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4), st.integers(1, 12), st.integers(0, 2**31), st.booleans(), st.booleans())
def test_runs_by_hand(batch, length, seed, masked, packed):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(batch, length, generator=generator) < 0.7 if masked or not packed else None
    segments = torch.randint(2, (batch, length), generator=generator) if packed else None
    x = torch.randn(batch, length, 3, generator=generator)
    before = torch.randint(5, (batch,), generator=generator)
    runs = Runs.of(x.shape[:2], mask, segments)
    found, places = runs.split(x), positions(x.shape[:2], before, mask, segments)
    number = 0
    for b in range(batch):
        first, count, last_id = number, int(before[b]), None
        rows: list[list[torch.Tensor]] = [[]]
        for t in range(length):
            if mask is not None and not mask[b, t]:
                continue
            own = 0 if segments is None else int(segments[b, t])
            if last_id is not None and own != last_id:
                rows.append([])
                count = 0
            last_id = own
            rows[-1].append(x[b, t])
            count += 1
            assert places[b, t] == count
        assert runs.first_B[b] == first and runs.last_B[b] == first + len(rows) - 1
        for row in rows:
            assert runs.lengths_R[number] == len(row)
            assert all(torch.equal(found[number, i], value) for i, value in enumerate(row))
            assert (found[number, len(row) :] == 0).all()
            number += 1
    assert len(runs.lengths_R) == number
    expected = x if mask is None else x * mask[..., None]
    assert torch.equal(runs.join(found), expected)


def test_states_go_in_at_the_front_and_out_at_the_end():
    segments = torch.tensor([[0, 0, 1], [4, 4, 4]])
    runs = Runs.of(segments.shape, None, segments)
    state = torch.tensor([[1.0], [2.0]])
    assert runs.enter(state).flatten().tolist() == [1, 0, 2]
    assert runs.leave(torch.tensor([[5.0], [6.0], [7.0]])).flatten().tolist() == [6, 7]


def test_gradients_go_back():
    mask = torch.tensor([[True, False, True]])
    x = torch.randn(1, 3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: Runs.of(x.shape[:2], mask, None).split(x), x)
