"""memory: peaks worked out by hand, tensors that only autograd holds, and a model that is left alone."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.checkpoint import checkpoint

from neuromix.core import registry
from neuromix.core.errors import ConfigError
from neuromix.measure import count_parameters, forward_memory, peak_memory, training_memory
from tests.catalogue import own_entries

KIB = 256  # float32 numbers in 1 KiB


def test_what_was_freed_does_not_count():
    def run():
        for _ in range(5):
            x = torch.ones(KIB)
            x = x + 1
        return x

    assert peak_memory(run) == 2 * 1024


def test_views_and_writing_in_place_make_nothing():
    there = torch.ones(4, KIB)

    def run():
        there.add_(1)
        there[1:].t().contiguous()  # 3 KiB
        return there.view(-1)[:7].mul_(2)

    assert peak_memory(run) == 3 * 1024


def test_the_result_is_held_and_one_memory_counts_once():
    made = torch.ones(KIB)
    assert peak_memory(lambda: (torch.ones(KIB), torch.ones(KIB).view(2, -1), made.detach())) == 2 * 1024


def test_memory_that_grows():
    def run():
        x = torch.ones(KIB)
        x.resize_(3 * KIB)
        del x
        return torch.ones(KIB)

    assert peak_memory(run) == 3 * 1024


@given(st.integers(1, 6))
def test_what_autograd_keeps_counts(length):
    """exp saves its result: after `length` of them so many tensors live, and backward makes two more."""
    x = torch.zeros(KIB, requires_grad=True)

    def forward():
        y = x
        for _ in range(length):
            y = y.exp()
        return y

    assert peak_memory(forward) == length * 1024
    with torch.no_grad():
        assert peak_memory(forward) == min(length, 2) * 1024

    def again():
        return checkpoint(forward, use_reentrant=False)

    assert peak_memory(again) == min(length, 2) * 1024


def stack(width=64, depth=3):
    layers = [[nn.Linear(width, width), nn.ReLU()] for _ in range(depth)]
    return nn.Sequential(*[module for pair in layers for module in pair])


def test_forward_of_a_stack():
    net, x = stack(), torch.randn(100, 64)
    # ReLU makes its output while its input is there.
    assert forward_memory(net, x) == 2 * x.numel() * 4


def test_a_training_step_by_hand():
    """The peak is at the input of the second layer: kept, its gradient just made, as are those of the weights."""
    net, x = nn.Sequential(nn.Linear(64, 32), nn.Linear(32, 16)), torch.randn(1000, 64)
    hidden, weights = 4 * 1000 * 32, 4 * (32 * 16 + 16)
    of_the_loss = 2 * 4  # the loss, and the 1 that backward starts from
    assert training_memory(net, objective=lambda net: net(x).sum()) == 2 * hidden + weights + of_the_loss


def test_gradients_and_the_states_of_an_optimiser():
    net, x = nn.Linear(500, 500), torch.randn(1, 500)
    parameters = 4 * count_parameters(net)
    plain = training_memory(net, x)
    adam = training_memory(net, x, optimiser=torch.optim.AdamW)
    sgd = training_memory(net, x, optimiser=lambda p: torch.optim.SGD(p, lr=0.1))
    assert parameters <= plain < 1.1 * parameters
    assert sgd < 1.1 * parameters
    assert adam >= 3 * parameters


def test_the_loss_of_a_task():
    net, x, label = nn.Linear(8, 4), torch.randn(16, 8), torch.arange(16) % 4
    with_loss = training_memory(net, objective=lambda net: nn.functional.cross_entropy(net(x), label))
    assert with_loss >= training_memory(net, x) - 64


@pytest.mark.parametrize("name", sorted(own_entries("model")))
def test_every_registered_model(name):
    entry = registry.entries("model")[name]
    torch.manual_seed(0)
    net = entry.build(entry.config.from_dict(entry.tiny))
    one, two = (net.example(size, torch.Generator().manual_seed(0)) for size in (1, 2))
    forward = forward_memory(net, one)
    assert 0 < forward < forward_memory(net, two) <= 2.1 * forward
    assert forward == forward_memory(net, one)
    if not net.differentiable:
        return
    step = training_memory(net, one)
    assert step == training_memory(net, one)
    assert step > forward and step >= 4 * count_parameters(net)


def test_the_model_is_left_alone():
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)).eval()
    net(torch.randn(3, 4)).sum().backward()
    before, gradients = copy.deepcopy(net.state_dict()), [p.grad.clone() for p in net.parameters()]
    torch.manual_seed(5)
    expected = torch.rand(())
    torch.manual_seed(5)
    forward_memory(net, torch.randn(3, 4, generator=torch.Generator()))
    training_memory(net, torch.randn(3, 4, generator=torch.Generator()), optimiser=torch.optim.AdamW)
    assert torch.rand(()) == expected
    assert not any(module.training for module in net.modules())
    assert all(torch.equal(net.state_dict()[name], value) for name, value in before.items())
    assert all(torch.equal(p.grad, g) for p, g in zip(net.parameters(), gradients, strict=True))


def test_gradients_are_made_also_where_the_caller_wants_none():
    net, x = stack(), torch.randn(10, 64)
    with torch.no_grad():
        assert training_memory(net, x) == training_memory(net, x) > 4 * count_parameters(net)


def test_refuses():
    with pytest.raises(ConfigError, match="one of them"):
        training_memory(nn.Linear(2, 2))
    with pytest.raises(ConfigError, match="nothing in it is trained"):
        training_memory(nn.Identity(), torch.ones(2, 2))
    with pytest.raises(ConfigError, match="no floating-point"):
        training_memory(Ids(), torch.ones(2, 2))


class Ids(nn.Module):
    """Gives whole numbers."""

    def forward(self, x):
        return x.argmax(-1)
