"""The spiking VGG and ResNet of IIR-SNN, for few time steps down to one (Chowdhury, Rathi & Roy, ECCV 2022).

Each layer has one threshold and one leak, both learnt, and no norms: those of the analog net that it is made from are
folded into its convolutions (`methods/iir.py`). The image is shown at each step, and the output is what the last layer
has added up. Classifiers have no biases.

Shapes: T spike time, B batch, C channels, H W feature map, K classes. Default values: the paper's CIFAR-10 nets.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from neuromix.core.config import Spec
from neuromix.core.errors import ConfigError
from neuromix.core.layout import Layout, Rule, rename
from neuromix.core.model import ModelConfig
from neuromix.core.reference import load_reference, reference
from neuromix.core.registry import Paper, register_model
from neuromix.models.vision.cnn import Pool
from neuromix.models.vision.resnet import ResNet, ResNetConfig
from neuromix.models.vision.vgg import VGG, Layer, VGGConfig
from neuromix.neurons.lif import LIF

# m = leak * m + x; fires where m / threshold - 1 > 0; m = m - threshold * spike.
NEURON = Spec(
    "lif",
    {
        "decay": 1.0,
        "v_threshold": 0.4,
        "decay_input": False,
        "v_reset": None,
        "compare": ">",
        "surrogate": ["triangle", {"scale": 0.3}],
        "surrogate_input": "ratio",
        "learnable": ["v_threshold", "decay"],
    },
)
PAPER = Paper(
    "Towards Ultra Low Latency Spiking Neural Networks for Vision and Sequential Tasks Using Temporal Pruning",
    2022,
    "ECCV",
    "https://arxiv.org/abs/2110.05929",
)
VGG5: tuple[Layer, ...] = (64, "A", 128, 128, "A")
VGG11: tuple[Layer, ...] = (64, "A", 128, 256, "A", 512, 512, "A", 512, "A", 512, 512)
VGG16: tuple[Layer, ...] = (64, 64, "A", 128, 128, "A", 256, 256, 256, "A", 512, 512, 512, "A", 512, 512, 512)


@dataclass(frozen=True)
class IIRVGGConfig(VGGConfig):
    """Config of IIRVGG."""

    activation: Spec = NEURON
    norm: Any = "none"
    bias: bool = True
    layers: tuple[Layer, ...] = VGG16
    map_side: int | None = 2
    hidden: tuple[int, ...] = (4096, 4096)
    hidden_bias: bool = False
    head_bias: bool = False
    dropout: float = 0.2
    dropout_before_pool: bool = False
    time_steps: int = 5


@dataclass(frozen=True)
class IIRResNetConfig(ResNetConfig):
    """Config of IIRResNet."""

    activation: Spec = NEURON
    norm: Any = "none"
    bias: bool = True
    stem_bias: bool = True
    stem_convs: int = 3
    stem_pool: Pool | None = "avg"
    stem_pool_kernel: int = 2
    map_side: int | None = 2
    head_bias: bool = False
    dropout: float = 0.2
    time_steps: int = 5


def limit_coefficients(model: nn.Module) -> None:
    """Upkeep of learnt neurons: leaks of at most 1, thresholds above 0, where a spike would change its meaning."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, LIF):
                if isinstance(module.decay, nn.Parameter) and module.config.decay_form == "itself":
                    module.decay.clamp_(max=1.0)
                if isinstance(module.v_threshold, nn.Parameter):
                    module.v_threshold.clamp_(min=1e-3)


class _SumOfSteps:
    """What both nets do after a step of the optimiser, and with their steps."""

    def readout(self, y: Any) -> Any:
        """The membrane of the last layer, which adds up: [T, B, K] to [B, K]."""
        return y if isinstance(y, list) else y.sum(0)

    def after_step(self) -> None:
        super().after_step()  # type: ignore[misc]
        limit_coefficients(self)  # type: ignore[arg-type]


def _published(parameters: int, **figures: float) -> dict[str, Any]:
    return {"parameters": parameters, "scope": "trainable", **figures}


@register_model(
    "iir_vgg",
    paper=PAPER,
    tasks=("image-classification", "event-classification"),
    family="spiking",
    provenance="authors' code",
    variants={
        "iir_vgg16": {},
        "iir_vgg16_cifar100": {"num_classes": 100},
        "iir_vgg11": {"layers": VGG11},
        "iir_vgg11_cifar100": {"layers": VGG11, "num_classes": 100},
        "iir_vgg5": {"layers": VGG5, "map_side": 8},
        "iir_vgg5_cifar100": {"layers": VGG5, "map_side": 8, "num_classes": 100},
        # Ours, for images of 8x8.
        "iir_vgg_nano": {
            "layers": (16, 16, "A", 32, 32, "A"),
            "hidden": (64,),
            "dropout": 0.1,
            "in_channels": 1,
        },
    },
    tiny={"layers": (4, 4, "A", 8, "A"), "hidden": (6,), "time_steps": 3, "num_classes": 3},
    published={
        "iir_vgg16": _published(39_921_502, top1=93.05),
        "iir_vgg16_cifar100": _published(40_290_142, top1=70.15),
        "iir_vgg11": _published(36_197_012),
        "iir_vgg11_cifar100": _published(36_565_652),
        "iir_vgg5": _published(50_595_850),
        "iir_vgg5_cifar100": _published(50_964_490),
    },
)
class IIRVGG(_SumOfSteps, VGG):
    """Spiking VGG without norms: image [B, C, H, W], or a frame a step [T, B, C, H, W], to logits [B, K]."""

    Config: ClassVar[type[ModelConfig]] = IIRVGGConfig

    @classmethod
    def layouts(cls, config: IIRVGGConfig) -> Mapping[str, Layout]:
        rules: list[Rule] = []
        for place in config.places:
            number = 3 * place.number  # convolution, neuron, and dropout or pooling
            rules += _layer_rules(f"features.{number}", number, place.conv, f"{place.path}.activate")
        convs = len(config.places)
        for i in range(len(config.hidden)):
            ours = f"head.hidden.{i}"
            rules += _layer_rules(f"classifier.{3 * i}", 3 * (convs + i), f"{ours}.0", f"{ours}.1")
        rules.append(rename(f"classifier.{3 * len(config.hidden)}.*", "head.classify.*"))
        return _with_prefix(rules)


@register_model(
    "iir_resnet",
    paper=PAPER,
    tasks=("image-classification", "event-classification"),
    family="spiking",
    provenance="authors' code",
    variants={
        "iir_resnet20": {},
        "iir_resnet20_cifar100": {"num_classes": 100},
    },
    tiny={"blocks": (1, 1), "widths": (4, 8), "time_steps": 3, "num_classes": 3},
    published={
        "iir_resnet20": _published(11_258_406, top1=91.10),
        "iir_resnet20_cifar100": _published(11_442_726, top1=63.30),
    },
)
class IIRResNet(_SumOfSteps, ResNet):
    """Spiking ResNet without norms: image [B, C, H, W], or a frame a step [T, B, C, H, W], to logits [B, K].

    The skip connection is added to the input of a block's second neuron.
    """

    Config: ClassVar[type[ModelConfig]] = IIRResNetConfig

    @classmethod
    def layouts(cls, config: IIRResNetConfig) -> Mapping[str, Layout]:
        rules: list[Rule] = []
        for number in range(config.stem_convs):
            conv = f"stem.{number}.conv.stem" if number == 0 else f"stem.{number}.conv"
            rules += _layer_rules(f"pre_process.{3 * number}", 3 * number, conv, f"stem.{number}.activate")
        layer = 3 * config.stem_convs
        for stage, count in enumerate(config.blocks):
            for block in range(count):
                theirs, ours = f"layer{stage + 1}.{block}", f"stages.{stage}.{block}.residual"
                first = f"{ours}.branch.0"
                rules += _layer_rules(f"{theirs}.residual.0", layer, f"{first}.conv", f"{first}.activate")
                rules += _layer_rules(
                    f"{theirs}.residual.3", layer + 1, f"{ours}.branch.1.conv", f"{ours}.norm"
                )
                rules.append(rename(f"{theirs}.identity.0.*", f"{ours}.skip.module.*"))
                layer += 2
        rules.append(rename("classifier.0.*", "head.classify.*"))
        return _with_prefix(rules)


def _layer_rules(theirs: str, number: int, conv: str, activate: str) -> list[Rule]:
    return [
        rename(f"{theirs}.*", f"{conv}.*"),
        rename(f"threshold.t{number}", f"{activate}.activation.v_threshold"),
        rename(f"leak.l{number}", f"{activate}.activation.decay"),
    ]


def _with_prefix(rules: list[Rule]) -> dict[str, Layout]:
    """The authors' names as they are, and as data-parallel training wrote them."""
    prefixed = [rule._replace(theirs=f"module.{rule.theirs}") for rule in rules]
    return {"authors": Layout(*rules), "authors, data parallel": Layout(*prefixed)}


@reference("iir-snn")
def read_authors(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> nn.Module:
    """Constructor values of the authors' nets; which net it is, and its sizes, the weights tell."""
    state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    gamma = float(config.get("surrogate_gamma", config.get("grad_scale", 0.3)))
    neuron = NEURON.with_options(surrogate=["triangle", {"scale": gamma}])
    common: dict[str, Any] = {
        "activation": neuron,
        "dropout": float(config.get("dropout", 0.2)),
        "time_steps": int(config.get("timesteps", config.get("T", 5))),
    }
    if "pre_process.0.weight" in state:
        return load_reference("iir_resnet", IIRResNetConfig(**common, **_read_resnet(config, state)), state)
    if "features.0.weight" not in state or "classifier.0.weight" not in state:
        raise ConfigError(
            "the weights have neither features nor pre_process: not a net of the IIR-SNN authors"
        )
    return load_reference("iir_vgg", IIRVGGConfig(**common, **_read_vgg(config, state)), state)


_BY_NAME: Mapping[str, tuple[Layer, ...]] = {"VGG5": VGG5, "VGG11": VGG11, "VGG16": VGG16}


def _read_vgg(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> dict[str, Any]:
    layers = config.get("cfg", config.get("vgg_name", "VGG16"))
    layers = _BY_NAME.get(layers, layers) if isinstance(layers, str) else tuple(layers)
    linear = [state[f"classifier.{i}.weight"] for i in range(0, 99, 3) if f"classifier.{i}.weight" in state]
    last = max(int(m[1]) for name in state if (m := re.fullmatch(r"features\.(\d+)\.weight", name)))
    width = len(state[f"features.{last}.weight"])
    return {
        "layers": layers,
        "bias": "features.0.bias" in state,
        "map_side": math.isqrt(linear[0].shape[1] // width),
        "hidden": tuple(len(weight) for weight in linear[:-1]),
        "in_channels": state["features.0.weight"].shape[1],
        "num_classes": len(linear[-1]),
    }


def _read_resnet(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> dict[str, Any]:
    found = sorted(
        {
            (int(m[1]), int(m[2]))
            for name in state
            if (m := re.match(r"layer(\d+)\.(\d+)\.residual\.0\.", name))
        }
    )
    stages = sorted({stage for stage, _ in found})
    widths = tuple(len(state[f"layer{stage}.0.residual.0.weight"]) for stage in stages)
    classify = state["classifier.0.weight"]
    return {
        "blocks": tuple(sum(stage == number for stage, _ in found) for number in stages),
        "widths": widths,
        "bias": "layer1.0.residual.0.bias" in state,
        "stem_bias": "pre_process.0.bias" in state,
        "stem_width": len(state["pre_process.0.weight"]),
        "stem_convs": sum(f"pre_process.{i}.weight" in state for i in range(0, 99, 3)),
        "map_side": math.isqrt(classify.shape[1] // widths[-1]),
        "in_channels": state["pre_process.0.weight"].shape[1],
        "num_classes": len(classify),
    }
