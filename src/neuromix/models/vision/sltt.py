"""The spiking networks of SLTT: PreAct ResNet, VGG-11 and the normaliser-free ResNet (Meng et al., ICCV 2023).

SLTT is a training rule (`methods/sltt.py`) for any feed-forward spiking net; these are the nets that the paper
shows it on. All have the same neuron: leaky, its input not scaled by 1/tau, a soft reset that gradients pass
through, and a triangle as surrogate derivative. The paper takes the sum of the logits over time for its
prediction; the mean that is given here has the same largest class.

Shapes: B batch, C channels, H W feature map, T spike time, K classes. Default values: the paper's CIFAR-10,
DVS-CIFAR10 and ImageNet nets.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from neuromix.core import registry
from neuromix.core.config import Spec, field_types
from neuromix.core.errors import ConfigError
from neuromix.core.layout import Layout, Rule, rename
from neuromix.core.model import ModelConfig
from neuromix.core.reference import load_reference, reference
from neuromix.core.registry import Paper, register_model
from neuromix.models.vision.resnet import ResNet, ResNetConfig
from neuromix.models.vision.vgg import VGG, VGGConfig

NEURON = Spec(
    "lif", {"tau": 1.1, "decay_input": False, "v_reset": None, "detach_reset": False, "surrogate": "triangle"}
)
PAPER = Paper(
    "Towards Memory- and Time-Efficient Backpropagation for Training Spiking Neural Networks", 2023, "ICCV"
)


@dataclass(frozen=True)
class SpikingPreActResNetConfig(ResNetConfig):
    """Config of SpikingPreActResNet."""

    activation: Spec = NEURON
    bias: bool = True
    order: Literal["post", "pre"] = "pre"
    shortcut: Literal["input", "activated"] = "activated"
    tail: Literal["none", "norm", "activation"] = "activation"
    head_pool: int | None = 4
    head_dropout: bool = True
    time_steps: int = 6


@dataclass(frozen=True)
class SpikingVGGConfig(VGGConfig):
    """Config of SpikingVGG."""

    activation: Spec = NEURON
    bias: bool = True
    map_side: int | None = 7
    dropout: float = 0.3
    time_steps: int = 10
    in_channels: int = 2  # events of either polarity


@dataclass(frozen=True)
class SpikingNFResNetConfig(ResNetConfig):
    """Config of SpikingNFResNet."""

    activation: Spec = NEURON
    norm: Literal["batch", "none"] = "none"
    bias: bool = True
    blocks: tuple[int, ...] = (3, 4, 6, 3)
    order: Literal["post", "pre"] = "pre"
    stem_kernel: int = 7
    stem_stride: int = 2
    stem_bias: bool = True
    stem_pool: Literal["avg", "max"] | None = "avg"
    alpha: float | None = 0.2
    activation_gain: float = 2.74
    time_steps: int = 6
    num_classes: int = 1000


def _published(parameters: int, **figures: float) -> dict[str, Any]:
    return {"parameters": parameters, "scope": "trainable", **figures}


@register_model(
    "spiking_preact_resnet",
    paper=PAPER,
    tasks=("image-classification", "event-classification"),
    family="spiking",
    provenance="authors' code",
    variants={
        "spiking_preact_resnet18": {},
        "spiking_preact_resnet18_cifar100": {"num_classes": 100},
        "spiking_preact_resnet34": {"blocks": (3, 4, 6, 3)},
        "spiking_preact_resnet_nano": {"blocks": (1, 1, 1, 1), "widths": (16, 32, 64, 128), "time_steps": 4},
    },
    tiny={"blocks": (1, 2, 1), "widths": (4, 8, 16), "time_steps": 3, "num_classes": 3},
    published={
        "spiking_preact_resnet18": _published(11_176_906, parameters_m=11.2, top1=94.44),
        "spiking_preact_resnet18_cifar100": _published(11_223_076, parameters_m=11.2, top1=74.38),
        "spiking_preact_resnet34": _published(21_288_778),
    },
)
class SpikingPreActResNet(ResNet):
    """Spiking PreAct ResNet for small images, with spikes on every shortcut.

    Image [B, C, H, W], or a frame a step [T, B, C, H, W], to logits [B, K].
    """

    Config: ClassVar[type[ModelConfig]] = SpikingPreActResNetConfig

    def __init__(self, config: SpikingPreActResNetConfig) -> None:
        super().__init__(config)
        if self.head is not None:
            nn.init.zeros_(self.head.classify.bias)

    @classmethod
    def layouts(cls, config: SpikingPreActResNetConfig) -> Mapping[str, Layout]:
        rules = _resnet_rules(config, projection="shortcut", classifier="linear")
        first_norms = [
            rename(f"{theirs}.bn1.*", f"{ours}.activate.norm.*") for theirs, ours in _stage_names(config)
        ]
        return {"authors": Layout(*rules, *first_norms, rename("bn1.*", "tail.norm.*"))}


@register_model(
    "spiking_vgg",
    paper=PAPER,
    tasks=("image-classification", "event-classification"),
    family="spiking",
    provenance="authors' code",
    variants={
        "spiking_vgg11_bn_dvs_cifar10": {},
        "spiking_vgg11_bn_dvs_gesture": {"num_classes": 11, "dropout": 0.4, "time_steps": 20},
        # Ours, for images of 8x8.
        "spiking_vgg_nano": {
            "layers": (32, 32, "A", 64, 64, "A"),
            "map_side": 2,
            "dropout": 0.1,
            "time_steps": 4,
            "in_channels": 1,
        },
    },
    tiny={"layers": (4, "A", 8, 8, "A"), "map_side": 3, "time_steps": 3, "num_classes": 3},
    published={
        "spiking_vgg11_bn_dvs_cifar10": _published(9_476_298, top1=82.20),
        "spiking_vgg11_bn_dvs_gesture": _published(9_501_387, top1=97.92),
    },
)
class SpikingVGG(VGG):
    """Spiking VGG with batch-norm, for frames of events.

    A frame a step [T, B, C, H, W], or one image [B, C, H, W] for all, to logits [B, K].
    """

    Config: ClassVar[type[ModelConfig]] = SpikingVGGConfig

    def __init__(self, config: SpikingVGGConfig) -> None:
        super().__init__(config)
        _zero_biases(self)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.01)

    @classmethod
    def layouts(cls, config: SpikingVGGConfig) -> Mapping[str, Layout]:
        # The authors count the layers of a unit one by one: convolution, norm, neuron, dropout.
        rules = [rename("classifier.1.*", "head.classify.*")]
        for place in config.places:
            theirs = f"layer{place.stage + 1}"
            rules += [
                rename(f"{theirs}.{4 * place.unit}.*", f"{place.conv}.conv.*"),
                rename(f"{theirs}.{4 * place.unit + 1}.*", f"{place.conv}.bn.*"),
            ]
        return {"authors": Layout(*rules)}


@register_model(
    "spiking_nf_resnet",
    paper=PAPER,
    tasks=("image-classification", "event-classification"),
    family="spiking",
    provenance="authors' code",
    variants={
        "spiking_nf_resnet34": {},
        "spiking_nf_resnet50": {"bottleneck": True},
        "spiking_nf_resnet101": {"bottleneck": True, "blocks": (3, 4, 23, 3)},
    },
    tiny={"blocks": (1, 2), "widths": (4, 8), "bottleneck": True, "time_steps": 3, "num_classes": 3},
    published={
        "spiking_nf_resnet34": _published(21_797_688, top1=66.19),
        "spiking_nf_resnet50": _published(25_557_048, top1=67.02),
        "spiking_nf_resnet101": _published(44_549_193, top1=69.26),
    },
)
class SpikingNFResNet(ResNet):
    """Spiking normaliser-free ResNet for large images: standardised weights instead of norms.

    Image [B, C, H, W], or a frame a step [T, B, C, H, W], to logits [B, K]. The last blocks' real-valued sums go
    to the classifier without a neuron between.
    """

    Config: ClassVar[type[ModelConfig]] = SpikingNFResNetConfig

    def __init__(self, config: SpikingNFResNetConfig) -> None:
        super().__init__(config)
        _zero_biases(self)
        if self.head is not None:
            nn.init.zeros_(self.head.classify.weight)

    @classmethod
    def layouts(cls, config: SpikingNFResNetConfig) -> Mapping[str, Layout]:
        rules = _resnet_rules(config, projection="downsample", classifier="fc")
        gains = [
            rename(f"{theirs}.skipinit_gain", f"{ours}.residual.scale.gain")
            for theirs, ours in _stage_names(config)
        ]
        return {"authors": Layout(*rules, *gains)}


def _zero_biases(net: nn.Module) -> None:
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)


def _stage_names(config: ResNetConfig) -> list[tuple[str, str]]:
    return [(f"layer{stage + 1}.{{i}}", f"stages.{stage}.{{i}}") for stage in range(len(config.blocks))]


def _resnet_rules(config: ResNetConfig, *, projection: str, classifier: str) -> list[Rule]:
    """What the authors' residual nets have in common; the arguments are where their names differ."""
    rules = [rename("conv1.*", "stem.stem.0.*"), rename(f"{classifier}.*", "head.classify.*")]
    last = 2 if config.bottleneck else 1
    for theirs, ours in _stage_names(config):
        rules.append(rename(f"{theirs}.{projection}.*", f"{ours}.residual.skip.module.*"))
        for number in range(last + 1):
            their_conv, conv = f"{theirs}.conv{number + 1}", f"{ours}.residual.branch.{number}.conv"
            if config.norm == "none" or number == last:
                rules.append(rename(f"{their_conv}.*", f"{conv}.*"))
                continue
            # The norm before a neuron is behind the convolution before it, so that the two can be fused.
            rules += [
                rename(f"{their_conv}.*", f"{conv}.conv.*"),
                rename(f"{theirs}.bn{number + 2}.*", f"{conv}.bn.*"),
            ]
    return rules


@reference("sltt")
def read_authors(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> nn.Module:
    """Constructor values of the authors' nets and neurons; which net it is, the names of the weights tell.

    `blocks` (of each stage), `base_width` (of the first one), `in_channels` and `num_classes` default to those of
    the weights.
    """
    common = {
        "activation": _read_neuron(config),
        "time_steps": config.get("T", 6),
        "dropout": config.get("dropout", 0.0),
    }
    if "classifier.1.weight" in state:
        return load_reference("spiking_vgg", SpikingVGGConfig(**common, **_read_vgg(config, state)), state)
    sizes = _read_resnet(config, state)
    if "conv1.gain" in state:
        bottleneck = "layer1.0.conv3.weight" in state
        return load_reference(
            "spiking_nf_resnet", SpikingNFResNetConfig(**common, **sizes, bottleneck=bottleneck), state
        )
    return load_reference("spiking_preact_resnet", SpikingPreActResNetConfig(**common, **sizes), state)


def _read_neuron(config: Mapping[str, Any]) -> Spec:
    given = {name: config[name] for name in NEURON.options if name in config}
    options = {**NEURON.options, "v_threshold": config.get("v_threshold", 1.0), **given}
    options["surrogate"] = _read_surrogate(str(options["surrogate"]))
    return Spec("lif", options)


def _read_surrogate(text: str) -> list[Any]:
    """Reads "triangle", "sigmoid alpha=4", or "rectangle, width=1: and a formula, which is not read"."""
    name, _, rest = text.partition(":")[0].replace(",", " ").strip().partition(" ")
    entry, _ = registry.find("surrogate", name)
    # The authors call the one number of every surrogate alpha: of a triangle or rectangle it is the width.
    options = {
        key if key in field_types(entry.config) else "width": float(value)
        for key, value in re.findall(r"(\w+) *= *([0-9.]+)", rest)
    }
    return [name, options]


def _read_vgg(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> dict[str, Any]:
    convs: dict[int, dict[int, Tensor]] = {}  # stage -> place in the stage -> weight
    for name, weight in state.items():
        match = re.fullmatch(r"layer(\d+)\.(\d+)\.weight", name)
        if match and weight.dim() == 4:
            convs.setdefault(int(match[1]), {})[int(match[2])] = weight
    layers: list[int | str] = []
    for _, stage in sorted(convs.items()):
        layers += [*(len(weight) for _, weight in sorted(stage.items())), "A"]
    classes, features = state["classifier.1.weight"].shape
    return {
        "layers": layers,
        "map_side": math.isqrt(features // int(layers[-2])),
        "in_channels": config.get("in_channels", convs[1][0].shape[1]),
        "num_classes": config.get("num_classes", classes),
    }


def _read_resnet(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> dict[str, Any]:
    stem = state["conv1.weight"]
    width = config.get("base_width") or len(stem)
    blocks = config.get("blocks") or _count_blocks(state)
    classes = next((len(state[name]) for name in ("linear.bias", "fc.bias") if name in state), None)
    if classes is None:
        raise ConfigError("the weights have neither linear.bias nor fc.bias: not a net of the SLTT authors")
    return {
        "blocks": tuple(blocks),
        "widths": tuple(width * 2**stage for stage in range(len(blocks))),
        "in_channels": config.get("in_channels", stem.shape[1]),
        "num_classes": config.get("num_classes", classes),
    }


def _count_blocks(state: Mapping[str, Tensor]) -> list[int]:
    found = {
        tuple(map(int, match.groups())) for name in state if (match := re.match(r"layer(\d+)\.(\d+)\.", name))
    }
    return [sum(stage == number for stage, _ in found) for number in sorted({stage for stage, _ in found})]
