"""FGSM, PGD and APGD: inside the ball, up the loss, and loud where there is no gradient.

Shapes: B batch, K classes.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from neuromix.core import registry
from neuromix.core.errors import ConfigError, NeuromixError
from neuromix.methods.attacks.apgd import APGD, check_points
from neuromix.methods.attacks.attack import Attack, make_attack
from neuromix.methods.attacks.codings import CODINGS, binary, poisson
from neuromix.methods.attacks.losses import LOSSES
from neuromix.methods.attacks.signs import FGSM, PGD
from neuromix.methods.attacks.victim import Range, Victim
from tests.methods.attacks.nets import Linear, chance, linear, normal, spiking, uniform

DENSE: dict[str, Attack] = {
    "fgsm": FGSM(eps=0.1),
    "pgd": PGD(eps=0.1, steps=4),
    "apgd": APGD(eps=0.1, steps=5),
    "apgd_dlr": APGD(eps=0.1, steps=5, loss="dlr"),
}


def test_all_are_registered() -> None:
    assert set(registry.names("attack")) == {"apgd", "fgsm", "pgd", "sda"}
    assert make_attack(("pgd", {"steps": 3})) == PGD(steps=3)


def test_losses_by_their_formulas() -> None:
    logits_BK, label_B = normal(5, 4), torch.tensor([0, 3, 1, 2, 0])
    for b, (z, y) in enumerate(zip(logits_BK, label_B.tolist(), strict=True)):
        others = torch.cat([z[:y], z[y + 1 :]])
        ranked = z.sort(descending=True).values
        expected = {
            "ce": -torch.log(z.softmax(0)[y]),
            "cw": others.max() - z[y],
            "dlr": (others.max() - z[y]) / (ranked[0] - ranked[2]),
        }
        for name, value in expected.items():
            torch.testing.assert_close(LOSSES[name](logits_BK, label_B)[b], value)


def test_dlr_knows_no_scale_and_needs_three_classes() -> None:
    logits_BK, label_B = normal(3, 5), torch.tensor([0, 1, 2])
    torch.testing.assert_close(LOSSES["dlr"](logits_BK, label_B), LOSSES["dlr"](7 * logits_BK + 3, label_B))
    with pytest.raises(ConfigError, match="loss dlr needs 3 classes or more"):
        LOSSES["dlr"](logits_BK[:, :2], torch.zeros(3, dtype=torch.int64))


@settings(deadline=None, max_examples=25)
@given(st.sampled_from(sorted(DENSE)), st.integers(1, 3), st.sampled_from([1.0, None]), st.integers(0, 99))
def test_within_the_ball_and_the_range(name: str, batch: int, upper: float | None, seed: int) -> None:
    values = Range(upper)
    victim = Victim(Linear(normal(4, 18, seed=seed)), "keep", range=values)
    x = uniform(batch, 2, 3, 3, seed=seed) * (1.0 if upper else 3.0)
    label_B = victim.answers(x)
    changed = DENSE[name](victim, x, label_B, chance(seed))
    assert changed.shape == x.shape and (changed - x).abs().max() <= 0.1 + 1e-12
    assert changed.min() >= 0 and (upper is None or changed.max() <= upper)
    before, after = (F.cross_entropy(victim.logits(each), label_B) for each in (x, changed))
    assert after > before


def test_fgsm_of_a_linear_net_is_the_best_there_is() -> None:
    victim, x = linear(12, classes=2), 0.5 + 0.1 * uniform(1, 3, 2, 2)
    label_B = victim.answers(x)
    changed = FGSM(eps=0.05)(victim, x, label_B, chance())
    weight_KN = victim.model.weight_KN
    towards_N = (weight_KN[1 - label_B[0]] - weight_KN[label_B[0]]).sign()
    torch.testing.assert_close(changed.flatten(), (x.flatten() + 0.05 * towards_N).detach())
    for attack in (PGD(eps=0.05), PGD(eps=0.05, loss="cw", step=0.02), APGD(eps=0.05, steps=10)):
        torch.testing.assert_close(attack(victim, x, label_B, chance(1)), changed)


def test_each_sample_of_a_batch_is_attacked_by_itself() -> None:
    # In a net without PDSG, whose deviations are those of a batch.
    victim = spiking(surrogate="keep")
    x, label_B = uniform(3, 3, 8, 8), torch.tensor([0, 1, 2])
    for attack in (FGSM(), PGD(steps=2, random_start=False)):
        together = attack(victim, x, label_B, chance())
        alone = torch.cat([attack(victim, x[i : i + 1], label_B[i : i + 1], chance()) for i in range(3)])
        torch.testing.assert_close(together, alone)


def test_the_same_seed_gives_the_same_attack() -> None:
    victim, x, label_B = spiking(), uniform(2, 3, 8, 8), torch.tensor([0, 1])
    for attack in (PGD(steps=2), APGD(steps=3)):
        same, again, other = (attack(victim, x, label_B, chance(seed)) for seed in (0, 0, 1))
        assert torch.equal(same, again) and not torch.equal(same, other)


def test_apgd_keeps_its_best_and_ends_where_pgd_with_one_step_does_not() -> None:
    victim, x = spiking(surrogate="keep"), uniform(4, 3, 8, 8)
    label_B = victim.answers(x)
    losses = [
        F.cross_entropy(victim.logits(APGD(eps=0.02, steps=n)(victim, x, label_B, chance())), label_B)
        for n in (1, 12)
    ]
    assert losses[1] >= losses[0]


@pytest.mark.parametrize("steps", [1, 2, 10, 50, 100])
def test_check_points_come_ever_closer(steps: int) -> None:
    points = sorted(check_points(steps))
    assert all(1 <= point <= steps for point in points)
    if steps == 100:
        assert points[:4] == [22, 41, 57, 70]
        assert min(b - a for a, b in itertools.pairwise(points)) >= 6


def test_images_are_normalised_for_the_model_and_attacked_in_their_own_range() -> None:
    values = Range(1.0, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
    x = uniform(2, 3, 8, 8)
    torch.testing.assert_close(values.restored(values.normalised(x)), x)
    victim = spiking(range=values)
    model_x = (x - x.new_tensor(values.mean)[:, None, None]) / x.new_tensor(values.std)[:, None, None]
    torch.testing.assert_close(victim.logits(x), victim.model(model_x))
    changed = FGSM(eps=0.03)(victim, x, torch.tensor([0, 1]), chance())
    assert (
        float((changed - x).abs().max()) == pytest.approx(0.03) and 0 <= changed.min() <= changed.max() <= 1
    )


def test_codings() -> None:
    x = torch.tensor([[0.0, 0.4, 1.0, 2.5]], dtype=torch.float64, requires_grad=True)
    assert CODINGS["direct"](x, 3, chance()) is x and CODINGS["integer"](x, 3, chance()) is x
    assert binary(x, 3, chance()).tolist() == [[0, 0, 1, 1]]
    assert torch.autograd.grad(binary(x, 3, chance()).sum(), x)[0].tolist() == [[1, 1, 1, 1]]


def test_poisson_spikes_as_often_as_the_brought_value_says() -> None:
    x_BCHW = torch.linspace(-1, 3, 5, dtype=torch.float64).view(1, 1, 1, 5).requires_grad_()
    spikes = poisson(x_BCHW, 4000, chance())
    assert spikes.shape == (1, 4000, 1, 1, 5) and set(spikes.unique().tolist()) == {0.0, 1.0}
    rate = spikes.mean(1).flatten()
    torch.testing.assert_close(rate, torch.linspace(0, 1, 5, dtype=torch.float64), rtol=0, atol=0.03)
    (gradient,) = torch.autograd.grad(spikes[:, 0].sum(), x_BCHW)
    torch.testing.assert_close(gradient, torch.full_like(gradient, 1 / 4))
    flat = poisson(torch.ones(1, 1, 2, 2), 2, chance())
    assert flat.isfinite().all()


def test_poisson_victims_are_attacked() -> None:
    victim = spiking(coding="poisson", chance=chance())
    x, label_B = uniform(2, 3, 8, 8), torch.tensor([0, 1])
    assert victim.shown(x).shape == (2, 3, 3, 8, 8)
    assert (FGSM(eps=0.1)(victim, x, label_B, chance()) - x).abs().max() > 0.09


@pytest.mark.parametrize("name", ["fgsm", "pgd", "apgd"])
def test_a_gradient_of_zero_is_told(name: str) -> None:
    victim = spiking(surrogate=("rectangle", {"width": 1e-12}))
    with pytest.raises(ConfigError, match="gradient of the input is zero everywhere"):
        make_attack(name)(victim, uniform(2, 3, 8, 8), torch.tensor([0, 1]), chance())


class _Steps(Linear):
    def forward(self, x: Tensor) -> Tensor:
        return (super().forward(x) > 0).to(x.dtype)


class _Blows(Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (x.flatten(1)[:, :1] - x.flatten(1)[:, :1]).sqrt()


@pytest.mark.parametrize(
    ("model", "message"), [(_Steps, "no gradient leads back to the input"), (_Blows, "is not finite")]
)
def test_a_model_that_lets_no_gradient_through_is_told(model: Any, message: str) -> None:
    net = model(normal(3, 12))
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(ConfigError, match=message):
        FGSM()(Victim(net, "keep"), uniform(1, 3, 2, 2), torch.tensor([0]), chance())


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("fgms", "unknown attack 'fgms'; did you mean fgsm"),
        (("fgsm", {"eps": 0.0}), "eps must be positive"),
        (("pgd", {"steps": 0}), "steps must be positive"),
        (("pgd", {"step": -1.0}), "step must be positive"),
        (("sda", {"eps": 0.1}), "unknown SDA key 'eps'"),
        (("pgd", {"loss": "mse"}), "must be one of 'ce', 'cw', 'dlr'"),
    ],
)
def test_wrong_values(spec: Any, message: str) -> None:
    with pytest.raises(NeuromixError, match=message):
        make_attack(spec)


@pytest.mark.parametrize("attack", [FGSM(eps=2.0), PGD(eps=8.0), APGD(eps=1.5)])
def test_eps_beyond_the_range(attack: Attack) -> None:
    with pytest.raises(ConfigError, match=r"eps is above 0 and at most 1 for values in \[0, 1\]"):
        attack(linear(12), uniform(1, 3, 2, 2), torch.tensor([0]), chance())
