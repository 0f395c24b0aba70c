"""The losses of a shared space: against their formulas, and what they refuse.

Shapes: A, B rows of two kinds, S support, Q queries, P axes.
"""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuromix.core.errors import ShapeError
from neuromix.layers.contrastive import (
    contrastive_loss,
    prototype_loss,
    prototypes,
    same_class,
    similarity,
)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_hand(scores, positive):
    """Row by row, then column by column."""
    total = 0.0
    for matrix, pairs in ((scores, positive), (scores.T, positive.T)):
        costs = []
        for row, is_positive in zip(matrix, pairs, strict=True):
            chosen = is_positive.nonzero().flatten().tolist()
            if chosen:
                normaliser = math.log(sum(math.exp(v) for v in row.tolist()))
                costs.append(sum(normaliser - float(row[j]) for j in chosen) / len(chosen))
        total += sum(costs) / len(costs) / 2
    return total


@settings(max_examples=30, deadline=None)
@given(a=st.integers(1, 5), b=st.integers(1, 5), classes=st.integers(1, 3), seed=st.integers(0, 99))
def test_contrastive_loss(a, b, classes, seed):
    generator = torch.Generator().manual_seed(seed)
    first_A = torch.randint(classes, (a,), generator=generator)
    second_B = torch.randint(classes, (b,), generator=generator)
    scores, positive = normal(a, b, seed=seed), same_class(first_A, second_B)
    if not positive.any():
        with pytest.raises(ShapeError, match="needs a positive pair"):
            contrastive_loss(scores, positive)
        return
    assert float(contrastive_loss(scores, positive)) == pytest.approx(by_hand(scores, positive))


def test_pairs_alone_are_ordinary_cross_entropy():
    scores, label = normal(5, 5), torch.arange(5)
    cross = torch.nn.functional.cross_entropy
    expected = (cross(scores, label) + cross(scores.T, label)) / 2
    torch.testing.assert_close(contrastive_loss(scores, same_class(label, label)), expected)


def test_a_batch_of_one_class_asks_for_equal_similarities():
    scores = normal(4, 4).requires_grad_()
    one = torch.zeros(4, dtype=torch.int64)
    loss = contrastive_loss(scores, same_class(one, one))
    loss.backward()
    assert loss >= math.log(4) and scores.grad.isfinite().all()
    equal = contrastive_loss(torch.full((4, 4), 0.3), same_class(one, one))
    assert float(equal) == pytest.approx(math.log(4), rel=1e-5)


def test_temperature_divides():
    first, second = normal(3, 4), normal(2, 4, seed=1)
    torch.testing.assert_close(similarity(first, second, 0.5), 2 * first @ second.T)


def test_prototypes_are_class_means():
    support, label = normal(5, 3), torch.tensor([7, 2, 7, 2, 7])
    found, labels = prototypes(support, label)
    assert labels.tolist() == [2, 7]
    torch.testing.assert_close(found, torch.stack([support[[1, 3]].mean(0), support[[0, 2, 4]].mean(0)]))


def test_prototype_loss():
    support, query = normal(4, 3), normal(2, 3, seed=1)
    support_label, query_label = torch.tensor([0, 4, 4, 0]), torch.tensor([4, 0])
    zero, four = support[[0, 3]].mean(0), support[[1, 2]].mean(0)
    costs = []
    for q, own, other in ((query[0], four, zero), (query[1], zero, four)):
        scores = [-float((q - own).square().sum()), -float((q - other).square().sum())]
        costs.append(math.log(sum(map(math.exp, scores))) - scores[0])
    loss = prototype_loss(support, support_label, query, query_label)
    assert float(loss) == pytest.approx(sum(costs) / 2)


def test_prototype_loss_of_one_class_is_zero():
    one = torch.zeros(3, dtype=torch.int64)
    assert float(prototype_loss(normal(3, 2), one, normal(3, 2), one)) == 0


@pytest.mark.parametrize(("queries", "label"), [(0, []), (1, [5])])
def test_prototype_loss_refuses(queries, label):
    support_label = torch.tensor([0, 1])
    with pytest.raises(ShapeError, match="of classes that have support"):
        prototype_loss(
            normal(2, 3), support_label, normal(queries, 3), torch.tensor(label, dtype=torch.int64)
        )


def test_shapes_that_do_not_fit():
    with pytest.raises(ShapeError, match=r"got \[2, 3\] and \[3, 2\]"):
        contrastive_loss(torch.zeros(2, 3), torch.ones(3, 2, dtype=torch.bool))
