"""SDA: binary in, binary out, few flips, and what it refuses.

Shapes: T spike time, N pixels.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from neuromix.core.errors import ConfigError
from neuromix.methods.attacks.sda import SDA, certainty, flipped
from neuromix.methods.attacks.victim import Victim
from tests.methods.attacks.nets import Linear, chance, linear, spiking, uniform


def frames(*shape: int, seed: int = 0) -> Tensor:
    return (uniform(*shape, seed=seed) < 0.3).double()


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 500), st.integers(1, 6), st.integers(1, 9))
def test_what_comes_back_is_binary_and_wrong_or_as_it_was(seed: int, pixels: int, copies: int) -> None:
    victim, x = linear(24, seed=seed), frames(2, 2, 2, 2, 3, seed=seed)
    label_B = victim.answers(x)
    attack = SDA(pixels=pixels, iterations=20, copies=copies)
    changed = attack(victim, x, label_B, chance(seed))
    assert changed.shape == x.shape and set(changed.unique().tolist()) <= {0.0, 1.0}
    for one, was, answer, label in zip(changed, x, victim.answers(changed), label_B, strict=True):
        assert answer != label or torch.equal(one, was)


def test_a_linear_net_is_fooled_with_the_fewest_flips() -> None:
    weight_KN = torch.zeros(2, 12, dtype=torch.float64)
    weight_KN[1] = torch.tensor([3.0, 2.5, 1, 1, 0.1, 0.1, 0.1, 0, 0, -1, -1, -1])
    weight_KN[0] = -weight_KN[1]
    weight_KN[0, 7] = 8.0  # the one event that now makes it class 0
    x = torch.zeros(1, 1, 1, 3, 4, dtype=torch.float64)
    x.view(-1)[7] = 1
    victim = Victim(Linear(weight_KN), "keep")
    assert int(victim.answers(x)) == 0

    def fools(places: tuple[int, ...]) -> bool:
        chosen_N = torch.zeros(12, dtype=torch.bool)
        chosen_N[list(places)] = True
        return int(victim.answers(flipped(x, chosen_N))) == 1

    fewest = next(n for n in range(13) if any(fools(c) for c in itertools.combinations(range(12), n)))
    changed = SDA(pixels=4, iterations=10)(victim, x, torch.tensor([0]), chance())
    assert int((changed != x).sum()) == fewest == 2


def test_reduction_puts_the_least_useful_back() -> None:
    # Three flips of which any two are enough: the weakest goes.
    weight_KN = torch.tensor([[0.0, 0, 0, 3], [1.0, 2, 2.5, 0]], dtype=torch.float64)
    x = torch.tensor([0.0, 0, 0, 1], dtype=torch.float64).view(1, 1, 1, 2, 2)
    victim, label = Victim(Linear(weight_KN), "keep"), torch.tensor([0])
    effect_N = torch.tensor([-1.0, -2.0, -2.5, torch.inf], dtype=torch.float64)
    assert SDA().reduce(victim, x, label, effect_N).tolist() == [False, True, True, False]
    with_four = torch.tensor([-1.0, -2.0, -2.5, -3.0], dtype=torch.float64)
    assert SDA().reduce(victim, x, label, with_four).tolist() == [False, False, True, True]


def test_a_pixel_that_hurts_is_not_kept() -> None:
    weight_KN = torch.tensor([[0.0, 0, 1, 5], [1.0, 2, 0, 0]], dtype=torch.float64)
    x = torch.tensor([0.0, 0, 0, 1], dtype=torch.float64).view(1, 1, 1, 2, 2)
    victim, label = Victim(Linear(weight_KN), "keep"), torch.tensor([0])
    effect_N = SDA(pixels=4).generate(victim, x, label, chance())
    assert effect_N is not None and effect_N.tolist() == [-1.0, -2.0, torch.inf, -5.0]


def test_more_pixels_are_asked_for_than_there_are() -> None:
    victim, x = linear(8, seed=3), frames(1, 2, 1, 2, 2, seed=3)
    changed = SDA(pixels=100, iterations=3)(victim, x, victim.answers(x), chance())
    assert set(changed.unique().tolist()) <= {0.0, 1.0}


def test_one_that_resists_comes_back_as_it_was() -> None:
    # Class 0 is ahead by the number of events, and level with class 1 without any.
    weight_KN = torch.tensor([[2.0] * 8, [1.0] * 8], dtype=torch.float64)
    victim, x = Victim(Linear(weight_KN), "keep"), torch.ones(1, 2, 1, 2, 2, dtype=torch.float64)
    assert torch.equal(SDA(pixels=3, iterations=4)(victim, x, torch.tensor([0]), chance()), x)


def test_what_is_wrong_already_is_left_alone() -> None:
    victim, x = linear(24), frames(3, 2, 2, 2, 3)
    wrong_B = (victim.answers(x) + 1) % 4
    assert torch.equal(SDA()(victim, x, wrong_B, chance()), x)


def test_copies_at_once_do_not_matter() -> None:
    victim, x = spiking(channels=2), frames(1, 3, 2, 8, 8)
    label = victim.answers(x)
    found = [SDA(pixels=5, iterations=4, copies=n)(victim, x, label, chance()) for n in (1, 7, 64)]
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_loss_is_zero_where_the_answer_is_wrong() -> None:
    logits_BK = torch.tensor([[1.0, 3.0, 0.5], [2.0, 0.0, 1.5]])
    assert certainty(logits_BK, torch.tensor([0, 0])).tolist() == [0.0, 0.5]


def test_frames_must_be_binary() -> None:
    x = frames(1, 3, 2, 8, 8)
    x[0, 0, 0, 0, 0] = 3
    with pytest.raises(
        ConfigError, match="sda flips pixels that are 0 or 1, and there is 3: take the coding binary"
    ):
        SDA()(spiking(channels=2), x, torch.tensor([0]), chance())


def test_a_gradient_of_zero_is_told() -> None:
    victim = spiking(channels=2, surrogate=("rectangle", {"width": 1e-12}))
    x = frames(2, 3, 2, 8, 8)
    with pytest.raises(ConfigError, match="zero everywhere"):
        SDA()(victim, x, victim.answers(x), chance())


def test_unhelpful_pixels_come_last_but_can_come() -> None:
    x = torch.tensor([1.0, 0.0, 1.0, 0.0], dtype=torch.float64)
    gradient = torch.tensor([0.5, 0.2, -3.0, -0.4], dtype=torch.float64)
    worth_N = SDA()._worth(x, gradient, chance())
    # A 1 needs a gradient above 0 and a 0 one below: the second and third could only raise the loss.
    assert worth_N[0] == 0.5 and worth_N[3] == 0.4
    assert 0 < worth_N[1] < 0.4 and 0 < worth_N[2] < 0.4
    assert ((worth := SDA()._worth(x, 0 * gradient, chance())) > 0).all() and (worth < 1).all()
