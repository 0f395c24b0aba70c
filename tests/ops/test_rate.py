"""Weighted means over spike time, and neurons that go backward by their mean response."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuromix.core.errors import ConfigError, ShapeError
from neuromix.neurons.integrate_and_fire import IF, rate_decay
from neuromix.neurons.lif import LIF, PLIF, AdaptiveLIF, CubaLIF
from neuromix.neurons.neuron import make_neuron
from neuromix.ops.rate import weighted_rate

DECAY = math.exp(-0.05)


def lif(**options):
    given = {
        "decay": DECAY,
        "v_threshold": 0.3,
        "v_reset": None,
        "fire_at": 0.3,
        "height": "threshold",
        "height_scale": 20.0,
        "gradient": "rate",
        "learnable": ("v_threshold",),
    }
    return LIF(**{**given, **options})


@settings(deadline=None, max_examples=30)
@given(steps=st.integers(1, 7), decay=st.floats(0.1, 1.0))
def test_weighted_rate_is_a_weighted_mean(steps, decay):
    x_T = torch.randn(steps, 2, 3, generator=torch.Generator().manual_seed(steps), dtype=torch.float64)
    weights = torch.tensor([decay ** (steps - t) for t in range(1, steps + 1)], dtype=torch.float64)
    expected = (weights[:, None, None] * x_T).sum(0) / weights.sum()
    torch.testing.assert_close(weighted_rate(x_T, decay), expected)
    torch.testing.assert_close(
        weighted_rate(torch.ones_like(x_T), decay), torch.ones(2, 3, dtype=torch.float64)
    )


def test_no_step_is_refused():
    with pytest.raises(ShapeError):
        weighted_rate(torch.zeros(0, 2), 0.9)


def test_the_mean_output_follows_the_clipped_line():
    """For a constant input the rate of many steps is x, up to a spike as high as the threshold at each of them."""
    x = torch.tensor([-1.0, 0.0, 1.5, 3.0, 5.0, 50.0], dtype=torch.float64)
    neuron = lif().double()
    with torch.no_grad():
        y = weighted_rate(neuron(x.expand(4000, 1, -1)), DECAY)[0]
    assert y[0] == y[1] == 0
    torch.testing.assert_close(y, x.clamp(0, 0.3 * 20), atol=0.5, rtol=0)


def test_backward_is_that_of_the_line():
    x_T = torch.linspace(-2, 12, 40, dtype=torch.float64).view(1, 2, 20).repeat(5, 1, 1).requires_grad_()
    up_T = torch.randn(5, 2, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    neuron = lif().double()
    neuron(x_T).backward(up_T)
    line = torch.linspace(-2, 12, 40, dtype=torch.float64).view(2, 20)
    inside = (line > 0) & (line < 6)
    expected = torch.where(inside, weighted_rate(up_T, DECAY), 0).expand(5, 2, 20)
    torch.testing.assert_close(x_T.grad, expected)
    clipped = torch.where(line > 6, 5 * weighted_rate(up_T, DECAY), 0).sum() * 0.05
    torch.testing.assert_close(neuron.v_threshold.grad, clipped)


def test_an_integrator_passes_means_on():
    neuron = IF(
        v_reset=None, fire_at=0.5, height="threshold", gradient="rate", learnable=("v_threshold",)
    ).double()
    x_T = torch.tensor([[[0.25, 2.0, -1.0]]], dtype=torch.float64).repeat(4, 1, 1).requires_grad_()
    y_T = neuron(x_T)
    torch.testing.assert_close(y_T.mean(0), torch.tensor([[0.25, 1.0, 0.0]], dtype=torch.float64))
    y_T.mean(0).sum().backward()
    torch.testing.assert_close(
        x_T.grad, torch.tensor([[[0.25, 0.0, 0.0]]], dtype=torch.float64).expand(4, 1, 3)
    )
    torch.testing.assert_close(neuron.v_threshold.grad, torch.ones((), dtype=torch.float64))


@pytest.mark.parametrize("channels", [None, 3])
def test_thresholds_a_channel_get_gradients_of_their_own(channels):
    neuron = lif(channels=channels).double()
    x_T = torch.full((4, 2, 3, 2, 2), 9.0, dtype=torch.float64)
    neuron(x_T).sum().backward()
    assert neuron.v_threshold.grad.shape == neuron.v_threshold.shape
    torch.testing.assert_close(
        neuron.v_threshold.grad.sum(), torch.tensor(4 * 24 * 0.05, dtype=torch.float64)
    )


def test_outputs_and_states_do_not_depend_on_the_gradient():
    x_T = torch.randn(6, 2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 4
    by_rate, by_spike = lif().double(), lif(gradient="surrogate").double()
    y_T, state = by_rate(x_T, return_state=True)
    expected_T, expected = by_spike(x_T, return_state=True)
    torch.testing.assert_close(y_T, expected_T)
    torch.testing.assert_close(state.v, expected.v)
    assert set(y_T.unique().tolist()) == {0.0, float(by_rate.v_threshold.detach()) * 20}
    state, steps = by_rate.initial_state(x_T[0]), []
    for x in x_T:
        y, state = by_rate.step(x, state)
        steps.append(y)
    torch.testing.assert_close(torch.stack(steps), expected_T)


def test_a_learnt_threshold_is_held():
    neuron = lif(least_threshold=5e-4)
    with torch.no_grad():
        neuron.v_threshold.fill_(-1.0)
    neuron.after_step()
    assert float(neuron.v_threshold) == pytest.approx(5e-4)
    constant = LIF(least_threshold=0.5)
    constant.after_step()
    assert constant.v_threshold == 1.0


def test_rate_decay_is_that_of_the_neurons():
    assert rate_decay(torch.nn.Sequential(torch.nn.Linear(2, 2), lif())) == DECAY
    assert rate_decay(LIF()) == 1.0 == rate_decay(torch.nn.ReLU())


def test_bad_input():
    rate = {"v_reset": None, "height": "threshold", "gradient": "rate"}
    with pytest.raises(ConfigError, match='gradient "rate" needs v_reset None'):
        LIF(gradient="rate")
    with pytest.raises(ConfigError, match="no coefficient but v_threshold"):
        lif(learnable=("decay",))
    with pytest.raises(ConfigError, match="no coefficient but v_threshold"):
        PLIF(**rate)
    for neuron in (CubaLIF, AdaptiveLIF):
        with pytest.raises(ConfigError, match=f"{neuron.__name__} has no mean response"):
            neuron(**rate)
    with pytest.raises(ConfigError, match=r"needs a decay in \(0, 1\), got 1.0"):
        lif(decay=1.0)
    with pytest.raises(ConfigError, match=r"least_threshold must be in \(0, v_threshold\]"):
        make_neuron(("lif", {"least_threshold": 2.0}))
