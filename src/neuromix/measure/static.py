"""What can be said of a network that does not run: its bytes, and the zeros among its weights.

Footprint and connection sparsity are NeuroBench's.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from neuromix.core.model import Model
from neuromix.core.state import state_bytes
from neuromix.core.stream import stream
from neuromix.measure.inputs import Inputs, tensors_of


def footprint(module: nn.Module, *, recurse: bool = True) -> int:
    """Bytes of the parameters and buffers of a module, each counted once.

    Args:
        recurse: with its children.
    """
    tensors = (*module.parameters(recurse), *module.buffers(recurse))
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def connection_sparsity(modules: Iterable[nn.Module]) -> float | None:
    """Share of zeros among the connections of modules; None where there are no connections.

    Connections are the weights of linear layers and of convolutions that are not transposed, and all parameters of
    recurrent layers and cells, biases included.
    """
    weights = [weight for module in modules for weight in _connections(module)]
    number = sum(weight.numel() for weight in weights)
    zeros = number - sum(int(weight.count_nonzero()) for weight in weights)
    return zeros / number if number else None


def _connections(module: nn.Module) -> list[Tensor]:
    if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return [module.weight]
    if isinstance(module, nn.RNNBase | nn.RNNCellBase):
        return list(module.parameters(recurse=False))
    return []


def session_bytes(model: nn.Module, inputs: Inputs) -> int | None:
    """Bytes of state that a streaming session of one sample keeps after `inputs`; None where it cannot be stepped."""
    if not isinstance(model, Model) or model.stream_axis is None:
        return None
    x = model.encode(*tensors_of(model, inputs))
    one = x.narrow(1 - model.stream_axis, 0, 1)
    _, state = stream(model).prefill(one)
    return state_bytes(state)
