"""NIRNetwork: a graph of layers and neurons as one of our models, and the leaves that are made for it.

Shapes: T spike time, B batch, C channels, H W feature map, F features; "..." is the shape of a node's value.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuromix.core.batch import Batch
from neuromix.core.config import Spec
from neuromix.core.errors import ShapeError
from neuromix.core.model import Model, ModelConfig
from neuromix.neurons.integrate_and_fire import MembraneNeuron
from neuromix.neurons.surrogate import make_surrogate
from neuromix.ops.lif import LIFParameters
from neuromix.runtime.node import Readout


class NIRNeuron(MembraneNeuron):
    """`ops.lif`, without a second state, with given coefficients; those that are tensors, [C], become buffers."""

    def __init__(self, constants: LIFParameters, surrogate: Spec | str = "sigmoid") -> None:
        super().__init__()
        self.surrogate = make_surrogate(surrogate)
        self.levels = int(constants.fires)
        self._constants = constants
        self._tensors = [name for name, value in constants._asdict().items() if isinstance(value, Tensor)]
        for name in self._tensors:
            self.register_buffer(name, getattr(constants, name))

    def constants(self) -> LIFParameters:
        return self._constants._replace(**{name: getattr(self, name) for name in self._tensors})

    def extra_repr(self) -> str:
        p = self._constants
        shown: dict[str, Any] = {"decay": p.decay, "gain": p.gain, "offset": p.offset}
        shown |= {"v_threshold": p.v_threshold, "v_reset": p.v_reset} if p.fires else {}
        return ", ".join(
            f"{name}={f'[{len(value)}]' if isinstance(value, Tensor) else value}"
            for name, value in shown.items()
        )


def made_plain(constants: LIFParameters, surrogate: Spec | str = "sigmoid") -> nn.Module:
    """A NIRNeuron; one behind a synapse as two: the synapse, which is an integrator, and the membrane."""
    p = constants
    if p.extra == "none":
        return NIRNeuron(p, surrogate)
    synapse = LIFParameters(p.extra_decay, 1.0, 0.0, fires=False, channel_axis=p.channel_axis)
    membrane = p._replace(extra="none", extra_decay=0.0)
    parts = {"synapse": NIRNeuron(synapse), "membrane": NIRNeuron(membrane, surrogate)}
    return nn.Sequential(OrderedDict(parts))


class OneByOne(nn.Module):
    """A neuron with coefficients of its own at every place: x_T [T, B, ...] is flattened for it."""

    def __init__(self, neuron: nn.Module) -> None:
        super().__init__()
        self.neuron = neuron

    def forward(self, x_T: Tensor) -> Tensor:
        y_T: Tensor = self.neuron(x_T.flatten(2))
        return y_T.reshape(x_T.shape)


class Scale(nn.Module):
    """x_T [T, B, ...] times numbers that are broadcast to it."""

    scale: Tensor

    def __init__(self, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", scale)

    def forward(self, x_T: Tensor) -> Tensor:
        return x_T * self.scale


class SumPool2d(nn.Module):
    """Sums over windows of x_BCHW, as a convolution with ones."""

    def __init__(self, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]) -> None:
        super().__init__()
        self.kernel, self.stride, self.padding = kernel, stride, padding

    def forward(self, x_BCHW: Tensor) -> Tensor:
        channels = x_BCHW.shape[1]
        ones = torch.ones(channels, 1, *self.kernel, dtype=x_BCHW.dtype, device=x_BCHW.device)
        return F.conv2d(x_BCHW, ones, None, self.stride, self.padding, groups=channels)

    def extra_repr(self) -> str:
        return f"kernel={self.kernel}, stride={self.stride}, padding={self.padding}"


@dataclass(frozen=True)
class NIRConfig(ModelConfig):
    """Config of NIRNetwork."""

    time_steps: int = 1  # how often a static input is shown

    def validate(self) -> None:
        self.require_positive("time_steps")


class Part(NamedTuple):
    """A node: its name in the graph, the nodes whose sum it reads, and what it does to x_T [T, B, ...]."""

    name: str
    sources: tuple[str, ...]
    module: nn.Module


class NIRNetwork(Model):
    """A feed-forward graph: each part reads the sum of the parts before it that its sources name.

    x_T [T, B, ...], or an input [B, ...] that is shown `time_steps` times, to the outputs of all steps, [T, B, ...],
    or [B, ...] with a `reading`: their mean, sum or last.

    Args:
        name: of the network.
        input_name: of the node that is the input.
        input_shape: of one step, without the batch.
        parts: in an order in which each reads only what is before it; the last one is the output.

    Attributes:
        keys: name of a node in the graph -> its module in `nodes`.
    """

    Config: ClassVar[type[ModelConfig]] = NIRConfig
    stream_axis: int | None = 0

    def __init__(
        self,
        name: str,
        input_name: str,
        input_shape: Sequence[int],
        parts: Iterable[Part],
        *,
        time_steps: int = 1,
        reading: Readout | None = None,
    ) -> None:
        super().__init__(NIRConfig(time_steps=time_steps))
        self.name = name
        self.input_shape = tuple(input_shape)
        self.reading = reading
        self.nodes = nn.ModuleDict()
        self.keys: dict[str, str] = {}
        self._input_name = input_name
        self._sources: dict[str, tuple[str, ...]] = {}
        for part in parts:
            self.keys[part.name] = key = _key(part.name, self.nodes)
            self._sources[part.name] = part.sources
            self.nodes[key] = part.module

    def encode(self, *inputs: Tensor) -> Tensor:
        (x,) = inputs
        shape, axes = self.input_shape, len(self.input_shape)
        if axes == 1 and x.shape[-2:] == (1, 1) and x.dim() > 3:
            x = x.flatten(-3)  # features as a map of one place, as they are in an .nmx file
        if (
            x.dim() not in (axes + 1, axes + 2)
            or tuple(x.shape[-axes:]) != shape
            or not x.is_floating_point()
        ):
            raise ShapeError(
                f"expected a floating-point tensor [T, B, *{list(shape)}] or [B, *{list(shape)}], "
                f"got {x.dtype} {list(x.shape)}"
            )
        return x if x.dim() == axes + 2 else x.expand(self.config.time_steps, *x.shape)

    def forward_steps(self, x_T: Tensor) -> Tensor:
        """x_T [T, B, ...] to the output of each step, [T, B, ...]."""
        y_T = x_T.flatten(2) if len(self.input_shape) == 1 else x_T
        values: dict[str, Any] = {self._input_name: y_T}
        for name, (first, *others) in self._sources.items():
            y_T = values[first]
            for other in others:
                y_T = y_T + values[other]
            values[name] = y_T = self.nodes[self.keys[name]](y_T)
        return y_T

    def readout(self, y_T: Tensor) -> Tensor:
        if self.reading is None:
            return y_T
        return y_T[-1] if self.reading == "last" else y_T.mean(0) if self.reading == "mean" else y_T.sum(0)

    def example(self, batch_size: int, generator: torch.Generator | None = None) -> Batch:
        shape = self.input_shape if len(self.input_shape) > 1 else (*self.input_shape, 1, 1)
        return Batch({"image": torch.randn(batch_size, *shape, generator=generator)})


def _key(name: str, taken: nn.ModuleDict) -> str:
    """A name that a module may have, which no other has."""
    key = name.replace(".", "_")
    while hasattr(taken, key) or key in taken or not key:
        key += "_"
    return key
