"""Recipe: all that a run is made from, and how it comes about from what a user asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from neuromix.core import registry
from neuromix.core.config import Config, Spec, field_types
from neuromix.core.errors import ConfigError, RunError, UnknownNameError
from neuromix.training.config import TrainConfig
from neuromix.training.task import Task


@dataclass(frozen=True)
class Recipe(Config):
    """All that a run is made from; each spec holds every field of its Config, not only what differs."""

    model: Spec
    task: Spec
    methods: tuple[Spec, ...]
    train: TrainConfig

    def flat(self) -> dict[str, Any]:
        """Every value under the key that `--set` gives it: `model.depths`, `task.size`, `train.lr`, ..."""
        values: dict[str, Any] = {"model": self.model.name, "task": self.task.name}
        values["methods"] = [method.name for method in self.methods]
        parts = [("model", self.model.options), ("task", self.task.options), ("train", self.train.to_dict())]
        parts += [(f"method.{method.name}", method.options) for method in self.methods]
        return values | {f"{part}.{key}": value for part, fields in parts for key, value in fields.items()}

    def differences(self, other: Recipe) -> list[str]:
        """The keys whose values differ, in order."""
        own, others = self.flat(), other.flat()
        return [key for key in own | others if own.get(key) != others.get(key)]


@dataclass(frozen=True)
class Request:
    """What a user asks for; whatever is left out takes its default, or what the run to be resumed has.

    Attributes:
        model, task: registered names.
        methods: registered names; None: those of the model, else backpropagation.
        model_config, task_config, train_config: Config values that differ.
        method_config: Config values of the methods: `k`, or `NAME.k` where several methods have a field `k`.
    """

    model: str | None = None
    task: str | None = None
    methods: tuple[str, ...] | None = None
    model_config: Mapping[str, Any] = field(default_factory=dict)
    task_config: Mapping[str, Any] = field(default_factory=dict)
    method_config: Mapping[str, Any] = field(default_factory=dict)
    train_config: Mapping[str, Any] = field(default_factory=dict)


DEFAULT_METHOD = "bptt"


def new_recipe(request: Request) -> tuple[Recipe, Task]:
    """The recipe of a new run, and its task, which had to be opened for it.

    Raises:
        UnknownNameError, ConfigError: names or values that there are not, or that do not fit together.
        DataError: the data cannot be read.
    """
    if request.model is None or request.task is None:
        raise ConfigError(f"a new run needs a {'task' if request.task is None else 'model'}")
    TrainConfig.from_dict(request.train_config)  # a wrong key is told before the data are read
    entry, config = registry.find("model", request.model)
    methods = _methods(request.methods or entry.methods or (DEFAULT_METHOD,), request.method_config)
    suited = entry.task_values(config.replace(**request.model_config))
    task_spec = _task_spec(request.task, request.task_config, suited)
    task: Task = registry.build("task", task_spec)
    task_spec = Spec(request.task, task.config.to_dict())  # with what the data have told it
    if entry.tasks and task.kind not in entry.tasks:
        raise ConfigError(f"{request.model} is made for {', '.join(entry.tasks)}, not for {task.kind}")
    config = config.replace(**{**task.prepare(config), **request.model_config})  # type: ignore[arg-type]
    suited = task.training()
    for method in methods:
        suited |= registry.build("method", method).training()
    train = TrainConfig.from_dict({**suited, **request.train_config})
    return Recipe(Spec(request.model, config.to_dict()), task_spec, methods, train), task


def resumed_recipe(stored: Recipe, request: Request) -> Recipe:
    """The recipe of a run that goes on; what is asked for again must be as it was.

    Raises:
        RunError: it is not; the keys are named.
    """
    before, asked = _changed(stored, Request()), _changed(stored, request)
    keys = before.differences(asked)
    if keys:
        was, wanted = before.flat(), asked.flat()
        told = ", ".join(f"{key} (was {was.get(key)!r}, now {wanted.get(key)!r})" for key in keys)
        raise RunError(f"a run goes on only as it was begun; changed: {told}")
    return before


def _task_spec(name: str, values: Mapping[str, Any], suited: Mapping[str, Any]) -> Spec:
    """A task with every value of its Config: as given, else as its name says, else as it suits the model."""
    entry, config = registry.find("task", name)
    free = field_types(type(config)).keys() - entry.variants.get(name, {}).keys()
    suited = {key: value for key, value in suited.items() if key in free}
    # What is given comes last, and so may reach into what suits the model: representation.points.
    return Spec(name, config.replace(**{**suited, **values}).to_dict())


def _changed(stored: Recipe, request: Request) -> Recipe:
    """The stored recipe with what is asked for in the place of what was; fields that are new take their default."""
    names = request.methods or tuple(method.name for method in stored.methods)
    return Recipe(
        _changed_spec("model", stored.model, request.model, request.model_config),
        _changed_spec("task", stored.task, request.task, request.task_config),
        _methods(names, request.method_config, {method.name: method.options for method in stored.methods}),
        stored.train.replace(**request.train_config),
    )


def _changed_spec(kind: str, stored: Spec, name: str | None, values: Mapping[str, Any]) -> Spec:
    if name is not None and name != stored.name:
        return Spec(name)
    config = registry.find(kind, stored.name)[1].replace(**stored.options).replace(**values)
    return Spec(stored.name, config.to_dict())


def _methods(
    names: Sequence[str], values: Mapping[str, Any], before: Mapping[str, Mapping[str, Any]] | None = None
) -> tuple[Spec, ...]:
    configs = {
        name: registry.find("method", name)[1].replace(**(before or {}).get(name, {})) for name in names
    }
    if len(configs) < len(names):
        raise ConfigError(f"a method comes twice in {', '.join(names)}")
    for key, value in values.items():
        owner, own_key = _owner(key, configs)
        configs[owner] = configs[owner].replace(**{own_key: value})
    return tuple(Spec(name, config.to_dict()) for name, config in configs.items())


def _owner(key: str, configs: Mapping[str, Config]) -> tuple[str, str]:
    """Which method a key belongs to, and its key there."""
    first, _, rest = key.partition(".")
    if first in configs and rest:
        return first, rest
    owners = [name for name, config in configs.items() if first in field_types(type(config))]
    if len(owners) > 1:
        raise ConfigError(f"{' and '.join(owners)} both have {first!r}; write method.{owners[0]}.{key}")
    if not owners:
        known = [name for config in configs.values() for name in field_types(type(config))]
        raise UnknownNameError(f"key of method {', '.join(configs)}", first, known)
    return owners[0], key
