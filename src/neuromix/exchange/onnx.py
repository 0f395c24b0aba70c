"""Classifiers as ONNX files, spiking ones with their neurons written out in plain operators.

A whole graph maps an image to logits, with every time step unrolled. A step graph maps one step and the states of
the neurons to the logits of that step and the next states; it may be one of any net with one input, such as a sample of
a sensor. The batch axis is free in both.

Shapes: T spike time, B batch, C channels, H W feature map, K classes.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import logging
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import neuromix
from neuromix.core.checkpoint import rebuild
from neuromix.core.edits import replace_modules
from neuromix.core.errors import ConfigError, MissingExtraError, RunError, ShapeError, UnsupportedError
from neuromix.core.files import replacing
from neuromix.core.model import Model
from neuromix.exchange.tensor_function import StateSlot, TensorFunction, written_out
from neuromix.layers.sequence_dropout import SequenceDropout
from neuromix.ops import references_only

if TYPE_CHECKING:
    from onnx import ModelProto

Array: TypeAlias = NDArray[np.float32]

OPSET = 20  # the first in which GELU is one operator
TOLERANCE = 1e-4  # of logits and states, relative to the largest
MOST_FLIPS = 0.01  # the share of spikes that rounding alone may turn over
EXAMPLES = 2  # images that a graph is traced with; with one, the batch axis would be taken for a constant
SAMPLES = 3  # images that it is checked on; another number, as the batch axis is free


class OnnxComparison(NamedTuple):
    """A graph in onnxruntime against its model in PyTorch, on random images: what passed the check.

    Attributes:
        samples: images.
        difference: the largest of the logits.
        scale: the largest logit itself.
        flipped: share of the neurons' outputs that differ, as one spike more or less follows from a rounding.
    """

    samples: int
    difference: float
    scale: float
    flipped: float


@dataclass(frozen=True)
class OnnxExport:
    """What an ONNX file holds.

    Attributes:
        input_shape: [C, H, W] of the input `image`, or the shape of one step of another input.
        time_steps: that are unrolled; 1 in a step graph and for a model without spike time.
        operators: how many of each the graph has.
        states: of a step graph.
        comparison: None if it was not checked.
    """

    path: Path
    bytes: int
    opset: int
    input_shape: tuple[int, ...]
    time_steps: int
    operators: dict[str, int]
    states: tuple[StateSlot, ...]
    comparison: OnnxComparison | None


def export_onnx(
    model: Model,
    path: str | Path,
    *,
    input_shape: Sequence[int] | None = None,
    time_steps: int | None = None,
    step: bool = False,
    classes: Sequence[str] = (),
    opset: int = OPSET,
    check: bool = True,
) -> OnnxExport:
    """Writes a classifier, in eval mode and float32, as an ONNX file; the model is left as it was.

    Args:
        input_shape: [C, H, W] of an image, or the shape of one step of another input; by default the example's.
        time_steps: other than the model's own; for a whole graph of a spiking model.
        step: write the graph of one time step, with the neurons' states as inputs and outputs. Its logits are of
            this step alone: the model's are their mean over T.
        classes: names of the outputs.
        opset: the version of the operators.
        check: run the file in onnxruntime, and compare it with the model on random images.

    Raises:
        MissingExtraError: onnx, onnxscript or onnxruntime is not installed.
        UnsupportedError: the model is no image classifier (in a step graph, has several inputs), draws random
            numbers, or has no ONNX form.
        ShapeError, ConfigError: an input, or time steps, that the model does not take.
        RunError: the graph does not give the numbers of the model, or the file cannot be written. Then none is.

    Example:
        export_onnx(create_model("meta_spikeformer_nano"), "net.onnx")
    """
    _require_packages("onnx", "onnxscript", *(["onnxruntime"] if check else []))
    _require_classifier(model, step)
    if time_steps is not None:
        if step:
            raise ConfigError("a step graph has one time step; time_steps is for a whole graph")
        model = rebuild(model, time_steps=time_steps)
    model = copy.deepcopy(model).to("cpu", torch.float32).eval()
    # In eval mode it passes on its input; without it, its mask is not among the states of a step graph.
    replace_modules(model, lambda module: nn.Identity() if isinstance(module, SequenceDropout) else None)
    shape = _input_shape(model, input_shape)
    with torch.no_grad(), replacing(Path(path)) as temporary:
        function = TensorFunction(written_out(model), torch.zeros(EXAMPLES, *shape), step)
        outputs = function(*function.example)
        _require_logits(model, outputs[0])
        proto, watched = _trace(function, len(outputs), opset)
        _describe(proto, model, shape, function.slots, tuple(classes))
        temporary.write_bytes(proto.SerializeToString())
        comparison = _compare(model, shape, step, temporary, watched) if check else None
        size = temporary.stat().st_size
    return OnnxExport(
        path=Path(path),
        bytes=size,
        opset=proto.opset_import[0].version,
        input_shape=shape,
        time_steps=1 if step or model.stream_axis != 0 else getattr(model.config, "time_steps", 1),
        operators=dict(Counter(node.op_type for node in proto.graph.node).most_common()),
        states=function.slots,
        comparison=comparison,
    )


def onnx_session(path: str | Path, threads: int = 1) -> Callable[[Array], Array]:
    """A whole graph in onnxruntime on the CPU, with all its optimisations: images [B, C, H, W] to logits [B, K].

    Args:
        threads: that share the work of one operator.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        RunError: there is no such file.
    """
    _require_packages("onnxruntime")
    if not Path(path).is_file():
        raise RunError(f"no ONNX file at {path}")
    session = _session(str(path), threads)

    def run(image_BCHW: Array) -> Array:
        logits_BK: Array = session.run(["logits"], {"image": image_BCHW})[0]
        return logits_BK

    return run


def _session(file: str | bytes, threads: int = 0) -> Any:
    """Threads 0: as many as PyTorch has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.log_severity_level = 3  # errors: its warnings are about its own optimisations
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def _require_packages(*names: str) -> None:
    if any(importlib.util.find_spec(name) is None for name in names):
        raise MissingExtraError("ONNX", "export")


def _require_classifier(model: Model, step: bool) -> None:
    name, inputs = model.name or type(model).__name__, [field.name for field in model.inputs]
    if inputs != ["image"] and not (step and len(inputs) == 1):
        raise UnsupportedError(f"{name} takes {', '.join(inputs)}; only an image classifier can be exported")
    if model.config.feature_levels:
        raise UnsupportedError(f"{name} gives feature maps; only a classifier can be exported")


def _require_logits(model: Model, output: Tensor) -> None:
    if output.dim() != 2 or len(output) != EXAMPLES:
        raise UnsupportedError(f"{model.name} gives {list(output.shape)}, not logits [B, K]")


def _input_shape(model: Model, given: Sequence[int] | None) -> tuple[int, ...]:
    name = model.inputs[0].name
    if name != "image":
        steps = model.encode(model.example(1).tensor(name))
        return tuple(steps.select(model.stream_axis or 0, 0).shape[1:] if given is None else given)
    given = model.example(1).tensor("image").shape[-3:] if given is None else given
    if len(given) != 3 or any(side < 1 for side in given):
        raise ShapeError(f"an image is C, H, W, got {list(given)}")
    channels, height, width = given
    return channels, height, width


def _trace(function: TensorFunction, outputs: int, opset: int) -> tuple[ModelProto, bytes]:
    """The graph with the outputs of the file, and the bytes of one that gives those of the neurons as well."""
    import onnx

    states = [slot.name for slot in function.slots]
    names = ["logits", *(f"{name}.next" for name in states)]
    batch = torch.export.Dim("batch")
    try:
        with references_only(), _quiet():
            program = torch.onnx.export(
                function,
                function.example,
                dynamo=True,
                opset_version=opset,
                input_names=[function.model.inputs[0].name, *states],
                output_names=[*names, *(f"spikes.{number}" for number in range(outputs - len(names)))],
                dynamic_shapes=(tuple({0: batch} for _ in function.example),),
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().partition("\n")[0]
        raise UnsupportedError(f"{function.model.name} has no ONNX form: {reason}") from error
    assert program is not None
    proto: ModelProto = program.model_proto
    for node in proto.graph.node:
        node.ClearField("metadata_props")  # where in the source it came from, with paths of this machine
    proto.producer_name, proto.producer_version = "neuromix", neuromix.__version__
    watched = proto.SerializeToString()
    del proto.graph.output[len(names) :]
    onnx.checker.check_model(proto, full_check=True)
    return proto, watched


@contextmanager
def _quiet() -> Iterator[None]:
    """Within the context the exporter does not tell of its own affairs: missing libraries, deprecated parts."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _describe(
    proto: ModelProto,
    model: Model,
    shape: tuple[int, ...],
    states: tuple[StateSlot, ...],
    classes: tuple[str, ...],
) -> None:
    """Writes into the file what it is."""
    import onnx

    axes = ", ".join(map(str, ("batch", *shape)))
    about = {
        "model": model.name,
        "neuromix_version": neuromix.__version__,
        "input": f"{model.inputs[0].name}: float32 [{axes}], normalised as in training",
        "classes": json.dumps(classes),
    }
    if states:
        about["states"] = json.dumps([state._asdict() for state in states])
    elif model.stream_axis == 0 and hasattr(model.config, "time_steps"):
        about["time_steps"] = str(model.config.time_steps)
    onnx.helper.set_model_props(proto, about)


def _compare(model: Model, shape: tuple[int, ...], step: bool, file: Path, watched: bytes) -> OnnxComparison:
    """Runs the file on random images, and the graph that shows its neurons.

    Raises:
        RunError: they do not do what the model does.
    """
    image_BCHW = torch.randn(SAMPLES, *shape, generator=torch.Generator().manual_seed(0))
    function = TensorFunction(model, image_BCHW, step)
    count = 1 + len(function.slots)
    inputs = function.example
    if step:  # the second one: the states before the first are the same everywhere
        inputs = (image_BCHW, *function(*inputs)[1:count])
    expected = [output.numpy() for output in function(*inputs)]
    session = _session(str(file))
    fed = {field.name: value.numpy() for field, value in zip(session.get_inputs(), inputs, strict=True)}
    actual = session.run(None, fed)
    spikes = _session(watched).run(None, fed)[count:] if expected[count:] else []
    wrong = sum(
        int(np.count_nonzero(one != other)) for one, other in zip(spikes, expected[count:], strict=True)
    )
    comparison = OnnxComparison(
        samples=SAMPLES,
        difference=float(np.abs(actual[0] - expected[0]).max()),
        scale=float(np.abs(expected[0]).max()),
        flipped=wrong / max(1, sum(output.size for output in expected[count:])),
    )
    _require_agreement(model.name, actual, expected[:count], comparison)
    return comparison


def _require_agreement(
    name: str, actual: list[Array], expected: list[Array], comparison: OnnxComparison
) -> None:
    """Without a flipped spike all numbers are equal but for rounding; with some, at least the classes are."""
    if comparison.flipped:
        agrees = comparison.flipped <= MOST_FLIPS and bool(
            (actual[0].argmax(1) == expected[0].argmax(1)).all()
        )
    else:
        agrees = all(
            np.allclose(one, other, rtol=0, atol=TOLERANCE * float(np.abs(other).max(initial=0)) + 1e-6)
            for one, other in zip(actual, expected, strict=True)
        )
    if not agrees:
        raise RunError(
            f"the ONNX file of {name} is not written, as onnxruntime gives other numbers: logits differ by up to "
            f"{comparison.difference:.2g} of {comparison.scale:.2g}, {comparison.flipped:.2%} of the spikes"
        )
