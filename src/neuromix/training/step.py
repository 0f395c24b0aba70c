"""One optimiser step."""

from __future__ import annotations

import torch

from neuromix.core.batch import Batch
from neuromix.core.observe import draws
from neuromix.training.chance import generator, step_seed
from neuromix.training.optimiser import set_rate
from neuromix.training.run import Run
from neuromix.training.tally import Tally


def train_step(run: Run, batch: Batch, tally: Tally, steps: int) -> None:
    """Takes one step on the batch that follows `run.point`, and counts it.

    Args:
        batch: on the device of the run.
        tally: gets the losses.
        steps: of the stage; the schedule ends with the last.
    """
    config, fabric = run.config, run.fabric
    chance = step_seed(config.seed, *run.point, fabric.global_rank)
    torch.manual_seed(chance)  # so that whatever draws from PyTorch's global generator is exact as well
    run.generator = generator(chance)
    set_rate(run.optimiser, config, run.step, steps)
    for method in run.method:
        method.before_step(run)
    run.optimiser.zero_grad()
    with draws(run.model, generator(chance, fabric.device)):
        parts = run.compute_gradients(run.task.augment(batch, run.generator))
    for method in run.method:
        method.after_backward(run)
    norm = fabric.clip_gradients(
        run.net,
        run.optimiser,
        max_norm=config.clip_norm or float("inf"),
        error_if_nonfinite=False,
    )
    run.optimiser.step()
    run.model.after_step()
    for method in run.method:
        method.after_step(run)
    if run.ema is not None:
        run.ema.update(run.model, run.step)
    run.step += 1
    scaled = fabric.strategy.precision.precision == "16-mixed"  # whose scaler skips infinite gradients itself
    tally.add(parts, None if scaled else norm, run.step)
