"""Scores a run with early exit: the policy is made on its validation samples, and tried on a split.

Shapes: T spike time, B batch, K classes, N samples of a split.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from neuromix.core.batch import Batch
from neuromix.core.errors import ConfigError
from neuromix.methods.dynamic_confidence import (
    EarlyExit,
    Exit,
    ExitPolicy,
    StepSums,
    Tradeoff,
    choose_policy,
    every_step,
    potential,
)
from neuromix.training.api import Evaluation, evaluate_run
from neuromix.training.observer import Observer


class EarlyExitEvaluation(NamedTuple):
    """The scores of a run with early exit.

    Attributes:
        evaluation: with early exit.
        full: without.
        policy: when samples stopped.
        steps: the mean a sample took, of `time_steps`.
        potential: of a policy that knows the labels.
    """

    evaluation: Evaluation
    full: Evaluation
    policy: ExitPolicy
    steps: float
    time_steps: int
    potential: Tradeoff

    def to_dict(self) -> dict[str, Any]:
        """Everything but the scores with early exit, as JSON values."""
        return {
            **self.policy.to_dict(),
            "steps": self.steps,
            "time_steps": self.time_steps,
            "full": self.full.scores,
            "potential": {"accuracy": self.potential.accuracy, "steps": self.potential.steps},
        }


def evaluate_early_exit(
    path: str | Path,
    split: str = "test",
    *,
    threshold: float | None = None,
    divisor: float | None = None,
    confidence: str = "probability",
    task_config: Mapping[str, Any] | None = None,
    train_config: Mapping[str, Any] | None = None,
    observer: Observer | None = None,
    confusion: bool = False,
) -> EarlyExitEvaluation:
    """Scores the model of a run with early exit, as `evaluate_run` does without.

    Args:
        threshold, divisor: of the policy; what is None is chosen on the validation split, see `choose_policy`.
        confidence: "probability", "margin" or "entropy".

    Raises:
        RunError, ConfigError: as `evaluate_run`; or the model has no spike time, or the task no labels.
    """
    options: dict[str, Any] = {"task_config": task_config, "train_config": train_config, "observer": observer}
    policy_options: dict[str, Any] = {"threshold": threshold, "divisor": divisor, "confidence": confidence}
    if threshold is not None and divisor is not None:
        policy = ExitPolicy.from_dict(policy_options)
    else:
        held_out = Recorded()
        evaluate_run(path, "validation", **options, predict=every_step, also=(held_out,))
        policy = choose_policy(*held_out.compute(), **policy_options)
    recorded, steps = Recorded(), MeanSteps()
    full = evaluate_run(path, split, **options, predict=every_step, also=(recorded,))
    evaluation = evaluate_run(
        path, split, **options, confusion=confusion, predict=EarlyExit(policy), also=(steps,)
    )
    sum_TNK, label_N = recorded.compute()
    return EarlyExitEvaluation(
        evaluation, full, policy, steps.compute(), len(sum_TNK), potential(sum_TNK, label_N)
    )


class MeanSteps:
    """The mean number of steps that samples took."""

    def __init__(self) -> None:
        from torchmetrics import MeanMetric

        self._mean = MeanMetric()

    def to(self, device: torch.device) -> None:
        self._mean.to(device)

    def update(self, prediction: Exit, batch: Batch) -> None:
        self._mean.update(prediction.steps.float())

    def compute(self) -> float:
        return float(self._mean.compute())


class Recorded:
    """The summed logits of all samples and their labels."""

    def __init__(self) -> None:
        from torchmetrics import CatMetric

        self._sums, self._labels = CatMetric(), CatMetric()

    def to(self, device: torch.device) -> None:
        self._sums.to(device)
        self._labels.to(device)

    def update(self, prediction: StepSums, batch: Batch) -> None:
        if "label" not in batch or batch.tensor("label").dim() != 1:
            raise ConfigError("early exit is for tasks with one label a sample")
        # Samples first, as that is the axis that grows.
        self._sums.update(prediction.sums.transpose(0, 1).float())
        self._labels.update(batch.tensor("label"))

    def compute(self) -> tuple[Tensor, Tensor]:
        """Sums [T, N, K], float32, and labels [N], int64, on the CPU."""
        sum_NTK, label_N = self._sums.compute(), self._labels.compute()
        return sum_NTK.transpose(0, 1).cpu(), label_N.long().cpu()
