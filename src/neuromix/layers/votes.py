"""What spike counts of neurons say about places: assignment, scores, and neurons that respond to everything.

Shapes: Q presentations (of references or queries), N neurons, P places.
"""

from __future__ import annotations

import torch
from torch import Tensor

NO_NEURON = -1.0  # the score of a place that no neuron stands for; other scores are 0 or more


def mean_response(counts_QN: Tensor, place_Q: Tensor, places: int) -> Tensor:
    """Mean count a presentation of each neuron for each place, [N, P]; 0 for a place that was not presented."""
    sums_PN = counts_QN.new_zeros(places, counts_QN.shape[1]).index_add_(0, place_Q, counts_QN)
    shown_P = torch.bincount(place_Q, minlength=places).clamp(min=1)
    return (sums_PN / shown_P[:, None]).T


def assign(response_NP: Tensor) -> Tensor:
    """The place that each neuron responds to most, [N], int64: the first of equals, -1 where it never fired."""
    strongest_N, place_N = response_NP.max(1)
    return torch.where(strongest_N > 0, place_N, -1)


def responses(counts_QN: Tensor) -> Tensor:
    """The number of presentations to which each neuron responds with a spike at least, [N], int64."""
    return (counts_QN > 0).sum(0)


def hyperactive(responses_N: Tensor, threshold: int) -> Tensor:
    """Neurons that respond to `threshold` presentations or more, [N], bool; none if it is 0."""
    return (responses_N >= threshold) & (threshold > 0)


def place_scores(counts_QN: Tensor, place_N: Tensor, places: int) -> Tensor:
    """Mean count of the neurons that stand for each place, [Q, P]; NO_NEURON where there are none.

    Args:
        place_N: of each neuron; -1 stands for none.
    """
    chosen = place_N >= 0
    sums_QP = counts_QN.new_zeros(len(counts_QN), places)
    sums_QP.index_add_(1, place_N[chosen], counts_QN[:, chosen])
    neurons_P = torch.bincount(place_N[chosen], minlength=places)
    return torch.where(neurons_P > 0, sums_QP / neurons_P.clamp(min=1), NO_NEURON)


def weighted_scores(
    counts_QN: Tensor, response_NP: Tensor, *, least_share: float = 0.1, many: float = 0.02
) -> Tensor:
    """Scores in which a neuron stands for several places (weighted assignment), [Q, P]; NO_NEURON as above.

    A neuron stands for the places that got more than `least_share` of its training spikes. Each of its spikes
    counts by that share, divided by the number of these places where they are at least `many` of all places. The
    sum is multiplied by the share of the place's training spikes that come from neurons that fire now.

    Args:
        response_NP: training spikes of each neuron for each place.
    """
    share_NP = response_NP / response_NP.sum(1, keepdim=True).clamp(min=torch.finfo(response_NP.dtype).tiny)
    stands_NP = share_NP > least_share
    number_N1 = stands_NP.sum(1, keepdim=True)
    divisor_N1 = torch.where(number_N1 >= many * response_NP.shape[1], number_N1.clamp(min=1), 1)
    sums_QP = counts_QN @ (share_NP * stands_NP / divisor_N1)
    trained_NP = response_NP * stands_NP
    present_QP = (counts_QN > 0).to(trained_NP.dtype) @ trained_NP
    scores_QP = sums_QP * present_QP / trained_NP.sum(0).clamp(min=torch.finfo(trained_NP.dtype).tiny)
    return torch.where(stands_NP.any(0), scores_QP, NO_NEURON)
