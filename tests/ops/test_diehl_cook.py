"""The circuit in steps against a few loops that follow its description, and what must not change its numbers."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuromix.ops.diehl_cook import Circuit, advance, initial_state, spike_counts
from neuromix.ops.synapses import Events, FrozenInput, NoInput, PlasticInput, Plasticity

STEPS = 1000


def draw_events(rows, inputs, seed, steps=STEPS - 200, rate=0.02):
    chance = torch.Generator().manual_seed(seed)
    step, row, source = (torch.rand(steps, rows, inputs, generator=chance) < rate).nonzero().unbind(1)
    return Events(step, row, source)


def draw_weights(modules, inputs, neurons, seed):
    chance = torch.Generator().manual_seed(seed)
    weight = torch.rand(modules, inputs, neurons, generator=chance, dtype=torch.float64)
    delay = torch.randint(0, 40, (modules, inputs, neurons), generator=chance)
    return weight, delay


def never(weight):
    return torch.full_like(weight, -torch.inf), torch.full_like(weight[:, :1], -torch.inf)


def by_the_book(weight, delay, events, theta, steps, rule=None):
    """One circuit, neuron by neuron: spikes (step, population, neuron), and what was learnt."""
    weight, theta = weight.copy(), theta.copy()
    inputs, neurons = weight.shape
    tau, rest, reset = np.array([[100.0], [10.0]]), [[-0.065], [-0.060]], (-0.065, -0.045)
    reversal, refractory = np.array([[-0.100], [-0.085]]), (50, 20)
    v = np.array([[-0.105], [-0.100]]) * np.ones((2, neurons))
    ge, gi = np.zeros((2, neurons)), np.zeros((2, neurons))
    last, timer = np.full((2, neurons), -(10**9)), np.zeros(neurons)
    x_pre, y1, y2 = np.zeros((inputs, neurons)), np.zeros(neurons), np.zeros(neurons)
    arrivals: dict[int, list[tuple[int, int]]] = {}
    for step, source in events:
        for n in range(neurons):
            arrivals.setdefault(step + delay[source, n], []).append((source, n))
    spikes = []
    for t in range(steps):
        frozen = np.array([[t - last[p, n] < refractory[p] for n in range(neurons)] for p in range(2)])
        dv = (np.array(rest) - v + ge * (0 - v) + gi * (reversal - v)) * 0.1 / tau
        v = np.where(frozen, v, v + dv)
        ge, gi, timer = ge * 0.9, gi * 0.8, timer + 1e-5
        x_pre, y1, y2 = x_pre * np.exp(-0.1 / 20), y1 * np.exp(-0.1 / 20), y2 * np.exp(-0.1 / 40)
        if rule is not None:
            theta = theta * (1 - 1e-8)
        fired = np.stack([(v[0] > theta - 0.072) & (timer > 0.005), v[1] > -0.040]) & ~frozen
        ge[1] += 10.4 * fired[0]
        gi[0] += 17.0 * (fired[1].sum() - fired[1])
        for source, n in arrivals.get(t, []):
            ge[0, n] += weight[source, n]
            if rule is not None:
                x_pre[source, n] = 1
                weight[source, n] = np.clip(weight[source, n] + rule.pre_sign * rule.rate_pre * y1[n], 0, 1)
        for p, n in zip(*fired.nonzero(), strict=True):
            spikes.append((t, int(p), int(n)))
            v[p, n], last[p, n] = reset[p], t
            if p == 0:
                timer[n] = 0
                if rule is not None:
                    weight[:, n] = np.clip(weight[:, n] + rule.rate_post * x_pre[:, n] * y2[n], 0, 1)
                    y1[n] = y2[n] = 1
                    theta[n] += 5e-5
    return spikes, weight, theta


def rows_of(events, row):
    return [(int(s), int(i)) for s, r, i in zip(*events, strict=True) if r == row]


@pytest.mark.parametrize("sign", [None, 1.0, -1.0])
def test_the_circuit_is_as_described(sign):
    modules, inputs, neurons = 2, 6, 3
    weight, delay = draw_weights(modules, inputs, neurons, 0)
    events, theta = draw_events(modules, inputs, 1), torch.full((modules, 1, neurons), 0.015).double()
    rule = None if sign is None else Plasticity(rate_pre=0.01, rate_post=0.05, pre_sign=sign)
    expected = [
        by_the_book(weight[m].numpy(), delay[m].numpy(), rows_of(events, m), theta[m, 0].numpy(), STEPS, rule)
        for m in range(modules)
    ]
    state = initial_state(Circuit(), modules, 1, neurons, weight)
    source = (
        FrozenInput(weight, delay, events, 1, STEPS)
        if rule is None
        else PlasticInput(weight, delay, events, STEPS, rule, *never(weight))
    )
    _, spikes = advance(Circuit(), state, theta, source, 0, STEPS, adapt=rule is not None)
    for m, (their_spikes, their_weight, their_theta) in enumerate(expected):
        ours = [(t, p, n) for t, p, module, _, n in spikes.tolist() if module == m]
        assert ours == their_spikes
        assert {p for _, p, _ in ours} == {0, 1}
        torch.testing.assert_close(weight[m], torch.from_numpy(their_weight), rtol=0, atol=1e-12)
        torch.testing.assert_close(theta[m, 0], torch.from_numpy(their_theta), rtol=0, atol=1e-12)


@settings(max_examples=3, deadline=None)
@given(st.integers(1, 2), st.integers(1, 2), st.integers(1, 5), st.integers(1, 4), st.integers(0, 99))
def test_circuits_and_images_do_not_meet(modules, images, inputs, neurons, seed):
    weight, delay = draw_weights(modules, inputs, neurons, seed)
    events = draw_events(images, inputs, seed, 500, 0.05)
    theta = torch.full((modules, 1, neurons), 0.01).double()

    def counts(m, b, rows):
        part = (weight[m], delay[m], theta[m])
        source = FrozenInput(*part[:2], rows, b, 700)
        state = initial_state(Circuit(), len(part[0]), b, neurons, weight)
        _, spikes = advance(Circuit(), state, part[2], source, 0, 700)
        return spike_counts(spikes, len(part[0]), b, neurons, 0, 700)

    together = counts(slice(None), images, events.for_modules(modules, images))
    for m in range(modules):
        for b in range(images):
            alone = counts(slice(m, m + 1), 1, events.of_rows(b, b + 1))
            assert torch.equal(alone[0, 0], together[m, b])


@pytest.mark.parametrize("learns", [False, True])
def test_pieces_are_the_whole(learns):
    found = []
    for cuts in ((0, STEPS), (0, 7, 450, 451, 990, STEPS)):
        weight, delay = draw_weights(1, 5, 4, 3)
        events, theta = draw_events(1, 5, 4), torch.full((1, 1, 4), 0.01).double()
        source = (
            PlasticInput(weight, delay, events, STEPS, Plasticity(), *never(weight))
            if learns
            else FrozenInput(weight, delay, events, 1, STEPS)
        )
        state, spikes = initial_state(Circuit(), 1, 1, 4, weight), []
        for begin, end in itertools.pairwise(cuts):
            state, fired = advance(Circuit(), state, theta, source, begin, end, adapt=learns)
            spikes.append(fired)
        found.append((torch.cat(spikes), state, weight, theta))
    whole, parts = found
    assert len(whole[0]) and torch.equal(whole[0], parts[0])
    for one, other in zip((*whole[1], *whole[2:]), (*parts[1], *parts[2:]), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-14)


@settings(max_examples=5, deadline=None)
@given(st.integers(100, 3000), st.integers(0, 60), st.booleans())
def test_silence_at_once_is_silence_step_by_step(steps, frozen, adapt):
    circuit, like = Circuit(), torch.zeros((), dtype=torch.float64)
    state = initial_state(circuit, 1, 1, 2, like)
    state.frozen[1] += frozen
    theta = [torch.full((1, 1, 2), 0.02).double() for _ in range(2)]
    at_once, none = advance(circuit, state, theta[0], NoInput(), 0, steps, adapt=adapt)
    stepped = state
    for begin in range(0, steps, 50):  # too short for silence to be looked for
        stepped, _ = advance(
            circuit, stepped, theta[1], NoInput(), begin, min(begin + 50, steps), adapt=adapt
        )
    assert len(none) == 0
    for one, other in zip((*at_once, theta[0]), (*stepped, theta[1]), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-14)


@settings(max_examples=6, deadline=None)
@given(st.integers(1, 2), st.integers(1, 3), st.integers(1, 4), st.integers(1, 3), st.integers(0, 99))
def test_frozen_input_adds_up_what_arrives(modules, images, inputs, neurons, seed):
    weight, delay = draw_weights(modules, inputs, neurons, seed)
    events = draw_events(images, inputs, seed, 60, 0.1).for_modules(modules, images)
    source = FrozenInput(weight, delay, events, images, 120)
    source.window = 40  # as if there was more than fits at once
    expected = torch.zeros(120, modules, images, neurons, dtype=torch.float64)
    for step, row, i in zip(*(each.tolist() for each in events), strict=True):
        m, b = divmod(row, images)
        for n in range(neurons):
            expected[step + delay[m, i, n], m, b, n] += weight[m, i, n]
    for t in range(120):
        ge = torch.zeros(modules, images, neurons, dtype=torch.float64)
        source.deliver(t, ge)
        torch.testing.assert_close(ge, expected[t])
        if expected[t].any():
            assert source.next(t) <= t


def test_nothing_is_a_batch_too():
    weight, delay = draw_weights(2, 3, 4, 0)
    nothing = Events(*torch.zeros(3, 0, dtype=torch.int64))
    state = initial_state(Circuit(), 2, 0, 4, weight)
    _, spikes = advance(
        Circuit(), state, torch.zeros(2, 1, 4), FrozenInput(weight, delay, nothing, 0, 300), 0, 300
    )
    assert spike_counts(spikes, 2, 0, 4, 0, 300).shape == (2, 0, 4)
