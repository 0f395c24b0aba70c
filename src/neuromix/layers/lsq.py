"""Weights of few bits that are learnt with their step: LSQ (Esser et al., ICLR 2020).

A weight w is used as round(clamp(w/a, -2^(b-1), 2^(b-1) - 1)) * a, where the step a of each output channel is a
parameter. Rounding passes gradients as if it were not there. The edit "quantise" gives such weights to the
convolutions and linear layers of any model, the edit "pack" fixes them as integers.

Shapes: B batch, C channels, H W feature map, O output channels, F features.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, NamedTuple, TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from neuromix.core.config import Config
from neuromix.core.edits import register_edit
from neuromix.core.errors import ConfigError
from neuromix.core.model import Model
from neuromix.layers.integer_weights import Geometry, IntegerConv2d, IntegerLinear, IntegerWeights

# Weight and bias of a layer.
Parameters: TypeAlias = tuple[nn.Parameter, nn.Parameter | None]


class Range(NamedTuple):
    """The least and the largest integer."""

    low: int
    high: int

    @classmethod
    def of(cls, bits: int) -> Range:
        """Two's complement of so many bits."""
        return cls(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def lsq(weight: Tensor, alpha_O: Tensor, bits: int) -> Tensor:
    """The weight in integers times its steps, of the shape of `weight` [O, ...].

    The gradient passes to weights within the range. That of a step is the sum over its channel of
    (round(w/a) - w/a) within it and of its bounds outside, times the gradient of the weight, times
    1/sqrt(numel(w) * (2^(b-1) - 1)).
    """
    if torch.is_grad_enabled() and (weight.requires_grad or alpha_O.requires_grad):
        rounded: Tensor = _LSQ.apply(weight, alpha_O, bits)  # type: ignore[no-untyped-call]
        return rounded
    return to_integers(weight, alpha_O, bits) * _column(alpha_O, weight)


def to_integers(weight: Tensor, alpha_O: Tensor, bits: int) -> Tensor:
    """round(clamp(w/a)), half to even, in the dtype of `weight`."""
    return (weight / _column(alpha_O, weight)).clamp(*Range.of(bits)).round()


def initial_step(weight: Tensor, bits: int) -> Tensor:
    """The step that LSQ starts from, 2 mean|w| / sqrt(2^(b-1) - 1) over all weights, for each channel [O]."""
    step = 2 * weight.detach().abs().mean() / math.sqrt(Range.of(bits).high)
    return step.repeat(len(weight))


def _column(values_O: Tensor, like: Tensor) -> Tensor:
    return values_O.view(-1, *(1,) * (like.dim() - 1))


class _LSQ(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, alpha_O: Tensor, bits: int) -> Tensor:
        ctx.save_for_backward(weight, alpha_O)
        ctx.bits = bits
        return to_integers(weight, alpha_O, bits) * _column(alpha_O, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        weight, alpha_O = ctx.saved_tensors
        low, high = Range.of(ctx.bits)
        z = weight / _column(alpha_O, weight)
        inside = (z >= low) & (z <= high)
        of_step = torch.where(inside, z.round() - z, z.clamp(low, high))
        scale = 1 / math.sqrt(weight.numel() * high)
        return grads[0] * inside, (grads[0] * of_step).flatten(1).sum(1) * scale, None


class ActivationStub(nn.Module):
    """What the released code keeps of a quantiser of activations that it never calls: no gradient, no effect."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(features), requires_grad=False)
        self.zero_point = nn.Parameter(torch.zeros(features), requires_grad=False)


class LSQLayer(IntegerWeights):
    """What a convolution and a linear layer with learnt steps share; `weight` is the float master."""

    weight: nn.Parameter
    bias: nn.Parameter | None
    alpha: nn.Parameter  # the steps [O]

    def learn_steps(self, layer: nn.Conv2d | nn.Linear, bits: int, stub: bool) -> None:
        """Takes over the weights of `layer`, and starts its steps from them."""
        self.bits = bits
        self.weight, self.bias = cast("Parameters", (layer.weight, layer.bias))
        self.alpha = nn.Parameter(initial_step(layer.weight, bits))
        if stub:
            conv = isinstance(layer, nn.Conv2d)
            self.act = ActivationStub(layer.in_channels if conv else layer.in_features)  # type: ignore[arg-type]

    def rounded(self) -> Tensor:
        """What it multiplies with."""
        return lsq(self.weight, self.alpha, self.bits)

    def integers(self) -> Tensor:
        return to_integers(self.weight.detach(), self.alpha.detach(), self.bits).to(torch.int8)

    def steps(self) -> Tensor:
        return self.alpha

    def after_step(self) -> None:
        """Steps stay positive, whatever the optimiser did."""
        with torch.no_grad():
            self.alpha.clamp_(min=torch.finfo(self.alpha.dtype).eps)

    def fused(self) -> nn.Module:
        """The same layer with its integers fixed."""
        return self.scaled(bias_O=self.bias)


class LSQConv2d(LSQLayer, nn.Conv2d):  # type: ignore[misc]
    """A convolution with weights of few bits, made of an ordinary one.

    Args:
        stub: keep an `ActivationStub` beside it.
    """

    def __init__(self, conv: nn.Conv2d, bits: int, stub: bool = False) -> None:
        if conv.padding_mode != "zeros":
            raise ConfigError(
                f"a convolution with weights of few bits pads with zeros, not with {conv.padding_mode}"
            )
        with torch.device("meta"):
            nn.Conv2d.__init__(
                self,
                conv.in_channels,
                conv.out_channels,
                conv.kernel_size,  # type: ignore[arg-type]
                conv.stride,  # type: ignore[arg-type]
                conv.padding,  # type: ignore[arg-type]
                conv.dilation,  # type: ignore[arg-type]
                conv.groups,
                conv.bias is not None,
            )
        self.learn_steps(conv, bits, stub)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y_BCHW: Tensor = self._conv_forward(x_BCHW, self.rounded(), self.bias)
        return y_BCHW

    def scaled(
        self, scale_O: Tensor | None = None, bias_O: Tensor | None = None, padding: Any = None
    ) -> IntegerConv2d:
        step_O = self.alpha if scale_O is None else self.alpha * scale_O
        padding = self.padding if padding is None else padding
        geometry = Geometry(self.stride, padding, self.dilation, self.groups)
        return IntegerConv2d(self.integers(), step_O, bias_O, self.bits, geometry)


class LSQLinear(LSQLayer, nn.Linear):  # type: ignore[misc]
    """A linear layer with weights of few bits, made of an ordinary one; arguments as of LSQConv2d."""

    def __init__(self, linear: nn.Linear, bits: int, stub: bool = False) -> None:
        with torch.device("meta"):
            nn.Linear.__init__(self, linear.in_features, linear.out_features, linear.bias is not None)
        self.learn_steps(linear, bits, stub)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.rounded(), self.bias)

    def scaled(
        self, scale_O: Tensor | None = None, bias_O: Tensor | None = None, padding: Any = None
    ) -> IntegerLinear:
        step_O = self.alpha if scale_O is None else self.alpha * scale_O
        return IntegerLinear(self.integers(), step_O, bias_O, self.bits)


def quantise_layers(
    module: nn.Module, bits: int, *, skip: tuple[str, ...] = (), stubs: bool = False
) -> list[str]:
    """Gives every ordinary convolution and linear layer below `module` weights of few bits.

    Args:
        skip: globs over paths of layers that stay as they are.
        stubs: keep an `ActivationStub` in each.

    Returns:
        The paths of the layers.
    """
    found = {
        path: layer
        for path, layer in module.named_modules()
        # Exactly these: a subclass has weights of its own making.
        if type(layer) in (nn.Conv2d, nn.Linear) and not any(fnmatchcase(path, glob) for glob in skip)
    }
    for path, layer in found.items():
        parent, _, name = path.rpartition(".")
        make = LSQConv2d if isinstance(layer, nn.Conv2d) else LSQLinear
        setattr(module.get_submodule(parent), name, make(layer, bits, stubs))
    return list(found)


@dataclass(frozen=True)
class QuantiseConfig(Config):
    """Config of the edit "quantise"."""

    bits: int = 4  # of a weight, 2 to 8
    skip: tuple[str, ...] = ()  # globs over layers that keep their weights, such as "head.*"

    def validate(self) -> None:
        self.require(2 <= self.bits <= 8, f"bits must be 2 to 8, got {self.bits}")


@register_edit("quantise", QuantiseConfig)
def quantise(model: Model, config: QuantiseConfig) -> Model:
    """Weights of few bits with learnt steps (LSQ), for training on; the steps start from the weights.

    Raises:
        ConfigError: the model has no convolution or linear layer that could have them.
    """
    if not quantise_layers(model, config.bits, skip=config.skip):
        raise ConfigError(
            f"quantise: {model.name or 'the model'} has no layer that is not skipped or quantised"
        )
    return model


@dataclass(frozen=True)
class PackConfig(Config):
    """Config of the edit "pack": it has no choices."""


@register_edit("pack", PackConfig)
def pack_weights(model: Model, config: PackConfig) -> Model:
    """Fixes the weights of quantised layers as integers, two a byte where they have 4 bits.

    Outputs stay the same to the bit, and batch-norms what they are; the edit "fuse" fixes the integers as well, and
    folds the batch-norms into their steps.

    Raises:
        ConfigError: no layer is quantised.
    """
    layers = {path: layer for path, layer in model.named_modules() if isinstance(layer, LSQLayer)}
    if not layers:
        raise ConfigError(
            f"pack: {model.name or 'the model'} has no quantised layer; apply the edit quantise first"
        )
    for path, layer in layers.items():
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, layer.fused())
    return model.eval()
