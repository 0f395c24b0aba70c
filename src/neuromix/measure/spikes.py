"""Spikes of one input, layer by layer.

Shapes: T spike time, B batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from neuromix.neurons import Neuron


@dataclass(frozen=True)
class SpikeTrain:
    """Spikes of some neurons of one layer: `spikes[t][n]`, 0 for silence."""

    name: str
    neurons: int  # that the layer has; `spikes` may show fewer
    spikes: Sequence[Sequence[int]]


@contextmanager
def recorded_spikes(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Collects what each neuron layer sends while the context is open; of a layer called twice, the last.

    Yields:
        path of the layer -> spikes [T, B, ...], in the order in which layers run.
    """
    seen: dict[str, Tensor] = {}
    handles = []
    for path, module in model.named_modules():
        if isinstance(module, Neuron):

            def keep(_: nn.Module, __: object, spikes_T: Tensor, path: str = path) -> None:
                seen[path] = spikes_T.detach()

            handles.append(module.register_forward_hook(keep))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def spike_trains(
    layers: dict[str, Tensor], *, sample: int = 0, most: int = 96, seed: int = 0
) -> list[SpikeTrain]:
    """Spikes of one sample, of at most so many neurons a layer.

    Args:
        layers: path -> spikes [T, B, ...].
        most: neurons of a layer; of more, so many are drawn by `seed`, in the order of the layer.
    """
    generator = torch.Generator().manual_seed(seed)
    trains = []
    for path, spikes_T in layers.items():
        flat_TN = spikes_T[:, sample].flatten(1)
        neurons = flat_TN.shape[1]
        # Evenly spaced ones might all be the same corner of every channel.
        chosen = torch.randperm(neurons, generator=generator)[:most].sort().values
        trains.append(SpikeTrain(path, neurons, flat_TN[:, chosen].int().tolist()))
    return trains


def last_of_each_stage(paths: list[str]) -> list[str]:
    """One path a stage: the last, in the given order. A stage is a module `stages.N`, or one at the top."""
    last = {stage(path): path for path in paths}
    return list(last.values())


def stage(path: str) -> str:
    """ "stages.3.blocks.0.mixer" -> "stage 3"; "head.neuron" -> "head"."""
    first, _, rest = path.partition(".")
    return f"stage {rest.split('.')[0]}" if first == "stages" else first
