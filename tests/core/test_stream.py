from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

import neuromix
from neuromix.core.errors import ConfigError, ShapeError
from neuromix.core.model import Model, ModelConfig
from neuromix.core.state import Stateful, detach, select, state_bytes
from neuromix.core.stream import outermost_stateful
from neuromix.neurons import IF, LIF


class SumState(NamedTuple):
    total: Tensor


class RunningSum(Stateful):
    """Owns its subtree: the LIF inside it is its own business."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = LIF()

    def initial_state(self, like: Tensor) -> SumState:
        return SumState(torch.zeros_like(like))

    def forward(self, x, state=None, *, return_state=False):
        state = state or self.initial_state(x[0])
        sums = x.cumsum(0) + state.total
        return (sums, SumState(sums[-1])) if return_state else sums


class Net(Model):
    """One neuron used twice, one that owns a subtree."""

    stream_axis = 0

    def __init__(self) -> None:
        super().__init__(ModelConfig())
        self.neuron = LIF(tau=3.0)
        self.linear = nn.Linear(4, 4)
        self.sum = RunningSum()

    def forward_steps(self, x: Tensor) -> Tensor:
        return self.sum(self.neuron(self.linear(self.neuron(x))))


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net().double()


@pytest.fixture
def x():
    return torch.randn(6, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 3


def test_steps_segments_and_the_whole_agree_bit_for_bit(net, x):
    whole, stepper = net(x), neuromix.stream(net)
    state, steps = None, []
    for x_t in x:
        y, state = stepper.step(x_t, state)
        steps.append(y)
    first, state_2 = stepper.prefill(x[:2])
    second, state_2 = stepper.prefill(x[2:], state_2)
    assert torch.equal(torch.stack(steps), whole)
    assert torch.equal(torch.cat([first, second]), whole)
    assert state.keys() == state_2.keys() == {("neuron", 0), ("neuron", 1), ("sum", 0)}


def test_outermost_leaves_own_their_subtree(net):
    assert set(outermost_stateful(net)) == {"neuron", "sum"}


def test_two_streams_and_the_plain_model_do_not_meet(net, x):
    one, two = neuromix.stream(net).session(), neuromix.stream(net).session()
    whole = net(x)
    for t, x_t in enumerate(x):
        assert torch.equal(one.step(x_t), whole[t])
        net(x)
        if t % 2:
            two.step(x_t)
    two.reset()
    assert torch.equal(two.step(x[0]), whole[0])


def test_finished_samples_leave_the_session(net, x):
    session = neuromix.stream(net).session()
    session.step(x[0])
    session.select(torch.tensor([2, 0]))
    assert torch.equal(session.step(x[1, [2, 0]]), net(x)[1, [2, 0]])


def test_state_functions(net, x):
    _, state = neuromix.stream(net).step(x[0].requires_grad_())
    assert state_bytes(state) == 3 * 3 * 4 * 8
    assert not any(leaf.requires_grad for s in detach(state).values() for leaf in s)
    assert select(state, torch.tensor([1]))["neuron", 0].v.shape == (1, 4)


def test_a_stream_that_is_gone_leaves_no_hooks(net, x):
    stepper = neuromix.stream(net)
    stepper.step(x[0])
    assert net.neuron._forward_hooks
    del stepper
    assert not net.neuron._forward_hooks and not net.neuron._forward_pre_hooks


def test_what_cannot_be_stepped_is_refused(net, x):
    net.stream_axis = None
    with pytest.raises(ConfigError, match="cannot be stepped"):
        neuromix.stream(net)
    net.stream_axis = 0
    with pytest.raises(ShapeError, match="at least one step"):
        neuromix.stream(net).prefill(x[:0])


@pytest.mark.parametrize("neuron", [LIF(), IF(v_reset=None), LIF(tau=4.0, v_reset=-0.5, compare=">")])
def test_neuron_step_form(neuron, x):
    whole, last = neuron(x, return_state=True)
    state, steps = neuron.initial_state(x[0]), []
    for x_t in x:
        s, state = neuron.step(x_t, state)
        steps.append(s)
    assert torch.equal(torch.stack(steps), whole) and torch.equal(state.v, last.v)


def test_most_models_end_with_their_input(net, x):
    session = neuromix.stream(net).session()
    session.step(x[0])
    assert session.drain() is None


class Echo(Stateful):
    """What it was given, and once more what it was given last."""

    tail = 1

    def initial_state(self, like: Tensor) -> SumState:
        return SumState(torch.zeros_like(like))

    def forward(self, x, state=None, *, return_state=False, ends=None):
        before = (state or self.initial_state(x.new_zeros(x.shape[1:]))).total
        last = x[-1] if len(x) else before
        y = torch.cat([x, last[None]]) if (not return_state if ends is None else ends) else x
        return (y, SumState(last)) if return_state else y


class Echoes(Model):
    stream_axis = 0

    def __init__(self) -> None:
        super().__init__(ModelConfig())
        self.layers = nn.Sequential(Echo(), LIF(tau=3.0), Echo())

    def forward_steps(self, x: Tensor) -> Tensor:
        return self.layers(x)


def test_what_comes_after_the_end_is_drained(x):
    net = Echoes().double()
    whole, stepped = net.forward_steps(x), neuromix.stream(net)
    session = stepped.session()
    assert session.drain() is None
    steps = torch.stack([session.step(x_t) for x_t in x])
    assert len(whole) == len(x) + 2
    torch.testing.assert_close(torch.cat([steps, session.drain()]), whole)
    first, state = stepped.prefill(x[:4])
    second, state = stepped.prefill(x[4:], state)
    torch.testing.assert_close(torch.cat([first, second, stepped.drain(x[0], state)]), whole)
