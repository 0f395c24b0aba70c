"""Input spikes through delayed synapses, frozen or plastic: the sources of `diehl_cook.advance`.

A spike costs one addition for each synapse that it reaches; synapses that it does not reach are not touched.

Shapes: M modules, B images, I inputs, N neurons, E events, S synapses or spikes of one step.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from neuromix.ops._register import define_op
from neuromix.ops.diehl_cook import STEP_MS

_WINDOW_ENTRIES = 1 << 22  # numbers of input current, or arrivals, that are held at a time
_PIECE_ENTRIES = 1 << 18  # synapses that are worked off at a time, few enough for a cache


def _spread(current_X: Tensor, spikes_E: Tensor, weight_SN: Tensor, synapse_E: Tensor, at_EN: Tensor) -> None:
    """current[at[e, n]] += spikes[e] * weight[synapse[e], n], for spikes of 1."""
    current_X.index_add_(0, at_EN.view(-1), weight_SN.index_select(0, synapse_E).view(-1))


# An op of its own, so that profiles see the additions that spikes cause.
define_op(
    "spread_spikes(Tensor(a!) current_X, Tensor spikes_E, Tensor weight_SN, Tensor synapse_E, Tensor at_EN) -> ()",
    kernel=_spread,
    fake=lambda *_: None,
)


class Events(NamedTuple):
    """Input spikes in order of time, each into one circuit.

    Attributes:
        step: [E], int64.
        row: number of the circuit m * B + b, [E], int64.
        input: [E], int64.
    """

    step: Tensor
    row: Tensor
    input: Tensor

    def of_rows(self, begin: int, end: int) -> Events:
        """The spikes into rows begin, ..., end - 1, counted from `begin`."""
        chosen = (self.row >= begin) & (self.row < end)
        return Events(self.step[chosen], self.row[chosen] - begin, self.input[chosen])

    def for_modules(self, modules: int, images: int) -> Events:
        """Spikes whose row is an image, as spikes into the circuit of that image in every module."""
        rows_EM = self.row[:, None] + images * torch.arange(modules, device=self.row.device)
        return Events(
            self.step.repeat_interleave(modules), rows_EM.flatten(), self.input.repeat_interleave(modules)
        )


class NoInput:
    """Silence."""

    def next(self, t: int) -> int:
        return sys.maxsize

    def deliver(self, t: int, ge_MBN: Tensor) -> None:
        """Nothing arrives."""

    def fired(self, t: int, spikes_MBN: Tensor) -> None:
        """Nothing is learnt."""


class FrozenInput:
    """Input through weights that do not change: the current of many steps is added up ahead.

    Args:
        weight: [M, I, N].
        delay: of each synapse in steps, [M, I, N], integer, >= 0.
        images: B.
        steps: how many the simulation takes; what arrives later is lost.
    """

    def __init__(self, weight: Tensor, delay: Tensor, events: Events, images: int, steps: int) -> None:
        modules, inputs, self.neurons = weight.shape
        self.shape, self.steps, self.events = (modules, images, self.neurons), steps, events
        self.row_size = modules * images * self.neurons
        self.weight_SN = weight.reshape(-1, self.neurons)
        # Where the current of a synapse goes, from where its event stands.
        own = torch.arange(self.neurons, device=weight.device)
        shift_SN = (delay.long() * self.row_size + own).reshape(-1, self.neurons)
        module_E = torch.div(events.row, max(images, 1), rounding_mode="floor")
        self.synapse_E = module_E * inputs + events.input
        self.ones_E = (events.step >= 0).to(weight.dtype)
        self.longest = int(delay.max()) if delay.numel() else 0
        self.window = max(self.longest, min(steps, _WINDOW_ENTRIES // max(self.row_size, 1)), 1)
        # Half the bits are half the memory to go through, where they suffice.
        small = (self.window + self.longest) * self.row_size < 2**31
        self.shift_SN = shift_SN.int() if small else shift_SN
        self.begin, self.current = 0, weight.new_zeros(0, *self.shape)
        self.tail = weight.new_zeros(self.longest, self.row_size)
        self.first, self.last = _span(events.step, self.longest)

    def next(self, t: int) -> int:
        return max(t, self.first) if t <= self.last else self.steps

    def deliver(self, t: int, ge_MBN: Tensor) -> None:
        while t >= self.begin + len(self.current):
            self._next_window()
        ge_MBN.add_(self.current[t - self.begin])

    def fired(self, t: int, spikes_MBN: Tensor) -> None:
        """Nothing is learnt."""

    def _next_window(self) -> None:
        self.begin += len(self.current)
        buffer = self.weight_SN.new_zeros(self.window + self.longest, self.row_size)
        buffer[: self.longest] += self.tail
        flat = buffer.view(-1)
        for part in _parts(self.events.step, self.begin, self.begin + self.window, self.neurons):
            base = (self.events.step[part] - self.begin) * self.row_size + self.events.row[
                part
            ] * self.neurons
            synapse = self.synapse_E[part]
            at = self.shift_SN.index_select(0, synapse).add_(base.to(self.shift_SN)[:, None])
            torch.ops.neuromix.spread_spikes(flat, self.ones_E[part], self.weight_SN, synapse, at)
        self.current, self.tail = buffer[: self.window].view(-1, *self.shape), buffer[self.window :].clone()


@dataclass(frozen=True)
class Plasticity:
    """Spike-timing-dependent plasticity of the input weights.

    An input spike that arrives: w <- clip(w + pre_sign * rate_pre * y1, 0, 1), x_pre = 1. A spike of the neuron:
    w <- clip(w + rate_post * x_pre * y2, 0, 1), then y1 = y2 = 1. The traces decay with their time constants.
    """

    rate_pre: float = 1e-4
    rate_post: float = 1e-2
    pre_sign: float = 1.0  # published; Diehl & Cook subtract
    tau_pre_ms: float = 20.0
    tau_y1_ms: float = 20.0
    tau_y2_ms: float = 40.0


class PlasticInput:
    """Input through weights that learn, one image a module.

    The traces need no upkeep: each is exp(-(t - last) / tau), with the step of the last arrival or spike.

    Args:
        weight: [M, I, N], contiguous; changed in place.
        delay: as of FrozenInput.
        last_arrival: step of the last arrival at each synapse, [M, I, N], in the dtype of the weights; -inf for
            never. Changed in place.
        last_spike: step of the last spike of each neuron, [M, 1, N], likewise.
    """

    def __init__(
        self,
        weight: Tensor,
        delay: Tensor,
        events: Events,
        steps: int,
        rule: Plasticity,
        last_arrival: Tensor,
        last_spike: Tensor,
    ) -> None:
        self.weight, self.delay_SN = weight, delay.long().flatten(0, 1)
        self.steps, self.events, self.rule = steps, events, rule
        self.last_arrival, self.last_spike = last_arrival, last_spike
        _, inputs, self.neurons = weight.shape
        self.synapse_E = events.row * inputs + events.input
        self.longest = int(delay.max()) if delay.numel() else 0
        self.window = max(1, min(steps, steps * _WINDOW_ENTRIES // max(1, len(events.step) * self.neurons)))
        self.first, self.last = _span(events.step, self.longest)
        self.y1, self.y1_rate = torch.empty_like(last_spike), STEP_MS / rule.tau_y1_ms
        self.begin, self.until, self.bounds = 0, 0, [0]

    def next(self, t: int) -> int:
        return max(t, self.first) if t <= self.last else self.steps

    def deliver(self, t: int, ge_MBN: Tensor) -> None:
        while t >= self.until:
            self._next_window()
        start, stop = self.bounds[t - self.begin : t - self.begin + 2]
        if start == stop:
            return
        synapse, neuron = self.synapse[start:stop], self.neuron[start:stop]
        flat = self.weight.view(-1)
        w = flat.index_select(0, synapse)
        ge_MBN.view(-1).index_add_(0, neuron, w)
        self.last_arrival.view(-1).index_fill_(0, synapse, t)
        torch.sub(self.last_spike, t, out=self.y1).mul_(self.y1_rate).exp_()
        y1 = self.y1.view(-1).index_select(0, neuron)
        w.add_(y1, alpha=self.rule.pre_sign * self.rule.rate_pre)
        flat.index_copy_(0, synapse, w.clamp_(0, 1))

    def fired(self, t: int, spikes_MBN: Tensor) -> None:
        module, _, neuron = spikes_MBN.nonzero(as_tuple=True)
        rule = self.rule
        y2_S = torch.exp((self.last_spike[module, 0, neuron] - t) * (STEP_MS / rule.tau_y2_ms))
        x_SI = torch.exp((self.last_arrival[module, :, neuron] - t) * (STEP_MS / rule.tau_pre_ms))
        w_SI = self.weight[module, :, neuron] + rule.rate_post * x_SI * y2_S[:, None]
        self.weight[module, :, neuron] = w_SI.clamp_(0, 1)
        self.last_spike[module, 0, neuron] = float(t)

    def _next_window(self) -> None:
        """The arrivals of the next steps, in order: which synapse, and which neuron."""
        begin, until = self.until, self.until + self.window
        synapses, steps = [], []
        for part in _parts(self.events.step, begin - self.longest, until, self.neurons):
            synapse_E = self.synapse_E[part]
            at_EN = self.events.step[part][:, None] + self.delay_SN[synapse_E]
            event, neuron = ((at_EN >= begin) & (at_EN < until)).nonzero(as_tuple=True)
            synapses.append(synapse_E[event] * self.neurons + neuron)
            steps.append(at_EN[event, neuron] - begin)
        step = torch.cat(steps) if steps else self.synapse_E.new_zeros(0)
        order = step.int().argsort(stable=True)
        self.synapse = torch.cat(synapses)[order] if steps else step
        per_module = self.weight[0].numel()
        self.neuron = self.synapse // per_module * self.neurons + self.synapse % self.neurons
        self.bounds = [0, *torch.bincount(step, minlength=self.window).cumsum(0).tolist()]
        self.begin, self.until = begin, until


def _span(step_E: Tensor, longest: int) -> tuple[int, int]:
    """The first and the last step at which something may arrive; (0, -1) without events."""
    return (int(step_E[0]), int(step_E[-1]) + longest) if len(step_E) else (0, -1)


def _parts(step_E: Tensor, begin: int, end: int, neurons: int) -> list[slice]:
    """The events of the steps begin, ..., end - 1, in pieces that do not need much memory."""
    first, last = torch.searchsorted(step_E, torch.tensor([begin, end], device=step_E.device)).tolist()
    size = max(1, _PIECE_ENTRIES // max(neurons, 1))
    return [slice(at, min(at + size, last)) for at in range(first, last, size)]
