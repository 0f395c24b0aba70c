"""Surrogate derivatives: their formulas as papers give them, and one that a user adds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from neuromix.core import registry
from neuromix.core.errors import NeuromixError
from neuromix.neurons import LIF, Surrogate, make_surrogate, register_surrogate

U = torch.linspace(-3, 3, 601, dtype=torch.float64)
PRIMITIVES = {  # smooth steps whose derivatives they are
    "sigmoid": lambda u, alpha: torch.sigmoid(alpha * u),
    "atan": lambda u, alpha: torch.atan(torch.pi / 2 * alpha * u) / torch.pi + 0.5,
    "fast_sigmoid": lambda u, alpha: u / (1 + alpha * u.abs()),
    "erf": lambda u, alpha: torch.erfc(-alpha * u) / 2,
}


@pytest.mark.parametrize("name", PRIMITIVES)
@pytest.mark.parametrize("alpha", [1.0, 2.0, 5.0])
def test_derivatives_of_smooth_steps(name: str, alpha: float) -> None:
    u = U.clone().requires_grad_()
    (expected,) = torch.autograd.grad(PRIMITIVES[name](u, alpha).sum(), u)
    derivative = make_surrogate((name, {"alpha": alpha})).derivative(U)
    torch.testing.assert_close(derivative, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["triangle", "rectangle", "sigmoid", "atan", "erf"])
def test_area_is_one(name: str) -> None:
    u = torch.linspace(-200, 200, 2_000_001, dtype=torch.float64)
    area = torch.trapezoid(make_surrogate(name).derivative(u), u)
    assert float(area) == pytest.approx(1.0, abs=2e-3)


def test_as_papers_give_them() -> None:
    def values(spec: object) -> Tensor:
        return make_surrogate(spec).derivative(U)

    zero = torch.zeros_like(U)
    close = torch.testing.assert_close
    # IIR-SNN: 0.3 * max(0, 1 - |z|), z in units of the threshold.
    close(values(("triangle", {"scale": 0.3})), 0.3 * torch.maximum(zero, 1 - U.abs()))
    # SLTT: max(0, 1 - |u - 1|), and its options.
    close(values("triangle"), torch.maximum(zero, 1 - U.abs()))
    s = torch.sigmoid(4 * U)
    close(values("sigmoid"), 4 * s * (1 - s))
    # The quadratic gate of the DVS transfer: 2 - 4|u| where |u| <= 1/2.
    close(values(("triangle", {"width": 0.5})), torch.where(U.abs() <= 0.5, 2 - 4 * U.abs(), zero))
    # DCLS delays: arctan, alpha 5.
    close(values(("atan", {"alpha": 5.0})), 2.5 / (1 + (torch.pi / 2 * 5 * U) ** 2))
    # The liquid state machine: 1 / (2*0.25) where |u| < 0.25.
    close(values(("rectangle", {"width": 0.5, "closed": False})), torch.where(U.abs() < 0.25, 2.0, 0.0).to(U))


@pytest.mark.parametrize("closed", [True, False])
def test_the_border_of_a_rectangle(closed: bool) -> None:
    # A neuron without input lies on it where the threshold is half the width.
    surrogate = ("rectangle", {"closed": closed})
    x_T = torch.zeros(1, 3, requires_grad=True)
    LIF(decay=0.25, decay_input=False, v_threshold=0.5, surrogate=surrogate)(x_T).sum().backward()
    assert x_T.grad is not None and x_T.grad.tolist() == [[float(closed)] * 3]


@pytest.mark.parametrize(
    "name", sorted(set(registry.entries("surrogate")) - {"pdsg"})
)  # takes its width itself
def test_widths_must_be_positive(name: str) -> None:
    field = "width" if name in ("triangle", "rectangle") else "alpha"
    for options in ({field: 0.0}, {"scale": -1.0}):
        with pytest.raises(NeuromixError, match="must be positive"):
            make_surrogate((name, options))


@pytest.fixture
def gaussian() -> Iterator[str]:
    @register_surrogate("gaussian of a test")
    @dataclass(frozen=True)
    class Gaussian(Surrogate):
        width: float = 1.0

        def derivative(self, u: Tensor) -> Tensor:
            return torch.exp(-(u / self.width).square())

    yield "gaussian of a test"
    registry._entries["surrogate"].pop("gaussian of a test")


def test_a_user_adds_one_in_five_lines(gaussian: str) -> None:
    neuron = LIF(tau=2.0, surrogate=(gaussian, {"width": 0.5}))
    x_T = torch.randn(
        1, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True
    )
    y_T = neuron(x_T)
    assert torch.equal(y_T, LIF(tau=2.0)(x_T))
    y_T.sum().backward()
    expected = 0.5 * torch.exp(-((x_T.detach() / 2 - 1) / 0.5).square())
    torch.testing.assert_close(x_T.grad, expected)
    compiled = torch.compile(neuron, backend="aot_eager", fullgraph=True)
    (gradient,) = torch.autograd.grad(compiled(x_T).sum(), x_T)
    torch.testing.assert_close(gradient, expected)
