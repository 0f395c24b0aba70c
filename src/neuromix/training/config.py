"""TrainConfig: how a model is trained, whatever the model, the task and the method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from neuromix.core.config import Config

Precision: TypeAlias = Literal["auto", "32-true", "bf16-mixed", "16-mixed"]


@dataclass(frozen=True)
class TrainConfig(Config):
    """Config of the training loop: AdamW or SGD, linear warm-up, and a schedule of the rate.

    A task and a method may suggest other values than these defaults, see `Task.training`.
    """

    epochs: int = 30  # of a stage, >= 1
    max_steps: int | None = None  # end a stage earlier, after so many optimiser steps
    patience: int | None = None  # end a stage earlier, after so many epochs without a better validation score
    batch_size: int = 128  # samples of an optimiser step, over all processes together
    optimiser: Literal["adamw", "sgd"] = "adamw"
    momentum: float = 0.9  # of sgd, in [0, 1)
    accumulate: int = 1  # parts that a batch is worked off in, to save memory
    lr: float = 2e-3  # at the top of the schedule
    warmup: float = 0.1  # share of the steps over which the rate rises from 0, in [0, 1)
    # After the warm-up: half a cosine; or always lr; or lr for two epochs, and then half as much in each further one.
    schedule: Literal["cosine", "constant", "halving"] = "cosine"
    final_lr: float = 0.01  # where the cosine ends, as a share of lr, in [0, 1]
    weight_decay: float = 0.05  # of parameters with two axes or more
    clip_norm: float | None = 1.0  # largest norm of the gradient; None does not clip
    ema: float = 0.0  # decay of the averaged weights in [0, 1), which are then the ones evaluated; 0: none
    init: str | None = None  # a checkpoint or a run whose weights it starts from
    fresh: tuple[str, ...] = ()  # globs over weights that do not come from there, such as a new head
    seed: int = 0
    precision: Precision = "auto"  # 32 bits on a CPU, bf16-mixed on a GPU
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    channels_last: bool = True  # keep maps in the order N, H, W, C, in which 2-D convolutions are faster
    threads: int | None = None  # of PyTorch on a CPU; None: its own choice
    workers: int | None = None  # processes that read data; None: 0 on a CPU, else up to 8
    checkpoint_steps: int | None = None  # also save within an epoch, after so many steps
    checkpoint_seconds: float = 60.0  # also save within an epoch, after so long
    tensorboard: bool = False  # also write the run's scores as TensorBoard events, into its folder
    find_unused: bool | None = None  # several processes: some weights get no gradient; None: tried out

    def validate(self) -> None:
        self.require_positive("epochs", "batch_size", "accumulate", "lr", "checkpoint_seconds")
        for name in ("max_steps", "patience", "checkpoint_steps", "clip_norm", "threads"):
            if getattr(self, name) is not None:
                self.require_positive(name)
        self.require_within(0, 1, "momentum", "warmup", "ema")
        self.require(0 <= self.final_lr <= 1, f"final_lr must be in [0, 1], got {self.final_lr}")
        self.require(self.weight_decay >= 0, f"weight_decay must be 0 or more, got {self.weight_decay}")
        self.require(self.seed >= 0, f"seed must be 0 or more, got {self.seed}")
        self.require(
            self.workers is None or self.workers >= 0, f"workers must be 0 or more, got {self.workers}"
        )
