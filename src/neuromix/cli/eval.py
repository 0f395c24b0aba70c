"""neuromix eval: scores the model of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neuromix.cli.console import is_first_process, parse_settings, print_json, print_rows, progress, report
from neuromix.core.errors import ConfigError, UnknownNameError
from neuromix.training.observer import Observer

if TYPE_CHECKING:
    from rich.progress import Progress

    from neuromix.methods.early_exit import EarlyExitEvaluation


def command(
    run: Annotated[Path, typer.Argument(help="Folder of the run.")],
    split: Annotated[str, typer.Option(help="test, validation or train.")] = "test",
    data: Annotated[str | None, typer.Option(help="Other data of the same kind.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Samples at a time.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or mps.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="task.KEY=VALUE",
            help="A value of the task that differs from the run's, or hardware.KEY=VALUE of the chip.",
        ),
    ] = None,
    skip_broken: Annotated[
        bool, typer.Option("--skip-broken", help="Leave broken images out, and say how many.")
    ] = False,
    confusion: Annotated[
        bool, typer.Option("--confusion", help="Also count how often each class was taken for each.")
    ] = False,
    early_exit: Annotated[
        str | None,
        typer.Option(
            metavar="auto|THRESHOLD",
            help="Stop a spiking net for each sample once its confidence passes a threshold; "
            "auto: the one that costs no accuracy on validation.",
        ),
    ] = None,
    confidence: Annotated[
        str, typer.Option(help="With --early-exit: probability, margin or entropy.")
    ] = "probability",
    divisor: Annotated[
        float | None,
        typer.Option(
            help="With --early-exit: what summed logits are divided by; else calibrated on validation."
        ),
    ] = None,
    hardware: Annotated[
        str | None,
        typer.Option(
            help="A chip that the model is to run on: resistive. What is wrong with it: --set hardware.KEY=VALUE."
        ),
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json", help="Print one JSON object: SPLIT, run, and what --confusion and --early-exit tell."
        ),
    ] = False,
) -> None:
    """Score the model of a run: the weights that were best on validation.

    \b
    Example:
      neuromix train --task digits --model poolformer_nano --epochs 3 --out runs/a
      neuromix eval runs/a --split validation --confusion
    """
    from neuromix.methods.early_exit import evaluate_early_exit
    from neuromix.training.api import evaluate_run

    groups = parse_settings(settings or [], ("task", "hardware"))
    for key in groups[""]:
        raise UnknownNameError("setting", key, [f"task.{key}"])
    task_config = groups["task"]
    task_config |= {} if data is None else {"data": data}
    task_config |= {"skip_broken": True} if skip_broken else {}
    given = {"batch_size": batch_size, "device": device}
    options: dict[str, Any] = {
        "task_config": task_config,
        "train_config": {key: value for key, value in given.items() if value is not None},
        "confusion": confusion,
    }
    options |= _on_hardware(hardware, groups["hardware"], early_exit)
    with progress() as display:
        options["observer"] = _Watch(display)
        if early_exit is None:
            found, early = evaluate_run(run, split, **options), None
        else:
            threshold = _threshold(early_exit)
            early = evaluate_early_exit(
                run, split, threshold=threshold, divisor=divisor, confidence=confidence, **options
            )
            found = early.evaluation
    if not is_first_process():
        return
    if as_json:
        counted = {"classes": list(found.classes), "confusion": found.confusion} if confusion else {}
        exits = {"early_exit": early.to_dict()} if early is not None else {}
        print_json({split: found.scores, "run": str(run), **counted, **exits})
        return
    rows = [(f"{split} {name}", value) for name, value in found.scores.items()]
    print_rows([*rows, *_early_exit_rows(early)] if early is not None else rows)
    if found.confusion is not None:
        _print_confusion(found.classes, found.confusion)


def _on_hardware(name: str | None, values: dict[str, Any], early_exit: str | None) -> dict[str, Any]:
    """What `evaluate_run` is told about the chip."""
    from neuromix.core import registry
    from neuromix.core.config import Spec

    if name is None:
        if values:
            raise ConfigError("--set hardware.KEY=VALUE needs a chip, such as --hardware resistive")
        return {}
    if early_exit is not None:
        raise ConfigError("--hardware and --early-exit do not go together; give one")
    return {"change": registry.build("device", Spec(name, values)).perturb}


def _threshold(text: str) -> float | None:
    try:
        return None if text == "auto" else float(text)
    except ValueError:
        raise ConfigError(f"--early-exit is auto or a threshold such as 0.9, given {text!r}") from None


def _early_exit_rows(early: EarlyExitEvaluation) -> list[tuple[str, object]]:
    policy, best = early.policy, early.potential
    return [
        ("mean steps", f"{early.steps:.2f} of {early.time_steps}"),
        (f"threshold of the {policy.confidence}", policy.threshold),
        ("divisor", policy.divisor),
        *((f"{name} with all steps", value) for name, value in early.full.scores.items()),
        ("accuracy at each sample's best step", best.accuracy),
        ("mean best step", f"{best.steps:.2f}"),
    ]


def _print_confusion(classes: Sequence[str], confusion: Sequence[Sequence[int]]) -> None:
    """A row a true class, a column an answer; zeros off the diagonal are left out, so that mistakes stand out."""
    from neuromix.cli.tables import Table

    table = Table("true \\ answer", *classes, numbers=classes)
    for i, (name, counts) in enumerate(zip(classes, confusion, strict=True)):
        table.add(name, *(str(n) if n or i == j else "" for j, n in enumerate(counts)))
    table.print()


class _Watch(Observer):
    """Draws a bar."""

    def __init__(self, display: Progress) -> None:
        self._display, self._bar = display, display.add_task("", total=None)

    def note(self, text: str) -> None:
        report(text)

    def evaluating(self, split: str, done: int, batches: int) -> None:
        self._display.update(self._bar, description=split, completed=done, total=batches)
