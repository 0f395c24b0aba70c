"""What a model is measured on: a Batch of named fields, the tensor that it takes, or several of them."""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from neuromix.core.batch import Batch
from neuromix.core.errors import ConfigError, ForwardError, NeuromixError, ShapeError
from neuromix.core.model import Model, call

Inputs: TypeAlias = Tensor | Sequence[Tensor] | Mapping[str, Any]


class Frames(NamedTuple):
    """One tensor whose first axis is spike time and whose second is the batch: [T, B, ...].

    For a plain module that takes all steps at once; of a registered model the number of axes tells.
    """

    x_TB: Tensor


def runner(model: nn.Module, inputs: Inputs) -> Callable[[], Any]:
    """A function without arguments that runs `model` on `inputs`, and raises as `naming_failures` does.

    Raises:
        ConfigError: named fields for a module that names no inputs.
    """
    if isinstance(inputs, Mapping):
        if not isinstance(model, Model):
            raise ConfigError(
                f"{type(model).__name__} names no inputs; give it tensors, not a batch of named fields"
            )
        forward = functools.partial(call, model, inputs)  # type: ignore[arg-type]
    else:
        forward = functools.partial(model, *tensors_of(model, inputs))

    def run() -> Any:
        with naming_failures(model):
            return forward()

    return run


def tensors_of(model: nn.Module, inputs: Inputs) -> tuple[Any, ...]:
    """The arguments of `model` in `inputs`."""
    if isinstance(inputs, Mapping):
        assert isinstance(model, Model)
        return tuple(inputs[field.name] for field in model.inputs if field.name in inputs)
    return (inputs,) if isinstance(inputs, torch.Tensor) else tuple(inputs)


@contextmanager
def naming_failures(model: nn.Module) -> Iterator[None]:
    """Turns an error of a forward into one line that names the module that failed.

    Raises:
        ForwardError: with the error as its cause. An error of the library goes through as it is.
    """
    try:
        yield
    except NeuromixError:
        raise
    except Exception as error:
        path, kind = _where(model, error)
        first, *_ = str(error).strip().splitlines() or [""]
        raise ForwardError(
            f"the forward of {type(model).__name__} failed in {path or 'the model itself'} ({kind}): "
            f"{type(error).__name__}: {first}; check that the inputs are what it takes"
        ) from error


def _where(model: nn.Module, error: Exception) -> tuple[str, str]:
    """Path and class of the innermost module of `model` that was running."""
    paths = {id(module): path for path, module in model.named_modules()}
    running = [frame.f_locals.get("self") for frame, _ in traceback.walk_tb(error.__traceback__)]
    inside = [module for module in running if id(module) in paths]
    module = inside[-1] if inside else model
    return paths[id(module)], type(module).__name__


def batch_size(model: nn.Module, inputs: Inputs) -> int:
    """Samples in `inputs`.

    The size of a Batch, or of the batch axis of the first tensor: its first axis, or the second one where a spiking
    Model is given frames [T, B, ...].

    Raises:
        ShapeError: a single number.
    """
    if isinstance(inputs, Mapping):
        size = getattr(inputs, "size", None)
        return size if isinstance(size, int) else len(next(iter(inputs.values())))
    first = inputs if isinstance(inputs, torch.Tensor) else inputs[0]
    if first.dim() == 0:
        raise ShapeError("a measurement needs inputs with a batch axis, got a single number")
    return first.shape[batch_axis(model, inputs, first)]


def batch_axis(model: nn.Module, inputs: Inputs, x: Tensor) -> int:
    """1 where `x`, one of the inputs, is one frame a step, [T, B, ...]; else 0."""
    by_axes = isinstance(model, Model) and model.stream_axis == 0 and x.dim() > len(model.inputs[0].axes)
    return int(by_axes or isinstance(inputs, Frames))


def resized(model: nn.Module, inputs: Inputs, size: int) -> Inputs:
    """`inputs` with `size` samples: repeated in their order, or cut.

    Raises:
        ShapeError: a size below 1, or no sample to repeat.
    """
    there = batch_size(model, inputs)
    if size < 1 or there < 1:
        raise ShapeError(f"a batch needs at least one sample; {size} were asked for, {there} are there")
    samples = [i % there for i in range(size)]

    def pick(x: Tensor) -> Tensor:
        return x.index_select(batch_axis(model, inputs, x), torch.tensor(samples, device=x.device))

    if isinstance(inputs, torch.Tensor):
        return pick(inputs)
    if isinstance(inputs, Mapping):
        return (inputs if isinstance(inputs, Batch) else Batch(inputs)).select(samples)
    picked = [pick(x) for x in inputs]
    return Frames(*picked) if isinstance(inputs, Frames) else picked


def device_of(model: nn.Module) -> torch.device:
    """Where the first parameter or buffer of a model is; the CPU for one that has none."""
    tensors = (*model.parameters(), *model.buffers())
    return tensors[0].device if tensors else torch.device("cpu")
