"""The spiking networks of Transfer-for-DVS: a VGG and a pre-activation ResNet for event cameras (He et al., AAAI 2024).

The paper is about a way to train them, with still images beside events (`methods/transfer_dvs.py`); these are the nets
that it is shown on. Neurons are leaky and reset to 0, fire strictly above their threshold, and have a triangle as
surrogate derivative. Average poolings send multiples of 1/4.

Released weights hold a second classifier, of still images, and a coefficient for each time step. Both are of use in
training only: `from_reference` gives the net with its `static_branch`, and `load_checkpoint` the plain one.

Shapes: T spike time, B batch, C channels, H W feature map, K classes. Default values: N-Caltech101 and CEP-DVS.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from neuromix.core.config import Spec
from neuromix.core.edits import apply_edit
from neuromix.core.errors import CheckpointError
from neuromix.core.layout import Layout, Rule, drop, rename, transfer
from neuromix.core.model import Model, ModelConfig
from neuromix.core.reference import load_reference, reference
from neuromix.core.registry import Paper, register_model
from neuromix.layers.static_branch import EDIT
from neuromix.models.vision.cnn import CNNConfig
from neuromix.models.vision.resnet import ResNet, ResNetConfig
from neuromix.models.vision.vgg import VGG, Layer, VGGConfig

NEURON = Spec("lif", {"tau": 2.0, "v_threshold": 0.5, "compare": ">", "surrogate": "quadratic_gate"})
PAPER = Paper(
    "An Efficient Knowledge Transfer Strategy for Spiking Neural Networks from Static to Event Domain",
    2024,
    "AAAI",
)
WITH_BRANCH = "authors, with the static branch"
TASKS = ("event-classification", "image-classification")


@dataclass(frozen=True)
class TransferVGGConfig(VGGConfig):
    """Config of TransferVGG."""

    activation: Spec = NEURON
    layers: tuple[Layer, ...] = (64, 128, "A", 256, 256, "A", 512, 512, "A", 512, 512, "A")
    map_side: int | None = 3  # the last map of 48x48 pixels
    time_steps: int = 10
    in_channels: int = 2  # events of either polarity
    num_classes: int = 101


@dataclass(frozen=True)
class TransferResNetConfig(ResNetConfig):
    """Config of TransferResNet."""

    activation: Spec = NEURON
    order: Literal["post", "pre"] = "pre"
    shortcut: Literal["input", "activated", "own"] = "own"
    tail: Literal["none", "norm", "activation"] = "norm"
    time_steps: int = 6
    in_channels: int = 2
    num_classes: int = 20


# Figures of the nets as they are deployed; the paper's own counts hold the classifier of images and the coefficients.
@register_model(
    "transfer_vgg",
    paper=PAPER,
    tasks=TASKS,
    family="spiking",
    provenance="authors' code",
    variants={
        "transfer_vgg_ncaltech101": {},
        # Ours, for 16x16 pixels.
        "transfer_vgg_nano": {
            "layers": (32, "A", 64, "A", 128, "A"),
            "map_side": 2,
            "time_steps": 4,
            "num_classes": 10,
        },
    },
    tiny={"layers": (4, "A", 8, 8, "A"), "map_side": 2, "time_steps": 3, "num_classes": 3},
    published={
        "transfer_vgg_ncaltech101": {
            "parameters": 9_688_165,
            "scope": "trainable",
            "parameters_in_training": 10_153_684,
            "top1": 92.64,
        },
    },
)
class TransferVGG(VGG):
    """Spiking VGG for frames of events, without biases before its norms.

    A frame a step [T, B, C, H, W], or one image [B, C, H, W] for all, to logits [B, K].
    """

    Config: ClassVar[type[ModelConfig]] = TransferVGGConfig

    @classmethod
    def task_values(cls, config: TransferVGGConfig) -> Mapping[str, Any]:
        return _frames(config)

    @classmethod
    def layouts(cls, config: TransferVGGConfig) -> Mapping[str, Layout]:
        # The authors count units and poolings in one row.
        rules = [drop("feature.{i}.node.*")]
        for place in config.places:
            theirs = f"feature.{place.layer}"
            rules += [rename(f"{theirs}.{part}.*", f"{place.conv}.{part}.*") for part in ("conv", "bn")]
        return _layouts(rules, ".1")


@register_model(
    "transfer_resnet",
    paper=PAPER,
    tasks=TASKS,
    family="spiking",
    provenance="authors' code",
    variants={
        "transfer_resnet18_cep_dvs": {},
        # Ours, for 16x16 pixels.
        "transfer_resnet_nano": {
            "blocks": (1, 1, 1),
            "widths": (32, 64, 128),
            "time_steps": 4,
            "num_classes": 10,
        },
    },
    tiny={"blocks": (1, 2, 1), "widths": (4, 8, 16), "time_steps": 3, "num_classes": 3},
    published={
        "transfer_resnet18_cep_dvs": {
            "parameters": 11_177_620,
            "scope": "trainable",
            "parameters_in_training": 11_187_886,
        },
    },
)
class TransferResNet(ResNet):
    """Spiking pre-activation ResNet for frames of events; no neuron stands between its last norm and the pooling.

    A frame a step [T, B, C, H, W], or one image [B, C, H, W] for all, to logits [B, K].
    """

    Config: ClassVar[type[ModelConfig]] = TransferResNetConfig
    aligned_at: ClassVar[str] = (
        "head.classify"  # the features that the method compares are what this layer is given
    )

    @classmethod
    def layouts(cls, config: TransferResNetConfig) -> Mapping[str, Layout]:
        rules = [rename("conv1.*", "stem.stem.0.*"), rename("bn1.*", "tail.module.*")]
        for stage in range(len(config.blocks)):
            theirs, ours = f"layer{stage + 1}.{{i}}", f"stages.{stage}.{{i}}.residual"
            rules += [
                drop(f"{theirs}.node1.*"),
                drop(f"{theirs}.node2.*"),
                drop(f"{theirs}.downsample.1.*"),
                rename(f"{theirs}.bn1.*", f"{ours}.norm.norm.*"),
                rename(f"{theirs}.conv1.*", f"{ours}.branch.0.conv.conv.*"),
                rename(f"{theirs}.bn2.*", f"{ours}.branch.0.conv.bn.*"),
                rename(f"{theirs}.conv2.*", f"{ours}.branch.1.conv.*"),
                rename(f"{theirs}.downsample.0.*", f"{ours}.skip.0.norm.*"),
                rename(f"{theirs}.downsample.2.*", f"{ours}.skip.1.module.*"),
            ]
        return _layouts(rules, "")


def _frames(config: CNNConfig) -> Mapping[str, Any]:
    """Recordings come in as many frames as the net has time steps."""
    return {"representation": ["count", {"frames": config.time_steps}]}


def _layouts(trunk: list[Rule], place: str) -> Mapping[str, Layout]:
    """As the authors release them: for the plain net, and for one with its static branch."""
    event = rename(f"dvs_fc{place}.*", "head.classify.*")
    static = (f"rgb_fc{place}.*", "coefficient.{t}")
    ours = (f"{EDIT}.classify.*", f"{EDIT}.coefficient.{{t}}")
    return {
        "authors": Layout(*trunk, event, *map(drop, static)),
        WITH_BRANCH: Layout(*trunk, event, *map(rename, static, ours)),
    }


@reference("transfer-for-dvs")
def read_authors(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> nn.Module:
    """Constructor values of the authors; which net it is, and its widths, the names and shapes of the weights tell."""
    steps = sum(name.startswith("coefficient.") for name in state)
    common = {"activation": _read_neuron(config, state), "time_steps": config.get("T", steps or 10)}
    if any(name.startswith("feature.") for name in state):
        model = load_reference("transfer_vgg", TransferVGGConfig(**common, **_read_vgg(state)), state)
    else:
        model = load_reference(
            "transfer_resnet", TransferResNetConfig(**common, **_read_resnet(state)), state
        )
    assert isinstance(model, Model)
    if steps:
        model = apply_edit(model, Spec(EDIT, {"time_steps": steps}))
        transfer(model, model.layouts(model.config)[WITH_BRANCH].to_ours(state))
    return model


def _read_neuron(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> Spec:
    """The constructor values first, then the constants that the neurons carry along."""

    def constant(ending: str, default: float) -> float:
        return next((float(value) for name, value in state.items() if name.endswith(ending)), default)

    return NEURON.with_options(
        tau=config.get("tau", 2.0),
        v_threshold=config.get("threshold", constant(".threshold", 0.5)),
        surrogate=["quadratic_gate", {"alpha": constant(".act_fun.alpha", 2.0)}],
    )


def _read_vgg(state: Mapping[str, Tensor]) -> dict[str, Any]:
    found = {
        int(match[1]): len(weight)
        for name, weight in state.items()
        if (match := re.fullmatch(r"feature\.(\d+)\.conv\.weight", name))
    }
    # What is left out in the row of numbers is a pooling, and the last one stands behind it.
    layers = [found.get(number, "A") for number in range(max(found, default=-1) + 2)]
    first, classify = state.get("feature.0.conv.weight"), state.get("dvs_fc.1.weight")
    if first is None or classify is None:
        raise CheckpointError(
            "these are no weights of a Transfer_VGG_SNN: feature.0.conv or dvs_fc.1 is missing"
        )
    return {
        "layers": layers,
        "map_side": math.isqrt(classify.shape[1] // found[max(found)]),
        "in_channels": first.shape[1],
        "num_classes": len(classify),
    }


def _read_resnet(state: Mapping[str, Tensor]) -> dict[str, Any]:
    found = {
        (int(match[1]), int(match[2])): len(weight)
        for name, weight in state.items()
        if (match := re.fullmatch(r"layer(\d+)\.(\d+)\.conv1\.weight", name))
    }
    first, classify = state.get("conv1.weight"), state.get("dvs_fc.weight")
    if first is None or classify is None or not found:
        raise CheckpointError(
            "these are no weights of Transfer-for-DVS: neither feature.* nor conv1 and dvs_fc"
        )
    stages = sorted({stage for stage, _ in found})
    return {
        "blocks": [sum(stage == number for stage, _ in found) for number in stages],
        "widths": [found[stage, 0] for stage in stages],
        "stem_width": len(first),
        "in_channels": first.shape[1],
        "num_classes": len(classify),
    }
