from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuromix.core.errors import ConfigError, ShapeError
from neuromix.layers.delay import TINY, Delay, bumps, delay_kernel, delayed_sum
from neuromix.measure import profile


def layer(max_delay=7, synapses=1, seed=0, inputs=5, outputs=4, **options):
    torch.manual_seed(seed)
    return Delay(inputs, outputs, max_delay, synapses=synapses, **options).double()


def spikes(steps=9, batch=2, inputs=5, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 3, (steps, batch, inputs), generator=generator).double()


def shifted_and_summed(x_TBI, weight_OIK, delay_OIK, tail):
    """Every synapse by itself: its input, shifted by its delay, times its weight."""
    steps, batch, _ = x_TBI.shape
    y_TBO = x_TBI.new_zeros(steps + tail, batch, len(weight_OIK))
    for (o, i, k), delay in zip(
        torch.cartesian_prod(*map(torch.arange, weight_OIK.shape)).tolist(),
        delay_OIK.flatten().tolist(),
        strict=True,
    ):
        for t in range(delay, min(steps + tail, steps + delay)):
            y_TBO[t, :, o] += weight_OIK[o, i, k] * x_TBI[t - delay, :, i]
    return y_TBO


@pytest.mark.parametrize("bump", ["gauss", "max", "v1", "v0"])
def test_a_bump_is_its_formula(bump):
    position, width, half = torch.tensor(1.3).double(), torch.tensor(0.8).double(), 3
    i = torch.arange(7).double()
    centre = position + half
    expected = {
        "gauss": torch.exp(-0.5 * ((i - centre) / (0.8 + 0.27)) ** 2),
        "max": (1.8 - (i - centre).abs()).clamp(min=0),
        "v1": (1 - (i - centre).abs()).clamp(min=0),
        "v0": torch.tensor([0, 0, 0, 0, 0.7, 0.3, 0]).double(),
    }[bump]
    expected = expected if bump == "v0" else expected / (expected.sum() + 1e-7)
    torch.testing.assert_close(bumps(position, width, 7, bump), expected)


@pytest.mark.parametrize("bump", ["gauss", "max", "v1", "v0"])
def test_gradients_of_a_kernel(bump):
    torch.manual_seed(0)
    weight = torch.randn(2, 3, 2, dtype=torch.float64, requires_grad=True)
    position = (torch.rand(2, 3, 2, dtype=torch.float64) * 4 - 2).requires_grad_()
    width = torch.full((2, 3, 2), 0.6, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda w, p: delay_kernel(w, p, width, 7, bump), (weight, position), eps=1e-7, atol=1e-5
    )


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([1, 3, 5, 9]),
    st.integers(1, 2),
    st.integers(1, 6),
    st.integers(1, 3),
    st.integers(0, 5),
    st.booleans(),
    st.integers(0, 99),
)
def test_whole_delays_are_shifts_and_sums(max_delay, synapses, steps, batch, tail, bias, seed):
    net = layer(max_delay, synapses, seed, bias=bias, tail=tail).eval()
    x = spikes(steps, batch, seed=seed)
    delay = max_delay // 2 - net.rounded.long()
    expected = shifted_and_summed(x, net.weight / (1 + TINY), delay, tail)
    expected = expected if net.bias is None else expected + net.bias
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    torch.testing.assert_close(net(x), expected, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(net.discrete()(x), expected, rtol=1e-6, atol=1e-9)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


@settings(max_examples=30, deadline=None)
@given(st.sampled_from([1, 3, 7]), st.integers(1, 8), st.integers(1, 8), st.booleans(), st.booleans())
def test_segments_and_steps_give_the_numbers_of_the_whole(max_delay, first, second, discrete, training):
    net = layer(max_delay, 2, bias=True).train(training)
    net = net.discrete() if discrete else net
    x = spikes(first + second)
    one, state = net(x[:first], return_state=True)
    two, _ = net(x[first:], state, return_state=True, ends=True)
    torch.testing.assert_close(torch.cat([one, two]), net(x))
    state, stepped = net.initial_state(x[0]), []
    for x_t in x:
        y_t, state = net.step(x_t, state)
        stepped.append(y_t)
    torch.testing.assert_close(torch.stack(stepped), net(x)[: len(x)])


def test_nothing_looks_ahead_and_the_output_goes_on():
    net = layer().eval()
    x, later = spikes(), spikes()
    later[6:] += 1
    assert torch.equal(net(x)[:6], net(later)[:6])
    assert len(net(x)) == 9 + 3


def test_delays_start_evenly_in_the_kernel_and_widths_wide():
    net = layer(25, inputs=50, outputs=50)
    position = net.position.detach()
    assert position.min() == -12 and position.max() <= 12 and abs(float(position.mean()) + 0.5) < 0.5
    assert (net.width == 12).all() and "width" in net.state_dict()
    # Kaiming-uniform over in * K with the gain of a relu.
    weight = net.weight.detach()
    assert weight.abs().max() <= (6 / 50) ** 0.5 and float(weight.std()) == pytest.approx(0.2, rel=0.05)


def test_positions_are_kept_inside_the_kernel():
    net = layer()
    with torch.no_grad():
        net.position += 100
    net.after_step()
    assert (net.position == 3).all() and (net.delay == 0).all()


def test_rounding_is_half_to_even():
    net = layer()
    with torch.no_grad():
        net.position.copy_(torch.tensor([-1.5, -0.5, 0.5, 1.5, 2.5])[None, :, None].expand(4, 5, 1))
    assert net.rounded[0, :, 0].tolist() == [-2, 0, 0, 2, 2]


def test_frozen_delays_do_not_move_and_are_whole_in_training():
    net = layer(learns=False)
    x = spikes()
    net(x).sum().backward()
    assert net.position.grad is None and net.weight.grad is not None
    torch.testing.assert_close(net.train()(x), net.eval()(x))


def test_gathered_weights_have_the_gradient_of_the_dense_kernel():
    net = layer(5, 2).eval()
    x = spikes()
    ((gathered,), (dense,)) = (
        torch.autograd.grad((y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum(), net.weight)
        for y in (net(x), dense_form(net, x))
    )
    torch.testing.assert_close(gathered, dense)


def dense_form(net, x_TBI):
    padded = torch.nn.functional.pad(x_TBI.permute(1, 2, 0), (net.max_delay - 1, net.tail))
    return torch.nn.functional.conv1d(padded, net.kernel(smooth=False)).permute(2, 0, 1)


def test_without_delays_it_is_a_linear_layer():
    net = layer(1)
    torch.testing.assert_close(net(spikes()), spikes() @ net.weight[:, :, 0].T)


def test_a_single_sample_of_a_single_step():
    assert layer(3)(spikes(1, 1)).shape == (2, 1, 4)
    assert delayed_sum(torch.ones(1, 1, 1), torch.ones(1, 1, 1), torch.zeros(1, 1, 1).long(), 1).tolist() == [
        [[1]]
    ]


def test_one_addition_for_every_spike_and_synapse():
    net = torch.nn.Sequential(layer(7, 2).eval())
    x = (spikes() > 1).double()
    seen = profile(net, (x,), batch_size=2)
    delay = net[0].delay
    read = sum(
        int((x[: max(0, 12 - d), :, i] > 0).sum()) for i in range(5) for d in delay[:, i].flatten().tolist()
    )
    assert not seen.not_counted
    assert seen.macs_dense == 12 * 4 * 5 * 2 and seen.synaptic_operations == read / 2


def test_bad_arguments():
    with pytest.raises(ConfigError, match="odd"):
        layer(4)
    with pytest.raises(ShapeError, match=r"\[T, B, 5\]"):
        layer()(spikes(inputs=6))
