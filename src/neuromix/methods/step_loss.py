"""The loss of a net that gives an output a time step: of their mean, or of each; with a squared error mixed in.

"rate": L(mean over t of y[t]). "tet": mean over t of L(y[t]), which asks every step for the right answer (Deng et
al., "Temporal Efficient Training of Spiking Neural Network via Gradient Re-weighting", ICLR 2022).
With `mse` m in [0, 1], L = (1 - m) * loss of the task + m * mean squared error to a target.

Shapes: T spike time, B batch, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from neuromix.core.batch import Batch
from neuromix.core.config import Config
from neuromix.core.errors import ConfigError
from neuromix.core.model import Model
from neuromix.core.state import map_state
from neuromix.data.augment import soft_labels
from neuromix.training.method import Method
from neuromix.training.task import Losses, Task

if TYPE_CHECKING:
    from neuromix.training.run import Run


@dataclass(frozen=True)
class StepLossConfig(Config):
    """The fields of a method's Config that say what its loss is."""

    loss: Literal["rate", "tet"] = "rate"
    mse: float = 0.0  # share of the squared error, in [0, 1]
    # What every class should give (a regulariser), or 1 for the right class and 0 for the others.
    mse_target: float | Literal["one_hot"] = 1.0

    def validate(self) -> None:
        self.require(0 <= self.mse <= 1, f"mse must be in [0, 1], got {self.mse}")


def mixed_with_mse(losses: Losses, output: Any, batch: Batch, config: StepLossConfig) -> Losses:
    """The losses of the task with the squared error mixed in.

    Args:
        output: logits [B, K], or a tuple that begins with them.
        batch: its "label", [B] int64 or [B, K], is what a one-hot target is made of.
    """
    if config.mse == 0:
        return losses
    logits_BK: Tensor = output if isinstance(output, Tensor) else output[0]
    if config.mse_target == "one_hot":
        target_BK = soft_labels(batch.tensor("label"), logits_BK.shape[1]).to(logits_BK)
    else:
        target_BK = torch.full_like(logits_BK, config.mse_target)
    mixed = {name: (1 - config.mse) * loss for name, loss in losses.items()}
    return {**mixed, "mse": config.mse * F.mse_loss(logits_BK, target_BK)}


def output_losses(run: Run, batch: Batch, output: Any, config: StepLossConfig) -> Losses:
    """The task's losses of one output, with the squared error mixed in.

    Raises:
        ConfigError: the task or a method has an objective that is no loss of an output.
    """
    owners: list[Any] = [m for m in run.method if type(m).objective is not Method.objective]
    owners += [run.task] if type(run.task).objective is not Task.objective else []
    if owners:
        raise ConfigError(
            f"{type(owners[0]).__name__} has an objective of its own, and here the loss is one of the outputs of "
            "time steps; train with bptt and its rate loss"
        )
    return mixed_with_mse(run.task.loss(output, batch), output, batch, config)


def mean_losses(losses: Sequence[Losses]) -> Losses:
    """The mean of each loss over several outputs."""
    return {name: torch.stack([each[name] for each in losses]).mean() for name in losses[0]}


def outputs_of_steps(model: Model, y_T: Any) -> list[Any]:
    """What the model would give if each time step were the only one.

    Args:
        y_T: of `model.forward_steps`: a tensor [T, ...], or a tuple or list of them.
    """

    def output(t: int) -> Any:
        return model.readout(map_state(lambda tensor_T: tensor_T[t : t + 1], y_T))

    return [output(t) for t in range(len(pytree.tree_leaves(y_T)[0]))]
