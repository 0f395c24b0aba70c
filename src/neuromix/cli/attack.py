"""neuromix attack: how a trained model holds out against an attack."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neuromix.cli.console import is_first_process, parse_settings, print_json, print_rows, progress, report
from neuromix.core.errors import ConfigError
from neuromix.training.observer import Observer

if TYPE_CHECKING:
    from rich.progress import Progress

    from neuromix.methods.attacks.robustness import Robustness


def command(
    run: Annotated[Path, typer.Argument(help="Folder of the run.")],
    file: Annotated[Path | None, typer.Argument(help="With --json: where it goes.")] = None,
    attack: Annotated[str, typer.Option(help="fgsm, pgd, apgd, or sda for binary event frames.")] = "pgd",
    eps: Annotated[
        str | None, typer.Option(metavar="NUMBER", help="The most that a value changes, as 8/255 or 0.03.")
    ] = None,
    surrogate: Annotated[
        str,
        typer.Option(
            help="By which neurons go backward: pdsg, keep (as trained), or any that is registered."
        ),
    ] = "pdsg",
    coding: Annotated[
        str | None,
        typer.Option(
            help="How values are shown to the model: direct, integer, poisson, or binary (an event or more is 1). "
            "Else as the data are."
        ),
    ] = None,
    samples: Annotated[int, typer.Option(help="So many of the split, drawn at random.", min=1)] = 100,
    split: Annotated[str, typer.Option(help="test, validation or train.")] = "test",
    data: Annotated[str | None, typer.Option(help="Other data of the same kind.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Samples at a time.", min=1)] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or mps.")] = None,
    seed: Annotated[int, typer.Option(help="Of the samples and of all chance in the attack.", min=0)] = 0,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Another value of the attack; task.KEY=VALUE: one of the task."
        ),
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print one JSON object; with FILE behind it, write it there instead."),
    ] = False,
) -> None:
    """Attack the model of a run on its test data: accuracy before and after, and how much had to change.

    \b
    Example:
      neuromix train --task digits --model pdsg_resnet_nano --epochs 5 --out runs/a
      neuromix attack runs/a --attack pgd --eps 8/255
      neuromix train --task digits-dvs --model pdsg_resnet_nano --epochs 5 --set task.representation.most=1 --out runs/b
      neuromix attack runs/b --attack sda --samples 20 --json sda.json
    """
    from neuromix.core.config import Spec
    from neuromix.core.files import write_json
    from neuromix.methods.attacks.attack_run import attack_run

    if file is not None and not as_json:
        raise ConfigError(f"{file} is where --json would write; give --json {file}, or leave it out")
    groups = parse_settings(settings or [], ("task",))
    options = groups[""] | ({} if eps is None else {"eps": _number(eps)})
    given = {"batch_size": batch_size, "device": device}
    with progress() as display:
        found = attack_run(
            run,
            Spec(attack, options),
            surrogate=surrogate,
            coding=coding,
            samples=samples,
            split=split,
            seed=seed,
            task_config=groups["task"] | ({} if data is None else {"data": data}),
            train_config={key: value for key, value in given.items() if value is not None},
            observer=_Watch(display),
        )
    if not is_first_process():
        return
    figures: dict[str, Any] = {"run": str(run), "split": split, "seed": seed, **found.to_dict()}
    if as_json and file is None:
        print_json(figures)
        return
    if file is not None:
        write_json(file, figures)
        report(f"written: {file}")
    print_rows(
        [("attack", f"{attack}, surrogate {surrogate}, coding {found.coding}"), *_rows(found.robustness)]
    )


def _number(text: str) -> float:
    """A number, or a fraction such as 8/255."""
    try:
        top, slash, bottom = text.partition("/")
        return float(top) / float(bottom) if slash else float(text)
    except (ValueError, ZeroDivisionError):
        raise ConfigError(f"--eps is a number such as 0.03 or 8/255, got {text!r}") from None


def _rows(found: Robustness) -> list[tuple[str, object]]:
    from neuromix.methods.attacks.robustness import FEW

    figures = found.to_dict()
    rows: list[tuple[str, object]] = [
        ("samples", found.samples),
        ("attacked", f"{found.attacked}, the others are taken wrongly anyway"),
        ("accuracy", found.clean_accuracy),
        ("accuracy under attack", found.adversarial_accuracy),
        ("attack success rate", found.success_rate),
    ]
    few = [number for number in FEW if number < found.values]  # else every success is one
    rows += [(f"with fewer than {n} values changed", figures[f"success_rate_l0_below_{n}"]) for n in few]
    if found.l0:
        share = f"{100 * figures['l0_median_share']:.2f} %"
        rows += [
            ("values changed, median", f"{figures['l0_median']:g} of {found.values} ({share})"),
            ("values changed, mean", f"{figures['l0_mean']:.1f}"),
            ("largest change, mean", figures["linf_mean"]),
        ]
    return rows


class _Watch(Observer):
    """Draws a bar."""

    def __init__(self, display: Progress) -> None:
        self._display, self._bar = display, display.add_task("", total=None)

    def note(self, text: str) -> None:
        report(text)

    def evaluating(self, split: str, done: int, batches: int) -> None:
        self._display.update(self._bar, description=f"attacking {split}", completed=done, total=batches)
