"""What `neuromix profile` measures: a network, and the samples that it is measured on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from neuromix.cli.target import is_attribute, load_attribute, load_target
from neuromix.core.errors import ConfigError, NeuromixError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from neuromix.core.batch import Batch
    from neuromix.core.model import Model
    from neuromix.measure.inputs import Frames, Inputs
    from neuromix.training.task import Task

RUN_SAMPLES = 16  # of the test split of a run


class Subject(NamedTuple):
    """A network.

    Attributes:
        is_trained: whether its weights are known to be trained ones.
        task, task_name: of a run, where its data are there.
        notes: what its figures depend on.
    """

    net: nn.Module
    is_trained: bool
    task: Task | None = None
    task_name: str = ""
    notes: tuple[str, ...] = ()


def find_subject(target: str, overrides: Mapping[str, Any], time_steps: int | None) -> Subject:
    """The network that a target means.

    Args:
        target: a registered name, a run folder, a weights file, or `module:attribute`.
        overrides: Config values of a registered model.
        time_steps: likewise; for a network of the user it is an axis of the input.

    Raises:
        NeuromixError: there is none, or it takes no such values.
    """
    if is_attribute(target) and not Path(target).exists():
        if overrides:
            raise ConfigError(
                f"--set changes the config of a registered model; {target} is a network of your own"
            )
        return Subject(load_attribute(target), False, notes=(f"weights: as {target} has them",))
    if time_steps is not None:
        overrides = {**overrides, "time_steps": time_steps}
    net, is_trained = load_target(target, overrides)
    if not is_trained:
        note = (
            "weights: untrained; firing rates, and what follows from them, say little about a trained model"
        )
        return Subject(net, False, notes=(note,))
    return _of_run(net, Path(target)) if Path(target).is_dir() else Subject(net, True)


def _of_run(net: Model, folder: Path) -> Subject:
    from neuromix.core import registry
    from neuromix.training.run_folder import RunFolder

    try:
        spec = RunFolder(folder).recipe().task
        return Subject(net, True, registry.build("task", spec), spec.name)
    except NeuromixError as error:
        return Subject(net, True, notes=(f"no test samples of the run: {error}",))


class Samples(NamedTuple):
    """What a network is measured on.

    Attributes:
        shapes: of each input of the network, the batch included; of a ragged one, of all its rows together.
        source: "random", or the name of the task whose test samples they are.
        seed: of random numbers.
    """

    inputs: Inputs
    shapes: Mapping[str, list[int]]
    source: str
    seed: int

    @property
    def is_random(self) -> bool:
        """Whether they tell nothing of real data."""
        return self.source == "random"

    @property
    def note(self) -> str:
        """In words."""
        shapes = ", ".join(f"{name} {shape}" for name, shape in self.shapes.items())
        if self.is_random:
            return f"input: random, {shapes}, seed {self.seed}"
        return f"input: test samples of {self.source}, {shapes}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "random": self.is_random,
            "source": self.source,
            "seed": self.seed,
            "shapes": dict(self.shapes),
        }


def find_samples(
    subject: Subject, shape: str | None, time_steps: int | None, batch: int | None, seed: int
) -> Samples:
    """What to measure a network on.

    Test samples of its run; random numbers where there is no run or a shape is asked for.

    Args:
        shape: of one sample, as "3,224,224".
        time_steps: of a network of the user: [T, B, ...]; None: it knows no spike time.
        batch: samples; None: as many as suit.

    Raises:
        ConfigError: no shape for a network that has no example, or one that does not fit.
    """
    import torch

    from neuromix.core.batch import Ragged
    from neuromix.core.model import Model

    net, generator = subject.net, torch.Generator().manual_seed(seed)
    if not isinstance(net, Model):
        inputs = _random(net, shape, time_steps, batch or 1, generator)
        x = inputs if isinstance(inputs, torch.Tensor) else inputs[0]
        return Samples(inputs, {"input": list(x.shape)}, "random", seed)
    source = "random"
    if shape is not None:
        fields = _random_field(net, shape, batch or 1, generator)
    elif subject.task is not None:
        fields, source = _spread(subject.task, batch or RUN_SAMPLES, seed), subject.task_name
    else:
        fields = net.example(batch or 1, generator)
    given = {field.name: fields.get(field.name) for field in net.inputs}
    tensors = {name: x.values if isinstance(x, Ragged) else x for name, x in given.items() if x is not None}
    shapes = {name: list(x.shape) for name, x in tensors.items()}
    return Samples(fields, shapes, source, seed)


def _random(
    net: nn.Module, shape: str | None, time_steps: int | None, batch: int, generator: torch.Generator
) -> Tensor | Frames:
    """For a network of the user."""
    import torch

    from neuromix.measure.inputs import Frames

    if shape is None:
        raise ConfigError(
            f"{type(net).__name__} is a plain torch.nn.Module, which does not say what it takes: give the shape of one "
            "sample, as --input 3,32,32 for C,H,W"
        )
    sides = _sides(shape)
    if not sides:
        raise ConfigError(f"--input gives whole numbers with commas, as 3,32,32 for C,H,W; got {shape!r}")
    if time_steps is None:
        return torch.randn(batch, *sides, generator=generator)
    return Frames(torch.randn(time_steps, batch, *sides, generator=generator))


def _random_field(net: Model, shape: str, batch: int, generator: torch.Generator) -> Batch:
    import torch

    from neuromix.core.batch import Batch

    required = [field for field in net.inputs if not field.optional]
    sides = _sides(shape)
    if len(required) != 1 or len(sides) != len(required[0].axes) - 1:
        axes = " and ".join(f"{field.name} [{','.join(field.axes[1:])}]" for field in required)
        raise ConfigError(
            f"--input gives whole numbers with commas, as 3,224,224 for C,H,W; got {shape!r} for {axes}"
        )
    return Batch({required[0].name: torch.randn(batch, *sides, generator=generator)})


def _sides(shape: str) -> list[int]:
    """The numbers of a shape; none where it is not made of whole positive numbers."""
    sides = shape.split(",")
    return [int(side) for side in sides] if all(s.strip().isdecimal() and int(s) > 0 for s in sides) else []


def _spread(task: Task, count: int, seed: int) -> Batch:
    """So many test samples, evenly spread over the split; all of them where it has fewer."""
    from neuromix.data.dataset import sample_generator

    data = task.data("test")
    count = min(count, len(data))
    chosen = [number * len(data) // count for number in range(count)]
    return task.collate([data.sample(index, sample_generator(seed, 0, index)) for index in chosen])
