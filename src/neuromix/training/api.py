"""train and evaluate_run: a whole training run in one call, and the scores of one that is there."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from neuromix.core import registry
from neuromix.core.checkpoint import build_model, load_checkpoint
from neuromix.core.errors import CheckpointError, ConfigError, NeuromixError, RunError
from neuromix.core.layout import transfer
from neuromix.core.model import Model
from neuromix.training.config import TrainConfig
from neuromix.training.devices import default_workers, environment, make_fabric
from neuromix.training.evaluate import Predict, evaluate
from neuromix.training.loop import Loop
from neuromix.training.method import Stack
from neuromix.training.observer import Observer, Observers
from neuromix.training.recipe import Recipe, Request, new_recipe, resumed_recipe
from neuromix.training.run import Run
from neuromix.training.run_folder import LAST, RunFolder
from neuromix.training.signals import StopSignals
from neuromix.training.snapshot import Snapshot
from neuromix.training.task import Gathered, Task
from neuromix.training.tensorboard import TensorBoard, require_tensorboard
from neuromix.training.trial import trial

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class RunResult(NamedTuple):
    """A finished run: its folder, and the scores of the weights that were best on validation."""

    run: Path
    test: dict[str, float]
    validation: dict[str, float]

    def model(self) -> Model:
        """The trained model."""
        return load_checkpoint(RunFolder(self.run).weights)


class OpenedRun(NamedTuple):
    """The model of a run, its task, and how it was trained; see `open_run`."""

    model: Model
    task: Task
    train: TrainConfig


class Evaluation(NamedTuple):
    """The scores of a model.

    Attributes:
        scores: metric -> value.
        classes: names of the classes, () where the task has none.
        confusion: if it was asked for: how often each class (row) was taken for each (column).
    """

    scores: dict[str, float]
    classes: tuple[str, ...] = ()
    confusion: list[list[int]] | None = None


def train(
    model: str | None = None,
    task: str | None = None,
    out: str | Path | None = None,
    *,
    method: str | Sequence[str] | None = None,
    model_config: Mapping[str, Any] | None = None,
    task_config: Mapping[str, Any] | None = None,
    method_config: Mapping[str, Any] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    observer: Observer | None = None,
    **train_config: Any,
) -> RunResult:
    """Trains a model on a task and scores it on the test split.

    Args:
        model, task: registered names; a run that is resumed knows its own.
        out: the folder of the run; by default a new one, `runs/MODEL-TASK-N`.
        method: registered names of training methods, backpropagation by default.
        model_config, task_config, method_config: Config values that differ from the defaults.
        resume: go on with the run in `out` exactly where its last checkpoint is.
        overwrite: put the run in the place of the one in `out`.
        observer: is told how it goes.
        train_config: fields of TrainConfig: epochs, batch_size, lr, seed, ...

    Raises:
        NeuromixError: something that was asked for is not there or does not fit, the loss is not finite, or a
            file cannot be written.
        Interrupted: SIGINT or SIGTERM came; the run is saved.

    Example:
        train("poolformer_nano", "digits", epochs=3).test["accuracy"]
    """
    methods = (method,) if isinstance(method, str) else method
    request = Request(
        model,
        task,
        None if methods is None else tuple(methods),
        model_config or {},
        task_config or {},
        method_config or {},
        train_config,
    )
    return train_as_asked(request, out, resume=resume, overwrite=overwrite, observer=observer)


def train_as_asked(
    request: Request,
    out: str | Path | None = None,
    *,
    resume: bool = False,
    overwrite: bool = False,
    observer: Observer | None = None,
) -> RunResult:
    """`train`, with what is asked for as a value."""
    if resume:
        if out is None or overwrite:
            raise ConfigError("resume needs the folder of the run (out), and does not go with overwrite")
        return _Job.resumed(request, Path(out)).run(observer or Observer())
    return _Job.new(request, out, overwrite).run(observer or Observer())


def evaluate_run(
    path: str | Path,
    split: str = "test",
    *,
    task_config: Mapping[str, Any] | None = None,
    train_config: Mapping[str, Any] | None = None,
    observer: Observer | None = None,
    confusion: bool = False,
    predict: Predict | None = None,
    also: Sequence[Gathered] = (),
    change: Callable[[Model], Model] | None = None,
) -> Evaluation:
    """Scores the model of a run on a split of its task.

    Args:
        path: the folder of the run.
        split: "train", "validation" or "test".
        task_config: Config values of the task that differ from the run's, such as `data`.
        train_config: fields of TrainConfig that differ from the run's, such as `batch_size`.
        confusion: count how often each class was taken for each.
        predict, also: see `evaluate`.
        change: what becomes of the model first: what a chip makes of it.

    Raises:
        RunError: there is no run, or it has no weights yet.
        ConfigError: the data need another model, or a task without classes is asked for its confusion matrix.
    """
    observer = observer or Observer()
    model, task, config = open_run(
        path, task_config=task_config, train_config=train_config, observer=observer
    )
    if change is not None:
        model = change(model)
    table = task.confusion() if confusion else None
    if confusion and table is None:
        raise ConfigError(f"task {task.kind} has no classes, so no confusion matrix")
    fabric = make_fabric(config)
    scores = evaluate(
        model.to(fabric.device),
        task,
        split,
        batch_size=config.batch_size,
        seed=config.seed,
        workers=default_workers(config, fabric),
        fabric=fabric,
        on_batch=lambda done, batches: observer.evaluating(split, done, batches),
        also=also if table is None else (table, *also),
        predict=predict,
    )
    return Evaluation(scores, task.class_names(), None if table is None else table.compute().tolist())


def open_run(
    path: str | Path,
    *,
    task_config: Mapping[str, Any] | None = None,
    train_config: Mapping[str, Any] | None = None,
    observer: Observer | None = None,
) -> OpenedRun:
    """The model of a run and its task.

    Arguments and errors are those of `evaluate_run`.
    """
    folder, observer = RunFolder(path), observer or Observer()
    recipe = folder.recipe()
    config = recipe.train.replace(**(train_config or {}))
    model = load_checkpoint(folder.weights)
    task: Task = registry.build("task", recipe.task.with_options(**(task_config or {})))
    for note in task.notes():
        observer.note(note)
    for key, value in task.prepare(model.config).items():
        if getattr(model.config, key) != value:
            raise ConfigError(
                f"the model has {key}={getattr(model.config, key)}, the data need {key}={value}"
            )
    return OpenedRun(model, task, config)


class _Job:
    """A run from its recipe to its scores."""

    def __init__(
        self, recipe: Recipe, task: Task, out: Path | None, *, resume: bool, overwrite: bool = False
    ) -> None:
        self.recipe, self.task, self.out, self.resume, self.overwrite = recipe, task, out, resume, overwrite

    @classmethod
    def new(cls, request: Request, out: str | Path | None, overwrite: bool) -> _Job:
        """A run that begins; nothing is written yet."""
        if out is not None:
            RunFolder(out).require_free(overwrite)
        recipe, task = new_recipe(request)
        return cls(recipe, task, None if out is None else Path(out), resume=False, overwrite=overwrite)

    @classmethod
    def resumed(cls, request: Request, out: Path) -> _Job:
        """A run that goes on."""
        recipe = resumed_recipe(RunFolder(out).recipe(), request)
        return cls(recipe, registry.build("task", recipe.task), out, resume=True)

    def run(self, observer: Observer) -> RunResult:
        """Trains, finishes and scores."""
        config = self.recipe.train
        if config.tensorboard:
            require_tensorboard()
        with (
            _threads(config.threads),
            torch.random.fork_rng(devices=[]),
        ):  # PyTorch's global generator stays as the caller has it
            torch.manual_seed(config.seed)
            model = build_model(self.recipe.model.name, _model_config(self.recipe))
            if config.init is not None and not (self.resume and _has_begun(self.out)):
                _start_from(model, Path(config.init), config.fresh)
            method = Stack(self.recipe.methods)
            unused = trial(model, self.task)
            fabric = make_fabric(
                config, find_unused=bool(unused) if config.find_unused is None else config.find_unused
            )
            observer = observer if fabric.is_global_zero else Observer()
            for note in self.task.notes():
                observer.note(note)
            folder = self._folder(fabric)
            scores = folder.scores()
            if config.tensorboard and fabric.is_global_zero:
                observer = Observers(observer, TensorBoard(folder.path))
            if scores is None:
                scores = self._train(Run(config, fabric, method, self.task, model), folder, observer)
        return RunResult(folder.path, scores["test"], scores["validation"])

    def _train(self, run: Run, folder: RunFolder, observer: Observer) -> dict[str, Any]:
        snapshot = self._snapshot(folder, run.fabric, observer) if self.resume else None
        try:
            with StopSignals() as signals:
                loop = Loop(run, folder, observer, signals)
                loop.fit(snapshot)
                return loop.finish()
        except NeuromixError:
            # What fails before its first checkpoint is no run: the same command can be given again, put right.
            if not (self.resume or (folder.path / LAST).exists()) and run.fabric.is_global_zero:
                folder.discard()
            raise
        finally:
            observer.close()

    def _folder(self, fabric: Fabric) -> RunFolder:
        """The folder of the run, which the first process makes."""
        path = str(self.out)
        if fabric.is_global_zero and not self.resume:
            name = self.out or _claim(f"{self.recipe.model.name}-{self.recipe.task.name}")
            path = str(
                RunFolder.create(name, self.recipe, environment(fabric), overwrite=self.overwrite).path
            )
        return RunFolder(fabric.broadcast(path))

    def _snapshot(self, folder: RunFolder, fabric: Fabric, observer: Observer) -> Snapshot | None:
        """Where the run goes on; None if it was stopped before its first checkpoint."""
        there = (folder.path / LAST).is_file()
        snapshot = Snapshot.load(folder.path / LAST) if there else None
        fabric.barrier()  # all have seen the same before the first process writes again
        if fabric.is_global_zero:
            folder.rewind(snapshot.state["lines"] if snapshot is not None else 0)
        if snapshot is not None and snapshot.state["processes"] != fabric.world_size:
            before = snapshot.state["processes"]
            observer.note(
                f"the run goes on with {fabric.world_size} instead of {before} processes: its numbers will differ"
            )
        return snapshot


def _model_config(recipe: Recipe) -> Any:
    return registry.find("model", recipe.model.name)[1].replace(**recipe.model.options)


@contextmanager
def _threads(number: int | None) -> Iterator[None]:
    """PyTorch with so many threads, in the context."""
    before = torch.get_num_threads()
    try:
        if number is not None:
            torch.set_num_threads(number)
        yield
    finally:
        torch.set_num_threads(before)


def _has_begun(out: Path | None) -> bool:
    return out is not None and (out / LAST).is_file()


def _start_from(model: Model, path: Path, fresh: tuple[str, ...]) -> None:
    """Gives the model the weights of a checkpoint or of a run, but for what starts afresh."""
    weights = RunFolder(path).weights if path.is_dir() else path
    try:
        transfer(model, load_checkpoint(weights).state_dict(), fresh)
    except CheckpointError as error:
        raise CheckpointError(f"init {weights}: {error}") from error


def _claim(stem: str) -> Path:
    """A folder `runs/STEM-N` that was not there; made at once, for two runs may begin at the same time."""
    for number in itertools.count(1):
        path = Path("runs") / f"{stem}-{number}"
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise RunError(f"cannot make the folder {path}: {error.strerror or error}") from error
        return path
    raise AssertionError
