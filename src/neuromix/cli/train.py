"""neuromix train: trains a model on a task and scores it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neuromix.cli.console import is_first_process, parse_settings, print_json, print_rows, progress, report
from neuromix.core.errors import ConfigError
from neuromix.training.observer import Observer

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from neuromix.training.task_sequence import SequenceReport


def command(
    task: Annotated[str | None, typer.Option(help="What to learn: digits, image-classification, ...")] = None,
    model: Annotated[str | None, typer.Option(help="A model, as `neuromix list` names it.")] = None,
    data: Annotated[str | None, typer.Option(help="Data for the task: a name or a folder.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the run. [default: a new runs/MODEL-TASK-N]", show_default=False),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(help="Training methods, a comma between them. [default: bptt]", show_default=False),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Times through the training data.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Samples of a step, over all processes.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate at the top of its schedule.")] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of all chance; the same seed gives the same weights.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or mps.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="A value of the model, or with train., task. or method. before the key, of these.",
        ),
    ] = None,
    skip_broken: Annotated[
        bool, typer.Option("--skip-broken", help="Leave broken images out, and say how many.")
    ] = False,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on with the run in --out, exactly where its last checkpoint is."),
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in --out.")] = False,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Also write losses and scores as TensorBoard events.")
    ] = False,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json", help="Print one JSON object: test, validation, run, and what methods found out."
        ),
    ] = False,
) -> None:
    """Train a model on a task, and score it on the test data.

    The run folder gets config.json, metrics.jsonl, and the checkpoints best and last. Ctrl-C saves the run.

    \b
    Examples:
      neuromix train --task digits --model meta_spikeformer_nano
      neuromix train --task digits --model poolformer_nano --epochs 3 --set depths=[1,1,1] --set train.ema=0.99
    """
    from neuromix.training.api import train_as_asked
    from neuromix.training.recipe import Request
    from neuromix.training.run_folder import RunFolder
    from neuromix.training.signals import Interrupted
    from neuromix.training.task_sequence import SequenceReport

    groups = parse_settings(settings or [], ("train", "task", "method"))
    given = {
        "epochs": epochs,
        "batch_size": batch_size,
        "lr": lr,
        "seed": seed,
        "device": device,
        "tensorboard": tensorboard or None,
    }
    request = Request(
        model,
        task,
        None if method is None else tuple(method.split(",")),
        groups[""],
        _merged("task", groups["task"], {"data": data, "skip_broken": skip_broken or None}),
        groups["method"],
        _merged("train", groups["train"], given),
    )
    try:
        with progress() as display:
            watch = Watch(display)
            result = train_as_asked(request, out, resume=resume, overwrite=overwrite, observer=watch)
    except Interrupted as stop:
        report(str(stop))
        raise typer.Exit(128 + stop.number) from None
    if not is_first_process():
        return
    results = RunFolder(result.run).results()
    if as_json:
        print_json({"test": result.test, "validation": result.validation, "run": str(result.run), **results})
        return
    if "sequence" in results:
        _print_sequence(SequenceReport.from_dict(results["sequence"]))
    scores = {"test": result.test, "validation": result.validation}
    rows = [(f"{split} {name}", value) for split, values in scores.items() for name, value in values.items()]
    print_rows([*rows, ("run", result.run)])


class Watch(Observer):
    """Draws a bar a stage."""

    def __init__(self, display: Progress) -> None:
        self._display = display
        self._bar: TaskID | None = None
        self._score = ""

    def note(self, text: str) -> None:
        report(text)

    def stage(self, name: str, number: int, steps: int, done: int) -> None:
        self._bar = self._display.add_task(name, total=steps, completed=done)

    def batch(self, done: int, loss: float) -> None:
        if self._bar is not None:
            self._display.update(self._bar, completed=done, description=f"loss {loss:.3f}{self._score}")

    def evaluating(self, split: str, done: int, batches: int) -> None:
        if self._bar is not None:
            self._display.update(self._bar, description=f"{split} {done}/{batches}{self._score}")

    def epoch(self, record: Mapping[str, Any]) -> None:
        name, score = next(iter(record["validation"].items()))
        self._score = f", epoch {record['epoch']}: validation {name} {score:.4f}"


def _print_sequence(report: SequenceReport) -> None:
    """A row for each task that was learnt, a column for each that was scored; and what they come to."""
    from neuromix.cli.tables import Table

    columns = [f"task {number}" for number in range(1, len(report.tasks) + 1)]
    table = Table("test accuracy", *columns, numbers=columns)
    for number, row in enumerate(report.main.rows, 1):
        table.add(f"after task {number}", *(f"{accuracy:.4f}" for accuracy in row))
    table.print()
    matrix = report.main
    one = "undefined: nothing comes after one task"
    print_rows(
        [
            ("average accuracy", matrix.average),
            (
                "backward transfer",
                one if matrix.backward_transfer is None else f"{matrix.backward_transfer:+.4f}",
            ),
            ("forgetting", one if matrix.forgetting is None else f"{matrix.forgetting:.4f}"),
        ]
    )


def _merged(prefix: str, settings: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """What --set says and what options say, each thing once."""
    options = {key: value for key, value in given.items() if value is not None}
    twice = settings.keys() & options.keys()
    if twice:
        key = min(twice)
        raise ConfigError(f"--{key.replace('_', '-')} and --set {prefix}.{key} say the same thing; give one")
    return {**settings, **options}
