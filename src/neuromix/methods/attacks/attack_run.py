"""attack_run: how a trained model holds out against an attack on its own test data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from neuromix.core.batch import Batch
from neuromix.core.config import Spec
from neuromix.core.errors import ConfigError, UnknownNameError
from neuromix.core.model import Model, ModelConfig
from neuromix.data.dataset import Dataset, Sample
from neuromix.data.events.dataset import EventDataset
from neuromix.data.events.representations import Counts
from neuromix.data.images import ImageDataset
from neuromix.methods.attacks.attack import make_attack
from neuromix.methods.attacks.codings import CODINGS
from neuromix.methods.attacks.robustness import Perturbation, Robustness
from neuromix.methods.attacks.victim import FIELD, KEEP, Range
from neuromix.neurons.surrogate import make_surrogate
from neuromix.training.api import open_run
from neuromix.training.devices import default_workers, make_fabric
from neuromix.training.evaluate import evaluate
from neuromix.training.observer import Observer
from neuromix.training.task import Metrics, Task


class AttackReport(NamedTuple):
    """What an attack on a run came to.

    Attributes:
        attack: its name and all its values.
        surrogate, coding: with which the model was attacked.
        robustness: what was counted.
        scores: of the task, under attack.
    """

    attack: Spec
    surrogate: Spec
    coding: str
    robustness: Robustness
    scores: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON values."""
        return {
            "attack": self.attack.name,
            **self.attack.options,
            "surrogate": list(self.surrogate) if self.surrogate.options else self.surrogate.name,
            "coding": self.coding,
            **self.robustness.to_dict(),
            "scores": self.scores,
        }


def attack_run(
    path: str | Path,
    attack: Spec | str = "pgd",
    *,
    surrogate: Spec | str = "pdsg",
    coding: str | None = None,
    samples: int = 100,
    split: str = "test",
    seed: int = 0,
    task_config: Mapping[str, Any] | None = None,
    train_config: Mapping[str, Any] | None = None,
    observer: Observer | None = None,
) -> AttackReport:
    """Attacks the model of a run on samples of its data.

    Args:
        path: the folder of the run.
        attack: name, or name and options, of a registered attack.
        surrogate: by which neurons go backward for the attack; "keep": as they were trained.
        coding: how attacked values are shown to the model: direct (images), integer (frames of counts), binary or
            poisson. None: as the data are; binary where frames say no more than whether there was an event.
        samples: so many of the split are drawn; all where there are no more.
        seed: of the draw, and of all chance in the attack.
        task_config, train_config: values that differ from the run's, such as `data`, or `batch_size`.

    Raises:
        RunError: there is no run, or it has no weights yet.
        UnknownNameError: an attack, surrogate or coding that there is not.
        ConfigError: the attack is not for this model or these data, or a value is out of its range.
    """
    spec = Spec.of(attack)
    chosen = make_attack(spec)
    if surrogate != KEEP:
        make_surrogate(Spec.of(surrogate))
    if coding is not None and coding not in CODINGS:
        raise UnknownNameError("coding", coding, CODINGS)
    if samples < 1:
        raise ConfigError(f"samples is 1 or more, given {samples}")
    observer = observer or Observer()
    own = {"precision": "32-true", "seed": seed}
    given = {
        **own,
        **({"batch_size": chosen.batch_size} if chosen.batch_size else {}),
        **(train_config or {}),
    }
    model, task, config = open_run(path, task_config=task_config, train_config=given, observer=observer)
    part = SomeOf(task, samples, seed)
    values, own_coding = _values(task.data(split), model)
    perturbation = Perturbation(chosen, values, coding or own_coding, surrogate)
    fabric = make_fabric(config)
    scores = evaluate(
        model.to(fabric.device),
        part,
        split,
        batch_size=config.batch_size,
        seed=seed,
        workers=default_workers(config, fabric),
        fabric=fabric,
        on_batch=lambda done, batches: observer.evaluating(split, done, batches),
        perturb=perturbation,
    )
    return AttackReport(
        Spec(spec.name, chosen.to_dict()),
        Spec.of(surrogate),
        perturbation.coding,
        perturbation.found,
        scores,
    )


def _values(data: Dataset, model: Model) -> tuple[Range, str]:
    """The range of the values of these data, and how they are shown to a model."""
    if [field.name for field in model.inputs] != [FIELD]:
        raise ConfigError(
            f"attacks change images and event frames; {model.name} takes {', '.join(f.name for f in model.inputs)}"
        )
    if isinstance(data, ImageDataset):
        return Range(1.0, tuple(data.mean), tuple(data.std)), "direct"
    if isinstance(data, EventDataset):
        frames = data.representation
        is_binary = isinstance(frames, Counts) and frames.most == 1
        return Range(1.0 if is_binary else None), "binary" if is_binary else "integer"
    raise ConfigError(f"attacks change images and event frames; these data are {type(data).__name__}")


class SomeOf(Task):
    """A task of which some samples are left, drawn without repetition."""

    def __init__(self, task: Task, samples: int, seed: int) -> None:
        super().__init__(task.config)
        self.task, self.samples, self.seed = task, samples, seed

    def data(self, split: str, *, augment: bool = False) -> Dataset:
        data = self.task.data(split, augment=augment)
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(self.seed))
        return _Rows(data, sorted(order[: self.samples].tolist()))

    def collate(self, samples: Sequence[Sample]) -> Batch:
        return self.task.collate(samples)

    def prepare(self, config: ModelConfig) -> dict[str, Any]:
        return self.task.prepare(config)

    def predict(self, model: Model, batch: Batch, generator: torch.Generator) -> Any:
        return self.task.predict(model, batch, generator)

    def metrics(self) -> Metrics:
        return self.task.metrics()


class _Rows:
    """Some samples of a data set."""

    def __init__(self, data: Dataset, rows: Sequence[int]) -> None:
        self._data, self._rows = data, rows

    def __len__(self) -> int:
        return len(self._rows)

    def sample(self, index: int, generator: torch.Generator) -> Sample:
        return self._data.sample(self._rows[index], generator)
