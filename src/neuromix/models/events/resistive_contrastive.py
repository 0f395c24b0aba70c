"""Zero-shot retrieval between two kinds of events (Lin et al., Nature Computational Science, 2025).

Two random liquids (`resistive_lsm.py`) and a trained projection of each into one space, in which an image and a sound
of the same class come near. Classes that were held out can then be retrieved as well.

Shapes: T spike time, B batch, H neurons, P axes of the shared space.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuromix.core import registry
from neuromix.core.batch import Batch
from neuromix.core.config import Spec
from neuromix.core.errors import ConfigError
from neuromix.core.layout import Layout, rename
from neuromix.core.model import Field, Model, ModelConfig
from neuromix.core.reference import load_reference, reference
from neuromix.core.registry import register_model
from neuromix.layers.activation import make_activation
from neuromix.layers.contrastive import Embeddings
from neuromix.models.events.liquid import Liquid
from neuromix.models.events.resistive_lsm import (
    LSM,
    PAPER,
    TIDIGITS,
    ResistiveAudioLSMConfig,
    published,
    rates,
)


class Projections(nn.Module):
    """Rates of two liquids, [B, H] each, into one space: `layers` times linear and activation, then length 1."""

    def __init__(self, widths: tuple[int, int], config: ContrastiveConfig) -> None:
        super().__init__()
        self.first, self.second = (_projection(width, config) for width in widths)
        self.temperature = config.temperature

    def forward(self, first_BH: Tensor, second_BH: Tensor) -> Embeddings:
        first_BP, second_BP = F.normalize(self.first(first_BH)), F.normalize(self.second(second_BH))
        return Embeddings(first_BP, second_BP, self.temperature)


def _projection(width: int, config: ContrastiveConfig) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(config.layers):
        layers += [nn.Linear(width, config.projection), make_activation(config.activation)]
        width = config.projection
    return nn.Sequential(*layers)


@dataclass(frozen=True)
class ContrastiveConfig(ModelConfig):
    """Config of ResistiveContrastive."""

    first: Spec = Spec("resistive_lsm", {"num_classes": 0})  # a liquid state machine
    second: Spec = Spec("resistive_audio_lsm", {"num_classes": 0, **TIDIGITS})
    layers: int = 1  # of each projection: OneFC, TwoFC, ThreeFC
    projection: int = 64  # P
    activation: Spec = Spec("gelu")
    temperature: float = 1.0  # > 0
    head_lr: float = 1.0  # rate of the projections as a share of the run's, > 0

    def validate(self) -> None:
        self.require_positive("layers", "projection", "temperature", "head_lr")


def _pair(first: Mapping[str, Any], second: Mapping[str, Any], **rest: Any) -> dict[str, Any]:
    kinds = ("resistive_audio_lsm" if "field" in first else "resistive_lsm", "resistive_audio_lsm")
    specs = [[kind, {"num_classes": 0, **own}] for kind, own in zip(kinds, (first, second), strict=True)]
    return {"first": specs[0], "second": specs[1], **rest}


_BCI = {"liquid": {"hidden": 2048, "decay": 0.95, "v_threshold": 0.1, "const": 5e-4}}
_NANO = {"input_size": [16, 16], "time_steps": 40, "channel": None, "liquid.hidden": 400}
_TINY_LIQUID = {"liquid": {"hidden": 12, "v_threshold": 2.0}, "time_steps": 3}


@register_model(
    "resistive_contrastive",
    paper=PAPER,
    tasks=("cross-modal-retrieval",),
    family="spiking",
    provenance="reconstructed",
    methods=("lsm",),
    variants={
        "resistive_contrastive_av": _pair({"liquid.const": 0.3}, {**TIDIGITS, "liquid.const": 0.1}),
        "resistive_contrastive_bci": _pair(
            {**_BCI, "field": "neural", "in_channels": 192, "time_steps": 201},
            {**_BCI, "field": "letters", "in_channels": 784, "time_steps": 49},
            projection=256,
            temperature=0.5,
        ),
        # Ours, for small sensors and pictures that are heard; firing rates of 3 percent.
        "resistive_contrastive_nano": _pair(
            {**_NANO, "liquid.const": 0.0264},
            {**TIDIGITS, "in_channels": 32, "time_steps": 40, "liquid.hidden": 400, "liquid.const": 0.0615},
            temperature=0.1,
            head_lr=2.0,
        ),
    },
    tiny=_pair(
        {**_TINY_LIQUID, "input_size": [4, 4]}, {**_TINY_LIQUID, "in_channels": 5}, projection=6, layers=2
    ),
    published={
        "resistive_contrastive_av": published(25_728, seen=66.1, unseen=88.0),
        "resistive_contrastive_bci": published(1_049_088, seen=52.3, unseen=70.8),
    },
)
class ResistiveContrastive(Model):
    """Two liquids and a projection of each: two kinds of events, to their places in one space.

    It takes the inputs of its parts, samples first: [B, T, ...], or [B, ...] for one step. It cannot be stepped: the
    two sequences have unlike lengths.
    """

    Config: ClassVar[type[ModelConfig]] = ContrastiveConfig

    def __init__(self, config: ContrastiveConfig) -> None:
        super().__init__(config)
        self.first, self.second = _part("first", config.first), _part("second", config.second)
        self.inputs = (*self.first.inputs, *self.second.inputs)  # type: ignore[misc]
        if self.inputs[0].name == self.inputs[1].name:
            raise ConfigError(f"both parts read {self.inputs[0].name!r}; give one of them another field")
        widths = (self.first.config.liquid.hidden, self.second.config.liquid.hidden)
        self.head = Projections(widths, config)

    def encoders(self, *inputs: Tensor) -> dict[str, tuple[Liquid, Tensor]]:
        """Each liquid with what it is shown, x_TBN, under the prefix that its Config has in the model's."""
        shown = zip(("first", "second"), (self.first, self.second), inputs, strict=True)
        return {
            f"{name}.": (part.liquid, part.encode(_time_first(x, part.inputs[0]))) for name, part, x in shown
        }

    def features(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Firing rates of both liquids, [B, H] each."""
        first_BH, second_BH = (rates(liquid, x_TBN) for liquid, x_TBN in self.encoders(*inputs).values())
        return first_BH, second_BH

    def from_features(self, first_BH: Tensor, second_BH: Tensor) -> Embeddings:
        """Where firing rates of both liquids lie in the shared space."""
        embeddings: Embeddings = self.head(first_BH, second_BH)
        return embeddings

    def forward(self, *inputs: Tensor) -> Embeddings:
        return self.from_features(*self.features(*inputs))

    def parameter_rules(self) -> dict[str, dict[str, float]]:
        return {"head.*": {"lr_scale": self.config.head_lr, "weight_decay": 0.0}}

    @classmethod
    def task_values(cls, config: Any) -> Mapping[str, Any]:
        """What the parts ask for, the second one's under its own name."""
        first, second = (_config(spec) for spec in (config.first, config.second))
        return {
            "representation": ["time", {"frames": first.time_steps, "most": 1}],
            "steps": second.time_steps,
        }

    def example(self, batch_size: int, generator: torch.Generator | None = None) -> Batch:
        parts = (self.first.example(batch_size, generator), self.second.example(batch_size, generator))
        return Batch({name: x for part in parts for name, x in part.items()})

    @classmethod
    def layouts(cls, config: Any) -> Mapping[str, Layout]:
        rules = []
        for theirs, ours in (("vis", "first"), ("aud", "second")):
            rules += [
                rename(f"{theirs}.in.*", f"{ours}.liquid.input.stem.*"),
                rename(f"{theirs}.rec.*", f"{ours}.liquid.cell.recurrent.*"),
                rename(f"{theirs}_proj.*", f"head.{ours}.0.*"),
            ]
        return {"recorded": Layout(*rules, rename("readout.*", "first.head.*"))} if config.layers == 1 else {}


def _part(name: str, spec: Spec) -> LSM:
    part = registry.build("model", spec)
    if not isinstance(part, LSM):
        raise ConfigError(f"{name} must be a liquid state machine such as resistive_lsm, got {spec.name}")
    return part


def _config(spec: Spec) -> Any:
    return registry.find("model", spec.name)[1].replace(**spec.options)


def _time_first(x: Tensor, named: Field) -> Tensor:
    return x.transpose(0, 1) if x.dim() == len(named.axes) + 1 else x


@reference("resistive-lsm")
def read_authors(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> nn.Module:
    """Constructor values of the paper's scripts; sizes are those of the weights.

    Both encoders read sequences of channels, as fields `vis` and `aud`; the read-out is the first one's classifier. The
    names of the sibling code, `fc1`, `fc1h` and `fc2`, make one encoder with its read-out.
    """
    if "fc1.weight" in state:
        single = _encoder("audio", config, config, state, "fc1", "fc2")
        alone = ResistiveAudioLSMConfig.from_dict(single.options)
        return load_reference("resistive_audio_lsm", alone, state)
    visual = _encoder("vis", config.get("visual", {}), config, state, "vis.in", "readout")
    audio = _encoder("aud", {**_AUDIO, **config.get("audio", {})}, config, state, "aud.in", "")
    values = ContrastiveConfig(
        first=visual,
        second=audio,
        projection=len(state["vis_proj.weight"]),
        temperature=float(config.get("temperature", 1.0)),
    )
    return load_reference("resistive_contrastive", values, state)


_AUDIO = {"decay": 0.97, "vth": 5.3}  # where the paper's sound encoder differs


def _encoder(
    field: str,
    own: Mapping[str, Any],
    config: Mapping[str, Any],
    state: Mapping[str, Tensor],
    layer: str,
    readout: str,
) -> Spec:
    hidden, inputs = state[f"{layer}.weight"].shape
    given = {"decay": "decay", "vth": "v_threshold", "const": "const"}
    liquid = {ours: float(own[theirs]) for theirs, ours in given.items() if theirs in own}
    liquid |= {"hidden": hidden, "bias": f"{layer}.bias" in state, "lens": float(config.get("lens", 0.25))}
    classes = len(state[f"{readout}.weight"]) if f"{readout}.weight" in state else 0
    options = {"field": field, "in_channels": inputs, "num_classes": classes, "liquid": liquid}
    return Spec("resistive_audio_lsm", options | ({"time_steps": int(own["T"])} if "T" in own else {}))
