"""Which module is running: a stack of calls kept by hooks, and what the activations among the modules send."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from neuromix.core.time import Repeat

# (call that ends, the module, what it gives)
OnLeave = Callable[["Call", nn.Module, Any], None]


@dataclass
class Call:
    """A module that is running.

    Attributes:
        copies: time steps that this call stands for.
        parent: the call in which it is made; None for the model itself.
        products: how many it has made by itself so far.
    """

    path: str
    copies: int = 1
    parent: Call | None = None
    products: int = 0


class ModuleCalls:
    """While the context is open, `current` is the innermost module of `model` that runs."""

    def __init__(self, model: nn.Module, on_leave: OnLeave) -> None:
        self._model = model
        self._on_leave = on_leave
        self._stack = [Call("")]
        self._handles: list[RemovableHandle] = []

    @property
    def current(self) -> Call:
        """The running call; outside of all modules, that of the model itself."""
        return self._stack[-1]

    def __enter__(self) -> ModuleCalls:
        for path, module in self._model.named_modules():
            if isinstance(module, torch.jit.ScriptModule):
                continue  # takes no hooks; what it computes counts for the module around it
            self._handles += [
                module.register_forward_pre_hook(self._entering(path), with_kwargs=True),
                module.register_forward_hook(self._leaving(path), always_call=True),
            ]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()

    def _entering(self, path: str) -> Callable[..., None]:
        def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
            copies = self.current.copies * _copies(module, args, kwargs)
            self._stack.append(Call(path, copies, parent=self.current))

        return enter

    def _leaving(self, path: str) -> Callable[..., None]:
        def leave(module: nn.Module, args: Any, output: Any) -> None:
            call = self._stack.pop()
            if output is not None:  # None where the call failed
                self._on_leave(call, module, output)

        return leave


def _copies(module: nn.Module, args: Any, kwargs: Any) -> int:
    if not isinstance(module, Repeat) or kwargs.get("times") is not None:
        return 1
    x_T = args[0] if args else kwargs["x_T"]
    return module.times if x_T.shape[0] == 1 else 1
