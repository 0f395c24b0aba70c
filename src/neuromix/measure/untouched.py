"""Running a model without leaving a trace in it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Within the context the model is in eval mode and makes no gradients; afterwards it is as it was before.

    Restored are, of every module, its mode, its buffers and its other attributes - a membrane potential that a
    neuron keeps, say, also in dicts, lists and sets - and PyTorch's random numbers. What a module keeps in objects
    of other kinds is not. Only tensors that were written to are copied back; a model too large to hold its buffers
    twice has none of that size.
    """
    modes = {module: module.training for module in model.modules()}
    contents = _Contents(modes)
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    fast_attention = torch.backends.mha.get_fastpath_enabled()
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        try:
            # Not model.eval(): an override of it may do more than set the flag.
            for module in modes:
                module.training = False
            # The fused attention layer would hide its matrix products.
            torch.backends.mha.set_fastpath_enabled(False)
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast_attention)
            for module, mode in modes.items():
                module.training = mode
            contents.restore()


class _Contents:
    """What modules hold: their attributes, buffers among them, and what is in attributes that are containers."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._containers: dict[int, tuple[Any, Any]] = {}  # by identity: the container, and a copy of it
        self._tensors: dict[int, tuple[Tensor, Tensor]] = {}
        for module in modules:
            self._keep(vars(module))
            for buffer in module.buffers(recurse=False):  # of a ScriptModule they are no attributes
                self._keep(buffer)

    def restore(self) -> None:
        for container, content in self._containers.values():
            if isinstance(container, list):
                container[:] = content
            elif isinstance(container, dict):
                for key in container.keys() - content.keys():
                    del container[key]
                for key, value in content.items():
                    if container.get(key) is not value:
                        container[key] = value
            else:
                container.clear()
                container.update(content)
        for tensor, content in self._tensors.values():
            if not torch.equal(tensor, content):
                tensor.copy_(content)

    def _keep(self, value: Any) -> None:
        if isinstance(value, Tensor):
            if _may_change(value):
                self._tensors.setdefault(id(value), (value, value.detach().clone()))
        elif isinstance(value, dict | list | set) and id(value) not in self._containers:
            self._containers[id(value)] = (value, value.copy())
            for part in value.values() if isinstance(value, dict) else value:
                self._keep(part)


def _may_change(x: Tensor) -> bool:
    """Whether a forward may write to a tensor; parameters are the optimiser's."""
    return not isinstance(x, nn.Parameter) and x.layout is torch.strided and not x.is_meta
