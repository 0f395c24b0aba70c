"""The spiking circuit of Diehl & Cook (2015) in its place-recognition form, in forward Euler steps of 0.1 ms.

N excitatory and N inhibitory neurons with conductances, for many circuits at once. With population p (0 excitatory,
1 inhibitory), and times in steps:

    v <- v + a_p (rest_p - v + ge (0 - v) + gi (E_p - v)),   a_p = dt / tau_p;  not while refractory
    g <- (1 - dt / tau_g) g                                  ge of 1 ms, gi of 0.5 ms

An excitatory neuron fires where v > theta - 20 mV - 52 mV and its last spike (or the start) is more than 50 ms ago: its
timer runs at a tenth of the speed of time and must pass 5 ms. An inhibitory one fires where v > -40 mV. A spike of
excitatory neuron i adds `w_ei` to the ge of inhibitory neuron i, and a spike of that one adds `w_ie` to the gi of
every other excitatory neuron; both act from the next update on. Then v is reset.

What must be computed: per step a dozen operations on the state, whatever it holds, so all circuits and images go
through them together; the input costs one addition for every synapse that a spike reaches, and nothing else. Steps in
which nothing can happen - no conductance, no arrival - are taken at once by v_n = rest + (v - rest) (1 - a)^n.

Shapes: P the two populations, G the two conductances, M modules (circuits with weights of their own), B images,
I inputs, N neurons a population, E events. Voltages are in volt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

STEP_MS = 0.1
_QUIET_AFTER = 100  # steps without arrivals from which on a look for quiet pays


def steps_of(ms: float) -> int:
    """Number of steps of a duration in ms."""
    return round(ms / STEP_MS)


@dataclass(frozen=True)
class Circuit:
    """The constants of the circuit; pairs are (excitatory, inhibitory)."""

    tau_ms: tuple[float, float] = (100.0, 10.0)  # of the membrane
    rest: tuple[float, float] = (-0.065, -0.060)
    reset: tuple[float, float] = (-0.065, -0.045)
    start: tuple[float, float] = (-0.105, -0.100)
    reversal: tuple[float, float] = (-0.100, -0.085)  # of gi; that of ge is 0
    refractory_ms: tuple[float, float] = (5.0, 2.0)
    threshold: tuple[float, float] = (-0.072, -0.040)  # theta is added to the first
    pause_ms: float = 50.0  # an excitatory neuron fires when its last spike is longer ago
    tau_ge_ms: float = 1.0
    tau_gi_ms: float = 0.5
    w_ei: float = 10.4
    w_ie: float = 17.0
    theta_plus: float = 5e-5  # by a spike, while learning
    tau_theta_ms: float = 1e7


class State(NamedTuple):
    """A value; `advance` gives the next one.

    Attributes:
        v: membranes [P, M, B, N].
        g: conductances [G, P, M, B, N].
        frozen: steps for which v still stands still, [P, M, B, N], int32.
        silent: steps in which a neuron cannot fire, likewise.
    """

    v: Tensor
    g: Tensor
    frozen: Tensor
    silent: Tensor


class Source(Protocol):
    """What arrives at the excitatory neurons."""

    def next(self, t: int) -> int:
        """The first step from t on at which something may arrive."""
        ...

    def deliver(self, t: int, ge_MBN: Tensor) -> None:
        """Adds what arrives at step t to the conductances."""
        ...

    def fired(self, t: int, spikes_MBN: Tensor) -> None:
        """Excitatory neurons have fired at step t, after what arrived then."""
        ...


def initial_state(circuit: Circuit, modules: int, images: int, neurons: int, like: Tensor) -> State:
    """The state before the first step."""
    shape = (2, modules, images, neurons)
    v = _pair(circuit.start, like).expand(shape).clone()
    frozen = torch.zeros(shape, dtype=torch.int32, device=like.device)
    silent = frozen.clone()
    silent[0] = steps_of(circuit.pause_ms)
    return State(v, like.new_zeros(2, *shape), frozen, silent)


@torch.no_grad()
def advance(
    circuit: Circuit,
    state: State,
    theta: Tensor,
    source: Source,
    begin: int,
    end: int,
    *,
    adapt: bool = False,
) -> tuple[State, Tensor]:
    """Takes the steps begin, ..., end - 1.

    Args:
        theta: of the excitatory neurons, [M, 1, N]; if `adapt`, float64, changed in place, and of one image.
        source: of input; it counts steps as `begin` and `end` do.
        adapt: theta grows by own spikes and decays.

    Returns:
        the state, and the spikes [S, 5], int64, in order of time: step, population, module, image, neuron.
    """
    program = _Program(circuit, state, theta, begin, adapt)
    t = begin
    while t < end:
        quiet_until = min(source.next(t), end)
        if quiet_until - t >= _QUIET_AFTER and program.is_quiet():
            program.relax(t, quiet_until - t)
            t = quiet_until
            continue
        # Conductances fade within some hundred steps: look again after a while.
        until = min(t + _QUIET_AFTER, end)
        for step in range(t, until):
            program.step(step, source)
        t = until
    return program.state(end), program.spikes()


def spike_counts(spikes_S5: Tensor, modules: int, images: int, neurons: int, begin: int, end: int) -> Tensor:
    """How often each excitatory neuron fired in the steps begin, ..., end - 1: [M, B, N], int64."""
    step, population, *where = spikes_S5.unbind(1)
    chosen = (population == 0) & (step >= begin) & (step < end)
    counts = torch.zeros(modules, images, neurons, dtype=torch.int64, device=spikes_S5.device)
    one = torch.ones_like(step[chosen])
    return counts.index_put_(tuple(at[chosen] for at in where), one, accumulate=True)


class _Program:
    """The steps of one call, in buffers of its own."""

    def __init__(self, circuit: Circuit, state: State, theta: Tensor, begin: int, adapt: bool) -> None:
        v = state.v
        self.circuit, self.theta, self.adapt = circuit, theta, adapt
        self.v, self.g = v.clone(memory_format=torch.contiguous_format), state.g.clone()
        self.ge, self.gi = self.g  # [P, M, B, N]
        # From when on a neuron moves and fires; in the floating type, whose comparisons are the fastest.
        self.move_from, self.fire_from = (steps.to(v).add_(begin) for steps in (state.frozen, state.silent))
        self.frozen_until = int(self.move_from.max()) if v.numel() else begin
        self.rest, self.reversal = _pair(circuit.rest, v), _pair(circuit.reversal, v)
        self.gain = STEP_MS / _pair(circuit.tau_ms, v)
        self.g_keep = 1 - STEP_MS / v.new_tensor([circuit.tau_ge_ms, circuit.tau_gi_ms]).view(2, 1, 1, 1, 1)
        self.theta_keep = 1 - STEP_MS / circuit.tau_theta_ms
        # While theta changes it needs float64: its decay of 1e-8 a step is lost in float32.
        self.threshold = _pair(circuit.threshold, theta if adapt else v).expand(v.shape).clone()
        self.bar = self.threshold[0].clone()
        torch.add(self.bar, theta, out=self.threshold[0])
        self.refractory = tuple(map(steps_of, circuit.refractory_ms))
        self.pause = (steps_of(circuit.pause_ms) + 1, self.refractory[1])
        self.total, self.current, self.moving = (torch.empty_like(v) for _ in range(3))
        self.above, self.ready = (torch.empty_like(v, dtype=torch.bool) for _ in range(2))
        self.fired: list[tuple[int, Tensor]] = []

    def step(self, t: int, source: Source) -> None:
        """Step t, in the order: neurons, spikes among them, input, learning, resets."""
        # v += gain (rest + gi E - (1 + ge + gi) v)
        torch.add(self.ge, self.gi, out=self.total).add_(1)
        torch.addcmul(self.rest, self.gi, self.reversal, out=self.current)
        self.current.addcmul_(self.total, self.v, value=-1)
        if t < self.frozen_until:
            self.current.mul_(torch.le(self.move_from, t, out=self.moving))
        self.v.addcmul_(self.gain, self.current)
        self.g.mul_(self.g_keep)
        if self.adapt:
            self.theta.mul_(self.theta_keep)
            torch.add(self.bar, self.theta, out=self.threshold[0])
        torch.gt(self.v, self.threshold, out=self.above)
        self.above.logical_and_(torch.le(self.fire_from, t, out=self.ready))
        fired = self.above.view(-1).nonzero().squeeze(1)
        if not len(fired):
            source.deliver(t, self.ge[0])
            return
        excitatory, inhibitory = self._by_population(fired)
        self._send(len(excitatory) > 0, len(inhibitory) > 0)
        source.deliver(t, self.ge[0])
        if len(excitatory):
            source.fired(t, self.above[0])
            if self.adapt:
                self.theta.add_(self.above[0], alpha=self.circuit.theta_plus)
        self._reset(t, (excitatory, inhibitory))
        self.fired.append((t, fired))

    def is_quiet(self) -> bool:
        """No conductance that could change v, and no neuron that fires by relaxing to rest."""
        least = torch.finfo(self.v.dtype).eps * 1e-3
        return bool((self.g < least).all()) and bool(
            (torch.maximum(self.v, self.rest) <= self.threshold).all()
        )

    def relax(self, t: int, steps: int) -> None:
        """`steps` steps in which nothing happens, at once."""
        moved = (t + steps - self.move_from).clamp_(0, steps)
        self.v.sub_(self.rest).mul_((1 - self.gain) ** moved).add_(self.rest)
        self.g.mul_(self.g_keep**steps)
        if self.adapt:
            self.theta.mul_(self.theta_keep**steps)

    def state(self, end: int) -> State:
        frozen, silent = ((x - end).clamp_(min=0).int() for x in (self.move_from, self.fire_from))
        return State(self.v, self.g, frozen, silent)

    def spikes(self) -> Tensor:
        if not self.fired:
            return torch.zeros(0, 5, dtype=torch.int64, device=self.v.device)
        step = torch.cat([torch.full_like(at, t) for t, at in self.fired])
        where = torch.unravel_index(torch.cat([at for _, at in self.fired]), self.v.shape)
        return torch.stack([step, *where], 1)

    def _by_population(self, fired: Tensor) -> tuple[Tensor, Tensor]:
        """Places of the excitatory and of the inhibitory spikes in the flat state."""
        half = self.v.numel() // 2
        excitatory = int((fired < half).sum())
        return fired[:excitatory], fired[excitatory:]

    def _send(self, excitatory: bool, inhibitory: bool) -> None:
        spikes = self.above.to(self.v.dtype)
        if excitatory:
            self.ge[1].add_(spikes[0], alpha=self.circuit.w_ei)
        if inhibitory:
            self.gi[0].add_(spikes[1].sum(-1, keepdim=True) - spikes[1], alpha=self.circuit.w_ie)

    def _reset(self, t: int, fired: tuple[Tensor, Tensor]) -> None:
        for at, reset, refractory, pause in zip(
            fired, self.circuit.reset, self.refractory, self.pause, strict=True
        ):
            if len(at):
                self.v.view(-1).index_fill_(0, at, reset)
                self.move_from.view(-1).index_fill_(0, at, t + refractory)
                self.fire_from.view(-1).index_fill_(0, at, t + pause)
        self.frozen_until = t + max(self.refractory)


def _pair(pair: Sequence[float], like: Tensor) -> Tensor:
    return like.new_tensor(pair).view(2, 1, 1, 1)
