"""Circuits of conductance neurons with plastic input synapses: modules that are simulated together.

Shapes: M modules (circuits with weights of their own), R modules that learn at once, B images, I inputs, N neurons a
population.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from neuromix.ops.diehl_cook import Circuit, State, advance, initial_state, spike_counts, steps_of
from neuromix.ops.synapses import Events, FrozenInput, NoInput, PlasticInput, Plasticity

_TOGETHER = 1 << 18  # neurons of a population that are simulated at once: their state stays in a cache


class Memory(NamedTuple):
    """What learning carries from one example to the next.

    Attributes:
        state: of the circuits, one image each.
        late: spikes after the last example, which count for the next, [M, N].
        last_arrival: step of the last input spike at each synapse, [M, I, N], 0 being now; -inf: never.
        last_spike: of the last spike of each neuron, [M, 1, N].
    """

    state: State
    late: Tensor
    last_arrival: Tensor
    last_spike: Tensor


class ConductanceCircuits(nn.Module):
    """M circuits, see `ops.diehl_cook`, with weights w and adaptive thresholds theta that are learnt by spike timing.

    Args:
        modules, inputs, neurons: M, I and N.
        circuit: constants of each.
        theta: in volt, where thresholds start.
        delay_ms: the longest delay of an input synapse; they are drawn, uniform from 0 on.
        example_ms, rest_ms, initial_rest_ms: how long an example is shown, and the rest after it and before the first.
        column_sum: of a neuron's weights, see `learn`.
    """

    def __init__(
        self,
        modules: int,
        inputs: int,
        neurons: int,
        circuit: Circuit,
        *,
        theta: float = 0.02,
        delay_ms: float = 10.0,
        example_ms: float = 350.0,
        rest_ms: float = 150.0,
        initial_rest_ms: float = 500.0,
        column_sum: float = 78.0,
    ) -> None:
        super().__init__()
        shape = (modules, inputs, neurons)
        self.circuit, self.column_sum = circuit, column_sum
        self.weight = nn.Parameter(0.3 * (torch.rand(shape) + 0.01))
        self.theta = nn.Parameter(torch.full((modules, neurons), theta))
        delay = torch.randint(0, steps_of(delay_ms) + 1, shape, dtype=torch.int16)
        self.register_buffer("delay", delay)
        self.example_steps, self.initial_rest_steps = steps_of(example_ms), steps_of(initial_rest_ms)
        self.period = self.example_steps + steps_of(rest_ms)

    delay: Tensor

    @torch.no_grad()
    def respond(self, events: Events, images: int) -> Tensor:
        """Spikes of each neuron while each image is shown to circuits at rest; nothing is learnt.

        Args:
            events: input spikes, whose row is the image.
            images: B.

        Returns:
            counts [M, B, N], int64; those of an image are the same whatever else is in the batch.
        """
        modules, _, neurons = self.weight.shape
        together, steps = max(1, _TOGETHER // (modules * neurons)), self.example_steps
        counts = []
        for begin in range(0, images, together):
            part = min(together, images - begin)
            rows = events.of_rows(begin, begin + part).for_modules(modules, part)
            source = FrozenInput(self.weight, self.delay, rows, part, steps)
            _, spikes = advance(self.circuit, self._rested(part), self.theta[:, None], source, 0, steps)
            counts.append(spike_counts(spikes, modules, part, neurons, 0, steps))
        return torch.cat(counts, 1) if counts else self._no_counts(0)

    @torch.no_grad()
    def respond_in_turn(self, events: Events, images: int) -> Tensor:
        """As `respond`, but one image after the other with a rest between, as the authors do.

        The circuits keep what an image leaves behind, and spikes in the rest before an image count for it.
        """
        modules, _, neurons = self.weight.shape
        example, whole = self.example_steps, self.period
        state, late = self._rested(1), self._no_counts(1)
        counts = []
        for image in range(images):
            rows = events.of_rows(image, image + 1).for_modules(modules, 1)
            source = FrozenInput(self.weight, self.delay, rows, 1, whole)
            state, spikes = advance(self.circuit, state, self.theta[:, None], source, 0, whole)
            counts.append(late + spike_counts(spikes, modules, 1, neurons, 0, example))
            late = spike_counts(spikes, modules, 1, neurons, example, whole)
        return torch.cat(counts, 1) if counts else late[:, :0]

    @torch.no_grad()
    def begin(self) -> Memory:
        """What learning starts with: circuits after the initial rest, in which thresholds decay."""
        modules, inputs, neurons = self.weight.shape
        like = self.weight.detach()
        theta_M1N = self.theta.detach().double()[:, None]
        steps = self.initial_rest_steps
        state = initial_state(self.circuit, modules, 1, neurons, like)
        state, _ = advance(self.circuit, state, theta_M1N, NoInput(), 0, steps, adapt=True)
        self.theta.copy_(theta_M1N[:, 0])
        never = (like.new_full((modules, size, neurons), -math.inf) for size in (inputs, 1))
        return Memory(state, self._no_counts(1)[:, 0], *never)

    @torch.no_grad()
    def learn(
        self, events: Events, module_R: Tensor, memory: Memory, rule: Plasticity, *, normalise: bool = True
    ) -> Tensor:
        """Shows some modules an example each, and lets their weights and thresholds learn from it.

        Args:
            events: input spikes; row r goes to module module_R[r].
            module_R: modules, each once, [R].
            memory: changed in place.
            normalise: scale each neuron's weights to `column_sum` first.

        Returns:
            counts [R, N], int64: spikes since the last example's end.
        """
        example, whole = self.example_steps, self.period
        weight_RIN, theta_R1N = (
            self.weight.detach()[module_R],
            self.theta.detach()[module_R].double()[:, None],
        )
        if normalise:
            weight_RIN *= self.column_sum / weight_RIN.sum(1, keepdim=True)
        last = (memory.last_arrival[module_R], memory.last_spike[module_R])
        source = PlasticInput(weight_RIN, self.delay[module_R], events, whole, rule, *last)
        before = State(*(part.index_select(-3, module_R) for part in memory.state))
        state, spikes = advance(self.circuit, before, theta_R1N, source, 0, whole, adapt=True)
        self.weight.detach()[module_R] = weight_RIN
        self.theta[module_R] = theta_R1N[:, 0].to(self.theta)
        for kept, new in zip(memory.state, state, strict=True):
            kept.index_copy_(kept.dim() - 3, module_R, new)
        for kept, new in zip((memory.last_arrival, memory.last_spike), last, strict=True):
            kept[module_R] = new - whole
        shape = (len(module_R), 1, self.theta.shape[1])
        counts_RN = memory.late[module_R] + spike_counts(spikes, *shape, 0, example)[:, 0]
        memory.late[module_R] = spike_counts(spikes, *shape, example, whole)[:, 0]
        return counts_RN

    def _rested(self, images: int) -> State:
        """Circuits after the initial rest."""
        modules, _, neurons = self.weight.shape
        state = initial_state(self.circuit, modules, images, neurons, self.weight.detach())
        steps = self.initial_rest_steps
        return advance(self.circuit, state, self.theta[:, None], NoInput(), 0, steps)[0]

    def _no_counts(self, images: int) -> Tensor:
        modules, _, neurons = self.weight.shape
        return torch.zeros(modules, images, neurons, dtype=torch.int64, device=self.weight.device)
