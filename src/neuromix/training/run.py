"""Run: everything that a training run consists of, as the hooks of a method see it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from neuromix.core.batch import Batch
from neuromix.core.errors import ConfigError
from neuromix.core.model import Model
from neuromix.training.chance import generator
from neuromix.training.config import TrainConfig
from neuromix.training.ema import Ema
from neuromix.training.method import Stack
from neuromix.training.task import Losses, Task

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class Point(NamedTuple):
    """A place in a run: `batch` batches of epoch `epoch` of stage `stage` are done."""

    stage: int = 0
    epoch: int = 0
    batch: int = 0


class Best(NamedTuple):
    """The best validation score of a stage so far, and the epoch it was reached after, counted from 1."""

    score: float
    epoch: int


class Run:
    """A model in training.

    Attributes:
        config: how it is trained.
        fabric: devices, precision, and what the processes of the run say to one another.
        method: the methods of the run.
        task: of the current stage.
        model: the network of the current stage, for looking at and changing.
        net: the same network for calling in training: in the run's precision, gradients shared by all processes.
        ema: averaged weights, or None.
        optimiser: of the current stage.
        point: how far the run is.
        step: optimiser steps done in this stage.
        generator: chance on the CPU for the current step; the noise inside the model is seeded apart.
        best: the best validation score of this stage so far.
    """

    net: Model
    optimiser: Any
    ema: Ema | None = None
    best: Best | None = None

    def __init__(self, config: TrainConfig, fabric: Fabric, method: Stack, task: Task, model: Model) -> None:
        self.config, self.fabric, self.method, self.task, self.model = config, fabric, method, task, model
        self.point, self.step = Point(), 0
        self.generator: torch.Generator = generator(config.seed)
        self._share = 1.0

    def losses(self, batch: Batch) -> Losses:
        """All that is minimised on a batch: the objective, and what layers and methods add."""
        return self.method.losses(self, batch)

    def backward(self, loss: Tensor) -> None:
        """Adds the gradient of a loss, weighted by the share that the current part has in the batch.

        Raises:
            ConfigError: the model has no gradients.
        """
        if not self.model.differentiable:
            raise ConfigError(
                f"{self.model.name} has no gradients; train it by a method that needs none, such as stdp"
            )
        self.fabric.backward(loss * self._share, model=self.net)  # type: ignore[arg-type]

    def compute_gradients(self, batch: Batch) -> list[tuple[float, Losses]]:
        """Leaves the gradient of a batch, worked off in `config.accumulate` parts; (share, losses) of each."""
        parts, done = batch.split(self.config.accumulate), []
        for number, part in enumerate(parts):
            self._share = part.size / batch.size
            # Processes exchange gradients once, with the last part.
            with self.fabric.no_backward_sync(self.net, enabled=number < len(parts) - 1):  # type: ignore[arg-type]
                done.append((self._share, self.method.step(self, part)))
        return done

    @property
    def evaluated(self) -> Model:
        """The model that counts: the averaged one where there is one."""
        return self.ema.model if self.ema is not None else self.model
