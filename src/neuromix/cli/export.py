"""neuromix export: a trained model as a file for a runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from neuromix.cli.console import parse_settings, print_json, print_rows, progress, report
from neuromix.cli.target import load_target
from neuromix.core.errors import ConfigError, NeuromixError, UnknownNameError

if TYPE_CHECKING:
    from neuromix.core.model import Model
    from neuromix.training.task import Task


@dataclass(frozen=True)
class Request:
    """What is to be exported, and how.

    Attributes:
        task: the task that the model was trained on, with its data; None where it is not known.
        input_shape: [C, H, W] of one step, None for that of the data or of the model's example.
        weights: of the convolutions that spikes feed.
        samples: test images that accuracies are of.
        progress: called with what is being done, batches done, and batches.
    """

    model: Model
    path: Path
    task: Task | None
    input_shape: tuple[int, int, int] | None
    weights: Literal["float32", "int8"]
    samples: int
    progress: Callable[[str, int, int], None]


def _to_nmx(request: Request) -> dict[str, Any]:
    from neuromix.runtime.export import export_nmx

    return export_nmx(
        request.model,
        request.path,
        task=request.task,
        input_shape=request.input_shape,
        weights=request.weights,
        samples=request.samples,
        progress=request.progress,
    )


def _to_onnx(request: Request) -> dict[str, Any]:
    from neuromix.exchange.onnx import export_onnx
    from neuromix.runtime.export import image_shape

    if request.weights != "float32":
        raise ConfigError("an onnx file keeps its weights in float32; --quantize is for nmx")
    task = request.task
    request.progress("tracing and checking", 0, 1)
    made = export_onnx(
        request.model,
        request.path,
        input_shape=request.input_shape or (None if task is None else image_shape(task)),
        classes=() if task is None else task.class_names(),
    )
    assert made.comparison is not None
    return {
        "file": str(made.path),
        "bytes": made.bytes,
        "nodes": sum(made.operators.values()),
        "operations": made.operators,
        "input": list(made.input_shape),
        "time_steps": made.time_steps,
        "opset": made.opset,
        "difference": made.comparison.difference,
        "flipped_spikes": made.comparison.flipped,
        "accuracy": None,
    }


def _to_nir(request: Request) -> dict[str, Any]:
    import torch

    from neuromix.exchange.nir import write_nir
    from neuromix.exchange.nir_export import reads_images
    from neuromix.runtime.export import image_shape

    if request.weights != "float32":
        raise ConfigError("a nir file keeps its weights in float32; --quantize is for nmx")
    shape = request.input_shape
    if shape is None and request.task is not None and reads_images(request.model):
        shape = image_shape(request.task)
    request.progress("writing and checking", 0, 1)
    made = write_nir(request.model, request.path, None if shape is None else torch.empty(1, *shape))
    assert made.comparison is not None
    return {
        "file": str(made.path),
        "bytes": made.bytes,
        "nodes": sum(made.nodes.values()),
        "operations": made.nodes,
        "input": list(made.input_shape),
        "time_steps": made.time_steps,
        "dt": made.dt,
        "difference": made.comparison.difference,
        "spikes": made.comparison.spikes,
        "flipped_spikes": made.comparison.flipped,
        "accuracy": None,
    }


# A format: its name, which is also the suffix of its files, and what writes such a file and tells about it.
FORMATS: Mapping[str, Callable[[Request], dict[str, Any]]] = {
    "nmx": _to_nmx,
    "onnx": _to_onnx,
    "nir": _to_nir,
}


def command(
    target: Annotated[
        str,
        typer.Argument(
            help="The folder of a run, a model by name, or a weights file.", metavar="RUN|MODEL|FILE"
        ),
    ],
    to: Annotated[str, typer.Option(help=f"Format: {', '.join(FORMATS)}.")] = "nmx",
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="The file. [default: MODEL.FORMAT]", show_default=False),
    ] = None,
    quantize: Annotated[
        str | None, typer.Option(help="int8: weights of the layers that spikes feed, in 8 bits.")
    ] = None,
    shape: Annotated[
        str | None,
        typer.Option(
            "--input",
            metavar="C,H,W",
            help="Shape of one step. [default: that of the run's data, or the model's example]",
        ),
    ] = None,
    data: Annotated[str | None, typer.Option(help="Other data of the run's kind.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="Test samples that the accuracy is of.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of the weights of a model by name.")] = 0,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A value of the model's config that differs."),
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print one JSON object: file, bytes, nodes, input, accuracy, ..."),
    ] = False,
) -> None:
    """Write a trained model as a file: a spiking one for the event-driven engine or as NIR, any classifier as ONNX.

    Of a run, it takes the best weights, names the classes, and compares the accuracy of the file with the model's.

    \b
    Examples:
      neuromix export runs/a --to nmx -o net.nmx
      neuromix export runs/a --quantize int8 -o net.nmx --json
      neuromix export meta_spikeformer_15m --input 3,224,224 -o net.nmx
      neuromix export runs/a --to onnx -o net.onnx
      neuromix export runs/a --to nir -o net.nir
    """
    import torch

    if to not in FORMATS:
        raise UnknownNameError("format", to, FORMATS)
    if quantize not in (None, "int8"):
        raise UnknownNameError("quantization", quantize, ("int8",))
    input_shape = None if shape is None else _parse_shape(shape)
    torch.manual_seed(seed)
    model, is_trained = load_target(target, parse_settings(settings or [], ())[""])
    if not is_trained:
        report("weights: untrained")
    task = _task_of(target, data)
    if task is None and quantize:
        report("calibration: on random noise, as there is no run to take data from")
    with progress() as display:
        bar = display.add_task("exporting", total=None)
        about = FORMATS[to](
            Request(
                model=model,
                path=output or Path(f"{model.name}.{to}"),
                task=task,
                input_shape=input_shape,
                weights="int8" if quantize else "float32",
                samples=samples,
                progress=lambda text, done, of: display.update(
                    bar, description=text, completed=done, total=of
                ),
            )
        )
    if as_json:
        print_json(about)
    else:
        _print(about)


def _parse_shape(text: str) -> tuple[int, int, int]:
    sides = [int(side) for side in text.split(",") if side.strip().isdecimal()]
    if len(sides) != 3 or len(text.split(",")) != 3:
        raise ConfigError(f"--input gives C,H,W as whole numbers with commas, as 3,224,224; got {text!r}")
    return sides[0], sides[1], sides[2]


def _task_of(target: str, data: str | None) -> Task | None:
    """The task of a run; None for what is no run, or where its data are no longer there."""
    from neuromix.core import registry
    from neuromix.training.run_folder import RunFolder

    if not Path(target).is_dir():
        if data is not None:
            raise ConfigError(f"--data is for a run, which knows its task; {target} is none")
        return None
    spec = RunFolder(target).recipe().task
    if data is not None:
        task: Task = registry.build("task", spec.with_options(data=data))
        return task
    try:
        task = registry.build("task", spec)
    except NeuromixError as error:
        report(f"no class names and no accuracy, as the data of the run cannot be read: {error}")
        return None
    return task


def _print(about: dict[str, Any]) -> None:
    accuracy = about.pop("accuracy")
    operations = ", ".join(f"{number} {name}" for name, number in about.pop("operations", {}).items())
    rows: list[tuple[str, object]] = [(key.replace("_", " "), value) for key, value in about.items()]
    rows += [("operations", operations)] if operations else []
    if accuracy is not None:
        rows += [
            (f"accuracy, {key}", f"{value:+.4f}" if key == "difference" else value)
            for key, value in accuracy.items()
        ]
    print_rows(rows)
