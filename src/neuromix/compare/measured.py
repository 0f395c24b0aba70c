"""What a trained model costs and does, on real test samples: figures that are the same on every machine.

Shapes: T spike time.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch

from neuromix.compare.answers import answers
from neuromix.core.batch import Batch
from neuromix.core.model import Model, arguments, call
from neuromix.measure.memory import forward_memory
from neuromix.measure.profile import profile
from neuromix.measure.spikes import last_of_each_stage, recorded_spikes, spike_trains, stage
from neuromix.tasks.classification import prediction
from neuromix.training.config import TrainConfig
from neuromix.training.task import Task

PROFILED = 64  # test samples, evenly spaced, that operations and energy are means over
COUNTING = "exact"

_FIGURES = ("parameters", "macs_dense", "synaptic_operations", "firing_rate", "energy", "not_counted")
_LAYER = ("path", "type", "macs_dense", "synaptic_operations", "firing_rate", "energy")
_NEURON = ("path", "type", "elements", "firing_rate")


def measured(model: Model, task: Task, config: TrainConfig) -> dict[str, Any]:
    """Operations, energy, memory, answers and spikes of a model, as plain values.

    Args:
        config: of its training, whose device and batch size score it again.

    Returns:
        What `_FIGURES` names; layers; neurons; peak_memory: bytes of a forward pass of one sample; sample_scores,
        confusion: see `Answers`; raster.
    """
    model.eval()
    cost = profile(model, spaced_samples(task, PROFILED), COUNTING).to_dict()
    found = {name: cost[name] for name in _FIGURES}
    found["layers"] = [{name: layer[name] for name in _LAYER} for layer in cost["layers"]]
    found["neurons"] = [{name: neuron[name] for name in _NEURON} for neuron in cost["neurons"]]
    found["peak_memory"] = forward_memory(model, spaced_samples(task, 1))
    found["raster"] = raster(model, task)
    seen = answers(model, task, config)
    return {**found, "sample_scores": seen.scores, "confusion": seen.confusion}


def spaced_samples(task: Task, most: int) -> Batch:
    """At most so many test samples, evenly spaced from the first on."""
    data, chance = task.data("test"), torch.Generator().manual_seed(0)
    number = min(most, len(data))
    return task.collate([data.sample(i * len(data) // number, chance) for i in range(number)])


@torch.no_grad()
def raster(model: Model, task: Task) -> dict[str, Any] | None:
    """The first test sample, and what a spiking classifier does with it.

    Returns:
        label: its class; predictions: the answer after 1, 2, ... steps, or the one answer of a model that has no
        steps; trains: spikes of the last neuron layer of each stage. None without spikes, or without classes.
    """
    sample, names = spaced_samples(task, 1), task.class_names()
    if not names:
        return None
    with recorded_spikes(model) as spikes:
        outputs = _outputs(model, sample)
    if not spikes:
        return None
    last = {stage(path): spikes[path] for path in last_of_each_stage(list(spikes))}
    return {
        "label": names[int(sample.tensor("label"))],
        "predictions": [names[int(prediction(output).argmax())] for output in outputs],
        "trains": [asdict(train) for train in spike_trains(last)],
    }


def _outputs(model: Model, sample: Batch) -> list[Any]:
    """The output that the model has after 1, 2, ... spike steps; its only one where it has no such steps."""
    if model.stream_axis != 0:
        return [call(model, sample)]
    steps_T = model.forward_steps(model.encode(*arguments(model, sample)))
    return [model.readout(steps_T[:t]) for t in range(1, len(steps_T) + 1)]
