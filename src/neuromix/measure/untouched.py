"""Running a model without leaving a trace in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Within the context the model is in eval mode and makes no gradients; afterwards it is as it was before.

    Restored are the mode of every module, the buffers, and PyTorch's random numbers. Only buffers that were
    written to are copied back; a model too large to hold its buffers twice has none of that size.
    """
    modes = {module: module.training for module in model.modules()}
    buffers = _saved_buffers(model)
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
            for module, name, buffer, copy in buffers:
                module._buffers[name] = buffer
                if not torch.equal(buffer, copy):
                    buffer.copy_(copy)


def _saved_buffers(model: nn.Module) -> list[tuple[nn.Module, str, Tensor, Tensor]]:
    found = []
    for module in model.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None:
                found.append((module, name, buffer, buffer.detach().clone()))
    return found
