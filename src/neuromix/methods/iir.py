"""iir: a spiking net of one time step, by way of an analog net and fewer and fewer steps (Chowdhury et al., ECCV 2022).

Trained at once for one step a deep spiking net learns little. So an analog net comes first; its norms are folded into
its convolutions, each layer is given a threshold from the input that it sees, and the net is trained for some time
steps. Its weights, thresholds and leaks are then the start for fewer steps, down to the last number (temporal pruning).

Shapes: T spike time, B batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from neuromix.core.batch import Batch
from neuromix.core.checkpoint import build_model, rebuild
from neuromix.core.config import Config, Spec
from neuromix.core.edits import apply_edit
from neuromix.core.errors import ConfigError
from neuromix.core.layout import transfer
from neuromix.core.model import Model, arguments
from neuromix.core.registry import register_method
from neuromix.core.stream import stream
from neuromix.data.dataset import Loader
from neuromix.methods.segments import unrolled
from neuromix.models.vision.cnn import CNNConfig
from neuromix.models.vision.iir import NEURON, limit_coefficients
from neuromix.neurons.integrate_and_fire import FiringNeuron
from neuromix.training.evaluate import evaluate
from neuromix.training.method import Method, Stage
from neuromix.training.task import Task

if TYPE_CHECKING:
    from neuromix.training.run import Run

LEAST = 0.1  # the threshold where the percentile of an input is 0


def percentile(values: Tensor, q: float) -> float:
    """The k-th smallest of n values, k = 1 + round(q/100 * (n - 1)), half to even; q in [0, 100]."""
    k = 1 + round(0.01 * q * (values.numel() - 1))
    return float(values.flatten().kthvalue(k).values)


@torch.no_grad()
def input_percentiles(
    model: Model, x_T: Tensor, q: float = 90.0, *, steps: int | None = None, only: str | None = None
) -> dict[str, float]:
    """The q-th percentile of what each neuron layer is given, over batch and map: the largest of all steps.

    Args:
        model: with spike time, in eval mode; its neurons fire as they are.
        x_T: its encoded input, one step if it is static.
        steps: how often a static input is shown; None: as the model does.
        only: the path of one layer, to leave out the others.

    Returns:
        path of the layer -> percentile, in the order in which layers run.
    """
    shown = unrolled(model, x_T) if steps is None or len(x_T) > 1 else x_T.expand(steps, *x_T.shape[1:])
    found: dict[str, float] = {}

    def see(path: str, x: Tensor) -> None:
        found[path] = max(percentile(x, q), found.get(path, -math.inf))

    with _inputs(model, only, see):
        session = stream(model).session()
        for x in shown:  # one at a time: the memory for hundreds of steps is that of one
            session.step(x)
    return found


@contextmanager
def _inputs(model: Model, only: str | None, see: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Shows `see(path, x)` what each neuron layer is given at each step."""
    handles = [
        module.register_forward_pre_hook(lambda _, args, path=path: see(path, args[0]))
        for path, module in model.named_modules()
        if isinstance(module, FiringNeuron) and only in (None, path)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def calibrate_thresholds(
    model: Model,
    x_T: Tensor,
    q: float = 90.0,
    *,
    steps: int | None = None,
    scale: float = 1.0,
    layers: tuple[str, ...] = ("*",),
) -> dict[str, float]:
    """Sets the thresholds from the first layer to the last, each while the layers before it spike.

    A threshold is `scale` times the q-th percentile of the input of its layer, the largest of all steps, or 0.1
    where that is not above 0.

    Args:
        model: with learnable thresholds; it is put into eval mode.
        x_T, steps: as of `input_percentiles`.
        layers: globs over paths of neurons; the thresholds of others stay.

    Returns:
        path of the layer -> threshold.

    Raises:
        ConfigError: a threshold is not learnable.
    """
    model.eval()
    found: dict[str, float] = {}
    for path in input_percentiles(model, x_T, q, steps=1):
        if not any(fnmatchcase(path, glob) for glob in layers):
            continue
        neuron = model.get_submodule(path)
        if not isinstance(neuron.v_threshold, nn.Parameter):
            raise ConfigError(
                f'the threshold of {path} is a constant; the neuron needs learnable=["v_threshold"]'
            )
        value = scale * input_percentiles(model, x_T, q, steps=steps, only=path)[path]
        found[path] = value if value > 0 else LEAST
        nn.init.constant_(neuron.v_threshold, found[path])
    return found


def analog_form(model: Model, dropout: float | None = None) -> Model:
    """The fresh net of the same shape with ReLUs, and a batch-norm behind each convolution.

    Raises:
        ConfigError: the model is not of the CNN skeletons, or has norms that no convolution takes in.
    """
    config = _skeleton_config(model)
    changes = {} if dropout is None else {"dropout": dropout}
    return build_model(model.name, config.replace(activation=Spec("relu"), norm="batch", **changes))


def spiking_form(model: Model, neuron: Spec, time_steps: int, dropout: float | None = None) -> Model:
    """The net with its batch-norms folded into the convolutions, and neurons in the place of its activations.

    Raises:
        ConfigError: as `analog_form`.
    """
    config = _skeleton_config(model)
    changes: dict[str, Any] = {"activation": neuron, "norm": "none", "bias": True, "time_steps": time_steps}
    changes |= {} if dropout is None else {"dropout": dropout}
    changes |= {"stem_bias": True} if hasattr(config, "stem_bias") else {}
    spiking = build_model(model.name, config.replace(**changes))
    transfer(spiking, apply_edit(model, "fuse").state_dict(), fresh=("*.v_threshold", "*.decay"))
    return spiking


def _skeleton_config(model: Model) -> CNNConfig:
    config = model.config
    if not isinstance(config, CNNConfig) or model.edits:
        name = model.name or type(model).__name__
        raise ConfigError(
            f"iir takes a plain VGG or ResNet, such as iir_vgg16, that is not edited; not {name}"
        )
    if getattr(config, "order", "post") == "pre":
        raise ConfigError(f'iir: norms before activations cannot be folded; {model.name} has order "pre"')
    return config


@dataclass(frozen=True)
class IIRConfig(Config):
    """Config of IIR."""

    # Layers that are calibrated; of the authors' residual nets only the stem is, and the blocks start from 0.4.
    RELEASED: ClassVar[dict[str, Any]] = {"steps": (5, 3, 1), "layers": ("stem.*",)}

    steps: tuple[int, ...] = (5, 4, 3, 2, 1)  # time steps of the spiking stages, falling
    ann: bool = True  # begin with the analog net; False: with the spiking one
    ann_epochs: int | None = None  # of the analog net; None: as many as of every other stage
    ann_dropout: float | None = None  # of the analog net, in [0, 1); None: the model's own
    dropout: float | None = None  # of the spiking one, in [0, 1); None: that of the stage before
    lr_scale: float = 1.0  # rate of the spiking stages as a share of that of the analog one, > 0
    neuron: Spec = NEURON  # with a learnable threshold
    percentile: float = 90.0  # of a layer's input, which is its threshold, in (0, 100]
    scale: float = 1.0  # of the thresholds, > 0
    calibration_steps: int = 500  # over which the largest percentile is taken
    calibration_batch: int = 512  # training images that are looked at
    layers: tuple[str, ...] = ("*",)  # globs over neurons that get a threshold so

    def validate(self) -> None:
        self.require_positive("steps", "lr_scale", "scale", "calibration_steps", "calibration_batch")
        falling = all(a > b for a, b in zip(self.steps, self.steps[1:], strict=False))
        self.require(bool(self.steps) and falling, f"steps must fall, such as [5, 3, 1], got {self.steps}")
        self.require(self.ann_epochs is None or self.ann_epochs > 0, "ann_epochs must be positive")
        for name in ("ann_dropout", "dropout"):
            value = getattr(self, name)
            self.require(value is None or 0 <= value < 1, f"{name} must be in [0, 1), got {value}")
        self.require(0 < self.percentile <= 100, f"percentile must be in (0, 100], got {self.percentile}")


@register_method("iir")
class IIR(Method):
    """Iterative initialisation and retraining: a stage for the analog net, and one for each number of time steps.

    Each stage starts from the best weights of the one before, and tells what they score before it trains them. It
    works on the nets of the CNN skeletons whose norms stand behind convolutions.
    """

    Config: ClassVar[type[Config]] = IIRConfig

    def stage(self, i: int, run: Run) -> Stage | None:
        config, model = self.config, run.model
        if config.ann and i == 0:
            _training_batch(run.task, 1, run.config.seed)  # refuses frames before anything is trained
            epochs = config.ann_epochs or run.config.epochs
            return Stage("ann", analog_form(model, config.ann_dropout), run.task, epochs, best=True)
        number = i - 1 if config.ann else i
        if number >= len(config.steps):
            return None
        steps = config.steps[number]
        model = self._converted(run, steps) if number == 0 else rebuild(model, time_steps=steps)
        score = evaluate(
            model.to(run.fabric.device),
            run.task,
            "validation",
            batch_size=run.config.batch_size,
            seed=run.config.seed,
            fabric=run.fabric,
        )[run.task.score]
        rules = {"*": {"lr_scale": config.lr_scale}}
        note = f"T = {steps}: {run.task.score} on validation before training {score:.4f}"
        return Stage(f"T={steps}", model, run.task, run.config.epochs, rules, best=True, note=note)

    def after_step(self, run: Run) -> None:
        limit_coefficients(run.model)

    def _converted(self, run: Run, steps: int) -> Model:
        """The spiking net with thresholds from one batch of training images."""
        config = self.config
        model = spiking_form(run.model, config.neuron, steps, config.dropout).to(run.fabric.device)
        batch = _training_batch(run.task, config.calibration_batch, run.config.seed).to(run.fabric.device)
        with torch.no_grad():
            x_T = model.encode(*arguments(model, batch))
        calibrate_thresholds(
            model,
            x_T,
            config.percentile,
            steps=config.calibration_steps,
            scale=config.scale,
            layers=config.layers,
        )
        return model


def _training_batch(task: Task, size: int, seed: int) -> Batch:
    """Training images without augmentation, drawn by the seed: the same in all processes.

    Raises:
        ConfigError: there are no images, but frames.
    """
    data = task.data("train")
    loader = Loader(data, min(size, len(data)), seed=seed, shuffle=True, collate=task.collate)
    batch = next(iter(loader.batches(0, 0)))
    if "image" not in batch or batch.tensor("image").dim() != 4:
        raise ConfigError(
            "iir shortens the time for which an image is shown; a sample of this task is no image"
        )
    return batch
