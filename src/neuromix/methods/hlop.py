"""hlop: tasks one after another, each learnt across the principal subspaces of those before (Xiao et al., ICLR 2024).

While a task is learnt, lateral weights of each layer find the directions in which its inputs vary most. They are then
fixed, and later tasks change the layer only outside of them, so that what it answers to the earlier ones stays; new
lateral weights learn what the fixed ones leave over. No sample is stored, unless replay is asked for.

Shapes: T spike time, B batch, m rows of a subspace, n inputs of a unit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch import Tensor, nn

from neuromix.core.batch import Batch
from neuromix.core.config import Config, Spec
from neuromix.core.edits import apply_edit
from neuromix.core.errors import ConfigError, ShapeError
from neuromix.core.model import Model
from neuromix.core.registry import register_method
from neuromix.layers.projected import (
    ProjectedConv2d,
    ProjectedLinear,
    projectable,
    without_projection,
)
from neuromix.methods.sequential import Phase, Sequential, sequence_of
from neuromix.neurons.integrate_and_fire import rate_decay
from neuromix.ops.rate import weighted_rate
from neuromix.training.optimiser import Rules
from neuromix.training.task import Losses
from neuromix.training.task_sequence import TaskSequence

if TYPE_CHECKING:
    from neuromix.training.run import Run

Sizes = tuple[float, ...]


@dataclass(frozen=True)
class HLOPConfig(Config):
    """Config of HLOP. Sizes are rows a layer, in the order of layers; the last one holds for all that follow.

    A size below 1 is a share of the inputs of the layer.
    """

    subspace: Sizes = (0.3,)  # of the first task
    increments: tuple[Sizes, ...] = ((0.1,),)  # added by each later one; the last holds for all that follow
    layers: tuple[str, ...] = ("*",)  # globs over the paths of the layers that are projected
    head: Literal["auto", "projected", "free"] = (
        "auto"  # the last linear layer; auto: projected if tasks share it
    )
    hebbian_lr: Sizes = (0.01,)  # in the order of layers
    hebbian_input: Literal["rate", "steps"] = (
        "rate"  # learn from the weighted mean over time, or from each step
    )
    iterations: int = 5  # of the Hebbian rule, for each batch
    hebbian_momentum: float = 0.9  # in [0, 1)
    side: Literal["weight", "input"] = "weight"  # see the edit "projected", also for the next three
    feedback: Literal["weight", "random", "sign"] = "weight"
    spiking_steps: int | None = None
    spiking_scale: float = 20.0
    replay: int = 0  # training samples of each class that are stored; 0: no replay
    replay_epochs: int | None = None  # after each task but the first; None: as many as the task has
    replay_lr_scale: float = 0.1  # the rate of replay as a share of the other

    def validate(self) -> None:
        self.require(bool(self.subspace and self.increments and self.hebbian_lr), "sizes must not be empty")
        self.require(all(self.increments), f"increments need sizes for each task, got {self.increments}")
        for sizes in (self.subspace, *self.increments):
            fits = all(size >= 0 and (size < 1 or size == int(size)) for size in sizes)
            self.require(fits, f"sizes are rows, or shares below 1, got {sizes}")
        self.require_positive("hebbian_lr", "iterations", "replay_lr_scale")
        self.require_within(0, 1, "hebbian_momentum")
        self.require(self.replay >= 0, f"replay must be 0 or more samples, got {self.replay}")


_FIVE = (6, 40, 40, 40, 40, 40, 100, 6, 100, 100, 100, 200, 8, 200, 200, 200, 200, 16, 200, 200)
_MINI = (24, 90, 90, 90, 90, 90, 180, 10, 180, 180, 180, 360, 20, 360, 360, 360, 720, 40, 720, 720)
_MINI_1 = (2, 6, 6, 6, 6, 6, 12, 1, 12, 12, 12, 24, 2, 24, 24, 24, 48, 4, 48, 48)
_MINI_2 = (0, 2, 2, 2, 2, 2, 4, 0, 4, 4, 4, 8, 0, 8, 8, 8, 16, 0, 16, 16)
PUBLISHED: Mapping[str, Mapping[str, Any]] = {
    "hlop-pmnist": {
        "subspace": (80, 200, 100),
        "increments": ((70,), (70,), (50,), (50,), (50,), (30,), (30,), (30,), (10,)),
        "hebbian_lr": (0.001, 0.01),
    },
    "hlop-cifar100": {"subspace": (6, 100, 200), "increments": ((2, 20, 40),)},
    "hlop-5datasets": {"subspace": _FIVE, "increments": (_FIVE,)},
    "hlop-miniimagenet": {"subspace": _MINI, "increments": (_MINI_1, _MINI_2), "replay": 5},
}


@contextmanager
def learning(
    model: nn.Module,
    batch_size: int,
    rates: Mapping[str, float],
    *,
    per_step: bool = False,
    iterations: int = 5,
    momentum: float = 0.9,
) -> Iterator[None]:
    """Within the context the subspaces of these layers learn, each time a layer runs, from what it is given.

    Args:
        batch_size: B, of what the model is given: layers see [T*B, ...] or [T, B, n].
        rates: path of a projected layer -> rate of its Hebbian rule.
        per_step: learn from every time step, instead of from the mean over time.

    Raises:
        ShapeError: a layer is given something else.
    """
    decay = rate_decay(model)

    def learn(layer: ProjectedLinear | ProjectedConv2d, rate: float) -> Callable[..., None]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...], __: Tensor) -> None:
            x_TB = _steps(inputs[0].detach(), layer, batch_size)
            x = x_TB.flatten(0, 1) if per_step else weighted_rate(x_TB, decay)
            layer.subspace.learn(layer.rows_of(x), rate, iterations=iterations, decay=momentum)

        return hook

    layers: dict[str, Any] = {path: model.get_submodule(path) for path in rates}
    handles = [layer.register_forward_hook(learn(layer, rates[path])) for path, layer in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _steps(x: Tensor, layer: nn.Module, batch_size: int) -> Tensor:
    """The input of a layer as [T, B, ...]."""
    axes = 4 if isinstance(layer, nn.Conv2d) else 2
    if x.dim() == axes + 1 and x.shape[1] == batch_size:
        return x
    if x.dim() != axes or len(x) % batch_size:
        raise ShapeError(f"a projected layer takes [T*B, ...] with B = {batch_size}, got {list(x.shape)}")
    return x.view(-1, batch_size, *x.shape[1:])


@contextmanager
def unprojected(model: nn.Module) -> Iterator[None]:
    """Within the context gradients are formed as by plain layers."""
    layers = [m for m in model.modules() if isinstance(m, ProjectedLinear | ProjectedConv2d)]
    try:
        for layer in layers:
            layer.projects = False
        yield
    finally:
        for layer in layers:
            layer.projects = True


@register_method("hlop", variants=PUBLISHED)
class HLOP(Sequential):
    """Hebbian learning based orthogonal projection: a stage a task, and one of replay after each where asked for.

    From the second task on, norms keep their statistics, and only parameters with two axes or more are trained. Steps
    must follow the projected gradient, so the optimiser is SGD. A layer whose inputs are all used up learns no more.
    The result is the plain net; `last.safetensors` of the run keeps the lateral weights.
    """

    Config: ClassVar[type[Config]] = HLOPConfig

    def stage(self, i: int, run: Run) -> Any:
        if run.config.optimiser != "sgd" or run.config.weight_decay > 0:
            raise ConfigError(
                "hlop needs train.optimiser=sgd and train.weight_decay=0: AdamW and decay lead out of the directions "
                "that are free"
            )
        return super().stage(i, run)

    def phases(self, sequence: TaskSequence) -> list[Phase]:
        replays = (False, True) if self.config.replay else (False,)
        tasks = range(len(sequence))
        return [Phase(task, replay) for task in tasks for replay in (replays if task else (False,))]

    def epochs_of(self, phase: Phase, run: Run) -> int:
        return (self.config.replay_epochs if phase.replay else None) or run.config.epochs

    def stored(self) -> int | None:
        return int(self.config.replay)

    def model_for(self, phase: Phase, run: Run) -> Model:
        """The model with room for what the task brings."""
        if phase.replay:
            return run.model
        config, blocks = self.config, {}
        for number, path in enumerate(self.paths(run.model, sequence_of(run))):
            layer: Any = run.model.get_submodule(path)
            used = len(layer.subspace.weight) if phase.task else 0
            sizes = _last(config.increments, phase.task - 1) if phase.task else config.subspace
            inputs = layer.weight[0].numel()
            new = min(_rows(_last(sizes, number), inputs), inputs - used)
            blocks[path] = [used, new] if phase.task else [new]
        options = {name: getattr(config, name) for name in _PASSED_ON}
        seed = run.config.seed + phase.task
        return apply_edit(run.model, Spec("projected", {**options, "blocks": blocks, "seed": seed}))

    def rules_for(self, phase: Phase, model: Model) -> Rules:
        rules = {"*": {"lr_scale": self.config.replay_lr_scale}} if phase.replay else {}
        if phase.task:
            rules |= {name: {"lr_scale": 0.0} for name, p in model.named_parameters() if p.dim() < 2}
        return rules

    def paths(self, model: Model, sequence: TaskSequence) -> list[str]:
        """The layers that are projected.

        Raises:
            ConfigError: there is none.
        """
        found = projectable(model)
        linear = [path for path in found if isinstance(model.get_submodule(path), nn.Linear)]
        free = self.config.head == "free" or (self.config.head == "auto" and sequence.scenario == "task")
        paths = [p for p in found if not (free and p in linear[-1:])]
        paths = [p for p in paths if any(fnmatchcase(p, glob) for glob in self.config.layers)]
        if not paths:
            raise ConfigError(
                f"hlop projects linear layers and convolutions; layers {self.config.layers} name none"
            )
        return paths

    def before_step(self, run: Run) -> None:
        if self.phase(run).task:
            for module in run.model.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()

    def objective(self, run: Run, batch: Batch) -> Losses:
        phase, config = self.phase(run), self.config
        if phase.replay:
            with unprojected(run.model):
                return run.task.objective(run.net, batch, run.generator)
        paths = self.paths(run.model, sequence_of(run))
        rates = {path: _last(config.hebbian_lr, number) for number, path in enumerate(paths)}
        with learning(
            run.model,
            batch.size,
            rates,
            per_step=config.hebbian_input == "steps",
            iterations=config.iterations,
            momentum=config.hebbian_momentum,
        ):
            return run.task.objective(run.net, batch, run.generator)

    def finish(self, run: Run) -> Model:
        return without_projection(run.model)


_PASSED_ON = ("side", "feedback", "spiking_steps", "spiking_scale")


def _last(values: tuple[Any, ...], number: int) -> Any:
    """The value with this number, or the last one."""
    return values[min(number, len(values) - 1)]


def _rows(size: float, inputs: int) -> int:
    return min(inputs, round(size * inputs) if size < 1 else int(size))
