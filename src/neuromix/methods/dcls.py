"""dcls: learns delays from coarse to fine (Hammouamri et al., ICLR 2024).

A wide synapse is told by its gradient which way to move from far off; a narrow one is a delay. So the widths fall, by
the same factor after each epoch, in the first part of a run, and stay there for the rest of it. Scores are those of
delays of whole steps, which the layers round to in eval mode.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from neuromix.core.config import Config
from neuromix.core.errors import ConfigError
from neuromix.core.registry import register_method
from neuromix.layers.delay import Delay
from neuromix.training.method import Method

if TYPE_CHECKING:
    from neuromix.training.run import Run


@dataclass(frozen=True)
class DCLSMethodConfig(Config):
    """Config of the method "dcls"."""

    last_width: float = 0.23  # at which widths stay; a gaussian's standard deviation is that plus 0.27 steps
    share: float = 0.25  # of the epochs in which widths fall, rounded down, but one at least

    def validate(self) -> None:
        self.require_positive("last_width")
        self.require(0 < self.share <= 1, f"share must be in (0, 1], got {self.share}")


@register_method("dcls")
class DCLSMethod(Method):
    """Lowers the widths of all learnt delays to `last_width`."""

    Config: ClassVar[type[Config]] = DCLSMethodConfig

    def after_epoch(self, run: Run) -> None:
        epochs = max(1, int(self.config.share * run.config.epochs))
        layers = [module for module in run.model.modules() if isinstance(module, Delay)]
        if not layers:
            raise ConfigError(f"method dcls is for models with learnt delays; {run.model.name} has none")
        if run.point.epoch < epochs:
            for layer in layers:
                narrow_once(layer, epochs, self.config.last_width)


def narrow_once(layer: Delay, epochs: int, last_width: float = 0.23) -> None:
    """One of `epochs` equal factors that bring a layer's widths from their start to `last_width`."""
    if layer.start_width > last_width:
        layer.narrow((last_width / layer.start_width) ** (1 / epochs), last_width)
