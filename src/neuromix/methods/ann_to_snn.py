"""ann-to-snn: trains a net with quantised activations, and keeps the spiking net that it converts to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from neuromix.core.config import Config
from neuromix.core.edits import apply_edit
from neuromix.core.model import Model
from neuromix.core.registry import register_method
from neuromix.training.method import Method

if TYPE_CHECKING:
    from neuromix.training.run import Run


@dataclass(frozen=True)
class AnnToSnnMethodConfig(Config):
    """Config of AnnToSnn: it has no choices."""


@register_method("ann-to-snn")
class AnnToSnn(Method):
    """Backpropagation through the analog net; at the end the edit "ann_to_snn", whose scores are the run's."""

    Config: ClassVar[type[Config]] = AnnToSnnMethodConfig

    def before_step(self, run: Run) -> None:
        if run.point.epoch == run.step == 0:
            apply_edit(run.model, "ann_to_snn")  # refuses a net before it is trained in vain

    def finish(self, run: Run) -> Model:
        return apply_edit(run.model, "ann_to_snn")
