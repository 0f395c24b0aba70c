"""evaluate: the scores of a model on a split of a task."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from neuromix.core.batch import Batch
from neuromix.core.errors import ConfigError
from neuromix.core.model import Model
from neuromix.core.observe import draws
from neuromix.data.dataset import Loader
from neuromix.training.chance import generator, step_seed
from neuromix.training.task import Gathered, Task

if TYPE_CHECKING:
    from lightning_fabric import Fabric

# Another way to come to a prediction than the task's: early exit, an ensemble. Its signature is that of Task.predict.
Predict: TypeAlias = Callable[[Model, Batch, torch.Generator], Any]
# What is done to a batch before it is predicted for: an attack, noise, a damaged sensor. Chance is the generator's.
Perturb: TypeAlias = Callable[[Model, Batch, torch.Generator], Batch]


def evaluate(
    model: Model,
    task: Task,
    split: str = "test",
    *,
    batch_size: int = 256,
    seed: int = 0,
    workers: int = 0,
    fabric: Fabric | None = None,
    on_batch: Callable[[int, int], None] | None = None,
    also: Sequence[Gathered] = (),
    predict: Predict | None = None,
    perturb: Perturb | None = None,
) -> dict[str, float]:
    """Scores a model; it is in the same mode afterwards as before.

    The same seed gives the same numbers, also for a model that draws random numbers, as long as batch size and
    number of processes are the same.

    Args:
        split: "train" (without augmentation), "validation" or "test".
        batch_size: samples at a time, in each process.
        fabric: device and precision, and the processes that share the work; by default this one, where the
            model is.
        on_batch: called with (batches done, batches) before each; what it raises ends the evaluation.
        also: what else is to be gathered of the predictions, such as `task.confusion()`.
        predict: what predicts, in place of the task's own `predict`.
        perturb: changes each batch first; it may take gradients. Scores are of what it gives.

    Raises:
        ConfigError: an argument out of its range.
        ShapeError: the model does not take what the task gives.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size is 1 or more, given {batch_size}")
    device = fabric.device if fabric is not None else next(model.parameters()).device
    rank, world = (fabric.global_rank, fabric.world_size) if fabric is not None else (0, 1)
    loader = Loader(
        task.data(split),
        batch_size * world,
        seed=seed,
        rank=rank,
        world_size=world,
        workers=workers,
        pin_memory=device.type == "cuda",
        collate=task.collate,
    )
    metrics = task.metrics()
    for gathered in (metrics, *also):
        gathered.to(device)
    with _evaluating(model):
        for number, batch in enumerate(loader):
            if on_batch is not None:
                on_batch(number, len(loader))
            chance, batch = step_seed(seed, number, rank), batch.to(device)
            precision = fabric.autocast() if fabric is not None else nullcontext()
            with precision, draws(model, generator(chance, device)):
                if perturb is not None:
                    with torch.enable_grad():
                        batch = perturb(model, batch, generator(chance))
                prediction = (predict or task.predict)(model, batch, generator(chance))
            for gathered in (metrics, *also):
                gathered.update(prediction, batch)
    return metrics.compute()


@contextmanager
def _evaluating(model: Model) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)
