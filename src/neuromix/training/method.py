"""Method: something done to a network while it trains, as hooks of the one training loop; methods stack."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

from neuromix.core import registry
from neuromix.core.batch import Batch
from neuromix.core.config import Config, Spec
from neuromix.core.errors import ConfigError
from neuromix.core.model import Model
from neuromix.training.auxiliary import AuxiliaryLosses
from neuromix.training.optimiser import Rules
from neuromix.training.task import Losses, Task, total

if TYPE_CHECKING:
    from neuromix.training.run import Run

_OWNED = (
    "stage",
    "objective",
    "step",
)  # hooks that replace something: one method of a stack has each at most


class Stage(NamedTuple):
    """One phase of a run: a model is trained on a task for some epochs.

    `rules` come after those of the model itself; `stop` is asked after each epoch whether to end early. The next
    stage is given the last weights of this one, or with `best` those that were best on validation. `note` is told
    the user as it begins.
    """

    name: str
    model: Model
    task: Task
    epochs: int
    rules: Rules = types.MappingProxyType({})
    stop: Callable[[Run], bool] | None = None
    best: bool = False
    note: str = ""


class Method:
    """Base of all methods; every hook is optional.

    Whatever a method remembers between two steps goes through `state_dict`, so that a run that is killed and
    resumed does not differ from one that was not.
    """

    Config: ClassVar[type[Config]] = Config

    def __init__(self, config: Any) -> None:
        self.config: Any = config

    @classmethod
    def from_config(cls, config: Any) -> Self:
        """Builds the method; what the registry calls."""
        return cls(config)

    def training(self) -> dict[str, Any]:
        """Fields of TrainConfig that suit this method better than the task's; what the user says goes first."""
        return {}

    def stage(self, i: int, run: Run) -> Stage | None:
        """The i-th phase, None after the last.

        A function of i and of `run.model`, which is the fresh model or the result of phase i-1: it is asked
        again when a run is resumed. By default there is one phase.
        """
        raise NotImplementedError

    def objective(self, run: Run, batch: Batch) -> Losses:
        """Replaces the objective of the task."""
        raise NotImplementedError

    def step(self, run: Run, batch: Batch) -> Losses:
        """Replaces forward and backward: leaves gradients in the parameters, through `run.backward`.

        A step that does not take its losses from `run.losses` runs the model within `AuxiliaryLosses`, and hands it
        to `run.method.with_added`.
        """
        raise NotImplementedError

    def losses(self, run: Run, batch: Batch, output: Any) -> Losses:
        """Losses to be added to those of the objective.

        Args:
            output: the model's for this batch; with sltt, whose time steps learn by themselves, that of one step.
        """
        return {}

    def before_step(self, run: Run) -> None:
        """Called before each optimiser step."""

    def after_backward(self, run: Run) -> None:
        """Called with the gradients of a step, before they are clipped."""

    def after_step(self, run: Run) -> None:
        """Called after each optimiser step."""

    def after_epoch(self, run: Run) -> None:
        """Called after the last step of each epoch, before validation."""

    def after_stage(self, run: Run) -> dict[str, Any]:
        """Called with the result of each stage, `run.model`, while `run.point` and `run.task` are those of the stage.

        Returns:
            What results.json of the run folder is to say from now on: JSON values by name.
        """
        return {}

    def finish(self, run: Run) -> Model:
        """The model to keep, made from the best one, `run.model`."""
        return run.model

    def state_dict(self) -> dict[str, Any]:
        """What has to be kept: tensors and JSON values, by name."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Undoes `state_dict`."""


class Stack:
    """Several methods as one.

    Args:
        specs: registered names with options, e.g. `("sltt", "distill")`.

    Raises:
        ConfigError: two of them replace the same thing.
    """

    def __init__(self, specs: Sequence[Spec]) -> None:
        self.methods: dict[str, Method] = {spec.name: registry.build("method", spec) for spec in specs}
        self._owners = {hook: self._owner(hook) for hook in _OWNED}

    def stage(self, i: int, run: Run) -> Stage | None:
        """The i-th phase: that of the method that has phases, else one over the whole run."""
        owner = self._owners["stage"]
        if owner is not None:
            return owner.stage(i, run)
        return Stage("train", run.model, run.task, run.config.epochs) if i == 0 else None

    def step(self, run: Run, batch: Batch) -> Losses:
        """Forward and backward: those of the method that replaces them, else backpropagation."""
        owner = self._owners["step"]
        return owner.step(run, batch) if owner is not None else backpropagate(run, batch)

    def losses(self, run: Run, batch: Batch) -> Losses:
        """All that is minimised on a batch: the objective, and what layers and methods add to it.

        Raises:
            ConfigError: two losses of one name.
        """
        with AuxiliaryLosses(run.model) as auxiliary, _outputs(run.model) as outputs:
            losses = self._objective(run, batch)
        return self.with_added(losses, run, batch, outputs[-1] if outputs else None, auxiliary)

    def with_added(
        self, losses: Losses, run: Run, batch: Batch, output: Any, auxiliary: AuxiliaryLosses
    ) -> Losses:
        """These losses, those that layers ask for, and those that methods add for an output of the model.

        Raises:
            ConfigError: two losses of one name.
        """
        for added in (auxiliary.losses(), *(method.losses(run, batch, output) for method in self._adding)):
            if losses.keys() & added.keys():
                raise ConfigError(f"two losses are called {', '.join(losses.keys() & added.keys())}")
            losses = {**losses, **added}
        return losses

    def finish(self, run: Run) -> Model:
        """The model to keep: every method may change it, in order."""
        for method in self.methods.values():
            run.model = method.finish(run)
        return run.model

    @property
    def has_stages(self) -> bool:
        """Whether a method divides the run into stages."""
        return self._owners["stage"] is not None

    @property
    def finishes(self) -> bool:
        """Whether a method changes the model at the end."""
        return any(_has(method, "finish") for method in self)

    def __iter__(self) -> Iterator[Method]:
        return iter(self.methods.values())

    @property
    def _adding(self) -> list[Method]:
        return [method for method in self if _has(method, "losses")]

    def _objective(self, run: Run, batch: Batch) -> Losses:
        owner = self._owners["objective"]
        if owner is not None:
            return owner.objective(run, batch)
        return run.task.objective(run.net, batch, run.generator)

    def _owner(self, hook: str) -> Method | None:
        owners = {name: method for name, method in self.methods.items() if _has(method, hook)}
        if len(owners) > 1:
            raise ConfigError(f"methods {' and '.join(owners)} cannot be stacked: each replaces the {hook}")
        return next(iter(owners.values()), None)


def backpropagate(run: Run, batch: Batch) -> Losses:
    """The ordinary forward and backward pass."""
    losses = run.losses(batch)
    run.backward(total(losses))
    return losses


def _has(method: Method, hook: str) -> bool:
    return getattr(type(method), hook) is not getattr(Method, hook)


@contextmanager
def _outputs(model: Model) -> Iterator[list[Any]]:
    """What the model gave in its last call while the context was open, once it has been called."""
    outputs: list[Any] = []
    handle = model.register_forward_hook(lambda _, __, output: outputs.__setitem__(slice(None), [output]))
    try:
        yield outputs
    finally:
        handle.remove()
