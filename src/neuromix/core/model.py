"""Model: the base of every network, and what each would otherwise repeat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn

from neuromix.core.config import Config, Spec
from neuromix.core.errors import ConfigError, ShapeError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from neuromix.core.batch import Batch, Ragged
    from neuromix.core.layout import Layout


class Field(NamedTuple):
    """One named input of a model, matched by name with the fields of a Batch: `Field("image", "BCHW")`."""

    name: str
    axes: str
    optional: bool = False


class FeatureInfo(NamedTuple):
    """One level of a feature pyramid: how much smaller than the input it is, and how many channels it has."""

    stride: int
    channels: int


@dataclass(frozen=True)
class ModelConfig(Config):
    """Base of the model configs.

    `feature_levels` is empty for an ordinary model. Otherwise the model has no head, and its forward returns the
    feature maps of these levels (0 is the finest).
    """

    feature_levels: tuple[int, ...] = ()


class Model(nn.Module):
    """A network written once, as a plain multi-step forward over leaves.

    Attributes:
        inputs: its named inputs, in the order of `forward`.
        stream_axis: the axis that `stream` steps along: 0 spike time, 1 tokens, None where it cannot be stepped.
        differentiable, trainable: False for filters and simulators.
        name: the registered name that it was created from.
        edits: the structural changes made since, each a Spec that can be replayed.
    """

    Config: ClassVar[type[ModelConfig]] = ModelConfig
    inputs: ClassVar[tuple[Field, ...]] = (Field("image", "BCHW"),)
    stream_axis: int | None = None
    differentiable: ClassVar[bool] = True
    trainable: ClassVar[bool] = True

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config: Any = config
        self.name = ""
        self.edits: tuple[Spec, ...] = ()

    @classmethod
    def from_config(cls, config: Any) -> Self:
        """Builds the model; what the registry calls."""
        return cls(config)

    def encode(self, *inputs: Tensor) -> Tensor:
        """The inputs as a sequence of steps along `stream_axis`."""
        (x,) = inputs
        return x

    def forward_steps(self, x: Tensor) -> Tensor:
        """The output of each step; `forward(x) = readout(forward_steps(encode(x)))`."""
        raise NotImplementedError(f"{type(self).__name__} has no step form")

    def readout(self, y: Tensor) -> Tensor:
        """One output from those of the steps."""
        return y

    def forward(self, *inputs: Tensor) -> Any:
        return self.readout(self.forward_steps(self.encode(*inputs)))

    def feature_info(self) -> tuple[FeatureInfo, ...]:
        """Stride and channels of each level that the model can give; empty where it has no pyramid."""
        return ()

    def example(self, batch_size: int, generator: torch.Generator | None = None) -> Batch:
        """A small valid input: what contracts, profiles, compilation and export run on."""
        raise NotImplementedError(f"{type(self).__name__} has no example input")

    @classmethod
    def layouts(cls, config: Any) -> Mapping[str, Layout]:
        """How released weights name their tensors: who released them -> the renaming to ours."""
        return {}

    @classmethod
    def task_values(cls, config: Any) -> Mapping[str, Any]:
        """The fields of a task's Config that suit this model, where the user has not set them.

        Fields that the task lacks are left out: `{"representation": ["cloud", {"points": 512}]}` says how a task of
        events gives them, and nothing to other tasks.
        """
        return {}

    def after_step(self) -> None:
        """Upkeep after each optimiser step: every module below that has some does its own."""
        for module in self.modules():
            if module is not self and hasattr(module, "after_step"):
                module.after_step()  # type: ignore[operator]

    def parameter_rules(self) -> dict[str, dict[str, float]]:
        """Parameters that want other optimiser settings: glob over their names -> {lr_scale, weight_decay}."""
        return {}

    def num_parameters(self, *, trainable_only: bool = True) -> int:
        """Number of parameters, each counted once."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad or not trainable_only)

    def require_feature_levels(self) -> None:
        """Refuses `feature_levels` that the model does not have."""
        known = range(len(self.feature_info()))
        levels: tuple[int, ...] = self.config.feature_levels
        if any(level not in known for level in levels) or list(levels) != sorted(set(levels)):
            raise ConfigError(
                f"{type(self).__name__}: feature_levels must be ascending numbers out of "
                f"{list(known)}, got {list(levels)}"
            )


def call(model: Model, batch: Batch) -> Any:
    """Runs a model on the fields of a batch that it names as inputs.

    Raises:
        ShapeError: the batch lacks an input.
    """
    return model(*arguments(model, batch))


def arguments(model: Model, batch: Batch) -> tuple[Any, ...]:
    """The fields of a batch that a model names as inputs, in the order of its `forward`.

    A batch has its samples on the first axis, a spiking model its time steps. So where a model that steps along
    spike time names a field [B, ...], and the batch has one frame a step, [B, T, ...], it is given [T, B, ...].
    None stands for an optional field that the batch lacks before one that it has.

    Raises:
        ShapeError: the batch lacks an input.
    """
    missing = [f.name for f in model.inputs if f.name not in batch and not f.optional]
    if missing:
        raise ShapeError(
            f"{type(model).__name__} needs {', '.join(missing)}; the batch has {', '.join(batch)}"
        )
    last = max((i for i, f in enumerate(model.inputs) if f.name in batch), default=-1)
    return tuple(
        _time_first(batch[f.name], f, model.stream_axis) if f.name in batch else None
        for f in model.inputs[: last + 1]
    )


def _time_first(field: Tensor | Ragged, named: Field, stream_axis: int | None) -> Tensor | Ragged:
    has_frames = isinstance(field, Tensor) and stream_axis == 0 and field.dim() == len(named.axes) + 1
    return field.transpose(0, 1) if has_frames else field  # type: ignore[union-attr]


def require_image(
    x: Tensor, channels: int, *, multiple_of: int = 1, least: int = 1, dims: tuple[int, ...] = (4,)
) -> None:
    """Checks an image input `[..., C, H, W]`: floating point, the right channels, sides that fit.

    Args:
        dims: the numbers of axes that are allowed: 4 for a batch of images, 5 for one a spike step.

    Raises:
        ShapeError: with what was expected.
    """
    expected = f"a floating-point tensor [B, {channels}, H, W]"
    if multiple_of > 1:
        expected += f" with H and W multiples of {multiple_of}"
    elif least > 1:
        expected += f" with H and W at least {least}"
    sides = x.shape[-2:]
    fits = (
        x.dim() in dims
        and x.is_floating_point()
        and x.shape[-3] == channels
        and all(side >= least and side % multiple_of == 0 and side > 0 for side in sides)
    )
    if not fits:
        raise ShapeError(f"expected {expected}, got {x.dtype} {list(x.shape)}")
