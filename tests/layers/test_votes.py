"""Votes of neurons for places."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuromix.layers.poisson_events import poisson_events
from neuromix.layers.votes import (
    NO_NEURON,
    assign,
    hyperactive,
    mean_response,
    place_scores,
    responses,
    weighted_scores,
)


def test_mean_response_and_assignment():
    counts = torch.tensor([[4.0, 0, 1, 2], [2, 0, 1, 0], [0, 0, 1, 3]])
    response = mean_response(counts, torch.tensor([0, 0, 2]), 3)
    assert response.tolist() == [[3, 0, 0], [0, 0, 0], [1, 0, 1], [1, 0, 3]]
    assert assign(response).tolist() == [0, -1, 0, 2]


def test_hyperactive_neurons_respond_to_many():
    counted = responses(torch.tensor([[1, 0, 2], [3, 0, 0], [1, 1, 0]]))
    assert counted.tolist() == [3, 1, 1]
    assert hyperactive(counted, 2).tolist() == [True, False, False]
    assert not hyperactive(counted, 0).any()


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(1, 6), st.integers(1, 5), st.integers(0, 99))
def test_scores_are_mean_counts(queries, neurons, places, seed):
    chance = torch.Generator().manual_seed(seed)
    counts = torch.randint(0, 5, (queries, neurons), generator=chance).double()
    place = torch.randint(-1, places, (neurons,), generator=chance)
    scores = place_scores(counts, place, places)
    for p in range(places):
        own = counts[:, place == p]
        expected = own.mean(1) if own.shape[1] else torch.full((queries,), NO_NEURON).double()
        torch.testing.assert_close(scores[:, p], expected)


def test_weighted_scores_by_hand():
    # Neuron 0 stands for places 0 and 1, neuron 1 for place 0 alone (its 5 percent for place 1 are too few), neuron 2
    # never fired.
    response = torch.tensor([[6.0, 4, 0], [19, 1, 0], [0, 0, 0]])
    counts = torch.tensor([[2.0, 3, 7], [0, 4, 0]])
    scores = weighted_scores(counts, response)
    first = 2 * 0.6 / 2 + 3 * 0.95
    assert torch.allclose(scores[0], torch.tensor([first, 2 * 0.4 / 2, NO_NEURON]))
    assert torch.allclose(scores[1], torch.tensor([4 * 0.95 * 19 / 25, 0.0, NO_NEURON]))


def test_poisson_events_have_their_rates():
    rate = torch.tensor([[0.0, 20, 2000], [50, 0, 9999]])
    chance = torch.Generator().manual_seed(0)
    events = poisson_events(rate, 20_000, lambda: torch.rand(2, 3, generator=chance))
    assert (events.step.diff() >= 0).all() and events.step.max() < 20_000
    counts = torch.zeros(2, 3).index_put_(
        (events.row, events.input), torch.ones(len(events.row)), accumulate=True
    )
    assert counts[rate == 0].sum() == 0
    expected = rate * 2  # two seconds
    assert ((counts - expected).abs() <= 4 * expected.sqrt() + 1e-9).all()
    at = torch.stack([events.row, events.input, events.step], 1)
    assert len(at.unique(dim=0)) == len(at)  # one spike a step at most


def test_shared_numbers_make_spikes_of_an_image_its_own():
    rate = torch.rand(3, 4, generator=torch.Generator().manual_seed(1)) * 100

    def spikes(rates):
        chance = torch.Generator().manual_seed(5)
        return poisson_events(rates, 5000, lambda: torch.rand(4, generator=chance))

    together, alone = spikes(rate), spikes(rate[1:2])
    for one, other in zip(together.of_rows(1, 2), alone, strict=True):
        assert torch.equal(one, other)
