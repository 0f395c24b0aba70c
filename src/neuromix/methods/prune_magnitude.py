"""prune_magnitude: trains, sets the smallest weights to 0, and trains on without them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from neuromix.core.config import Config, Spec
from neuromix.core.edits import apply_edit
from neuromix.core.registry import register_method
from neuromix.layers.prune_magnitude import PruneMagnitudeConfig
from neuromix.training.method import Method, Stage

if TYPE_CHECKING:
    from neuromix.training.run import Run


@dataclass(frozen=True)
class PruneMagnitudeMethodConfig(PruneMagnitudeConfig):
    """Config of the method "prune_magnitude"; what is pruned is as of the edit of that name."""

    tuning_epochs: int = 5  # of training after pruning, >= 1

    def validate(self) -> None:
        super().validate()
        self.require_positive("tuning_epochs")


@register_method("prune_magnitude")
class PruneMagnitude(Method):
    """Two stages: dense, and pruned from the dense weights that were best on validation.

    A run that starts from weights that are there (`init`) begins with the second. Each stage has its own warm-up and
    cosine; the dense net stays in the run's folder, as stage-1.safetensors.
    """

    Config: ClassVar[type[Config]] = PruneMagnitudeMethodConfig

    def stage(self, i: int, run: Run) -> Stage | None:
        stages = [self._pruned] if run.config.init is not None else [self._dense, self._pruned]
        return stages[i](run) if i < len(stages) else None

    def _dense(self, run: Run) -> Stage:
        return Stage("dense", run.model, run.task, run.config.epochs, best=True)

    def _pruned(self, run: Run) -> Stage:
        config: PruneMagnitudeMethodConfig = self.config
        options = {"amount": config.amount, "scope": config.scope}
        pruned = apply_edit(run.model, Spec("prune_magnitude", options))
        return Stage("pruned", pruned, run.task, config.tuning_epochs)
