"""What a spiking classifier thinks at each time step: features, to be compared or taught, beside its logits.

The net runs step by step, so a batch-norm sees one time step at a time and its running statistics move at every one.

Shapes: T spike time, B batch, D features, K classes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from neuromix.core.errors import ConfigError
from neuromix.core.model import Model
from neuromix.core.stream import ModelState, Stream
from neuromix.neurons.neuron import Neuron


class Steps(NamedTuple):
    """Features [T, B, D] and logits [T, B, K] of every time step, in float32 where the net runs in less."""

    features: Tensor
    logits: Tensor


def run_steps(
    net: Stream,
    x_T: Tensor,
    at: str | None = None,
    autocast: Callable[[], contextlib.AbstractContextManager[object]] = contextlib.nullcontext,
) -> Steps:
    """Runs a model step by step from rest.

    Args:
        net: the model, in step form; any whose steps give logits [B, K].
        x_T: the input of every step, [T, ...] (see `segments.unrolled`).
        at: path of the neuron whose membrane potential after the reset is the feature, or of another module, whose
            input is. None: the last neuron to run.
        autocast: opened around the forward pass of each step.

    Raises:
        ConfigError: there is no such module, or the neuron has no membrane potential.
    """
    model, state = net.model, None
    features, logits = [], []
    with _inputs_of(model, at) as seen:
        for x in torch.split(x_T, 1):
            with autocast():
                y, state = net.prefill(x, state)
                output = model.readout(y)
            logits.append(output if isinstance(output, Tensor) else output[0])
            feature = seen[-1] if seen else _membrane(model, state, at)
            features.append(
                feature.reshape(len(logits[-1]), -1)
            )  # of one step, with or without its time axis
    return Steps(
        *(x.to(torch.promote_types(x.dtype, torch.float32)) for x in map(torch.stack, (features, logits)))
    )


def _membrane(model: Model, state: ModelState, at: str | None) -> Tensor:
    """The potential that a neuron, the last one to run where none is named, was left with."""
    # Leaves stand in the state in the order in which they ran.
    found = [
        (path, left)
        for (path, _), left in state.items()
        if isinstance(model.get_submodule(path), Neuron) and at in (None, path)
    ]
    path, left = found[-1] if found else (at or "a neuron", None)
    v: Tensor | None = getattr(left, "v", None)
    if v is None:
        raise ConfigError(
            f"{model.name or type(model).__name__} keeps no membrane potential of {path} between steps; name "
            "another neuron, or a layer whose input is to be compared: --set method.feature=PATH"
        )
    return v


@contextlib.contextmanager
def _inputs_of(model: Model, at: str | None) -> Iterator[list[Tensor]]:
    """What the module `at` was given last; nothing where it is a neuron."""
    seen: list[Tensor] = []
    module = dict(model.named_modules()).get(at) if at is not None else nn.Identity()
    if module is None:
        raise ConfigError(
            f"{model.name or type(model).__name__} has no module {at!r}; the last ones are "
            f"{', '.join(path for path, _ in list(model.named_modules())[-4:])}"
        )
    if at is None or isinstance(module, Neuron):
        yield seen
        return
    handle = module.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    try:
        yield seen
    finally:
        handle.remove()
