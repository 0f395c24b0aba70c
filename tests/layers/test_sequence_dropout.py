"""Dropout with one mask a sequence."""

from __future__ import annotations

import torch

from neuromix.core.observe import draws
from neuromix.core.state import select
from neuromix.layers.sequence_dropout import SequenceDropout


def test_one_mask_a_sequence_and_a_new_one_for_the_next():
    dropout, x_T = SequenceDropout(0.5), torch.ones(3, 40, 10)
    y_T = dropout(x_T)
    assert set(y_T.unique().tolist()) == {0.0, 2.0}
    assert (y_T == y_T[0]).all()
    assert not torch.equal(dropout(x_T), y_T)


def test_steps_and_segments_are_the_whole():
    dropout, x_T = SequenceDropout(0.3), torch.randn(4, 5, 6, dtype=torch.float64)

    def run(lengths):
        pieces, state = [], None
        with draws(dropout, torch.Generator().manual_seed(1)):
            for piece in x_T.split(lengths):
                y_T, state = dropout(piece, state, return_state=True)
                pieces.append(y_T)
        return torch.cat(pieces)

    with draws(dropout, torch.Generator().manual_seed(1)):
        whole = dropout(x_T)
    assert torch.equal(run([1, 1, 1, 1]), whole) and torch.equal(run([1, 3]), whole)


def test_samples_that_leave_take_their_mask_along():
    dropout, x = SequenceDropout(0.5), torch.ones(4, 7)
    y, state = dropout.step(x, dropout.initial_state(x))
    kept = torch.tensor([2, 0])
    assert torch.equal(dropout.step(x[kept], select(state, kept))[0], y[kept])


def test_mean_is_kept_and_share_is_the_rate():
    torch.manual_seed(0)
    y = SequenceDropout(0.2)(torch.ones(1, 200, 200))
    assert abs(float(y.mean()) - 1) < 0.02
    assert abs(float((y == 0).float().mean()) - 0.2) < 0.02


def test_nothing_happens_in_eval_or_at_rate_zero():
    x_T = torch.randn(2, 3, 4)
    for dropout in (SequenceDropout(0.5).eval(), SequenceDropout(0.0)):
        y_T, state = dropout(x_T, return_state=True)
        assert torch.equal(y_T, x_T) and state.mask.shape == (3, 1)
        assert torch.equal(dropout(x_T, state), x_T)
