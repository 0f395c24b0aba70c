"""Which modules are activations, and what they send: ReLU, Sigmoid and spiking neurons, of this library and others.

ReLU and Sigmoid are those that NeuroBench looks at without being told more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from neuromix.neurons.neuron import Neuron

ACTIVATIONS = (nn.ReLU, nn.Sigmoid)
# Base classes of the spiking neurons of other libraries, which need not be installed.
FOREIGN_NEURONS = frozenset(
    (
        "norse.torch.module.snn.SNN",
        "norse.torch.module.snn.SNNCell",
        "snntorch._neurons.neurons.SpikingNeuron",
        "spikingjelly.activation_based.neuron.base_node.BaseNode",
    )
)
NeuronTypes = Sequence[type[nn.Module]]


@dataclass
class Sent:
    """What one activation sends, all calls and samples together.

    Attributes:
        spiking: whether it is a spiking neuron.
        elements, nonzero: numbers that it gave, and those that are not zero.
        states: numbers of state that it updated, each once per step.
        bits: word length of its output.
    """

    spiking: bool
    elements: int = 0
    nonzero: int = 0
    states: int = 0
    bits: int = 32

    def see(self, module: nn.Module, output: Any) -> None:
        """Adds one call: its output, or the first of several."""
        sent = first_output(output)
        if sent is None:
            return
        self.elements += sent.numel()
        self.nonzero += int(sent.count_nonzero())
        self.bits = 8 * sent.element_size()
        if self.spiking:
            self.states += _states(module, sent, output)


def activations_of(model: nn.Module, neurons: NeuronTypes = ()) -> dict[str, bool]:
    """The activations among the modules of a model: path -> whether it is a spiking neuron.

    Args:
        neurons: further classes of spiking neurons, whose output, or the first of several, is spikes.
    """
    found: dict[str, bool] = {}
    for path, module in model.named_modules():
        inside = any(owner == "" or path.startswith(f"{owner}.") for owner in found)
        spiking = is_neuron(module, neurons)
        if not inside and (spiking or isinstance(module, ACTIVATIONS)):
            found[path] = spiking
    return found


def is_neuron(module: nn.Module, neurons: NeuronTypes = ()) -> bool:
    """Whether a module is a spiking neuron."""
    names = {f"{cls.__module__}.{cls.__qualname__}" for cls in type(module).__mro__}
    return isinstance(module, (Neuron, *neurons)) or not names.isdisjoint(FOREIGN_NEURONS)


def first_output(output: Any) -> Tensor | None:
    """The tensor that a module gives, or the first of several; None where it gives none."""
    first = output[0] if isinstance(output, tuple) and output else output
    return first if isinstance(first, torch.Tensor) else None


def height_of(module: nn.Module) -> float:
    """The value of a spike that a neuron sends; 1 where channels differ, and for neurons of other libraries."""
    height = module.height if isinstance(module, Neuron) else 1.0
    if isinstance(height, torch.Tensor):
        return float(height) if height.numel() == 1 else 1.0
    return float(height)


def _states(module: nn.Module, sent: Tensor, output: Any) -> int:
    """Numbers of state, times steps.

    Of another library's neuron: what it returns beside its spikes, of their shape (or that of one step); one
    membrane potential each where it returns none.
    """
    if isinstance(module, Neuron):
        state: list[Tensor] = pytree.tree_leaves(module.initial_state(sent[0])) if len(sent) else []
        return len(sent) * sum(part.numel() for part in state)
    others = pytree.tree_leaves(output[1:]) if isinstance(output, tuple) else []
    shapes = (sent.shape, sent.shape[1:])
    kept = [part for part in others if isinstance(part, torch.Tensor) and part.shape in shapes]
    return max(len(kept), 1) * sent.numel()
