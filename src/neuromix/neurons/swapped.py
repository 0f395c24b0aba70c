"""swapped: other surrogate derivatives in a whole model for a while, as an attack needs that knows the net only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from neuromix.core.config import Spec
from neuromix.core.errors import ConfigError
from neuromix.neurons.integrate_and_fire import FiringNeuron
from neuromix.neurons.surrogate import make_surrogate


@contextmanager
def swapped(model: nn.Module, surrogate: Spec | str | tuple[str, Any] = "pdsg") -> Iterator[None]:
    """Within the context, every neuron with a threshold goes backward by this surrogate.

    Weights, spikes and modes stay as they are; a neuron with the gradient "rate" goes by the surrogate too. Neurons
    that send integers or fire by chance have gradients of their own and keep them.

    Raises:
        ConfigError: no neuron has a surrogate that could be swapped.
        UnknownNameError: there is no such surrogate.

    Example:
        with swapped(model, "pdsg"):
            (gradient,) = torch.autograd.grad(loss(model(x), label), x)
    """
    neurons = [module for module in model.modules() if isinstance(module, FiringNeuron)]
    if not neurons:
        raise ConfigError(
            f"{getattr(model, 'name', '') or type(model).__name__} has no spiking neuron whose surrogate could be "
            'swapped; leave its gradient as it is: surrogate "keep" in an attack'
        )
    other = make_surrogate(Spec.of(surrogate))
    own = [(neuron.surrogate, neuron.config) for neuron in neurons]
    try:
        for neuron in neurons:
            neuron.surrogate = other
            if neuron.config.gradient != "surrogate":
                neuron.config = neuron.config.replace(gradient="surrogate")
        yield
    finally:
        for neuron, before in zip(neurons, own, strict=True):
            neuron.surrogate, neuron.config = before
