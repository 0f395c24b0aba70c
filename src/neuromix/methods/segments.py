"""Runs a model through time in segments, with the whole graph kept or rebuilt segment by segment in backward.

Between segments only the states of the leaves pass, so whatever depends on how many steps run at once - the
statistics of a batch-norm - is taken a segment.

Shapes: T spike time; x_T is the input of the steps, [1, ...] where it is static.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils.checkpoint import checkpoint as rebuilt_in_backward

from neuromix.core.errors import ConfigError
from neuromix.core.model import Model
from neuromix.core.observe import Noise
from neuromix.core.stream import stream
from neuromix.core.time import Repeat


def require_spike_time(model: Model, what: str) -> None:
    """Raises ConfigError, in the name of `what`, unless the model steps along spike time."""
    if model.stream_axis != 0:
        raise ConfigError(f"{what} works along spike time, and {model.name or type(model).__name__} has none")


def unrolled(model: Model, x_T: Tensor) -> Tensor:
    """The input of every step: a static one as often as the model shows it, another one as it is."""
    times = max((module.times for module in model.modules() if isinstance(module, Repeat)), default=1)
    return x_T.expand(times, *x_T.shape[1:]) if len(x_T) == 1 else x_T


@contextlib.contextmanager
def in_segments(model: Model, length: int | None, *, checkpoint: bool = False) -> Iterator[list[Any]]:
    """Within the context, the forward pass of a model with spike time runs `length` time steps at a time.

    Args:
        length: steps that run at once; None: all of them, as ever.
        checkpoint: keep nothing of a segment but the state that it starts from, and run it again in backward, as
            it ran the first time: same draws, same buffers. Memory for T steps is that of one segment and of
            T/length states.

    Yields:
        A list that gets the outputs of the steps, as `forward_steps` gives them, of each forward pass.
    """
    seen: list[Any] = []

    def forward_steps(x_T: Tensor) -> Any:
        with _replaced(model, None):
            y_T = model.forward_steps(x_T) if length is None else _run(model, x_T, length, checkpoint)
        seen.append(y_T)
        return y_T

    with _replaced(model, forward_steps):
        yield seen


def _run(model: Model, x_T: Tensor, length: int, checkpoint: bool) -> Any:
    net = stream(model)

    def segment(x_T: Tensor, state: Any) -> Any:
        # In backward the context may be open or closed; either way the model itself is to run.
        with _replaced(model, None):
            return net.prefill(x_T, state)

    outputs, state = [], None
    for part_T in torch.split(unrolled(model, x_T), length):
        if checkpoint and torch.is_grad_enabled():
            y_T, state = rebuilt_in_backward(
                segment, part_T, state, use_reentrant=False, context_fn=lambda: _first_and_second_run(model)
            )
        else:
            y_T, state = segment(part_T, state)
        outputs.append(y_T)
    return pytree.tree_map(lambda *parts: torch.cat(parts), *outputs)


@contextlib.contextmanager
def _replaced(model: Model, forward_steps: Callable[[Tensor], Any] | None) -> Iterator[None]:
    """Puts a function in place of the model's `forward_steps`, or (None) the model's own back."""
    before = model.__dict__.pop("forward_steps", None)
    try:
        if forward_steps is not None:
            model.__dict__["forward_steps"] = forward_steps
        yield
    finally:
        model.__dict__.pop("forward_steps", None)
        if before is not None:
            model.__dict__["forward_steps"] = before


def _first_and_second_run(model: nn.Module) -> tuple[Any, Any]:
    return contextlib.nullcontext(), _AsItWas(model)


class _AsItWas:
    """A context in which the buffers of a model, and the sources of its noise, are what they were when it was made.

    Buffers are exchanged, not overwritten: the graphs of other segments may hold on to them.
    """

    def __init__(self, model: nn.Module) -> None:
        self._modules = [module for module in model.modules() if module._buffers]
        self._noises = [module for module in model.modules() if isinstance(module, Noise)]
        self._then = _copied(self._buffers()), self._sources(), self._generators()

    def __enter__(self) -> None:
        self._now = self._buffers(), self._sources(), self._generators()
        buffers, sources, generators = self._then
        self._set(_copied(buffers), sources, generators)

    def __exit__(self, *error: object) -> None:
        self._set(*self._now)

    def _buffers(self) -> list[dict[str, Tensor | None]]:
        return [dict(module._buffers) for module in self._modules]

    def _sources(self) -> list[tuple[torch.Generator | None, Iterator[Tensor] | None]]:
        # A copy of an iterator over a list goes on from where the iterator is.
        return [(noise.generator, copy.copy(noise.replay)) for noise in self._noises]

    def _generators(self) -> dict[torch.Generator, Tensor]:
        return {noise.generator: noise.generator.get_state() for noise in self._noises if noise.generator}

    def _set(self, buffers: Any, sources: Any, generators: Any) -> None:
        for module, each in zip(self._modules, buffers, strict=True):
            module._buffers.update(each)
        for noise, (generator, replay) in zip(self._noises, sources, strict=True):
            noise.generator, noise.replay = generator, copy.copy(replay)
        for generator, state in generators.items():
            generator.set_state(state)


def _copied(buffers: list[dict[str, Tensor | None]]) -> list[dict[str, Tensor | None]]:
    return [{name: None if b is None else b.clone() for name, b in each.items()} for each in buffers]
