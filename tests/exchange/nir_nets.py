"""Networks whose numbers lie on a grid, so that float32 adds them up exactly in any order, and inputs for them.

Membrane potentials then meet the threshold itself again and again: what a tool does there is seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import neuromix
from neuromix.models.vision.cnn import Folded
from neuromix.neurons import LIF
from neuromix.neurons.neuron import Neuron

STEPS, BATCH = 6, 3


def grid(shape: Sequence[int], generator: torch.Generator, parts: int = 8, most: float = 1.0) -> Tensor:
    """Multiples of 1/parts from -most to most."""
    limit = int(most * parts)
    return torch.randint(-limit, limit + 1, tuple(shape), generator=generator) / parts


def on_grid(net: nn.Module, seed: int = 0) -> nn.Module:
    """The network with weights on the grid, in place."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                for parameter in module.parameters():
                    parameter.copy_(grid(parameter.shape, generator))
    return net


def inputs(*shape: int, seed: int = 1, steps: int = STEPS, batch: int = BATCH) -> Tensor:
    """x_T [T, B, *shape] on the grid."""
    return grid((steps, batch, *shape), torch.Generator().manual_seed(seed), parts=4, most=3.0)


def conv(channels: int, outputs: int, kernel: int = 3, **options: int | bool) -> nn.Module:
    """A convolution of x_TBCHW that keeps the map's sides."""
    return Folded(nn.Conv2d(channels, outputs, kernel, padding=kernel // 2, **options))


class Skip(nn.Module):
    """x + body(x)."""

    def __init__(self, *body: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*body)

    def forward(self, x_T: Tensor) -> Tensor:
        return x_T + self.body(x_T)


def convolutional(make: Callable[..., Neuron] = LIF) -> nn.Module:
    """x_TBCHW [2, 6, 6] to the spikes of 5 neurons: convolution, neuron, pooling, linear layer, neuron."""
    pool = Folded(nn.AvgPool2d(2))
    net = nn.Sequential(conv(2, 4), make(), pool, nn.Flatten(2), nn.Linear(36, 5), make(tau=4.0))
    return on_grid(net)


def residual(make: Callable[..., Neuron] = LIF) -> nn.Module:
    """x_TBCHW [2, 6, 6] to the spikes of 5 neurons, with sums of currents and sums of spikes."""
    currents, spikes = Skip(conv(4, 4), make(), conv(4, 4)), Skip(conv(4, 4), make())
    layers = (
        conv(2, 4),
        make(),
        currents,
        make(),
        spikes,
        nn.Flatten(2),
        nn.Linear(144, 5, bias=False),
        make(),
    )
    return on_grid(nn.Sequential(*layers))


def linear(first: nn.Module, second: nn.Module) -> nn.Module:
    """x_TBF [8] to the spikes of 5 neurons."""
    return on_grid(nn.Sequential(nn.Linear(8, 16), first, nn.Linear(16, 5), second))


CATALOGUE = {
    "spiking_vgg": {"layers": (8, 8, "A", 16, "A"), "map_side": 2, "num_classes": 5},
    "spiking_preact_resnet": {"blocks": (1, 2, 1), "widths": (8, 16, 16), "num_classes": 5},
    "spiking_nf_resnet": {"blocks": (1, 1), "widths": (8, 16), "stem_kernel": 3, "num_classes": 5},
}


def catalogue_model(name: str) -> Any:
    """A model with a hard reset, and weights and statistics as after some training."""
    torch.manual_seed(0)
    model = neuromix.create_model(
        name, **CATALOGUE[name], time_steps=4, activation=("lif", {"v_threshold": 0.25, "decay_input": False})
    )
    nn.init.normal_(model.head.classify.weight)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(module.weight, 0.7, 1.6)
            nn.init.normal_(module.bias, 0.2, 0.3)
        if hasattr(module, "gain") and isinstance(module.gain, nn.Parameter):
            nn.init.constant_(module.gain, 1.0)
    return model.double().eval()
