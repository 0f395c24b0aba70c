"""auxiliary: what the layers of a model ask for themselves is added to the loss.

Layers mark such losses, with their weights in them, by a tap "aux_loss": the distance of tokens to their clusters, the
error of a quantiser.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from neuromix.core.batch import Batch
from neuromix.core.observe import record
from neuromix.core.registry import register_method
from neuromix.training.method import Method
from neuromix.training.task import Losses

if TYPE_CHECKING:
    from neuromix.training.run import Run


@register_method("auxiliary")
class Auxiliary(Method):
    """Adds the sum of all that the taps "aux_loss" carried; a model without them trains as without the method."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self._open = ExitStack()
        self._seen: dict[str, list[Tensor]] = {}

    def before_step(self, run: Run) -> None:
        self._open.close()
        self._seen = self._open.enter_context(record(run.model, "aux_loss"))

    def losses(self, run: Run, batch: Batch, output: Any) -> Losses:
        found = [loss for losses in self._seen.values() for loss in losses]
        for losses in self._seen.values():
            losses.clear()
        return {"auxiliary": torch.stack(found).sum()} if found else {}

    def after_backward(self, run: Run) -> None:
        self._open.close()
