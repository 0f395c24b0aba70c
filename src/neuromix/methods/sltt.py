"""sltt: learning a spiking net step by step, without the gradient through time (Meng et al., ICCV 2023).

The gradient that reaches a neuron from later steps through its membrane potential is small, as the potential
leaks and is reset. SLTT leaves it out: each time step is backpropagated as soon as it has run, so that memory is
that of one step however many there are. SLTT-K does so at K steps of a batch, drawn at random, and only runs the
others forward.

Shapes: T spike time, B batch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from neuromix.core.batch import Batch
from neuromix.core.config import Config
from neuromix.core.errors import ConfigError
from neuromix.core.model import arguments
from neuromix.core.registry import register_method
from neuromix.core.state import detach
from neuromix.core.stream import Stream, stream
from neuromix.methods.segments import require_spike_time, unrolled
from neuromix.methods.step_loss import StepLossConfig, mean_losses, output_losses
from neuromix.training.auxiliary import AuxiliaryLosses
from neuromix.training.method import Method
from neuromix.training.task import Losses, total

if TYPE_CHECKING:
    from neuromix.training.run import Run


class Step(NamedTuple):
    """What a time step gave, without graph: the model's output, and its losses (none where it did not learn)."""

    output: Any
    losses: Losses


def sltt(
    net: Stream,
    x_T: Tensor,
    loss: Callable[[Any], Losses],
    *,
    chosen: Collection[int] | None = None,
    skip_rest: bool = False,
    backward: Callable[[Tensor], object] = Tensor.backward,
    autocast: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
) -> Iterator[Step]:
    """Runs the model step by step, and adds the gradient of loss(output of step t) / T after each chosen one.

    Everything happens as the steps are taken from the iterator, so all of them must be.

    Args:
        x_T: the input of every step, [T, ...] (see `segments.unrolled`).
        loss: of the output of one step.
        chosen: the steps to learn from; None: all.
        skip_rest: end with the last chosen step.
        backward: what leaves gradients in the parameters.
        autocast: opened around each forward pass.
    """
    model, state = net.model, None
    last = max(chosen, default=-1) if skip_rest and chosen is not None else len(x_T) - 1
    for t in range(last + 1):
        learns = chosen is None or t in chosen
        with torch.set_grad_enabled(learns), autocast():
            y_T, state = net.prefill(x_T[t : t + 1], state)
            # At once: the graph that made the state shall not outlive this step.
            state = detach(state)
            output = model.readout(y_T)
            losses = loss(output) if learns else {}
        if learns:
            backward(total(losses) / len(x_T))
        yield Step(detach(output), detach(dict(losses)))
        del y_T, output, losses


def choose_steps(k: int | None, steps: int, generator: torch.Generator) -> Collection[int] | None:
    """K of the T steps, without replacement and each as likely as the other; None for all of them.

    Raises:
        ConfigError: k > T.
    """
    if k is None:
        return None
    if k > steps:
        raise ConfigError(f"sltt: k is {k}, and there are only {steps} time steps")
    return frozenset(torch.randperm(steps, generator=generator)[:k].tolist())


@dataclass(frozen=True)
class SLTTConfig(StepLossConfig):
    """Config of SLTT. The paper's runs have mse 0.05, on ImageNet 0."""

    loss: Literal["rate", "tet"] = "tet"
    k: int | None = None  # time steps that a batch learns from, in [1, T]; None: all
    # Leave out the steps after the last chosen one: nothing learns from them, they only move the running statistics
    # of batch-norms, which so hear more of the first steps than of the last.
    skip_rest: bool = False

    def validate(self) -> None:
        super().validate()
        self.require(self.k is None or self.k > 0, f"k must be at least 1, got {self.k}")
        self.require(self.loss == "tet", 'loss must be "tet": each step learns before the next one has run')


@register_method("sltt")
class SLTT(Method):
    """Backpropagates each of the time steps, or K of them, by itself; the loss is that of single steps.

    A batch-norm sees one step at a time, and its running statistics move at every step. The chosen steps are the
    same for all layers, samples, parts of a batch and processes.
    """

    Config: ClassVar[type[Config]] = SLTTConfig

    def __init__(self, config: SLTTConfig) -> None:
        super().__init__(config)
        self._seed = 0

    def before_step(self, run: Run) -> None:
        # One draw for all parts and processes of a batch; in turn, each makes its own generator of it.
        seed = int(torch.randint(2**31, (), generator=run.generator))
        self._seed = run.fabric.broadcast(seed)

    def step(self, run: Run, batch: Batch) -> Losses:
        config, model = self.config, run.model
        require_spike_time(model, "sltt")
        x_T = unrolled(model, model.encode(*arguments(model, batch)))
        chosen = choose_steps(config.k, len(x_T), torch.Generator().manual_seed(self._seed))

        auxiliary = AuxiliaryLosses(model)

        @contextlib.contextmanager
        def forward() -> Iterator[None]:
            with run.fabric.autocast(), auxiliary:
                yield

        def loss(output: Any) -> Losses:
            losses = output_losses(run, batch, output, config)
            return run.method.with_added(losses, run, batch, output, auxiliary)

        steps = sltt(
            stream(model),
            x_T,
            loss,
            chosen=chosen,
            skip_rest=config.skip_rest,
            backward=run.backward,
            autocast=forward,
        )
        learnt = [step.losses for step in steps if step.losses]
        share_gradients(run)
        return mean_losses(learnt)


def share_gradients(run: Run) -> None:
    """The mean over the processes: steps bypass `run.net`, which would see to it in one backward pass.

    Of a batch in parts, what was shared with an earlier part is the same everywhere and stays what it is.
    """
    if run.fabric.world_size > 1:
        for parameter in run.model.parameters():
            if parameter.grad is not None:
                mean = run.fabric.all_reduce(parameter.grad, reduce_op="mean")
                assert isinstance(mean, Tensor)
                parameter.grad = mean
