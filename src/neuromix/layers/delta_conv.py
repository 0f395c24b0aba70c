"""Convolutions and linear layers that are brought up to date: of each frame they compute only what has changed.

y_t = y_{t-1} + W (x_t - x_{t-1}), where the product skips every place whose inputs are all as before. An input that
comes out of a delta layer mostly is. The sums are kept in float64: in float32 they would drift, and a number that is to
be rounded behind the layer would now and then fall on the other side.

Shapes: T frames, B batch, C channels in, O channels out, H W map, S places that changed, I J taps,
G groups, F features, P outputs of all samples.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuromix.core.errors import ConfigError, ShapeError
from neuromix.core.observe import Tap
from neuromix.core.state import Stateful

Parameters: TypeAlias = tuple[nn.Parameter, nn.Parameter | None]


class UpdateState(NamedTuple):
    """The last input of each sample, and its output in float64."""

    input: Tensor
    output: Tensor


class _Updated(Stateful):
    """What both layers share. The tap "places" carries for each frame the number of places that were computed.

    Args:
        dense_above: share of changed places above which a frame is computed as a whole, in [0, 1].
    """

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(self, dense_above: float) -> None:
        super().__init__()
        self.dense_above = dense_above
        self.places = Tap("places")

    def whole(self, x: Tensor) -> Tensor:
        """The layer on one frame, in float64."""
        raise NotImplementedError

    def changed(self, change: Tensor) -> Tensor:
        """Which places of a frame changed: bool."""
        raise NotImplementedError

    def product(self, change: Tensor, places: Tensor, y: Tensor) -> Tensor:
        """y and what the changes at `places`, their indices [S, ...], add to it."""
        raise NotImplementedError

    def initial_state(self, like: Tensor) -> UpdateState:
        zeros = torch.zeros_like(like)
        with torch.no_grad():
            y = self.whole(zeros)
        return UpdateState(zeros, y)

    def forward(self, x_T: Tensor, state: UpdateState | None = None, *, return_state: bool = False) -> Any:
        """x_T [T, B, ...], as the layer itself would give on each frame."""
        self.require_frames(x_T)
        outputs = []
        for x in x_T:
            y, state = self.update(x, state)
            outputs.append(y)
        y_T = torch.stack(outputs)
        return (y_T, state) if return_state else y_T

    def update(self, x: Tensor, state: UpdateState | None) -> tuple[Tensor, UpdateState]:
        """One frame [B, ...]."""
        change = x.double() if state is None else x.double() - state.input
        changed = self.changed(change)
        places = changed.nonzero()
        is_whole = state is None or len(places) > self.dense_above * changed.numel()
        self.places(torch.tensor(changed.numel() if is_whole else len(places)))
        if state is None or is_whole:
            y = self.whole(x)
        else:
            y = state.output if len(places) == 0 else self.product(change, places, state.output)
        return y.to(x.dtype), UpdateState(x, y)

    def require_frames(self, x_T: Tensor) -> None:
        """Raises ShapeError unless x_T is frames that the layer takes."""
        raise NotImplementedError


class DeltaConv2d(_Updated):
    """A convolution of frames x_TBCHW, made of an ordinary one; a place is one pixel of one sample."""

    def __init__(self, conv: nn.Conv2d, dense_above: float = 0.5) -> None:
        super().__init__(dense_above)
        if conv.padding_mode != "zeros" or isinstance(conv.padding, str):
            raise ConfigError("a convolution of changes pads with zeros, by numbers")
        self.weight, self.bias = cast("Parameters", (conv.weight, conv.bias))
        self.stride, self.padding, self.dilation = conv.stride, conv.padding, conv.dilation
        self.groups = conv.groups

    def require_frames(self, x_T: Tensor) -> None:
        channels = self.weight.shape[1] * self.groups
        if x_T.dim() != 5 or x_T.shape[2] != channels or len(x_T) == 0:
            raise ShapeError(f"expected frames [T, B, {channels}, H, W], got {list(x_T.shape)}")

    def whole(self, x: Tensor) -> Tensor:
        weight, bias = _double(self.weight, self.bias)
        return F.conv2d(x.double(), weight, bias, self.stride, self.padding, self.dilation, self.groups)

    def changed(self, change: Tensor) -> Tensor:
        return (change != 0).any(1)

    def product(self, change: Tensor, places: Tensor, y: Tensor) -> Tensor:
        """What each changed pixel adds to every output that reads it, through each tap of the kernel."""
        batch, channels, height, width = y.shape
        at_S, row_S, column_S = places.unbind(1)
        row_SI, row_is_read_SI = self._readers(row_S, 0, height)
        column_SJ, column_is_read_SJ = self._readers(column_S, 1, width)
        target_SIJ = (at_S[:, None, None] * height + row_SI[..., None]) * width + column_SJ[:, None]
        is_read_SIJ = row_is_read_SI[..., None] & column_is_read_SJ[:, None]
        rows_SGC = change[at_S, :, row_S, column_S].reshape(len(places), self.groups, -1)
        weight_GOCIJ = self.weight.double().reshape(self.groups, -1, *self.weight.shape[1:])
        added_SIJO = torch.einsum("sgc,gocij->sijgo", rows_SGC, weight_GOCIJ).flatten(3)
        y_PO = y.movedim(1, -1).reshape(-1, channels)
        y_PO = y_PO.index_add(0, target_SIJ[is_read_SIJ], added_SIJO[is_read_SIJ])
        return y_PO.view(batch, height, width, channels).movedim(-1, 1)

    def _readers(self, place_S: Tensor, axis: int, outputs: int) -> tuple[Tensor, Tensor]:
        """The output that reads each place with each tap along an axis, and whether there is one: [S, taps]."""
        taps = torch.arange(self.weight.shape[2 + axis], device=place_S.device)
        reached = place_S[:, None] + self.padding[axis] - taps * self.dilation[axis]
        output = reached.div(self.stride[axis], rounding_mode="floor")
        return output, (reached % self.stride[axis] == 0) & (output >= 0) & (output < outputs)

    def extra_repr(self) -> str:
        return f"{list(self.weight.shape)}, stride={self.stride}, groups={self.groups}"


class DeltaLinear(_Updated):
    """A linear layer on frames x_TBF, made of an ordinary one; a place is a feature of one sample."""

    def __init__(self, linear: nn.Linear, dense_above: float = 0.5) -> None:
        super().__init__(dense_above)
        self.weight, self.bias = cast("Parameters", (linear.weight, linear.bias))

    def require_frames(self, x_T: Tensor) -> None:
        if x_T.dim() != 3 or x_T.shape[2] != self.weight.shape[1] or len(x_T) == 0:
            raise ShapeError(f"expected frames [T, B, {self.weight.shape[1]}], got {list(x_T.shape)}")

    def whole(self, x: Tensor) -> Tensor:
        return F.linear(x.double(), *_double(self.weight, self.bias))

    def changed(self, change: Tensor) -> Tensor:
        return change != 0

    def product(self, change: Tensor, places: Tensor, y: Tensor) -> Tensor:
        at_S, feature_S = places.unbind(1)
        added_SO = change[at_S, feature_S, None] * self.weight.double().T[feature_S]
        return y.index_add(0, at_S, added_SO)

    def extra_repr(self) -> str:
        return str(list(self.weight.shape))


def _double(weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    return weight.double(), None if bias is None else bias.double()
