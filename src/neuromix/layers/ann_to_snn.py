"""The edit "ann_to_snn": a net with quantised activations becomes a spiking one with the same weights.

An activation of L levels of s becomes an integrate-and-fire neuron with threshold L*s, whose spikes have that height.
Over time its mean output comes to that of the activation: what it was given in all, in whole spikes, rounded - it
starts with half a threshold in its membrane. Firing at half a threshold from an empty membrane is the same thing,
and leaves nothing to be stored beside the threshold.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import nn

from neuromix.core.config import Config, Spec
from neuromix.core.edits import register_edit
from neuromix.core.errors import ConfigError
from neuromix.core.model import Model
from neuromix.core.time import Repeat
from neuromix.layers.quantised_relu import QuantisedReLU
from neuromix.neurons.neuron import Neuron, make_neuron

NEURON = Spec("if", {"v_reset": None, "fire_at": 0.5, "height": "threshold", "learnable": ("v_threshold",)})


@dataclass(frozen=True)
class AnnToSnnConfig(Config):
    """Config of the edit "ann_to_snn"."""

    # Globs over activations behind the classifier, which fall away: a read-out adds up what it is given.
    readout: tuple[str, ...] = ("output",)


@register_edit("ann_to_snn", AnnToSnnConfig)
def ann_to_snn(model: Model, config: AnnToSnnConfig) -> Model:
    """Every quantised activation a neuron; the model then has spike time, `time_steps` of its Config long.

    Raises:
        ConfigError: no activation is quantised, or the model has no place for time.
    """
    who = model.name or type(model).__name__
    activations = {
        path: module for path, module in model.named_modules() if isinstance(module, QuantisedReLU)
    }
    repeats = [module for module in model.modules() if isinstance(module, Repeat)]
    if not activations:
        raise ConfigError(
            f'ann_to_snn: {who} has no quantised activation; train it with activation="quantised_relu"'
        )
    if not repeats or not hasattr(model.config, "time_steps"):
        raise ConfigError(
            f"ann_to_snn: {who} has no place for spike time; nets such as quantised_resnet have"
        )
    for path, activation in activations.items():
        falls_away = any(fnmatchcase(path, glob) for glob in config.readout)
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, nn.Identity() if falls_away else _neuron(activation))
    for repeat in repeats:
        repeat.times = model.config.time_steps
    model.stream_axis = 0
    return model.eval()


def _neuron(activation: QuantisedReLU) -> Neuron:
    neuron = make_neuron(NEURON).to(activation.scale)
    with torch.no_grad():
        neuron.v_threshold.copy_(activation.scale[0] * activation.levels)  # type: ignore[operator]
    return neuron
