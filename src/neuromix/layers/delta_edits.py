"""Edits that make a network cheap to run frame after frame: "delta" for its training, "delta_inference" for its use.

Both are for networks that hand frames on with their time axis, such as the skeletons `vgg` and `resnet`: a trial with
two frames shows where a layer stands, what comes behind it, and whether it sees time.

Shapes: T frames, B batch, C channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from neuromix.core.config import Config
from neuromix.core.edits import register_edit
from neuromix.core.errors import ConfigError, NeuromixError
from neuromix.core.model import Model
from neuromix.core.state import Stateful
from neuromix.core.time import Repeat
from neuromix.layers.delta import DeltaActivation, DeltaConfig, GradRule, L1Activation
from neuromix.layers.delta_conv import DeltaConv2d, DeltaLinear
from neuromix.layers.fuse import FuseConfig, fuse

FRAMES, SAMPLES = 2, 3
ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.Hardswish, nn.Sigmoid, nn.Tanh)
_BUILDERS: dict[type[nn.Module], Callable[..., nn.Module]] = {nn.Conv2d: DeltaConv2d, nn.Linear: DeltaLinear}


@dataclass(frozen=True)
class DeltaEditConfig(Config):
    """Config of the edit "delta"."""

    regulariser: Literal["delta", "l1"] = "delta"  # l1: the baseline, which rounds nothing
    input: bool = True  # also a delta layer before the first layer
    threshold: float | tuple[float, ...] = (
        0.1  # where steps start: of all layers, or of each in the order they run in
    )
    granularity: Literal["channel", "layer"] = "channel"
    penalty: float = (
        1e-3  # see DeltaConfig; times the receivers of a change in the next layer that has weights
    )
    grad_rule: GradRule = "release"


@dataclass(frozen=True)
class DeltaInferenceConfig(Config):
    """Config of the edit "delta_inference"."""

    dense_above: float = 0.5  # share of changed places above which a layer computes a frame as a whole

    def validate(self) -> None:
        self.require(0 <= self.dense_above <= 1, f"dense_above must be in [0, 1], got {self.dense_above}")


class _Probe(Stateful):
    """Stands for a layer during a trial and notes what it is given; frames reach it with time where it can have it."""

    def __init__(
        self, module: nn.Module, path: str, shapes: dict[str, torch.Size], waiting: list[str]
    ) -> None:
        super().__init__()
        self.module, self.path, self.shapes, self.waiting = module, path, shapes, waiting

    def forward(self, x_T: Tensor, state: Any = None, *, return_state: bool = False) -> Any:
        self.shapes[self.path] = x_T.shape
        if x_T.shape[:2] == (FRAMES, SAMPLES):
            y: Tensor = self.module(x_T.flatten(0, 1)).unflatten(0, (FRAMES, SAMPLES))
        else:
            y = self.module(x_T)
        self.waiting.append(self.path)
        return y


@register_edit("delta", DeltaEditConfig)
def delta(model: Model, config: DeltaEditConfig) -> Model:
    """A delta layer behind every activation: the frames of a video are rounded by steps that are to be learnt.

    Their penalties are in the taps "aux_loss", so that training adds them to the loss. The model steps along frames
    from then on: [T, B, C, H, W].

    Raises:
        ConfigError: the model does not take frames, has no activation that sees time, or has delta layers; as many
            thresholds as layers are not given.
    """
    if any(isinstance(module, DeltaActivation | L1Activation) for module in model.modules()):
        raise ConfigError("delta: the model has delta layers already")
    shapes, receivers = _tried(model, ACTIVATIONS)
    timed = {path: shape for path, shape in shapes.items() if shape[:2] == (FRAMES, SAMPLES)}
    if not timed:
        raise ConfigError(
            f"delta: no activation of {model.name or 'the model'} sees the time axis of frames; it works on networks "
            "that hand it on, such as vgg and resnet with activation relu"
        )
    has_input = config.input and config.regulariser == "delta"
    steps = _thresholds(config, len(timed) + has_input)
    first = steps.pop(0) if has_input else 0.0
    for path, shape in timed.items():
        old = model.get_submodule(path)
        if config.regulariser == "l1":
            new: nn.Module = L1Activation(config.penalty, receivers[path], old)
        else:
            new = DeltaActivation(_layer(config, steps.pop(0), receivers[path]), shape[2:], old)
        _put(model, path, new)
    if has_input:  # last, as it moves the paths of the stem
        _put_before_all(model, _layer(config, first, receivers[""]))
    model.stream_axis = 0
    return model


@register_edit("delta_inference", DeltaInferenceConfig)
def delta_inference(model: Model, config: DeltaInferenceConfig) -> Model:
    """Convolutions and linear layers that compute of each frame what has changed; batch-norms are folded first.

    The outputs stay those of the frames, up to rounding of floating-point numbers. In step form the state holds the
    last input and output of each of these layers. Layers that the model folds time into the batch for stay as they
    are.

    Raises:
        ConfigError: no convolution or linear layer sees the time axis of frames.
    """
    model = fuse(model, FuseConfig())
    for path, module in list(model.named_modules()):
        if isinstance(module, Repeat) and module.times == 1:
            _put(model, path, module.stem)
    shapes, _ = _tried(model, tuple(_BUILDERS), exact=True)
    timed = [path for path, shape in shapes.items() if shape[:2] == (FRAMES, SAMPLES)]
    if not timed:
        raise ConfigError(
            f"delta_inference: no convolution or linear layer of {model.name or 'the model'} sees the time axis of "
            "frames; it works on networks that hand it on, such as vgg with activation relu"
        )
    for path in timed:
        old = model.get_submodule(path)
        _put(model, path, _BUILDERS[type(old)](old, config.dense_above))
    model.stream_axis = 0
    return model


def _layer(config: DeltaEditConfig, threshold: float, receivers: float) -> DeltaConfig:
    return DeltaConfig(
        granularity=config.granularity,
        threshold=threshold,
        penalty=config.penalty,
        fan_out=receivers,
        grad_rule=config.grad_rule,
    )


def _thresholds(config: DeltaEditConfig, layers: int) -> list[float]:
    """Where the steps of each layer start."""
    if isinstance(config.threshold, float):
        return [config.threshold] * layers
    if len(config.threshold) != layers:
        raise ConfigError(f"delta: {len(config.threshold)} thresholds for {layers} delta layers")
    return list(config.threshold)


def _put_before_all(model: Model, config: DeltaConfig) -> None:
    stem = getattr(model, "stem", None)
    if not isinstance(stem, nn.Module):
        raise ConfigError("delta: the model has no stem for a delta layer to stand before; set input=false")
    model.stem = nn.Sequential(DeltaActivation(config, tuple(_frames(model).shape[2:])), stem)


def _tried(
    model: Model, kinds: tuple[type[nn.Module], ...], exact: bool = False
) -> tuple[dict[str, torch.Size], dict[str, float]]:
    """What the layers of some kinds are given in a trial, in the order in which they run.

    Returns:
        path -> shape, and path -> outputs of the next layer with weights that one of its numbers reaches; "" for the
        first such layer of all.
    """
    found = {
        path: module
        for path, module in model.named_modules()
        if (type(module) in kinds if exact else isinstance(module, kinds))
    }
    shapes: dict[str, torch.Size] = {}
    waiting, receivers = [""], dict.fromkeys(("", *found), 1.0)

    def reach(layer: nn.Module, _: Any) -> None:
        weight = layer.weight
        assert isinstance(weight, Tensor)
        receivers.update(dict.fromkeys(waiting, float(weight.numel() // weight.shape[1])))
        waiting.clear()

    weighty = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_pre_hook(reach) for layer in weighty]
    training = model.training
    try:
        for path, module in found.items():
            _put(model, path, _Probe(module, path, shapes, waiting))
        with torch.no_grad():
            model.eval().forward_steps(_frames(model))
    except (NeuromixError, NotImplementedError, KeyError) as error:
        raise ConfigError(
            f"{model.name or 'the model'} does not take frames [T, B, C, H, W]: {error}"
        ) from error
    finally:
        for path, module in found.items():
            _put(model, path, module)
        for hook in hooks:
            hook.remove()
        model.train(training)
    return shapes, receivers


def _frames(model: Model) -> Tensor:
    """Frames [T, B, C, H, W], made of the example of a model that takes images or videos."""
    image = model.example(SAMPLES, torch.Generator().manual_seed(0)).tensor("image")
    frames = image if image.dim() == 5 else image[:, None].expand(-1, FRAMES, *image.shape[1:])
    return model.encode(frames[:, :FRAMES].transpose(0, 1).to(next(model.parameters()).dtype))


def _put(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)
