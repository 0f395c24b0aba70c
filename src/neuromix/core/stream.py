"""stream(model): steps any model whose leaves follow the Stateful convention, without a line of code in the model.

Hooks on the outermost Stateful modules hand each its state and collect the new one. They act only while the
Stream that owns them runs, so the model itself stays usable, and several Streams of one model do not meet.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from neuromix.core import state as states
from neuromix.core.errors import ConfigError, ShapeError
from neuromix.core.model import Model
from neuromix.core.state import State, Stateful
from neuromix.core.time import Repeat

# The state of a model: (path of the leaf, n-th call within a step) -> state, as a shared leaf may run twice.
ModelState = dict[tuple[str, int], State]


class Stream:
    """A model in step form. `step`, `prefill` - and `drain` at the end - agree with the model's own forward.

    Shapes: x is one step of the model's input (without the time axis), x_T (or x_L) several of them along
    `model.stream_axis`.
    """

    def __init__(self, model: Model) -> None:
        if model.stream_axis is None:
            raise ConfigError(f"{type(model).__name__} cannot be stepped: its stream_axis is None")
        self.model = model
        self.axis = model.stream_axis
        self._before: ModelState = {}
        self._after: ModelState = {}
        self._calls: dict[str, int] = {}
        self._running = self._ends = False
        self._tails = {path for path, leaf in outermost_stateful(model).items() if leaf.tail}
        handles = _install(model, weakref.ref(self))
        weakref.finalize(self, lambda: [handle.remove() for handle in handles])

    def step(self, x: Tensor, state: ModelState | None = None) -> tuple[Tensor, ModelState]:
        """One step; `state` None starts afresh.

        Returns:
            (output of this step, state); the output is None while a model that looks ahead has none yet.
        """
        y, state = self.prefill(x.unsqueeze(self.axis), state)
        return states.map_state(self._only_step, y), state

    def prefill(
        self, x: Tensor, state: ModelState | None = None, **others: Tensor
    ) -> tuple[Tensor, ModelState]:
        """Several steps at once, from `state`. Returns (outputs of these steps, state).

        Args:
            others: what else `forward_steps` of the model takes, such as the mask of a padded batch.
        """
        if x.shape[self.axis] == 0:
            raise ShapeError("a segment needs at least one step, got a time axis of length 0")
        with self._threading(state or {}):
            y = self.model.forward_steps(x, **others)
            return y, self._after

    def drain(self, like: Tensor, state: ModelState | None = None) -> Any:
        """The outputs that are still to come once the input has ended, from `state`.

        Args:
            like: a step of the input, for its shape.

        Returns:
            outputs of these steps; None where the model, as most do, ends with its input.
        """
        if not self._tails:
            return None
        nothing = like.unsqueeze(self.axis).narrow(self.axis, 0, 0)
        with self._threading(state or {}, ends=True):
            return self.model.forward_steps(nothing)

    def session(self) -> Session:
        """State in an object that the caller owns."""
        return Session(self)

    def _only_step(self, y_T: Tensor) -> Tensor | None:
        return y_T.squeeze(self.axis) if y_T.shape[self.axis] else None

    @contextmanager
    def _threading(self, state: ModelState, ends: bool = False) -> Iterator[None]:
        self._before, self._after, self._calls, self._running, self._ends = state, {}, {}, True, ends
        try:
            yield
        finally:
            self._before, self._running, self._ends = {}, False, False

    def _enter(self, path: str, kwargs: dict[str, Any]) -> dict[str, Any] | None:
        if not self._running:
            return None
        state = self._before.get((path, self._calls.get(path, 0)))
        end = {"ends": True} if self._ends and path in self._tails else {}
        return {**kwargs, "state": state, "return_state": True, **end}

    def _leave(self, path: str, output: Any) -> Any:
        if not self._running:
            return None
        y, state = output
        call = self._calls.get(path, 0)
        self._after[path, call] = state
        self._calls[path] = call + 1
        return y


class Session:
    """A stream together with its current state."""

    def __init__(self, net: Stream) -> None:
        self.net = net
        self.state: ModelState | None = None
        self._like: Tensor | None = None

    def step(self, x: Tensor) -> Tensor:
        """Takes one step on from where the last one ended."""
        y, self.state = self.net.step(x, self.state)
        self._like = x
        return y

    def drain(self) -> Any:
        """The outputs that are still to come now that the input has ended; None where the model has none.

        It leaves the state as it is; `reset` before the next input.
        """
        return None if self._like is None else self.net.drain(self._like, self.state)

    def select(self, indices: Tensor) -> None:
        """Keeps only some samples of the batch: the finished ones leave."""
        if self.state is not None:
            self.state = states.select(self.state, indices)
        if self._like is not None:
            self._like = states.select(self._like, indices)

    def reset(self) -> None:
        """Forgets everything: the next step is a first step."""
        self.state = self._like = None


def stream(model: Model) -> Stream:
    """The model in step form.

    Example:
        net = stream(model); y_t, state = net.step(x_t, state)

    Raises:
        ConfigError: the model cannot be stepped (its `stream_axis` is None).
    """
    return Stream(model)


def outermost_stateful(model: nn.Module) -> dict[str, Stateful]:
    """The Stateful modules that no other Stateful module contains, by path; each owns its subtree."""
    found: dict[str, Stateful] = {}
    for path, module in model.named_modules():
        inside = any(path.startswith(f"{owner}.") or owner == "" for owner in found)
        if isinstance(module, Stateful) and not inside:
            found[path] = module
    return found


def _install(model: nn.Module, owner: weakref.ref[Stream]) -> list[Any]:
    handles: list[Any] = []
    for path, leaf in outermost_stateful(model).items():

        def enter(_: nn.Module, args: Any, kwargs: dict[str, Any], path: str = path) -> Any:
            net = owner()
            threaded = net._enter(path, kwargs) if net else None
            return None if threaded is None else (args, threaded)

        def leave(_: nn.Module, args: Any, output: Any, path: str = path) -> Any:
            net = owner()
            return net._leave(path, output) if net else None

        # Prepended, so that other hooks see the output as it is without a stream.
        handles += [
            leaf.register_forward_pre_hook(enter, with_kwargs=True),
            leaf.register_forward_hook(leave, prepend=True),
        ]
    for module in model.modules():
        if isinstance(module, Repeat):

            def once(_: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
                net = owner()
                return (args, {**kwargs, "times": 1}) if net and net._running else None

            handles.append(module.register_forward_pre_hook(once, with_kwargs=True))
    return handles
