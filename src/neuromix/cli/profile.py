"""neuromix profile: what one inference of a model costs."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neuromix.cli.console import parse_settings, print_json, progress, report
from neuromix.cli.profile_text import print_profile
from neuromix.cli.subject import RUN_SAMPLES, Samples, Subject, find_samples, find_subject

if TYPE_CHECKING:
    from torch import nn

    from neuromix.measure.energy import EnergyModel
    from neuromix.measure.figures import Profile
    from neuromix.measure.published import PublishedFigure
    from neuromix.measure.running import Running
    from neuromix.report.profile_page import Profiled


def command(
    context: typer.Context,
    model: Annotated[
        str,
        typer.Argument(
            help="A model by name, the folder of a run, a weights file, or a network of your own: an attribute of "
            "a Python module.",
            metavar="MODEL|RUN|FILE|MODULE:ATTRIBUTE",
        ),
    ],
    shape: Annotated[
        str | None,
        typer.Option(
            "--input",
            metavar="C,H,W",
            help="Random input of this shape, one sample. [default: test samples of a run, else the model's example]",
        ),
    ] = None,
    time_steps: Annotated[
        int | None,
        typer.Option(
            min=1, help="Time steps of a spiking model. A network of your own is given frames [T, B, ...]."
        ),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(
            min=1,
            help=f"Samples that the figures are means of. [default: 1, of a run {RUN_SAMPLES}]",
            show_default=False,
        ),
    ] = None,
    counting: Annotated[
        str, typer.Option(help="exact: additions that happen. paper: firing rate x MACs, as papers count.")
    ] = "exact",
    energies: Annotated[
        list[str] | None,
        typer.Option(
            "--energy",
            metavar="NAME|FILE.toml",
            help="An energy model; may be given several times. One alone stands beside 45nm. [default: all]",
            show_default=False,
        ),
    ] = None,
    latency: Annotated[
        bool,
        typer.Option(
            "--latency", help="Measure latency, throughput, and peak memory of a forward and a training step."
        ),
    ] = False,
    threads: Annotated[int, typer.Option(min=1, help="Of PyTorch, for --latency.")] = 1,
    sort: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN", help="Sort layers by a field, as energy or macs_dense. [default: as they run]"
        ),
    ] = None,
    layers: Annotated[
        int | None, typer.Option(min=0, help="Layers that the text shows. [default: all]")
    ] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write one self-contained page.")] = None,
    seed: Annotated[
        int, typer.Option(help="Of the random input, and of the weights of a model by name.")
    ] = 0,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A value of the model's config that differs."),
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Print one JSON object: parameters, macs_dense, synaptic_operations, firing_rate, energy, layers, ...",
        ),
    ] = False,
) -> None:
    """Count what one inference costs: operations, firing rates and energy, layer by layer.

    A run is measured on samples of its own test data, anything else on random input, which tells little of firing
    rates. Figures are per sample, over all its time steps.

    \b
    Examples:
      neuromix profile meta_spikeformer_nano
      neuromix profile meta_spikeformer_nano --energy 45nm_sram --sort energy --layers 10
      neuromix profile meta_spikeformer_15m --input 3,224,224 --time-steps 1 --json
      neuromix profile poolformer_s12 --input 3,224,224 --latency --html poolformer.html
      neuromix profile runs/a --batch 64 --counting paper
      neuromix profile my_nets:Net --input 3,32,32
    """
    import torch

    from neuromix.compare.environment import environment
    from neuromix.measure.profile import profile
    from neuromix.measure.rules import counting_rule
    from neuromix.report.profile_page import Profiled

    counting_rule(counting)
    tables = _tables(energies or [])
    _check(sort, html, tables)
    torch.manual_seed(seed)
    with redirect_stdout(sys.stderr):  # what the code of others prints
        subject = find_subject(model, parse_settings(settings or [], ())[""], time_steps)
        samples = find_samples(subject, shape, time_steps, batch, seed)
        notes = [samples.note, *subject.notes]
        for note in notes:
            report(note)
        with _ticking(subject.net):
            seen = profile(subject.net, samples.inputs, counting, energies=tables)
        running = _running(subject, samples, batch, threads) if latency else None
    for op, calls in seen.not_counted.items():
        report(f"warning: not counted: {op} ({calls} calls)")
    profiled = Profiled(
        profile=seen,
        notes=notes,
        published=_published(subject, samples, seen),
        running=running,
        energies=tables,
        sort=sort,
        command=_command_line(context),
        environment=environment(threads, seed=seed),
    )
    if html is not None:
        _write_page(profiled, html)
    if as_json:
        print_json(_to_json(profiled, samples))
    else:
        print_profile(profiled, counting, layers)


def _tables(names: Sequence[str]) -> dict[str, EnergyModel]:
    """The energy models that are asked for, or all; never one alone, for the figures of one say little."""
    from neuromix.measure.energy import energies_by_name, energy_models

    known = energy_models()
    chosen = energies_by_name(names) if names else dict(known)
    for name, table in known.items():
        if len(chosen) < 2:
            chosen.setdefault(name, table)
    return chosen


def _check(sort: str | None, html: Path | None, tables: Mapping[str, EnergyModel]) -> None:
    """Refuses before anything is measured."""
    from neuromix.core.errors import UnknownNameError
    from neuromix.report.page import require_extra
    from neuromix.report.profile_words import layer_columns

    columns = layer_columns(next(iter(tables)))
    if sort is not None and sort not in columns:
        raise UnknownNameError("column", sort, columns)
    if html is not None:
        require_extra()


@contextmanager
def _ticking(net: nn.Module) -> Iterator[None]:
    """A progress bar that moves on with every part of the model that has run."""
    leaves = [module for module in net.modules() if not any(True for _ in module.children())]
    with progress() as display:
        bar = display.add_task("profiling", total=len(leaves))
        handles = [leaf.register_forward_hook(lambda *_: display.advance(bar)) for leaf in leaves]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _running(subject: Subject, samples: Samples, batch: int | None, threads: int) -> Running:
    """Seconds and bytes; a training step is that of the task where it is known."""
    import torch

    from neuromix.measure.running import BATCH_SIZE, TIMED_RUNS, measure_running
    from neuromix.training.task import total

    task, objective = subject.task, None
    if task is not None and not samples.is_random:

        def objective(net: Any) -> torch.Tensor:
            generator = torch.Generator().manual_seed(samples.seed)
            return total(task.objective(net, samples.inputs, generator))  # type: ignore[arg-type]

    with progress() as display:
        bar = display.add_task("timing", total=TIMED_RUNS)
        return measure_running(
            subject.net,
            samples.inputs,
            size=batch or BATCH_SIZE,
            objective=objective,
            threads=threads,
            on_run=lambda: display.advance(bar),
        )


def _published(subject: Subject, samples: Samples, seen: Profile) -> dict[str, PublishedFigure]:
    from neuromix.core.model import Model
    from neuromix.measure.published import published_figures

    net = subject.net
    if not isinstance(net, Model):
        return {}
    if not subject.is_trained:
        return published_figures(net.name)
    return published_figures(
        net.name,
        seen,
        shape=next(iter(samples.shapes.values()))[1:],
        time_steps=getattr(net.config, "time_steps", None),
    )


def _write_page(profiled: Profiled, path: Path) -> None:
    from neuromix.core.files import write_text
    from neuromix.report.page import render
    from neuromix.report.profile_page import profile_page

    write_text(path, render(profile_page(profiled)))
    report(f"page: {path}")


def _to_json(profiled: Profiled, samples: Samples) -> dict[str, Any]:
    running = {"latency": None, "throughput": None, "memory": None}
    if profiled.running is not None:
        running = profiled.running.to_dict()
    return {
        **profiled.profile.to_dict(),
        **running,
        "published": {key: figure.to_dict() for key, figure in profiled.published.items()},
        "input": samples.to_dict(),
        "environment": profiled.environment,
    }


def _command_line(context: typer.Context) -> str:
    """The command as it was given, to be pasted."""
    words = ["neuromix", "profile"]
    for parameter in context.command.params:
        value = context.params.get(parameter.name or "")
        if value == parameter.default or value in (None, False, [], ()):
            continue
        flag = [parameter.opts[0]] if parameter.opts[0].startswith("-") else []
        values = value if isinstance(value, list | tuple) else [value]
        words += flag if value is True else [word for one in values for word in (*flag, str(one))]
    return shlex.join(words)
