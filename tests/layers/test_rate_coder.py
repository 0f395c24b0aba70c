"""Rate coding: spikes whose rate is the number, drawn or not."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuromix.core.observe import draws
from neuromix.layers.rate_coder import RateCoder, van_der_corput

VALUES = torch.linspace(0, 1, 21).expand(2, 21)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("coding", ["bernoulli", "low-discrepancy"])
def test_the_rate_over_many_steps_is_the_value(coding):
    coder = RateCoder(10_000, coding)
    with draws(coder, seeded(0)):
        spikes_TBN = coder(VALUES)
    assert spikes_TBN.shape == (10_000, 2, 21) and spikes_TBN.dtype == VALUES.dtype
    assert set(spikes_TBN.unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(spikes_TBN.mean(0), VALUES, rtol=0, atol=0.02)


def test_a_seed_gives_the_same_spikes_and_another_seed_others():
    coder = RateCoder(16)

    def spikes(seed):
        with draws(coder, seeded(seed)):
            return coder(VALUES)

    assert torch.equal(spikes(3), spikes(3))
    assert not torch.equal(spikes(3), spikes(4))


def test_recorded_noise_is_replayed():
    coder, noise = RateCoder(4), torch.rand(4, 2, 21)
    with draws(coder, {"noise": [noise]}):
        assert torch.equal(coder(VALUES), (noise < VALUES).float())


def test_nothing_is_drawn_with_low_discrepancy():
    coder, state = RateCoder(16, "low-discrepancy"), torch.get_rng_state()
    assert torch.equal(coder(VALUES), coder(VALUES))
    assert torch.equal(torch.get_rng_state(), state)
    assert not coder.state_dict()


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 64), st.lists(st.integers(1, 5), min_size=1, max_size=3), st.integers(0, 99))
def test_low_discrepancy_is_closer_than_chance(time_steps, shape, seed):
    x = torch.rand(2, *shape, generator=seeded(seed), dtype=torch.float64)
    rates = RateCoder(time_steps, "low-discrepancy")(x).mean(0)
    # A shifted van der Corput sequence of T terms is made of at most log2(T) + 1 dyadic pieces.
    pieces = math.log2(time_steps) + 1
    assert float((rates - x).abs().max()) <= 2 * pieces / time_steps


def test_equal_numbers_of_a_sample_do_not_fire_together_and_samples_do_not_meet():
    spikes_TBN = RateCoder(16, "low-discrepancy")(torch.full((3, 8), 0.5))
    assert not torch.equal(spikes_TBN[:, :, 0], spikes_TBN[:, :, 1])
    assert torch.equal(spikes_TBN[:, 0], spikes_TBN[:, 2])


@pytest.mark.parametrize("coding", ["bernoulli", "low-discrepancy"])
def test_negative_numbers_never_fire_and_one_always(coding):
    spikes_TBN = RateCoder(64, coding)(torch.tensor([[-0.5, 0.0, 1.0, 2.0]]))
    assert spikes_TBN.mean((0, 1)).tolist() == [0, 0, 1, 1]


def test_van_der_corput():
    assert [van_der_corput(t) for t in range(6)] == [0, 1 / 2, 1 / 4, 3 / 4, 1 / 8, 5 / 8]
