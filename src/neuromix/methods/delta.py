"""delta: a network for video learns to send changes only (Yousefzadeh & Sifalakis, 2021).

First it is trained as it is. Then a delta layer is put behind every activation (the edit "delta"), and it is trained on
under a penalty on what changes from frame to frame, which lets the steps of the rounding grow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from neuromix.core.config import Config, Spec
from neuromix.core.edits import apply_edit
from neuromix.core.registry import register_method
from neuromix.layers.delta_edits import DeltaEditConfig
from neuromix.training.method import Method, Stage

if TYPE_CHECKING:
    from neuromix.training.run import Run


@dataclass(frozen=True)
class DeltaMethodConfig(DeltaEditConfig):
    """Config of Delta: the fields of the edit, and how long the first stage is."""

    plain: float = 0.5  # share of the epochs that are spent without delta layers, in [0, 1)

    def validate(self) -> None:
        super().validate()
        self.require_within(0, 1, "plain")


@register_method("delta")
class Delta(Method):
    """Two stages, "plain" and "delta"; in the second the loss has the penalties of the layers, as "auxiliary"."""

    Config: ClassVar[type[Config]] = DeltaMethodConfig

    def stage(self, i: int, run: Run) -> Stage | None:
        plain = round(self.config.plain * run.config.epochs)
        stages = [("plain", plain)] * (plain > 0) + [("delta", max(1, run.config.epochs - plain))]
        if i >= len(stages):
            return None
        name, epochs = stages[i]
        model = run.model if name == "plain" else apply_edit(run.model, self._edit())
        return Stage(name, model, run.task, epochs)

    def _edit(self) -> Spec:
        options: dict[str, Any] = self.config.to_dict()
        del options["plain"]
        return Spec("delta", options)
