"""The spiking nets of HLOP, for tasks that come one after another (Xiao et al., ICLR 2024).

Neurons fire at a fraction of a learnt threshold, send spikes as high as the threshold over the length of a step, and
go backward by their mean response (`ops.rate`); the output is the weighted mean of the last layer over time. How tasks
are kept apart is the work of `methods/hlop.py`; a head for each task is as many outputs of the one classifier.

Shapes: T spike time, B batch, C channels, H W image, F features, K classes. Default values: the paper's.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from neuromix.core.batch import Batch
from neuromix.core.config import Spec
from neuromix.core.errors import ShapeError
from neuromix.core.layout import Layout, Rule, rename
from neuromix.core.model import Model, ModelConfig, require_image
from neuromix.core.registry import Paper, register_model
from neuromix.core.time import Repeat, fold
from neuromix.models.vision.resnet import ResNet, ResNetConfig
from neuromix.models.vision.vgg import VGG, Layer, VGGConfig
from neuromix.neurons.integrate_and_fire import rate_decay
from neuromix.neurons.neuron import make_neuron
from neuromix.ops.rate import weighted_rate


def neuron(
    tau: float = 1.0, delta_t: float = 0.05, v_threshold: float = 0.3, alpha: float = 0.3, least: float = 5e-4
) -> Spec:
    """The paper's LIF neuron, in its terms; tau and delta_t in the same unit."""
    options = {
        "decay": math.exp(-delta_t / tau),
        "v_threshold": v_threshold,
        "v_reset": None,
        "fire_at": alpha,
        "height": "threshold",
        "height_scale": 1 / delta_t,
        "gradient": "rate",
        "learnable": ["v_threshold"],
        "least_threshold": least,
    }
    return Spec("lif", options)


NEURON = neuron()
PAPER = Paper(
    "Hebbian Learning based Orthogonal Projection for Continual Learning of Spiking Neural Networks",
    2024,
    "ICLR",
    "https://arxiv.org/abs/2402.11984",
)


class _RateReadout:
    """What the three nets share: their first weights, and how they read the steps of the last layer."""

    def reset_linear(self, std: float = 0.01) -> None:
        """Linear weights from N(0, std^2), biases 0."""
        for module in self.modules():  # type: ignore[attr-defined]
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def readout(self, y: Any) -> Any:
        """The weighted rate of each logit, [T, B, K] to [B, K]."""
        return y if isinstance(y, list) else weighted_rate(y, rate_decay(self))  # type: ignore[arg-type]


@dataclass(frozen=True)
class HLOPMLPConfig(ModelConfig):
    """Config of HLOPMLP."""

    activation: Spec = NEURON  # a neuron
    hidden: tuple[int, ...] = (800, 800)  # widths of the layers before the classifier
    bias: bool = False  # of all layers but the classifier
    head_bias: bool = False
    init_std: float = (
        0.01  # of the first weights; it has to suit the number of pixels, or no neuron ever fires
    )
    time_steps: int = 20  # how often a static image is shown
    input_size: tuple[int, int] = (28, 28)  # height and width of the image
    in_channels: int = 1
    num_classes: int = 10

    def validate(self) -> None:
        self.require_positive("hidden", "init_std", "time_steps", "input_size", "in_channels", "num_classes")
        self.require(bool(self.hidden), "hidden needs a width at least")


class SpikingLinear(nn.Module):
    """A linear layer, run once on a static input, and its neurons: x_TBF to spikes."""

    def __init__(self, dim: int, dim_out: int, config: HLOPMLPConfig, *, sees_image: bool) -> None:
        super().__init__()
        linear = nn.Linear(dim, dim_out, config.bias)
        self.linear = Repeat(config.time_steps, linear) if sees_image else linear
        self.neuron = make_neuron(config.activation)

    def forward(self, x_TBF: Tensor) -> Tensor:
        timed = isinstance(self.linear, Repeat)
        spikes_TBF: Tensor = self.neuron(self.linear(x_TBF) if timed else fold(self.linear, x_TBF))
        return spikes_TBF


def _published(parameters: int, **figures: float) -> dict[str, Any]:
    return {"parameters": parameters, "scope": "trainable", **figures}


@register_model(
    "hlop_mlp",
    paper=PAPER,
    tasks=("image-classification", "event-classification"),
    family="spiking",
    provenance="authors' code",
    variants={
        "hlop_mlp_800": {},
        # Ours, for images of 8x8.
        "hlop_mlp_nano": {
            "activation": neuron(delta_t=0.1),
            "hidden": (100, 100),
            "init_std": 0.1,
            "time_steps": 10,
            "input_size": (8, 8),
        },
    },
    tiny={"hidden": (12, 8), "init_std": 1.0, "time_steps": 3, "input_size": (4, 4), "num_classes": 3},
    published={"hlop_mlp_800": _published(1_275_202)},
)
class HLOPMLP(_RateReadout, Model):
    """Linear layers with neurons: image [B, C, H, W], or a frame a step [T, B, C, H, W], to logits [B, K]."""

    Config: ClassVar[type[ModelConfig]] = HLOPMLPConfig
    stream_axis: int | None = 0

    def __init__(self, config: HLOPMLPConfig) -> None:
        super().__init__(config)
        self.require_feature_levels()
        dims = (config.in_channels * math.prod(config.input_size), *config.hidden)
        self.layers = nn.ModuleList(
            SpikingLinear(dim, dim_out, config, sees_image=number == 0)
            for number, (dim, dim_out) in enumerate(itertools.pairwise(dims))
        )
        self.classify = nn.Linear(dims[-1], config.num_classes, config.head_bias)
        self.reset_linear(config.init_std)

    def encode(self, *inputs: Tensor) -> Tensor:
        (image,) = inputs
        require_image(image, self.config.in_channels, dims=(4, 5))
        if image.shape[-2:] != self.config.input_size:
            raise ShapeError(f"expected images of {self.config.input_size}, got {tuple(image.shape[-2:])}")
        return (image if image.dim() == 5 else image.unsqueeze(0)).flatten(2)

    def forward_steps(self, x_TBF: Tensor) -> Tensor:
        """x_TBF with T = 1 (a static image) or one frame a step; logits of each step, [T, B, K]."""
        for layer in self.layers:
            x_TBF = layer(x_TBF)
        return fold(self.classify, x_TBF)

    def example(self, batch_size: int, generator: torch.Generator | None = None) -> Batch:
        shape = (batch_size, self.config.in_channels, *self.config.input_size)
        return Batch({"image": torch.randn(shape, generator=generator)})

    @classmethod
    def layouts(cls, config: HLOPMLPConfig) -> Mapping[str, Layout]:
        rules: list[Rule] = []
        for number in range(len(config.hidden)):
            linear = f"layers.{number}.linear" + (".stem" if number == 0 else "")
            rules += [
                rename(f"fc{number + 1}.*", f"{linear}.*"),
                rename(f"sn{number + 1}.Vth", f"layers.{number}.neuron.v_threshold"),
            ]
        return {"authors": Layout(*rules, rename("classifiers.0.*", "classify.*"))}


@dataclass(frozen=True)
class HLOPCNNConfig(VGGConfig):
    """Config of HLOPCNN."""

    activation: Spec = NEURON
    layers: tuple[Layer, ...] = (64, "A", 128, "A", 256, "A")
    map_side: int | None = 4
    time_steps: int = 20


@register_model(
    "hlop_cnn",
    paper=PAPER,
    tasks=("image-classification", "event-classification"),
    family="spiking",
    provenance="authors' code",
    variants={
        "hlop_cnn_256": {},
        # Ours, for images of 8x8.
        "hlop_cnn_nano": {"layers": (16, "A", 32, "A"), "map_side": 2, "time_steps": 10, "in_channels": 1},
    },
    tiny={"layers": (4, "A", 8, "A"), "map_side": 2, "time_steps": 3, "num_classes": 3},
    published={"hlop_cnn_256": _published(412_237)},
)
class HLOPCNN(_RateReadout, VGG):
    """3x3 convolutions with norm, neurons and pooling, and one classifier: image [B, C, H, W] to logits [B, K]."""

    Config: ClassVar[type[ModelConfig]] = HLOPCNNConfig

    def __init__(self, config: HLOPCNNConfig) -> None:
        super().__init__(config)
        self.reset_linear()

    @classmethod
    def layouts(cls, config: HLOPCNNConfig) -> Mapping[str, Layout]:
        rules: list[Rule] = []
        for place in config.places:
            number = 3 * place.number + place.stage  # convolution, norm, neuron, and poolings between them
            rules += [
                rename(f"features.{number}.*", f"{place.conv}.conv.*"),
                rename(f"features.{number + 1}.*", f"{place.conv}.bn.*"),
                rename(f"features.{number + 2}.Vth", f"{place.path}.activate.activation.v_threshold"),
            ]
        return {"authors": Layout(*rules, rename("classifiers.0.*", "head.classify.*"))}


@dataclass(frozen=True)
class HLOPResNetConfig(ResNetConfig):
    """Config of HLOPResNet."""

    activation: Spec = NEURON
    widths: tuple[int, ...] = (20, 40, 80, 160)
    order: Any = "pre"
    tail: Any = "activation"
    time_steps: int = 20


@register_model(
    "hlop_resnet",
    paper=PAPER,
    tasks=("image-classification", "event-classification"),
    family="spiking",
    provenance="authors' code",
    variants={
        "hlop_resnet18_20": {},
        # For images of 84x84.
        "hlop_resnet18_20_84": {"stem_kernel": 5, "stem_stride": 2},
    },
    tiny={"blocks": (1, 1), "widths": (4, 8), "time_steps": 3, "num_classes": 3},
    published={"hlop_resnet18_20": _published(1_094_207)},
)
class HLOPResNet(_RateReadout, ResNet):
    """Pre-activation ResNet-18 of width 20, and one classifier: image [B, C, H, W] to logits [B, K]."""

    Config: ClassVar[type[ModelConfig]] = HLOPResNetConfig

    def __init__(self, config: HLOPResNetConfig) -> None:
        super().__init__(config)
        self.reset_linear()

    @classmethod
    def layouts(cls, config: HLOPResNetConfig) -> Mapping[str, Layout]:
        rules = [rename("conv1.*", "stem.stem.0.*")]
        places = [(stage, block) for stage, count in enumerate(config.blocks) for block in range(count)]
        dim = config.stem_dim
        for number, (stage, block) in enumerate(places):
            changes = block == 0 and (stage > 0 or dim != config.widths[stage])
            dim = config.widths[stage]
            theirs, ours = f"layers.{number}", f"stages.{stage}.{block}"
            # Where the shape changes the first activation stands before the fork.
            first = f"{ours}.activate" if changes else f"{ours}.residual.norm"
            branch = f"{ours}.residual.branch"
            rules += _activation_rules(f"{theirs}.bn1", f"{theirs}.sn1", f"{first}.norm", first)
            rules.append(rename(f"{theirs}.conv1.*", f"{branch}.0.conv.conv.*"))
            second = f"{branch}.0.activate"
            rules += _activation_rules(f"{theirs}.bn2", f"{theirs}.sn2", f"{branch}.0.conv.bn", second)
            rules.append(rename(f"{theirs}.conv2.*", f"{branch}.1.conv.*"))
            rules.append(rename(f"{theirs}.downsample.*", f"{ours}.residual.skip.module.*"))
        rules += _activation_rules("bn1", "sn1", "tail.norm", "tail")
        return {"authors": Layout(*rules, rename("classifiers.0.*", "head.classify.*"))}


def _activation_rules(norm: str, neuron: str, our_norm: str, ours: str) -> list[Rule]:
    return [rename(f"{norm}.*", f"{our_norm}.*"), rename(f"{neuron}.Vth", f"{ours}.activation.v_threshold")]
