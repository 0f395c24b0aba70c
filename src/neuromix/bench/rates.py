"""A spiking model with random weights that fires at a given rate, for benchmarks of models without released weights.

Speed depends on how many spikes there are, not on which. Each neuron's threshold is set, in the order in which the
neurons run, so that a share `rate` of its outputs are spikes on a normal random image: as if its input were scaled.

Shapes: T spike time, then any neuron axes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from neuromix.core.checkpoint import create_model
from neuromix.core.model import Model
from neuromix.neurons.integrate_and_fire import FiringNeuron
from neuromix.ops.lif import lif

SEARCH_STEPS = 20  # halvings of the interval that the threshold is sought in


def firing_model(name: str, *, rate: float, side: int, seed: int = 0) -> Model:
    """A registered spiking model in eval mode; the same seed gives the same weights and thresholds.

    Args:
        rate: of every neuron layer, in (0, 1).
        side: of the square image on which the rates hold.
    """
    torch.manual_seed(seed)
    model = create_model(name)
    image_BCHW = torch.randn(2, model.config.in_channels, side, side)
    with torch.no_grad():
        model(image_BCHW)  # in training mode: batch-norms get running statistics
        model.eval()
        set_rates(model, image_BCHW[:1], rate)
    return model


def thresholds(model: Model) -> list[float]:
    """Of all firing neurons, in the order of the modules."""
    return [float(module.v_threshold) for module in model.modules() if isinstance(module, FiringNeuron)]


def with_thresholds(model: Model, values: list[float]) -> Model:
    """The model with these thresholds, in place."""
    neurons = (module for module in model.modules() if isinstance(module, FiringNeuron))
    for neuron, value in zip(neurons, values, strict=True):
        neuron.v_threshold = value
    return model


def set_rates(model: Model, image_BCHW: Tensor, rate: float) -> None:
    """Sets the threshold of every firing neuron, in the order in which they run."""

    def adjust(neuron: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        assert isinstance(neuron, FiringNeuron)
        neuron.v_threshold = threshold_for(neuron, args[0], rate)

    neurons = [module for module in model.modules() if isinstance(module, FiringNeuron)]
    handles = [neuron.register_forward_pre_hook(adjust, with_kwargs=True) for neuron in neurons]
    try:
        model(image_BCHW)
    finally:
        for handle in handles:
            handle.remove()


def threshold_for(neuron: FiringNeuron, x_T: Tensor, rate: float) -> float:
    """The threshold at which a share `rate` of the outputs on x_T are spikes."""
    low, high = 0.0, float(x_T.abs().max()) + 1e-6
    for _ in range(SEARCH_STEPS):
        middle = (low + high) / 2
        spikes_T, _ = lif(
            x_T, None, neuron.constants()._replace(v_threshold=middle), neuron.surrogate, return_state=False
        )
        low, high = (middle, high) if float((spikes_T != 0).float().mean()) > rate else (low, middle)
    return high
