"""Plan: which models are trained on what, how, and how often - complete, and checked before anything is trained."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from neuromix.compare.budget import Budget
from neuromix.compare.job import Job
from neuromix.core import registry
from neuromix.core.checkpoint import build_model
from neuromix.core.config import Config, Spec
from neuromix.core.errors import ConfigError, NeuromixError, RunError, ShapeError
from neuromix.training.devices import make_fabric
from neuromix.training.recipe import Recipe, Request, new_recipe, resumed_recipe
from neuromix.training.task import Task
from neuromix.training.trial import trial

FORMAT = 1
# Of every run, whatever the machine: so that results do not depend on how many run side by side.
THREADS = 1
_OURS = {"epochs": "--budget epochs=N", "seed": "--seeds N"}  # train settings that are said in another way


@dataclass(frozen=True)
class Plan(Config):
    """What a comparison consists of; the runs are every model with every seed."""

    models: tuple[Spec, ...]  # names and Config values as given
    task: Spec  # likewise
    train: Mapping[str, Any]  # fields of TrainConfig as given, the same for all
    budget: Budget
    seeds: tuple[int, ...]
    recipes: tuple[
        Recipe, ...
    ]  # of each model, with every value but the seed; with `minutes` also but the epochs

    @property
    def names(self) -> list[str]:
        return [model.name for model in self.models]

    @property
    def threads(self) -> int:
        """Of PyTorch, in every run and when it is timed."""
        return self.recipes[0].train.threads or THREADS

    @property
    def device(self) -> str:
        """That every run is trained on."""
        return self.recipes[0].train.device

    def jobs(self) -> list[Job]:
        """One a run: all models with the first seed, then all with the next, so that the first results say most."""
        return [
            self._job(given, recipe, seed)
            for seed in self.seeds
            for given, recipe in zip(self.models, self.recipes, strict=True)
        ]

    def of_model(self, name: str) -> list[Job]:
        """The jobs of a model, in the order of the seeds."""
        return [job for job in self.jobs() if job.model.name == name]

    def _job(self, given: Spec, recipe: Recipe, seed: int) -> Job:
        recipe = recipe.replace(train=recipe.train.replace(seed=seed))
        return Job(given, self.task, self.train, recipe, self.budget.minutes)

    def merged(self, stored: Plan) -> Plan:
        """This plan and what only the stored one has, so that what was trained once is not forgotten.

        Raises:
            ConfigError: what both have is not the same; the keys are named.
        """
        changed = _changes(stored, self)
        if changed:
            raise ConfigError(", ".join(changed))
        more = [i for i, name in enumerate(stored.names) if name not in self.names]
        return self.replace(
            models=(*self.models, *(stored.models[i] for i in more)),
            recipes=(*self.recipes, *(stored.recipes[i] for i in more)),
            seeds=tuple(dict.fromkeys((*self.seeds, *stored.seeds))),
        )


def make_plan(
    models: Sequence[Spec | str],
    task: Spec | str,
    *,
    budget: Budget | None = None,
    seeds: Sequence[int] = (0,),
    train: Mapping[str, Any] | None = None,
    remote: bool = False,
) -> Plan:
    """A complete plan, of which every model has done a step on the data.

    Args:
        models, task: registered names, with Config values that differ from the defaults.
        train: fields of TrainConfig that differ.
        remote: the runs are not for this machine, so a device that is not here is taken as it is.

    Raises:
        UnknownNameError, ConfigError: names or values that there are not, or that do not fit together.
        DataError: the data cannot be read.
        ShapeError: a model does not take the data.
    """
    candidates, task = [Spec.of(model) for model in models], _with_whole_path(Spec.of(task))
    budget, train = budget or Budget(), dict(train or {})
    names = [candidate.name for candidate in candidates]
    if not names:
        raise ConfigError("a comparison needs at least one model")
    for name in names:
        registry.find("model", name)
        if names.count(name) > 1:
            raise ConfigError(f"{name} comes twice among the models")
    for key, instead in _OURS.items():
        if key in train:
            raise ConfigError(f"train.{key} is said by {instead}")
    if not seeds or len(set(seeds)) < len(seeds):
        raise ConfigError(f"a comparison needs seeds, each once; got {list(seeds)}")
    recipes = tuple(_recipe(candidate, task, train, budget, remote) for candidate in candidates)
    return Plan(tuple(candidates), task, train, budget, tuple(seeds), recipes)


def _with_whole_path(task: Spec) -> Spec:
    """The task with the path of its data from the root, so that jobs find them from anywhere."""
    data = task.options.get("data")
    if isinstance(data, str) and Path(data).expanduser().exists():
        return task.with_options(data=str(Path(data).expanduser().absolute()))
    return task


def _recipe(
    candidate: Spec, task_spec: Spec, train: Mapping[str, Any], budget: Budget, remote: bool
) -> Recipe:
    """The recipe of a model, which has been tried."""
    epochs = {} if budget.epochs is None else {"epochs": budget.epochs}
    request = Request(
        candidate.name,
        task_spec.name,
        model_config=candidate.options,
        task_config=task_spec.options,
        train_config={**train, **epochs},
    )
    recipe, task = new_recipe(request)
    settings = recipe.train.replace(threads=recipe.train.threads or THREADS)
    if not (remote and settings.device != "auto"):
        settings = settings.replace(device=make_fabric(settings).device.type)
    _try(recipe, task)
    return recipe.replace(train=settings)


def _try(recipe: Recipe, task: Task) -> None:
    name = recipe.model.name
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_model(name, registry.find("model", name)[1].replace(**recipe.model.options))
        try:
            trial(model, task)
        except (NeuromixError, RuntimeError) as error:
            told = str(error).partition("\n")[0]
            raise ShapeError(f"{name} cannot be trained on these data: {told}") from error


def _changes(stored: Plan, asked: Plan) -> list[str]:
    """What both plans have, and not alike: "train.lr (was 0.005, now 0.1)"; what is so of all models only once."""
    both = [name for name in stored.names if name in asked.names]
    pairs = [(_shared(stored), _shared(asked))] + [(_of_model(stored, n), _of_model(asked, n)) for n in both]
    told = [
        f"{key} (was {before.get(key)!r}, now {now.get(key)!r})"
        for before, now in pairs
        for key in before | now
        if before.get(key) != now.get(key)
    ]
    return list(dict.fromkeys(told))


def _shared(plan: Plan) -> dict[str, Any]:
    """Every value that all runs have in common, under the key that `--set` gives it."""
    flat = {"budget.minutes": plan.budget.minutes, **plan.recipes[0].flat()}
    return {key: value for key, value in flat.items() if key.partition(".")[0] not in ("model", "task")}


def _of_model(plan: Plan, name: str) -> dict[str, Any]:
    """The values of a model, and of its task, which may suit it where nothing was asked for."""
    recipe = plan.recipes[plan.names.index(name)]
    task = {key: value for key, value in recipe.flat().items() if key.partition(".")[0] == "task"}
    return task | {f"{name}.{key}": value for key, value in recipe.model.options.items()}


def read_plan(file: Path) -> Plan:
    """The plan in a file; fields that are newer than it have their defaults.

    Raises:
        RunError: it cannot be read, is damaged, or a newer version wrote it.
    """
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        version = values.pop("format")
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise RunError(f"{file} is damaged: {error}") from error
    if not isinstance(version, int) or version > FORMAT:
        raise RunError(
            f"{file} is of format {version} and this version of neuromix reads up to {FORMAT}; update neuromix"
        )
    try:
        plan = Plan.from_dict(values)
        return plan.replace(recipes=tuple(resumed_recipe(recipe, Request()) for recipe in plan.recipes))
    except NeuromixError as error:
        raise RunError(f"{file} is damaged: {error}") from error
