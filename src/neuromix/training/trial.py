"""A step on two samples, thrown away: what does not fit is found before anything is written."""

from __future__ import annotations

import copy

import torch

from neuromix.core.model import Model
from neuromix.core.observe import draws
from neuromix.training.auxiliary import AuxiliaryLosses
from neuromix.training.chance import generator
from neuromix.training.task import Task, total


def trial(model: Model, task: Task) -> list[str]:
    """Runs model and task on two training samples, forward and backward, on a copy of the model.

    A model that has no gradients is run forward.

    Returns:
        Names of the trainable weights that got no gradient.

    Raises:
        ShapeError: the model does not take what the task gives.
    """
    model = copy.deepcopy(model).train()
    data, chance = task.data("train", augment=True), generator(0)
    batch = task.augment(task.collate([data.sample(i, chance) for i in range(min(2, len(data)))]), chance)
    if not model.differentiable:
        with draws(model, chance), torch.no_grad():
            task.predict(model.eval(), batch, chance)
        return []
    with draws(model, chance):
        with AuxiliaryLosses(model) as auxiliary:
            losses = task.objective(model, batch, chance)
        total({**losses, **auxiliary.losses()}).backward()  # type: ignore[no-untyped-call]
    return [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
