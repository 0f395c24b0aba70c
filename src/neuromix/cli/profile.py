"""neuromix profile: what one inference of a model costs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neuromix.cli.console import parse_settings, print_json, print_rows, progress, report
from neuromix.cli.target import load_target
from neuromix.core.errors import ConfigError

if TYPE_CHECKING:
    from neuromix.core.batch import Batch
    from neuromix.core.model import Model
    from neuromix.measure.profile import Profile


def command(
    model: Annotated[
        str,
        typer.Argument(
            help="A model by name, the folder of a run, or a weights file.", metavar="MODEL|RUN|FILE"
        ),
    ],
    shape: Annotated[
        str | None,
        typer.Option("--input", metavar="C,H,W", help="Shape of one sample. [default: the model's example]"),
    ] = None,
    time_steps: Annotated[int | None, typer.Option(help="Time steps of a spiking model.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Samples that the figures are means of.")] = 1,
    counting: Annotated[
        str, typer.Option(help="exact: additions that happen. paper: firing rate x MACs, as papers count.")
    ] = "exact",
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

    The input is random, so the firing rates are not those of real data. Figures are per sample, over all its time
    steps; energy is that of arithmetic alone.

    \b
    Examples:
      neuromix profile meta_spikeformer_nano
      neuromix profile meta_spikeformer_15m --input 3,224,224 --time-steps 1 --json
      neuromix profile poolformer_s12 --input 3,224,224
    """
    import torch

    from neuromix.measure.profile import profile
    from neuromix.measure.rules import counting_rule

    rule = counting_rule(counting, model)
    overrides = parse_settings(settings or [], ())[""]
    if time_steps is not None:
        overrides["time_steps"] = time_steps
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    net, is_trained = load_target(model, overrides)
    inputs = _inputs(net, shape, batch, generator)
    shapes = {name: list(value.shape) for name, value in inputs.items() if isinstance(value, torch.Tensor)}
    report(f"input: random, {', '.join(f'{name} {shape}' for name, shape in shapes.items())}, seed {seed}")
    if not is_trained:
        report(
            "weights: untrained; firing rates, and what follows from them, say little about a trained model"
        )
    with _ticking(net):
        seen = profile(net, inputs, rule)
    for op, calls in seen.not_counted.items():
        report(f"warning: not counted: {op} ({calls} calls)")
    if as_json:
        print_json({**seen.to_dict(), "input": {"random": True, "seed": seed, "shapes": shapes}})
    else:
        _print(seen, counting)


def _inputs(net: Model, shape: str | None, batch: int, generator: Any) -> Batch:
    import torch

    from neuromix.core.batch import Batch

    if shape is None:
        return net.example(batch, generator)
    required = [field for field in net.inputs if not field.optional]
    sides = [int(side) for side in shape.split(",") if side.strip().isdecimal()]
    if len(required) != 1 or len(sides) != len(shape.split(",")) or len(sides) != len(required[0].axes) - 1:
        axes = " and ".join(f"{field.name} [{','.join(field.axes[1:])}]" for field in required)
        raise ConfigError(
            f"--input gives whole numbers with commas, as 3,224,224 for C,H,W; got {shape!r} for {axes}"
        )
    return Batch({required[0].name: torch.randn(batch, *sides, generator=generator)})


@contextmanager
def _ticking(net: Model) -> Iterator[None]:
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


def _print(seen: Profile, counting: str) -> None:
    from neuromix.cli.tables import Table
    from neuromix.report.numbers import count, energy, percent

    table = Table(
        "Layer", "Type", "Input", "MACs", "Rate", "Synaptic ops", "Energy", "Share",
        numbers=("MACs", "Rate", "Synaptic ops", "Energy", "Share"),
    )  # fmt: skip
    for layer in seen.layers:
        table.add(
            layer.path or "(the model itself)",
            layer.type,
            layer.input,
            count(layer.macs_dense),
            percent(layer.firing_rate),
            count(layer.synaptic_operations),
            energy(next(iter(layer.energy.values()), None)),
            percent(layer.energy_share),
        )
    table.print()
    if seen.neurons:
        neurons = Table("Neuron", "Type", "Elements", "Rate", numbers=("Elements", "Rate"))
        for neuron in seen.neurons:
            neurons.add(neuron.path, neuron.type, count(neuron.elements), percent(neuron.firing_rate))
        neurons.print()
    rows: list[tuple[str, object]] = [
        ("model", seen.model),
        ("parameters", f"{seen.parameters:,}"),
        ("MACs by the shapes", count(seen.macs_dense)),
        ("synaptic operations", count(seen.synaptic_operations)),
        ("firing rate", percent(seen.firing_rate)),
        *((f"charged as {kind}", count(number)) for kind, number in seen.operations.items()),
        *((f"energy, {name}", energy(millijoules)) for name, millijoules in seen.energy.items()),
        ("counted by", f"{counting}: " + ", ".join(f"{key} {value}" for key, value in seen.counting.items())),
    ]
    print_rows(rows)
