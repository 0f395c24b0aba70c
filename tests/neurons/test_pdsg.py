"""PDSG, a surrogate that looks back, against its formula; and swapping surrogates in a whole model.

Shapes: T spike time, B batch, C channels, F features, H W map.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from neuromix.core.errors import ConfigError, NeuromixError, ShapeError
from neuromix.core.stream import stream
from neuromix.models.vision.pdsg_victims import PDSGResNet, PDSGResNetConfig
from neuromix.neurons import IF, ILIF, LIF, PLIF, AdaptiveLIF, CubaLIF, LeakyIntegrator, make_surrogate
from neuromix.neurons.swapped import swapped

# The axes that sigma is taken over in a run [T, B, ...], for steps as the authors tell them apart.
POOLED = {
    (3, 5, 4, 4): (0, 1, 3, 4),  # a map, square
    (2, 3, 4, 5): (0, 1, 2, 4),  # not square: taken for tokens
    (3, 4, 6): (0, 1, 2),
    (4, 7): (0, 1),
    (2, 2, 3, 2, 2): (0, 1),
    (5,): (0, 1),
}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_formula(u_T: Tensor, axes: tuple[int, ...]) -> Tensor:
    """One step after the other, each from the stack of all so far."""
    steps = []
    for t in range(len(u_T)):
        seen = u_T[: t + 1]
        count = math.prod(seen.shape[axis] for axis in axes)
        sigma = seen.std(axes, keepdim=True)[0] if count > 1 else torch.zeros_like(seen[0])
        sigma = torch.where(sigma == 0, 1.0, sigma)
        exponent = (u_T[t] - sigma / 2) ** 2 / (2 * sigma**2)
        steps.append(torch.exp(-exponent) / (math.sqrt(2 * math.pi) * sigma))
    return torch.stack(steps)


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(sorted(POOLED)), st.integers(1, 5), st.integers(0, 1000))
def test_density_by_the_deviation_so_far(step: tuple[int, ...], times: int, seed: int) -> None:
    u_T = normal(times, *step, seed=seed)
    torch.testing.assert_close(make_surrogate("pdsg").derivative(u_T), by_formula(u_T, POOLED[step]))


@pytest.mark.parametrize("value", [0.0, 0.3, -1.7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_membranes_have_deviation_one(value: float, dtype: torch.dtype) -> None:
    u_T = torch.full((3, 2, 4, 7, 7), value, dtype=dtype)
    expected = math.exp(-((value - 0.5) ** 2) / 2) / math.sqrt(2 * math.pi)
    torch.testing.assert_close(make_surrogate("pdsg").derivative(u_T), torch.full_like(u_T, expected))


def test_the_channel_axis_can_be_told() -> None:
    u_T = normal(3, 2, 4, 5, 6)
    found = make_surrogate(("pdsg", {"channel_axis": 1})).derivative(u_T)
    torch.testing.assert_close(found, by_formula(u_T, (0, 1, 3, 4)))
    with pytest.raises(ShapeError, match="no channel axis 4"):
        make_surrogate(("pdsg", {"channel_axis": 4})).derivative(u_T)


def test_the_shift_moves_the_window() -> None:
    u_T = normal(2, 3, 4)
    pdsg = make_surrogate(("pdsg", {"shift": 0.0}))
    assert (pdsg.derivative(u_T) - pdsg.derivative(-u_T)).abs().max() < 1e-12


class _Spike(torch.autograd.Function):
    """A spike whose derivative is known when it fires."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, derivative: Tensor) -> Tensor:
        ctx.save_for_backward(derivative)
        return (z >= 0).to(z.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] * ctx.saved_tensors[0], None


def run_by_formula(x_T: Tensor, tau: float, decay_input: bool, v_reset: float | None, detach: bool) -> Tensor:
    """The paper's neuron, written down step by step."""
    rest = 0.0 if v_reset is None else v_reset
    v, seen, spikes = torch.zeros_like(x_T[0]), [], []
    axes = POOLED.get(tuple(x_T.shape[1:]), (0, 1))
    for x in x_T:
        h = v + (x - (v - rest)) / tau if decay_input else v - (v - rest) / tau + x
        seen.append(h.detach() - 1.0)
        s = _Spike.apply(h - 1.0, by_formula(torch.stack(seen), axes)[-1])  # type: ignore[no-untyped-call]
        fired = s.detach() if detach else s
        v = h - fired if v_reset is None else h * (1 - fired) + rest * fired
        spikes.append(s)
    return torch.stack(spikes)


@settings(deadline=None, max_examples=40)
@given(
    step=st.sampled_from(sorted(POOLED)),
    tau=st.sampled_from([1.0, 1.5, 2.0, 4.0]),
    decay_input=st.booleans(),
    v_reset=st.sampled_from([0.0, -0.4, 0.2, None]),
    detach=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_neuron_by_the_papers_formula(
    step: tuple[int, ...], tau: float, decay_input: bool, v_reset: float | None, detach: bool, seed: int
) -> None:
    x_T = (1.5 * normal(4, *step, seed=seed) + 0.5).requires_grad_()
    up_T = normal(4, *step, seed=seed + 1)
    neuron = LIF(tau, 1.0, v_reset, decay_input, detach, v_init=0.0)
    expected = run_by_formula(x_T, tau, decay_input, v_reset, detach)
    with swapped(neuron):
        spikes = neuron(x_T)
    assert torch.equal(spikes, expected)
    wanted, found = (torch.autograd.grad(y, x_T, up_T)[0] for y in (expected, spikes))
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)


def test_linear_layers_with_one_sample_have_finite_gradients() -> None:
    x_T = normal(3, 1, 6).requires_grad_()
    neuron = LIF()
    with swapped(neuron):
        (gradient,) = torch.autograd.grad(neuron(3 * x_T).sum(), x_T)
    assert gradient.isfinite().all() and gradient[0].any()


NEURONS: dict[str, Any] = {
    "if": lambda: IF(),
    "lif": lambda: LIF(),
    "soft": lambda: LIF(v_reset=None, detach_reset=False),
    "next": lambda: LIF(v_reset=None, reset="next", detach_reset=False),
    "ratio": lambda: LIF(v_threshold=0.5, surrogate_input="ratio"),
    "plif": lambda: PLIF(),
    "cuba": lambda: CubaLIF(),
    "adaptive": lambda: AdaptiveLIF(),
    "rate": lambda: LIF(v_reset=None, height="threshold", gradient="rate"),
}


@pytest.mark.parametrize("name", NEURONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_firing_neuron_keeps_its_spikes(name: str, dtype: torch.dtype) -> None:
    neuron = NEURONS[name]().to(dtype)
    x_T = (normal(5, 3, 4, 6, 6) + 0.5).to(dtype).requires_grad_()
    own = neuron(x_T)
    with swapped(neuron):
        other = neuron(x_T)
    assert torch.equal(own, other) and own.any()
    gradients = [torch.autograd.grad(y.square().sum(), x_T)[0] for y in (own, other)]
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert not torch.allclose(*gradients)


def test_a_ratio_gives_the_gradient_of_the_difference() -> None:
    # sigma is in the same units as u: what the units are does not matter.
    x_T, gradients = normal(4, 3, 5, 6, 6).requires_grad_(), []
    for kind in ("ratio", "difference"):
        neuron = LIF(v_threshold=0.5, surrogate_input=kind)
        with swapped(neuron):
            gradients.append(torch.autograd.grad(neuron(x_T).sum(), x_T)[0])
    torch.testing.assert_close(*gradients)


def small_net() -> PDSGResNet:
    torch.manual_seed(0)
    config = {"blocks": (1, 1), "widths": (4, 8), "time_steps": 3, "num_classes": 3}
    return PDSGResNet(PDSGResNetConfig.from_dict(config)).double().eval()


def test_a_model_gets_its_own_back() -> None:
    model, x = small_net(), normal(2, 3, 8, 8).requires_grad_()
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    own = [m.surrogate for m in model.modules() if isinstance(m, LIF)]
    before = torch.autograd.grad(model(x).square().sum(), x)[0]
    with pytest.raises(RuntimeError, match="of the test"), swapped(model, ("atan", {"alpha": 5.0})):
        assert {m.surrogate for m in model.modules() if isinstance(m, LIF)} == {
            make_surrogate(("atan", {"alpha": 5.0}))
        }
        raise RuntimeError("of the test")
    assert [m.surrogate for m in model.modules() if isinstance(m, LIF)] == own
    assert torch.equal(torch.autograd.grad(model(x).square().sum(), x)[0], before)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())


def test_train_and_eval_mode_have_the_same_gradient() -> None:
    model, x, gradients = small_net(), normal(2, 3, 8, 8).requires_grad_(), []
    for training in (False, True):
        for module in model.modules():
            if not isinstance(module, nn.BatchNorm2d):
                module.training = training
        with swapped(model):
            gradients.append(torch.autograd.grad(model(x).square().sum(), x)[0])
    assert torch.equal(*gradients) and gradients[0].any()


def test_step_by_step_is_refused() -> None:
    model = small_net()
    with swapped(model), pytest.raises(ConfigError, match="looks at all steps from the first on"):
        session = stream(model).session()
        for x in normal(2, 1, 3, 8, 8):
            session.step(x)


@pytest.mark.parametrize(
    "neuron", [LeakyIntegrator(), ILIF(), nn.ReLU()], ids=["integrator", "integers", "relu"]
)
def test_without_a_neuron_that_fires_there_is_nothing_to_swap(neuron: nn.Module) -> None:
    with pytest.raises(ConfigError, match="no spiking neuron whose surrogate could be"), swapped(neuron):
        pass


def test_an_unknown_surrogate_is_named() -> None:
    with pytest.raises(NeuromixError, match="did you mean pdsg"), swapped(LIF(), "pdgs"):
        pass
