"""neuromix compare: trains candidates under one budget, and shows what each costs."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neuromix.cli.console import parse_settings, print_json, progress, report
from neuromix.compare.watch import Watch
from neuromix.core.errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    from rich.progress import Progress

    from neuromix.compare.folder import Folder
    from neuromix.compare.job import Job
    from neuromix.compare.plan import Plan
    from neuromix.compare.process import Outcome, What
    from neuromix.report.contestants import Figure, Quantity


def command(
    task: Annotated[str | None, typer.Option(help="What to learn: digits, image-classification, ...")] = None,
    models: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="The candidates, as `neuromix list` names them.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="Data for the task: a name or a folder.")] = None,
    budget: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=N,...",
            help="Of each run: epochs, or minutes of training. joules-per-inference: a model above it is not ranked. "
            "[default: epochs that suit the task]",
            show_default=False,
        ),
    ] = None,
    seeds: Annotated[str, typer.Option(metavar="N|A,B,...", help="How many, or which.")] = "3",
    train: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE", help="A setting of the training loop, the same for all: lr, ema, ..."
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="MODEL.KEY=VALUE",
            help="A value of one model, or with task. before the key, of the task.",
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Runs at a time, on a Ray cluster that is started here. [default: 1]")
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(help="A Ray cluster that is there; its machines share the folder --out."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the comparison.")] = Path("comparison"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the comparison in --out.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object: models, differences, budget, ...")
    ] = False,
) -> None:
    """Train several models under the same budget, and show what each costs and which differences are real.

    Whatever stopped it, the same command goes on where it was; models and seeds may be added. Each run trains on one
    thread unless --train threads=N says otherwise. --out gets index.html, comparison.json and the runs.

    \b
    Examples:
      neuromix compare --task digits --models meta_spikeformer_nano,poolformer_nano --budget epochs=20 --out report
      neuromix compare --task digits --models meta_spikeformer_nano,poolformer_nano --budget minutes=1 --seeds 0,5,7
      neuromix compare --task digits --models meta_spikeformer_nano,poolformer_nano --workers 2 \\
          --set meta_spikeformer_nano.time_steps=2 --train lr=0.002 --budget joules-per-inference=5e-6
    """
    from neuromix.compare.api import compare
    from neuromix.compare.cluster import require_extra
    from neuromix.compare.folder import Folder
    from neuromix.training.signals import Interrupted

    if address is not None or (workers or 1) > 1:
        require_extra()
    plan = _plan(task, models, data, budget, seeds, train, settings, remote=address is not None)
    options: dict[str, Any] = {"task": task, "data": data, "models": models, "budget": budget}
    options |= {"seeds": seeds, "train": train, "set": settings}
    options |= {"workers": workers, "address": address, "out": out}
    try:
        with progress() as display:
            record = compare(
                plan,
                out,
                workers=workers,
                address=address,
                overwrite=overwrite,
                command=_pasted(options),
                watch=Teller(display, Folder(out)),
            )
    except Interrupted as stop:
        report(str(stop))
        raise typer.Exit(128 + stop.number) from None
    record = _with_page(record, out)
    if as_json:
        print_json(record)
    else:
        _print(record, out)
    if not _any_done(record):
        report("error: every run failed")
        raise typer.Exit(2)


def _plan(
    task: str | None,
    models: str | None,
    data: str | None,
    budget: Sequence[str] | None,
    seeds: str,
    train: Sequence[str] | None,
    settings: Sequence[str] | None,
    remote: bool,
) -> Plan:
    """The plan that the options mean."""
    from neuromix.compare.budget import parse_budget, parse_seeds
    from neuromix.compare.plan import make_plan
    from neuromix.core.config import Spec, parse_assignments

    if task is None or models is None:
        raise ConfigError(f"a comparison needs {'--task' if task is None else '--models A,B,...'}")
    names = [name.strip() for name in models.split(",") if name.strip()]
    groups = parse_settings(settings or [], ("task", *names))
    for key in groups[""]:
        example = f"{(*names, 'task')[0]}.{key.rpartition('.')[2]}"
        raise ConfigError(f"--set {key}: before the key comes one of the models, or task, as in {example}")
    if data is not None and "data" in groups["task"]:
        raise ConfigError("--data and --set task.data say the same thing; give one")
    return make_plan(
        [Spec(name, groups[name]) for name in names],
        Spec(task, groups["task"] | ({} if data is None else {"data": data})),
        budget=parse_budget(budget or []),
        seeds=parse_seeds(seeds),
        train=parse_assignments(train or []),
        remote=remote,
    )


def _pasted(options: Mapping[str, Any]) -> str:
    """The command with these options; one that was given several times has a list."""
    words = ["neuromix", "compare"]
    for name, value in options.items():
        for one in value if isinstance(value, list) else [value]:
            words += [] if one is None else [f"--{name}", str(one)]
    return shlex.join(words)


def _any_done(record: Mapping[str, Any]) -> bool:
    return any(run["status"] == "done" for model in record["models"] for run in model["runs"])


def _with_page(record: dict[str, Any], out: Path) -> dict[str, Any]:
    """Writes the page, where that can be done, and the record that names it."""
    from neuromix.compare.folder import PAGE, RECORD
    from neuromix.core.files import write_json, write_text
    from neuromix.report.page import render, require_extra

    if not _any_done(record):
        return record
    try:
        require_extra()
    except MissingExtraError as error:
        report(f"no page was written: {error}")
        return record
    from neuromix.report.comparison_page import comparison_page

    record = {**record, "page": PAGE}
    write_text(out / PAGE, render(comparison_page(record)))
    write_json(out / RECORD, record)
    return record


class Teller(Watch):
    """Tells of each run in a line, and draws a bar."""

    def __init__(self, display: Progress, folder: Folder) -> None:
        self._display, self._folder = display, folder
        self._bar = display.add_task("", total=None, visible=False)

    def note(self, text: str) -> None:
        report(text)

    def begin(self, what: What, jobs: Sequence[Job], done: Sequence[Job]) -> None:
        if done:
            report(f"{len(done)} of {len(done) + len(jobs)} runs are trained already")
        if what == "time":
            report(f"timing {len(jobs)} runs, one after the other")
        self._display.reset(self._bar, total=len(jobs), visible=bool(jobs), description=f"{what} runs")

    def started(self, what: What, job: Job) -> None:
        if what == "train":
            report(f"{job.name}: {'goes on' if self._folder.has_begun(job) else 'training'}")

    def working(self, jobs: Sequence[Job]) -> None:
        told = [
            f"{job.name}, epoch {self._folder.epochs_done(job)}/{self._folder.epochs(job) or '?'}"
            for job in jobs[:3]
        ]
        self._display.update(self._bar, description="; ".join(told))

    def ended(self, what: What, job: Job, outcome: Outcome) -> None:
        self._display.advance(self._bar)
        if what == "train":
            report(f"{job.name}: {self._result(job, outcome)}")

    def _result(self, job: Job, outcome: Outcome) -> str:
        result = self._folder.result(job)
        if result is None:
            return outcome.status + (f": {outcome.error}" if outcome.error else "")
        name, score = next(iter(result["test"].items()))
        return f"test {name} {score:.4f} after {result['epochs']} epochs"


def _print(record: Mapping[str, Any], out: Path) -> None:
    """A row a model, a line a pair of models, and where the page is."""
    from neuromix.cli.tables import Table
    from neuromix.compare.folder import RECORD
    from neuromix.report import contestants as known

    costs = [known.OPERATIONS, known.PARAMETERS, known.LATENCY, known.MEMORY]
    shown = [known.score_of(record), *known.energies_of(record)[:1], *costs]
    headings = ["Rank", "Runs", *(quantity.heading for quantity in shown)]
    table = Table("Mean ± std over seeds", *headings, numbers=headings)
    for model in known.contestants(record):
        rank = "over budget" if model.record["over_budget"] else str(model.rank or "–")
        figures = (_spread(model.figure(quantity), quantity) for quantity in shown)
        table.add(model.name, rank, f"{len(model.runs)}/{len(model.record['runs'])}", *figures)
    table.print()
    for pair in record["differences"]:
        print(_in_words(pair, record["score"], record["higher_is_better"]))
    print(f"page  {out / record['page']}" if record["page"] else f"record  {out / RECORD}")


def _spread(figure: Figure, quantity: Quantity) -> str:
    """Of what no seed changes, but for rounding, the one value."""
    mean = quantity.show(figure.mean)
    varies = figure.mean is not None and (figure.std or 0.0) > 1e-9 * abs(figure.mean)
    return f"{mean} ± {quantity.show(figure.std)}" if varies else mean


def _in_words(pair: Mapping[str, Any], score: str, higher_is_better: bool) -> str:
    """Which of two models is better, and how sure that is."""
    difference, names = pair["difference"], (pair["a"], pair["b"])
    better, worse = names if (difference > 0) == higher_is_better else names[::-1]
    tested = [
        f"p {pair[key]:.2g} over {key.removeprefix('p_')}"
        if pair[key] is not None
        else f"not tested over {key[2:]}"
        for key in ("p_seeds", "p_samples")
    ]
    about = f"{score} differs by {abs(difference):.4f}, {', '.join(tested)}"
    if pair["significant"]:
        return f"{better} is better than {worse}: {about}"
    return f"{pair['a']} and {pair['b']} are not told apart: {about}"
