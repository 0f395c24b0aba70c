"""A ResNet with activations of few bits, to be converted to a spiking one: the net of Dynamic Confidence (Li, Jones &
Furber, ICCV 2023).

It is trained as an analog net, and the edit "ann_to_snn" makes a spiking one of it, which shows an image
`time_steps` times; when to stop earlier, `methods.dynamic_confidence` decides sample by sample.

Shapes: T spike time, B batch, C channels, H W feature map, K classes. Default values: the released CIFAR-10 net.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, ClassVar

from torch import Tensor, nn

from neuromix.core.config import Spec
from neuromix.core.errors import ConfigError
from neuromix.core.layout import Layout, Rule, rename
from neuromix.core.model import ModelConfig
from neuromix.core.reference import load_reference, reference
from neuromix.core.registry import Paper, register_model
from neuromix.core.time import fold
from neuromix.layers.activation import make_activation
from neuromix.layers.quantised_relu import QuantisedReLU
from neuromix.models.vision.resnet import ResNet, ResNetConfig

# Where the scales start: of the stem, inside a block, behind its sum.
SCALES = {"stem.*": 0.6, "stages.*.branch.*": 0.3, "stages.*.norm.*": 0.4}


@dataclass(frozen=True)
class QuantisedResNetConfig(ResNetConfig):
    """Config of QuantisedResNet."""

    activation: Spec = Spec("quantised_relu")
    head_pool: int | None = 4
    last_activation: bool = True  # the analog net has one behind the classifier too
    time_steps: int = 27  # of the spiking net; the analog one has no time


@register_model(
    "quantised_resnet",
    paper=Paper(
        "Unleashing the Potential of Spiking Neural Networks by Dynamic Confidence",
        2023,
        "ICCV",
        "https://arxiv.org/abs/2303.10276",
    ),
    tasks=("image-classification",),
    family="quantised",
    provenance="authors' code",
    variants={
        "quantised_resnet18": {},
        # Ours, for images of 8x8.
        "quantised_resnet_nano": {
            "blocks": (1, 1, 1),
            "widths": (16, 32, 64),
            "in_channels": 1,
            "last_activation": False,
            "time_steps": 16,
        },
    },
    tiny={"blocks": (1, 1), "widths": (4, 8), "time_steps": 3, "num_classes": 3},
    published={"quantised_resnet18": {"parameters": 11_173_980, "scope": "trainable", "top1": 93.79}},
)
class QuantisedResNet(ResNet):
    """Quantised ResNet for small images: image [B, C, H, W] to logits [B, K]."""

    Config: ClassVar[type[ModelConfig]] = QuantisedResNetConfig

    def __init__(self, config: QuantisedResNetConfig) -> None:
        super().__init__(config)
        has_output = config.last_activation and self.head is not None
        self.output = make_activation(config.activation) if has_output else nn.Identity()
        if "scale" not in config.activation.options:
            _start_scales(self)

    def forward_steps(self, x_TBCHW: Tensor) -> Any:
        y = super().forward_steps(x_TBCHW)
        return y if self.head is None else fold(self.output, y)

    @classmethod
    def layouts(cls, config: QuantisedResNetConfig) -> Mapping[str, Layout]:
        rules: list[Rule] = [
            rename("conv1.*", "stem.0.conv.stem.conv.*"),
            rename("bn1.*", "stem.0.conv.stem.bn.*"),
            rename("activation1.scale", "stem.0.activate.activation.scale"),
            rename("fc.*", "head.classify.*"),
            rename("activation2.scale", "output.scale"),
        ]
        last = 2 if config.bottleneck else 1
        for stage in range(len(config.blocks)):
            theirs, ours = f"layer{stage + 1}.{{i}}", f"stages.{stage}.{{i}}.residual"
            rules += [
                rename(f"{theirs}.downsample.0.*", f"{ours}.skip.module.conv.*"),
                rename(f"{theirs}.downsample.1.*", f"{ours}.skip.module.bn.*"),
                rename(f"{theirs}.activation{last + 1}.scale", f"{ours}.norm.activation.scale"),
            ]
            for number in range(last + 1):
                unit = f"{ours}.branch.{number}"
                rules += [
                    rename(f"{theirs}.conv{number + 1}.*", f"{unit}.conv.conv.*"),
                    rename(f"{theirs}.bn{number + 1}.*", f"{unit}.conv.bn.*"),
                ]
                if number < last:
                    rules.append(
                        rename(f"{theirs}.activation{number + 1}.scale", f"{unit}.activate.activation.scale")
                    )
        return {"authors": Layout(*rules)}


def _start_scales(model: nn.Module) -> None:
    for path, module in model.named_modules():
        if isinstance(module, QuantisedReLU):
            scale = next((value for glob, value in SCALES.items() if fnmatchcase(path, glob)), None)
            if scale is not None:
                nn.init.constant_(module.scale, scale)


@reference("dynamic-confidence")
def read_authors(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> nn.Module:
    """Constructor values of the authors' quantised net; sizes default to those of the weights."""
    if "fc.weight" not in state or "conv1.weight" not in state:
        raise ConfigError("the weights have no conv1 and fc: not the net of the Dynamic Confidence authors")
    width = config.get("base_width") or len(state["conv1.weight"])
    blocks = config.get("blocks") or _count_blocks(state)
    read = QuantisedResNetConfig(
        activation=Spec("quantised_relu", {"bits": config.get("activation_bits", 2)}),
        blocks=tuple(blocks),
        widths=tuple(width * 2**stage for stage in range(len(blocks))),
        in_channels=config.get("in_channels", state["conv1.weight"].shape[1]),
        num_classes=config.get("num_classes", len(state["fc.weight"])),
        last_activation="activation2.scale" in state,
        time_steps=config.get("T", 27),
    )
    return load_reference("quantised_resnet", read, state)


def _count_blocks(state: Mapping[str, Tensor]) -> list[int]:
    found = {tuple(map(int, m.groups())) for name in state if (m := re.match(r"layer(\d+)\.(\d+)\.", name))}
    return [sum(stage == number for stage, _ in found) for number in sorted({stage for stage, _ in found})]
