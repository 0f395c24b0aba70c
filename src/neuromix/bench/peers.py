"""The neurons of other libraries, set to the same equations as ours, forward and backward.

Leak 1/2, input scaled by 1/2, threshold 1, hard reset to 0 that no gradient passes through, the derivative of a
sigmoid of slope 4 as surrogate.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from neuromix.core.state import Stateful
from neuromix.neurons import LIF
from neuromix.neurons.surrogate import make_surrogate
from neuromix.ops.lif import lif_reference

Neuron = Callable[[Tensor], Tensor]

# For libraries that fire above the threshold, not at it: in float32, v > this says v >= 1.
BELOW_ONE = 1 - 2**-24


def neuromix() -> Neuron:
    """Ours: one fused op."""
    return LIF(tau=2.0)


def compiled() -> Neuron:
    """Our reference, a loop over time in PyTorch, under torch.compile."""
    neuron = LIF(tau=2.0)
    surrogate = make_surrogate("sigmoid")

    def run(x_T: Tensor) -> Tensor:
        return lif_reference(x_T, None, neuron.constants(), surrogate).spikes

    return torch.compile(run, fullgraph=True, dynamic=False)


def spikingjelly() -> Neuron:
    """SpikingJelly's multi-step LIFNode, which is reset before each sequence."""
    return SpikingJellyLIF()


def snntorch() -> Neuron:
    """snnTorch's Leaky in the loop over time that its users write; its input is scaled beforehand."""
    import snntorch as snn
    from snntorch import surrogate

    cell = snn.Leaky(
        beta=0.5, threshold=BELOW_ONE, spike_grad=surrogate.sigmoid(slope=4), reset_mechanism="zero"
    )

    def run(x_T: Tensor) -> Tensor:
        membrane, spikes = cell.reset_mem(), []
        for x in (0.5 * x_T).unbind(0):
            s, membrane = cell(x, membrane)
            spikes.append(s)
        return torch.stack(spikes)

    return run


def norse() -> Neuron:
    """Norse's LIFBox over a sequence: one state variable, as ours (its plain LIF has a synaptic current too)."""
    import norse.torch as norse
    from norse.torch.functional.reset import reset_value

    parameters = norse.LIFBoxParameters(
        tau_mem_inv=torch.tensor(500.0),  # times its time step of 1 ms: the leak of 1/2
        v_th=torch.tensor(BELOW_ONE),
        method="tanh",  # whose derivative, at alpha 2, is that of the sigmoid at 4
        alpha=2.0,
        reset_method=lambda z, v, v_reset, v_th: reset_value(z.detach(), v, v_reset, v_th),
    )
    cell = norse.LIFBoxCell(p=parameters)

    def run(x_T: Tensor) -> Tensor:
        state, spikes = None, []
        for x in x_T.unbind(0):
            s, state = cell(x, state)
            spikes.append(s)
        return torch.stack(spikes)

    return run


class SpikingJellyLIF(Stateful):
    """SpikingJelly's neuron in the place of one of ours, with its hidden state reset at each call."""

    def __init__(self, v_threshold: float = 1.0, alpha: float = 4.0) -> None:
        super().__init__()
        from spikingjelly.activation_based import neuron, surrogate

        self.node = neuron.LIFNode(
            tau=2.0,
            decay_input=True,
            v_threshold=v_threshold,
            v_reset=0.0,
            surrogate_function=surrogate.Sigmoid(alpha=alpha),
            detach_reset=True,
            step_mode="m",
        )

    def forward(self, x_T: Tensor, state: Any = None, *, return_state: bool = False) -> Any:
        self.node.reset()
        return self.node(x_T)


def with_spikingjelly(model: nn.Module) -> nn.Module:
    """The same network with SpikingJelly's neurons, in place."""
    for name, child in model.named_children():
        if isinstance(child, LIF):
            setattr(model, name, SpikingJellyLIF(child.config.v_threshold))
        else:
            with_spikingjelly(child)
    return model
