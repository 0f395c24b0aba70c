"""The spiking ResNet-18 and VGGs on which PDSG and SDA are shown (Lun et al., CVPR 2025).

Plain nets of leaky neurons with a hard reset that gradients pass through, behind each convolution with its norm; the
attacks themselves are in `methods/attacks`. With which surrogate they were trained is not known, as it is to an attack.

Shapes: T spike time, B batch, C channels, H W feature map, K classes. Default values: the paper's CIFAR-10 ResNet-18
and DVS-Gesture VGGSNN.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from neuromix.core.config import Spec
from neuromix.core.errors import ConfigError
from neuromix.core.layout import Layout, Rule, rename
from neuromix.core.model import ModelConfig
from neuromix.core.reference import load_reference, reference
from neuromix.core.registry import Paper, register_model
from neuromix.models.vision.resnet import ResNet, ResNetConfig
from neuromix.models.vision.vgg import VGG, Layer, VGGConfig

# The membrane starts at 0, whatever the reset.
NEURON = Spec("lif", {"decay_input": False, "detach_reset": False, "v_init": 0.0})
PAPER = Paper(
    "Towards Effective and Sparse Adversarial Attack on Spiking Neural Networks via Breaking Invisible Surrogate "
    "Gradients",
    2025,
    "CVPR",
)
VGGSNN: tuple[Layer, ...] = (64, 128, "A", 256, 256, "A", 512, 512, "A", 512, 512)
VGG11: tuple[Layer, ...] = (64, "A", 128, 256, "A", 512, 512, 512, "A", 512, 512)


@dataclass(frozen=True)
class PDSGResNetConfig(ResNetConfig):
    """Config of PDSGResNet."""

    activation: Spec = NEURON


@dataclass(frozen=True)
class PDSGVGGConfig(VGGConfig):
    """Config of PDSGVGG."""

    activation: Spec = NEURON
    layers: tuple[Layer, ...] = VGGSNN
    time_steps: int = 10
    in_channels: int = 2  # events of either polarity
    num_classes: int = 11


def _counted(parameters: int) -> dict[str, Any]:
    return {"parameters": parameters, "scope": "trainable"}


@register_model(
    "pdsg_resnet",
    paper=PAPER,
    tasks=("image-classification", "event-classification"),
    family="spiking",
    provenance="authors' code",
    variants={
        "pdsg_resnet18": {},
        "pdsg_resnet18_cifar100": {"num_classes": 100},
        "pdsg_resnet18_dvs": {"in_channels": 2, "time_steps": 10},
        # Ours, for images of 8x8 and events of 16x16.
        "pdsg_resnet_nano": {"blocks": (1, 1), "widths": (16, 32), "in_channels": 1},
    },
    tiny={"blocks": (1, 1), "widths": (4, 8), "time_steps": 3, "num_classes": 3},
    published={
        "pdsg_resnet18": _counted(11_173_962),
        "pdsg_resnet18_cifar100": _counted(11_220_132),
        "pdsg_resnet18_dvs": _counted(11_173_386),
    },
)
class PDSGResNet(ResNet):
    """Spiking ResNet: image [B, C, H, W], or a frame a step [T, B, C, H, W], to logits [B, K].

    A block's second neuron fires for the sum of branch and shortcut.
    """

    Config: ClassVar[type[ModelConfig]] = PDSGResNetConfig

    @classmethod
    def layouts(cls, config: PDSGResNetConfig) -> Mapping[str, Layout]:
        rules = _unit_rules("net", 0, "stem.0.conv.stem")
        for stage in range(len(config.blocks)):
            # The authors count convolution, norm and neuron of the stem, then stages.
            theirs, ours = f"net.{stage + 3}.block.{{i}}", f"stages.{stage}.{{i}}.residual"
            rules += _unit_rules(f"{theirs}.residual_path", 0, f"{ours}.branch.0.conv")
            rules += _unit_rules(f"{theirs}.residual_path", 3, f"{ours}.branch.1.conv")
            rules += _unit_rules(f"{theirs}.shortcut_path", 0, f"{ours}.skip.module")
        rules.append(
            rename(f"net.{len(config.blocks) + 5}.*", "head.classify.*")
        )  # behind pooling and flattening
        return {"authors": Layout(*rules)}


@register_model(
    "pdsg_vgg",
    paper=PAPER,
    tasks=("image-classification", "event-classification"),
    family="spiking",
    provenance="authors' code",
    variants={
        "pdsg_vggsnn": {},
        "pdsg_vgg11": {
            "layers": VGG11,
            "map_side": 4,
            "hidden": (4096, 4096),
            "time_steps": 4,
            "in_channels": 3,
            "num_classes": 10,
        },
    },
    tiny={"layers": (4, "A", 8), "map_side": 2, "hidden": (6,), "time_steps": 3, "num_classes": 3},
    published={"pdsg_vggsnn": _counted(9_228_299), "pdsg_vgg11": _counted(61_374_026)},
)
class PDSGVGG(VGG):
    """Spiking VGG: image [B, C, H, W], or a frame a step [T, B, C, H, W], to logits [B, K]."""

    Config: ClassVar[type[ModelConfig]] = PDSGVGGConfig

    @classmethod
    def layouts(cls, config: PDSGVGGConfig) -> Mapping[str, Layout]:
        # The authors count convolution, norm, neuron, and poolings between them.
        rules: list[Rule] = []
        for place in config.places:
            rules += _unit_rules("net", 3 * place.number + place.stage, place.conv)
        theirs = len(config.layers) + 2 * len(config.places)
        theirs += (
            1 if config.map_side is not None else 2
        )  # flattening, after pooling where the map is averaged
        for number in range(len(config.hidden)):
            rules.append(rename(f"net.{theirs}.*", f"head.hidden.{number}.0.*"))
            theirs += 2  # linear layer, neuron
        rules.append(rename(f"net.{theirs}.*", "head.classify.*"))
        return {"authors": Layout(*rules)}


def _unit_rules(theirs: str, number: int, ours: str) -> list[Rule]:
    """A convolution and the norm that the authors count next."""
    return [
        rename(f"{theirs}.{number}.*", f"{ours}.conv.*"),
        rename(f"{theirs}.{number + 1}.*", f"{ours}.bn.*"),
    ]


@reference("pdsg-sda")
def read_authors(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> nn.Module:
    """Constructor values of the authors' nets and neurons; which net it is, and its sizes, the weights tell."""
    common: dict[str, Any] = {"activation": read_neuron(config), "time_steps": int(config.get("T", 4))}
    if "net.0.weight" not in state:
        raise ConfigError("the weights have no net.0.weight: not a net of the PDSG authors")
    common["in_channels"] = state["net.0.weight"].shape[1]
    if any(".residual_path." in name for name in state):
        return load_reference("pdsg_resnet", PDSGResNetConfig(**common, **_read_resnet(state)), state)
    return load_reference("pdsg_vgg", PDSGVGGConfig(**common, **_read_vgg(state)), state)


def read_neuron(config: Mapping[str, Any]) -> Spec:
    """The authors' neuron, with the values of it that `config` has."""
    names = ("tau", "decay_input", "v_threshold", "v_reset", "detach_reset")
    return NEURON.with_options(**{name: config[name] for name in names if name in config})


def _read_resnet(state: Mapping[str, Tensor]) -> dict[str, Any]:
    pattern = r"net\.(\d+)\.block\.(\d+)\.residual_path\.0\.weight"
    found = {(int(m[1]), int(m[2])): len(state[m[0]]) for name in state if (m := re.fullmatch(pattern, name))}
    stages = sorted({stage for stage, _ in found})
    return {
        "blocks": tuple(sum(stage == number for stage, _ in found) for number in stages),
        "widths": tuple(found[stage, 0] for stage in stages),
        "stem_width": len(state["net.0.weight"]),
        "num_classes": len(state[f"net.{len(stages) + 5}.weight"]),
    }


def _read_vgg(state: Mapping[str, Tensor]) -> dict[str, Any]:
    weights = {int(m[1]): state[m[0]] for name in state if (m := re.fullmatch(r"net\.(\d+)\.weight", name))}
    convs = [number for number, weight in sorted(weights.items()) if weight.dim() == 4]
    linear = [weight for _, weight in sorted(weights.items()) if weight.dim() == 2]
    layers: list[int | str] = []
    for before, number in zip([-3, *convs], convs, strict=False):
        layers += ["A"] * (number - before - 3) + [len(weights[number])]  # pooling takes a place of its own
    side = math.isqrt(linear[0].shape[1] // len(weights[convs[-1]]))
    return {
        "layers": tuple(layers),
        "map_side": None if side == 1 else side,
        "hidden": tuple(len(weight) for weight in linear[:-1]),
        "num_classes": len(linear[-1]),
    }
