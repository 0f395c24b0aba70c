"""bptt: backpropagation through everything - all layers and, in a spiking net, all time steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from neuromix.core.batch import Batch
from neuromix.core.config import Config
from neuromix.core.model import call
from neuromix.core.registry import register_method
from neuromix.methods.segments import in_segments, require_spike_time
from neuromix.methods.step_loss import StepLossConfig, mean_losses, output_losses, outputs_of_steps
from neuromix.training.auxiliary import AuxiliaryLosses
from neuromix.training.method import Method
from neuromix.training.task import Losses, total

if TYPE_CHECKING:
    from neuromix.training.run import Run


@dataclass(frozen=True)
class BPTTConfig(StepLossConfig):
    """Config of BPTT."""

    checkpoint: bool = False  # keep only the states between segments, and run each again in backward
    # Time steps that run at once; a batch-norm takes its statistics of so many. None: all, or with checkpoint 1.
    segment: int | None = None

    def validate(self) -> None:
        super().validate()
        self.require(
            self.segment is None or self.segment > 0, f"segment must be positive, got {self.segment}"
        )

    @property
    def steps_at_once(self) -> int | None:
        """The length of a segment; None: all steps are one."""
        return 1 if self.checkpoint and self.segment is None else self.segment


@register_method("bptt")
class BPTT(Method):
    """One forward pass, one backward pass, and the gradient is exact up to the surrogate.

    Its memory grows with the number of time steps; with `checkpoint` only by what the leaves remember between
    two segments, for a second forward pass. `checkpoint` changes no number, `segment` changes the statistics of
    batch-norms. It owns the step, so it is not stacked with a method that computes gradients in another way.
    """

    Config: ClassVar[type[Config]] = BPTTConfig

    def step(self, run: Run, batch: Batch) -> Losses:
        config: BPTTConfig = self.config
        if config.loss == "rate" and config.steps_at_once is None:
            losses = self._losses(run, batch, [])
        else:
            require_spike_time(run.model, "bptt with checkpoint, segment or the tet loss")
            with in_segments(run.model, config.steps_at_once, checkpoint=config.checkpoint) as seen:
                losses = self._losses(run, batch, seen)
        run.backward(total(losses))
        return losses

    def _losses(self, run: Run, batch: Batch, seen: list[Any]) -> Losses:
        """Runs the model forward; `seen` gets the outputs of all steps."""
        config: BPTTConfig = self.config
        if config.loss == "rate" and config.mse == 0:
            return run.losses(batch)
        with AuxiliaryLosses(run.model) as auxiliary:
            output = call(run.net, batch)
        with run.fabric.autocast():
            outputs = [output] if config.loss == "rate" else outputs_of_steps(run.model, seen[-1])
            losses = mean_losses([output_losses(run, batch, y, config) for y in outputs])
        # What methods add is about the model's output, so once and not at every step.
        return run.method.with_added(losses, run, batch, output, auxiliary)
