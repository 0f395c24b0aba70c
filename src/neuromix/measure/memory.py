"""Peak memory: the most bytes of tensors that a run holds at one time, beyond those that were there before.

On the CPU every op is watched: a tensor counts from when an op makes its memory until the last who holds it - Python,
or autograd, which keeps what the backward pass will need - lets go. So the figure is the same on every run and every
machine. What an op needs for itself while it runs (a convolution's workspace), and what an allocator keeps in stock,
is not in it. On CUDA the figure is that of PyTorch's allocator, with the workspaces.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from neuromix.core.errors import ConfigError
from neuromix.measure.inputs import Inputs, device_of, runner
from neuromix.measure.lineage import tensors_in
from neuromix.measure.untouched import untouched

# What `forward and loss` means for a model, as a scalar; what makes an optimiser of parameters.
Objective = Callable[[nn.Module], Tensor]
MakeOptimiser = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


def peak_memory(run: Callable[[], object], device: torch.device | str | None = None) -> int:
    """Peak bytes of the tensors that a function without arguments makes, as it is: mode and gradients are the caller's.

    Args:
        run: what it returns is held until it is over.
        device: where it computes; on "cuda" the allocator of PyTorch is asked, elsewhere ops are watched.

    Example:
        >>> peak_memory(lambda: torch.ones(256) + torch.ones(256))  # three tensors of 1 KiB
        3072
    """
    on = torch.device(device or "cpu")
    if on.type == "cuda":
        return _peak_of_allocator(run, on)
    watch = _LiveTensors()
    with watch:
        held = run()
    del held
    return watch.peak


def forward_memory(model: nn.Module, inputs: Inputs) -> int:
    """Peak bytes of one forward pass in eval mode and without gradients: activations and the output.

    Parameters, buffers and inputs are not in it. The model is left as it was.

    Args:
        inputs: a Batch (the fields that the model names), the tensor that it takes, or several of them; on the
            device of the model.
    """
    fast_attention = torch.backends.mha.get_fastpath_enabled()
    with untouched(model):
        torch.backends.mha.set_fastpath_enabled(fast_attention)  # as the user runs it, not as it is counted
        return peak_memory(runner(model, inputs), device_of(model))


def training_memory(
    model: nn.Module,
    inputs: Inputs | None = None,
    *,
    objective: Objective | None = None,
    optimiser: MakeOptimiser | None = None,
) -> int:
    """Peak bytes of one training step in training mode: forward, loss, backward.

    In it: activations, among them those that autograd keeps for the backward pass; the loss; gradients of
    activations; and the gradients of all parameters, which are there at the end and not at the start. With an
    `optimiser` also its states and what its first step needs. Not in it: parameters, buffers and inputs.
    The step is done on a copy of the model, so the model is left as it was.

    Args:
        inputs: as of `forward_memory`; the loss is then the sum of the output's elements.
        objective: instead of inputs: gives the loss of a model, a single number, as
            `lambda net: total(task.objective(net, batch, generator))`.
        optimiser: makes an optimiser of parameters, as `torch.optim.AdamW`.

    Raises:
        ConfigError: neither or both of inputs and objective; a loss without a gradient.
    """
    if (inputs is None) == (objective is None):
        raise ConfigError("a training step needs inputs or an objective, one of them")
    net = copy.deepcopy(model).train()
    net.zero_grad(set_to_none=True)
    forward = objective or (lambda net: _sum_of(runner(net, inputs)()))  # type: ignore[arg-type]

    def step() -> None:
        loss = forward(net)
        if not loss.requires_grad:
            raise ConfigError(f"{type(model).__name__} has no gradient: nothing in it is trained")
        loss.backward()  # type: ignore[no-untyped-call]
        if optimiser is not None:
            del loss
            optimiser(p for p in net.parameters() if p.requires_grad).step()

    devices = [device_of(model)] if device_of(model).type == "cuda" else []
    with torch.random.fork_rng(devices), torch.inference_mode(False), torch.enable_grad():
        return peak_memory(step, device_of(model))


def _sum_of(output: Any) -> Tensor:
    """The sum of all elements of an output that may be trained."""
    found = [x for x in tensors_in(output) if x.is_floating_point()]
    if not found:
        raise ConfigError("the model gives no floating-point tensor, so there is nothing to differentiate")
    return torch.stack([x.sum() for x in found]).sum()


def _peak_of_allocator(run: Callable[[], object], device: torch.device) -> int:
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    held = run()
    torch.cuda.synchronize(device)
    peak = torch.cuda.max_memory_allocated(device) - before
    del held
    return peak


class _LiveTensors(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the memory that ops make, from its first tensor to its last.

    Attributes:
        peak: the most bytes that lived at one time.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._live = 0
        self._sizes: dict[int, int] = {}  # identity of a storage that lives -> bytes

    def __torch_dispatch__(
        self, op: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        # Memory that enters and was not made here was there before.
        before = {id(x.untyped_storage()) for x in tensors_in((args, kwargs))} - self._sizes.keys()
        result = op(*args, **kwargs)
        for x in tensors_in(result):
            storage = x.untyped_storage()
            if id(storage) not in before:
                self._see(storage)
        return result

    def _see(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        if key not in self._sizes:
            # PyTorch keeps the Python object of a storage alive as long as the memory itself.
            weakref.finalize(storage, self._freed, key)
        self._live += size - self._sizes.get(key, 0)
        self._sizes[key] = size
        self.peak = max(self.peak, self._live)

    def _freed(self, key: int) -> None:
        self._live -= self._sizes.pop(key, 0)
