"""The neurons of other libraries are set to the same equations as ours: same spikes, same gradients.

Shapes: T spike time, N neurons.
"""

from __future__ import annotations

import pytest
import torch

from neuromix.bench import peers

PEERS = ["compiled", "spikingjelly", "snntorch", "norse"]


@pytest.fixture(params=PEERS)
def peer(request):
    try:
        return getattr(peers, request.param)()
    except ModuleNotFoundError as error:
        pytest.skip(f"{error.name} is not installed")


def random_input():
    return 1.5 * torch.randn(8, 1000, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def exact_input():
    """Multiples of 1/64: however a library orders its sums, they are exact, and some hit the threshold itself."""
    return (64 * random_input()).round() / 64


def test_same_spikes(peer, exact_input):
    spikes_TN = peers.neuromix()(exact_input)
    assert 0 < spikes_TN.mean() < 1
    assert torch.equal(peer(exact_input), spikes_TN)


def test_the_threshold_itself_fires(peer):
    x_TN = torch.tensor([[2.0, 2 - 2**-22, 2 + 2**-22, 1.0], [0.0, 0.0, 0.0, 1.5]])
    assert peer(x_TN).tolist() == [[1, 0, 1, 0], [0, 0, 0, 1]]


def test_same_spikes_and_gradients_of_any_input(peer):
    grad_TN = torch.randn(8, 1000, generator=torch.Generator().manual_seed(1))

    def run(neuron):
        x_TN = random_input().requires_grad_()
        spikes_TN = neuron(x_TN)
        spikes_TN.backward(grad_TN)
        return spikes_TN, x_TN.grad

    (spikes_TN, gradient_TN), (expected_TN, expected_gradient_TN) = run(peer), run(peers.neuromix())
    # v + (x - v)/2 and v/2 + x/2 may round to either side of the threshold.
    same_N = (spikes_TN == expected_TN).all(0)
    assert same_N.float().mean() > 0.99
    torch.testing.assert_close(gradient_TN[:, same_N], expected_gradient_TN[:, same_N], rtol=1e-4, atol=1e-5)
