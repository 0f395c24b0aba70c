"""lower: a trained spiking model as a program for the event-driven engine."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from neuromix.core.config import Spec
from neuromix.core.edits import apply_edit
from neuromix.core.errors import NeuromixError, ProgramError, ShapeError, UnsupportedError
from neuromix.core.model import Model
from neuromix.runtime.graph import Graph
from neuromix.runtime.module_rules import rule_of
from neuromix.runtime.node import Shape
from neuromix.runtime.passes import simplified
from neuromix.runtime.program import Program
from neuromix.runtime.traced import Traced


def lower(
    model: Model,
    *,
    classes: Sequence[str] = (),
    input_shape: Sequence[int] | None = None,
    factored: bool = True,
) -> Program:
    """Lowers a spiking classifier: its step, with batch-norms folded in and in eval mode.

    The model is left as it was. Weights are folded in float64 and kept in float32.

    Args:
        classes: names of the outputs.
        input_shape: [C, H, W] of one step, by default that of the model's example.
        factored: keep a re-parameterised convolution as its pointwise, depthwise and pointwise factors, which is
            less work where more than about 7% of the inputs are spikes, and has a quarter of the weights. False:
            one dense convolution, all of whose weights can be rounded to integers, as spikes alone feed it.

    Raises:
        UnsupportedError: a part of the model has no form in an .nmx file; it is named.
        ShapeError: the model takes no such input.

    Example:
        program = lower(create_model("meta_spikeformer_nano"), input_shape=(1, 8, 8))
    """
    name = model.name or type(model).__name__
    if model.stream_axis != 0:
        raise UnsupportedError(f"{name} has no spike time to step along; only spiking models can be lowered")
    if model.config.feature_levels:
        raise UnsupportedError(f"{name} gives feature maps; only a classifier can be lowered")
    if [field.axes for field in model.inputs] != ["BCHW"]:
        taken = " and ".join(f"{field.name} [{', '.join(field.axes)}]" for field in model.inputs)
        raise UnsupportedError(
            f"{name} takes {taken}; only a model of one map a step, [B, C, H, W], can be lowered"
        )
    shape = _input_shape(model, input_shape)
    model.encode(torch.zeros(1, *shape))  # tells of a shape that the model does not take
    net = apply_edit(copy.deepcopy(model).to("cpu", torch.float64), Spec("fuse", {"factored": factored}))
    graph = Graph(name, shape)
    _install(net, graph)
    with torch.no_grad():
        output = _inside(graph, "", net, lambda: net.readout(net.forward_steps(graph.input)))  # type: ignore[arg-type]
    return _program(graph, output, tuple(classes), getattr(model.config, "time_steps", 1))


def _input_shape(model: Model, input_shape: Sequence[int] | None) -> Shape:
    if input_shape is None:
        input_shape = model.example(1).tensor(model.inputs[0].name).shape[-3:]
    if len(input_shape) != 3 or any(side < 1 for side in input_shape):
        raise ShapeError(f"the input of one step is C, H, W, got {list(input_shape)}")
    channels, height, width = input_shape
    return channels, height, width


def _install(net: nn.Module, graph: Graph) -> None:
    """Gives each module of the copy a forward that lowers: its rule, or its own code under its name."""
    for path, module in net.named_modules():
        rule = rule_of(module)
        forward = module.forward if rule is None else functools.partial(rule, module)
        module.forward = functools.partial(_inside, graph, path, module, forward)


def _inside(
    graph: Graph, path: str, module: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any
) -> Any:
    with graph.inside(path, type(module).__name__):
        try:
            return forward(*args, **kwargs)
        except NeuromixError:
            raise
        except Exception as error:  # whatever its code makes of something that is no tensor
            text = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise graph.unsupported(f"its forward cannot be followed: {text}") from error


def _program(graph: Graph, output: Any, classes: tuple[str, ...], time_steps: int) -> Program:
    if not isinstance(output, Traced) or graph.readout is None:
        raise UnsupportedError(
            f"{graph.model_name}: its output must be one value, read over time by its mean, sum or last step"
        )
    if graph.readout == "sum" and bool((output.shift != 0).any()):
        raise UnsupportedError(f"{graph.model_name}: a constant is added to the sum over time")
    output = graph.real(graph.applied(output))
    try:
        program = Program(
            name=graph.model_name,
            input_shape=graph.input_shape,
            time_steps=time_steps,
            readout=graph.readout,
            classes=(),
            output=output.node,
            nodes=tuple(graph.nodes),
        )
        return simplified(program).replace(classes=classes)
    except ProgramError as error:
        raise UnsupportedError(f"{graph.model_name}: {error}") from None
