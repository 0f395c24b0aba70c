"""Layers whose weights change only across what earlier tasks have used: the edit "projected" (Xiao et al., ICLR 2024).

The rows of a layer's lateral weights H (see `hebbian`) span the principal subspace of its inputs. A gradient G of its
weights is replaced by G - G H^T H, so that a step does not change what the layer answers to inputs of that subspace.

Shapes: N samples, n inputs of a unit (C, or C*k*k of a convolution), B batch, C channels, H W feature map, L places of
a kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_input, conv2d_weight

from neuromix.core.checkpoint import build_model
from neuromix.core.config import Config
from neuromix.core.edits import apply_edit, register_edit
from neuromix.core.errors import ConfigError
from neuromix.core.layout import transfer
from neuromix.core.model import Model
from neuromix.layers.hebbian import HebbianSubspace

Feedback = Literal["weight", "random", "sign"]
_SALT = 0x484C4F50
Apart = Callable[[Tensor], Tensor]  # inputs or gradients [N, n] -> what of them lies outside a subspace


class _Projected(nn.Module):
    """What the two projected layers share.

    Attributes:
        subspace: its lateral weights.
        projects: whether gradients are kept out of the fixed blocks; a driver may switch it off.
    """

    weight: Tensor
    feedback_weight: Tensor
    subspace: HebbianSubspace

    def prepare(self, config: ProjectedConfig, generator: torch.Generator | None = None) -> None:
        """Adds what the edit asks for to the plain layer; random feedback is drawn from the generator."""
        spiking = (config.spiking_scale, config.spiking_steps) if config.spiking_steps else None
        self.subspace = HebbianSubspace(self.weight[0].numel(), spiking).to(self.weight)
        self.projects = True
        self.side, self.feedback = config.side, config.feedback
        if config.feedback == "random":
            bound = self.weight[0].numel() ** -0.5
            random = torch.empty(self.weight.shape).uniform_(-bound, bound, generator=generator)
            self.register_buffer("feedback_weight", random.to(self.weight))

    def rows_of(self, x: Tensor) -> Tensor:
        """The inputs of every single unit, [N, n]."""
        raise NotImplementedError

    def sign_scale(self) -> float:
        """What the signs of the weights are multiplied by where they carry gradients back."""
        raise NotImplementedError

    def back(self, weight: Tensor) -> Tensor:
        """The weights by which the gradient of the input is computed."""
        if self.feedback == "random":
            return self.feedback_weight
        return weight.sign() * self.sign_scale() if self.feedback == "sign" else weight

    def apart(self) -> Apart | None:
        """x -> the part of x outside the fixed blocks, as they are now; None where there is nothing to project."""
        if not (self.projects and self.subspace.fixed):
            return None
        subspace, rows = self.subspace, self.subspace.weight[: self.subspace.fixed].clone()
        return lambda x_Nn: x_Nn - subspace.project(x_Nn, rows)

    def product(self, x: Tensor) -> Tensor:
        """Input times weight, with the gradients of this layer."""
        apart = self.apart() if torch.is_grad_enabled() else None
        weight, on_input = self.weight, apart
        if apart is not None and self.side == "weight":
            weight, on_input = _ProjectGradient.apply(self.weight, apart), None  # type: ignore[no-untyped-call]
        if self.feedback == "weight" and on_input is None:
            return self.plain(x, weight)
        return self.split(x, weight, self.back(self.weight.detach()), on_input)

    def plain(self, x: Tensor, weight: Tensor) -> Tensor:
        """The ordinary product."""
        raise NotImplementedError

    def split(self, x: Tensor, weight: Tensor, back: Tensor, apart: Apart | None) -> Tensor:
        """The product whose gradients are carried back by `back`, and gathered over what `apart` makes of x."""
        raise NotImplementedError


class ProjectedLinear(_Projected, nn.Linear):
    """A linear layer with projected weight gradients: forward as ever, dW = grad^T (x - projection(x))."""

    def forward(self, x: Tensor) -> Tensor:
        return self.product(x)

    def plain(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.linear(x, weight, self.bias)

    def split(self, x: Tensor, weight: Tensor, back: Tensor, apart: Apart | None) -> Tensor:
        y: Tensor = _LinearProduct.apply(x, weight, back, apart)  # type: ignore[no-untyped-call]
        return y if self.bias is None else y + self.bias

    def rows_of(self, x: Tensor) -> Tensor:
        return x.reshape(-1, self.in_features)

    def sign_scale(self) -> float:
        return float(self.in_features**-0.5)


class ProjectedConv2d(_Projected, nn.Conv2d):
    """A convolution with projected weight gradients: those of a linear layer on its patches."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.product(x_BCHW)

    def plain(self, x: Tensor, weight: Tensor) -> Tensor:
        y_BCHW: Tensor = self._conv_forward(x, weight, self.bias)
        return y_BCHW

    def split(self, x: Tensor, weight: Tensor, back: Tensor, apart: Apart | None) -> Tensor:
        geometry = (self.stride, self.padding, self.dilation)
        y_BCHW: Tensor = _ConvProduct.apply(x, weight, back, apart, *geometry)  # type: ignore[no-untyped-call]
        return y_BCHW if self.bias is None else y_BCHW + self.bias[:, None, None]

    def rows_of(self, x: Tensor) -> Tensor:
        patches_BnL = F.unfold(x, self.kernel_size, self.dilation, self.padding, self.stride)  # type: ignore[arg-type]
        return patches_BnL.transpose(1, 2).flatten(0, 1)

    def sign_scale(self) -> float:
        taps = self.kernel_size[0] * self.kernel_size[1]
        return float((2 / (taps * self.out_channels)) ** 0.5)


class _ProjectGradient(torch.autograd.Function):
    """The weights as they are; their gradient [out, ...] as a matrix [out, n] outside the fixed blocks."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, apart: Apart) -> Tensor:
        ctx.apart = apart
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return ctx.apart(grads[0].flatten(1)).view_as(grads[0]), None


class _LinearProduct(torch.autograd.Function):
    """x W^T; backward by other weights for x, and by other inputs for W, where these are given."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, back: Tensor, apart: Apart | None) -> Tensor:
        ctx.save_for_backward(x, back)
        ctx.apart = apart
        return F.linear(x, weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        x, back = ctx.saved_tensors
        rows, grad_No = x.flatten(0, -2), grads[0].flatten(0, -2)
        rows = rows if ctx.apart is None else ctx.apart(rows)
        return grads[0] @ back, grad_No.T @ rows, None, None


class _ConvProduct(torch.autograd.Function):
    """The same for a convolution."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, back: Tensor, apart: Any, *geometry: Any) -> Tensor:
        ctx.save_for_backward(x, back)
        ctx.apart, ctx.geometry = apart, geometry
        stride, padding, dilation = geometry
        return F.conv2d(x, weight, None, stride, padding, dilation)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (x, back), (grad,) = ctx.saved_tensors, grads
        stride, padding, dilation = ctx.geometry
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = conv2d_input(  # type: ignore[no-untyped-call]
                x.shape, back, grad, stride, padding, dilation
            )
        if ctx.apart is None:
            grad_w = conv2d_weight(  # type: ignore[no-untyped-call]
                x, back.shape, grad, stride, padding, dilation
            )
        else:
            patches_BLn = F.unfold(x, back.shape[2:], dilation, padding, stride).transpose(1, 2)
            grad_w = torch.einsum("bol,bln->on", grad.flatten(2), ctx.apart(patches_BLn)).view_as(back)
        return grad_x, grad_w, None, None, None, None, None


@dataclass(frozen=True)
class ProjectedConfig(Config):
    """Config of the edit "projected"."""

    # Path of a linear layer or convolution -> rows of each block of its lateral weights; the last one learns.
    blocks: Mapping[str, Any] = field(default_factory=dict)
    # Where gradients are projected: as they are formed, or on the inputs of every unit; both are equal.
    side: Literal["weight", "input"] = "weight"
    # What carries gradients to the layer before: the weights, fixed random ones, or the signs of the weights.
    feedback: Feedback = "weight"
    spiking_steps: int | None = None  # of lateral spikes, with side "input"; None: real-valued responses
    spiking_scale: float = 20.0  # the largest response that they can say
    seed: int = 0  # of new rows and of random feedback

    def validate(self) -> None:
        self.require_positive("spiking_scale")
        self.require(
            self.spiking_steps is None or (self.spiking_steps > 0 and self.side == "input"),
            'spiking_steps must be positive, and needs side "input": spikes say inputs, not gradients',
        )
        for path, rows in self.blocks.items():
            fits = isinstance(rows, Sequence) and all(isinstance(n, int) and n >= 0 for n in rows)
            self.require(fits and bool(rows), f"blocks of {path} must be numbers of rows, got {rows!r}")


@register_edit("projected", ProjectedConfig)
def projected(model: Model, config: ProjectedConfig) -> Model:
    """Gives layers lateral weights, or those that have some more rows and other blocks.

    Weights and outputs stay as they are, and so do rows that are there.

    Raises:
        ConfigError: a path without a plain linear layer or convolution, or rows that do not fit.
    """
    # Not the stream of the seed itself, from which the weights of the model may have come.
    generator = torch.Generator().manual_seed(config.seed + _SALT)
    for path, blocks in config.blocks.items():
        layer = _layer(model, path)
        if not isinstance(layer, _Projected):
            layer = _as_projected(layer, config, generator)
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, layer)
        rows = len(layer.subspace.weight)
        if sum(blocks) < rows:
            raise ConfigError(f"projected: {path} has {rows} rows, blocks {list(blocks)} are fewer")
        layer.subspace.add(sum(blocks) - rows, generator)
        layer.subspace.blocks = tuple(blocks)
    return model


def without_projection(model: Model) -> Model:
    """The same net with plain layers: lateral weights are left out, all others stay."""
    plain = build_model(model.name, model.config)
    for spec in model.edits:
        plain = plain if spec.name == "projected" else apply_edit(plain, spec)
    own = plain.state_dict()
    transfer(plain, {name: tensor for name, tensor in model.state_dict().items() if name in own})
    return plain


def _layer(model: nn.Module, path: str) -> nn.Module:
    try:
        layer = model.get_submodule(path)
    except AttributeError as error:
        raise ConfigError(f"projected: the model has no layer {path!r}") from error
    if not _is_plain(layer):
        raise ConfigError(f"projected: {path} is no plain linear layer or convolution, but {layer}")
    return layer


def _as_projected(
    layer: nn.Module, config: ProjectedConfig, generator: torch.Generator
) -> ProjectedLinear | ProjectedConv2d:
    has_bias = layer.bias is not None
    made: ProjectedLinear | ProjectedConv2d
    if isinstance(layer, nn.Linear):
        made = ProjectedLinear(layer.in_features, layer.out_features, has_bias, device="meta")
    else:
        assert isinstance(layer, nn.Conv2d)
        names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation")
        options: dict[str, Any] = {name: getattr(layer, name) for name in names}
        made = ProjectedConv2d(**options, bias=has_bias, device="meta")
    made.weight, made.bias = layer.weight, layer.bias
    made.prepare(config, generator)
    return made.train(layer.training)


def projectable(model: nn.Module) -> list[str]:
    """The paths of the layers that can be projected, in order."""
    return [path for path, module in model.named_modules() if _is_plain(module)]


def _is_plain(layer: nn.Module) -> bool:
    if type(layer) in (nn.Conv2d, ProjectedConv2d):
        assert isinstance(layer, nn.Conv2d)
        return layer.groups == 1 and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return type(layer) in (nn.Linear, ProjectedLinear)
