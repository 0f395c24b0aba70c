"""Steps: any module of x_T as a Model, so that it can be lowered.

Shapes: T spike time, B batch, C channels, H W feature map, F features.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, nn

from neuromix.core.errors import NeuromixError, ShapeError
from neuromix.core.model import Model
from neuromix.exchange.nir_network import NIRConfig, NIRNetwork

if TYPE_CHECKING:
    pass

Shape: TypeAlias = tuple[int, ...]


class Steps(Model):
    """A module of x_T as a Model that can be lowered.

    A program gives one number a channel, so larger maps are averaged, which `_Writer` leaves out.
    """

    stream_axis: int | None = 0

    def __init__(self, net: nn.Module, example: Tensor | None) -> None:
        super().__init__(NIRConfig(time_steps=getattr(getattr(net, "config", None), "time_steps", 1)))
        self.net = net
        self.name = getattr(net, "name", "") or type(net).__name__
        if example is None and not isinstance(net, NIRNetwork):
            raise ShapeError(f"{self.name}: an example of its input, x_T [T, B, ...], is needed")
        shape: Shape = tuple(net.input_shape if example is None else example.shape[2:])  # type: ignore[arg-type]
        if len(shape) not in (1, 3):
            raise ShapeError(f"one step is features [F] or a map [C, H, W], got {list(shape)} behind T and B")
        self.reads_features = len(shape) == 1
        self.step_shape = (*shape, 1, 1) if self.reads_features else shape
        self.gives_map = len(self._run_once(shape)) == 3

    def _run(self, x_T: Any) -> Any:
        return self.net.forward_steps(x_T) if isinstance(self.net, Model) else self.net(x_T)

    def _run_once(self, shape: Shape) -> Shape:
        """The shape of the output of a step.

        Raises:
            ShapeError: the module does not take such an input.
        """
        net = copy.deepcopy(self).cpu().float().eval()
        try:
            with torch.no_grad():
                return tuple(net._run(torch.zeros(1, 1, *shape)).shape[2:])
        except NeuromixError:
            raise
        except Exception as error:  # whatever its code makes of such an input
            text = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise ShapeError(f"{self.name} does not take x_T [T, B, *{list(shape)}]: {text}") from error

    def forward_steps(self, x_T: Any) -> Any:
        y_T = self._run(x_T.flatten(2) if self.reads_features else x_T)
        shape = y_T.graph.shape(y_T.node)
        y_T = y_T.replace(axes=shape)
        return y_T if shape[1:] == (1, 1) else y_T.mean((-2, -1))

    def readout(self, y_T: Tensor) -> Tensor:
        return y_T.mean(0)
