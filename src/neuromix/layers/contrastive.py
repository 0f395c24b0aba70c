"""Losses that bring together, in one space, what belongs together in two kinds of data.

Shapes: A rows of the one kind, B of the other, S support samples, Q queries, K prototypes, P axes of the space.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from neuromix.core.errors import ShapeError


class Embeddings(NamedTuple):
    """Where samples of two kinds lie in one space.

    Attributes:
        first, second: [B, P] each, sample by sample; of length 1 or, where nothing is left of a sample, 0.
        temperature: that their similarities are divided by.
    """

    first: Tensor
    second: Tensor
    temperature: float = 1.0


def similarity(first_AP: Tensor, second_BP: Tensor, temperature: float = 1.0) -> Tensor:
    """Dot products / temperature: [A, B], of embeddings that usually have length 1."""
    return first_AP @ second_BP.T / temperature


def same_class(first_A: Tensor, second_B: Tensor) -> Tensor:
    """Which pairs have one label: bool [A, B]."""
    return first_A[:, None] == second_B[None]


def contrastive_loss(similarity_AB: Tensor, positive_AB: Tensor) -> Tensor:
    """The mean of both directions' cross-entropy, where all positives of a row (column) have the same weight.

    With q_ij = 1 / (positives of row i) on its positives, a row costs -sum_j q_ij log softmax_j(S_ij), and a column
    likewise; rows, and columns, are averaged. One that has no positive says nothing and is left out. A batch of one
    class costs log B at least, and draws all similarities to one value.

    Raises:
        ShapeError: the two are not matrices of one shape, or there is no positive pair.
    """
    if similarity_AB.dim() != 2 or positive_AB.shape != similarity_AB.shape:
        raise ShapeError(
            f"similarities and positives are [A, B], got {list(similarity_AB.shape)} and {list(positive_AB.shape)}"
        )
    if not positive_AB.any():
        raise ShapeError("a contrastive loss needs a positive pair; no class is in both kinds of data")
    return (_one_way(similarity_AB, positive_AB) + _one_way(similarity_AB.T, positive_AB.T)) / 2


def _one_way(similarity_AB: Tensor, positive_AB: Tensor) -> Tensor:
    positive_AB = positive_AB.to(similarity_AB.dtype)
    count_A = positive_AB.sum(1)
    cost_A = -(positive_AB * similarity_AB.log_softmax(1)).sum(1) / count_A.clamp_min(1)
    return cost_A.sum() / (count_A > 0).sum()


def prototypes(support_SP: Tensor, label_S: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of each class: [K, P], and its labels [K], ascending."""
    labels_K, number_S = torch.unique(label_S, return_inverse=True)
    member_KS = F.one_hot(number_S, len(labels_K)).T.to(support_SP.dtype)
    return member_KS @ support_SP / member_KS.sum(1, keepdim=True), labels_K


def prototype_loss(support_SP: Tensor, support_S: Tensor, query_QP: Tensor, query_Q: Tensor) -> Tensor:
    """Cross-entropy of queries, whose score for a class is minus the squared distance to its prototype.

    Args:
        support_SP, support_S: embeddings, and their labels, of which prototypes are the class means.
        query_QP, query_Q: embeddings and labels of the queries.

    Raises:
        ShapeError: no query, or one of a class that has no support.
    """
    prototype_KP, labels_K = prototypes(support_SP, support_S)
    is_class_QK = same_class(query_Q, labels_K)
    if len(query_Q) == 0 or not is_class_QK.any(1).all():
        raise ShapeError("a prototype loss needs queries, all of classes that have support samples")
    distance_QK = (query_QP[:, None] - prototype_KP).square().sum(-1)
    return F.cross_entropy(-distance_QK, is_class_QK.to(torch.int64).argmax(1))
