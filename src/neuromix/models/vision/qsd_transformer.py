"""QSD-Transformer: Meta-SpikeFormer with weights of 4 bits and neurons that send integers (Qiu et al., ICLR 2025).

Binary spikes behind weights of few bits carry little information, so each neuron sends one of five levels in training;
what runs is the same net with each level as four binary spikes (the edit "binary_steps"). Weights learn their
rounding steps (`layers.lsq`), those of the image convolution and of the classifier too. A float teacher may guide
queries, keys and values: the method "fgd".

Paper and released code differ: the paper's neuron leaks, the code's has no state. This follows the code.

Shapes: as in `meta_spikeformer`. Default values: the published 15M model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from neuromix.core.config import Spec
from neuromix.core.layout import Layout, drop
from neuromix.core.reference import load_reference, reference
from neuromix.core.registry import Paper, register_model
from neuromix.layers.lsq import quantise_layers
from neuromix.models.vision.meta_spikeformer import (
    MetaSpikeFormer,
    MetaSpikeFormerConfig,
    authors_rules,
)


def attention_spec(levels: int = 4, **options: Any) -> Spec:
    """The authors' attention: its own neuron counts in halves where the others count in `levels` parts of 1."""
    return Spec(
        "sdsa",
        {"scale": 0.25, **options, "attention_neuron": ["ie_lif", {"levels": levels, "height": levels / 2}]},
    )


@dataclass(frozen=True)
class QSDTransformerConfig(MetaSpikeFormerConfig):
    """Config of QSDTransformer."""

    RELEASED: ClassVar[Mapping[str, Any]] = {"activation_stubs": True}

    mixer: Spec = attention_spec()
    neuron: Spec = Spec("ie_lif", {"levels": 4})
    layer_scale: float | None = 1e-6
    time_steps: int = 1
    weight_bits: int | None = 4  # 2 to 8; None: float weights
    activation_stubs: bool = False  # keep the unused quantisers of activations that the release has

    def validate(self) -> None:
        super().validate()
        bits = self.weight_bits
        self.require(bits is None or 2 <= bits <= 8, f"weight_bits must be 2 to 8 or null, got {bits}")


def _published(parameters: int, size: float | None = None, **figures: float) -> dict[str, Any]:
    """Parameters with the unused quantisers; size in millions of 32-bit numbers."""
    given = {} if size is None else {"size_m": size}
    return {"parameters": parameters, "scope": "all", **given, **figures}


RELEASED: Mapping[str, Any] = QSDTransformerConfig.RELEASED


@register_model(
    "qsd_transformer",
    paper=Paper("Quantized Spike-driven Transformer", 2025, "ICLR"),
    tasks=("image-classification", "event-classification"),
    family="spiking",
    provenance="authors' code",
    variants={
        "qsd_transformer_8m": {**RELEASED, "dims": (48, 96, 192, 256)},
        "qsd_transformer_15m": {**RELEASED},
        "qsd_transformer_31m": {**RELEASED, "dims": (96, 192, 384, 480)},
        "qsd_transformer_55m": {**RELEASED, "dims": (128, 256, 512, 640)},
        "qsd_transformer_75m": {**RELEASED, "dims": (128, 256, 512, 640), "depths": (9, 3)},
        "qsd_transformer_124m": {**RELEASED, "dims": (192, 384, 768, 960)},
        "qsd_transformer_nano": {
            "dims": (16, 32, 48, 64),
            "conv_depths": (1, 1, 1),
            "depths": (1, 1),
            "strides": (1, 1, 2, 2, 1),
            "stem_kernel": 3,
            "mixer.heads": 4,
            # The published 1e-6 would keep the transformer blocks at the identity in a training of minutes.
            "layer_scale": 0.1,
            "in_channels": 1,
            "num_classes": 10,
        },
    },
    tiny={
        "dims": (4, 4, 8, 8),
        "conv_depths": (1, 1, 1),
        "depths": (1, 1),
        "strides": (1, 2, 2, 1, 1),
        "stem_kernel": 3,
        "mlp_ratio": 2,
        "mixer.heads": 2,
        "layer_scale": 0.5,
        "time_steps": 2,
        "num_classes": 3,
    },
    published={
        "qsd_transformer_8m": _published(8_432_142),
        "qsd_transformer_15m": _published(15_245_862, 1.8),
        "qsd_transformer_31m": _published(31_527_302, 3.9),
        "qsd_transformer_55m": _published(55_607_830, 6.8, top1_t1=80.3, mj_t1=8.7),
    },
)
class QSDTransformer(MetaSpikeFormer):
    """A MetaSpikeFormer whose convolutions and linear layers all have weights of `weight_bits` bits."""

    Config = QSDTransformerConfig

    def __init__(self, config: QSDTransformerConfig) -> None:
        super().__init__(config)
        if config.weight_bits is not None:
            quantise_layers(self, config.weight_bits, stubs=config.activation_stubs)

    def parameter_rules(self) -> dict[str, dict[str, float]]:
        """Steps are far smaller than weights, and Adam moves every parameter by about the rate."""
        return {"*.alpha": {"lr_scale": 0.1}}

    @classmethod
    def layouts(cls, config: QSDTransformerConfig) -> Mapping[str, Layout]:  # type: ignore[override]
        unused = ["alpha", "zero_point"] if not config.activation_stubs else []
        drops = [
            drop(f"*.{name}") for name in ("init_state", "act.signed", *(f"act.{name}" for name in unused))
        ]
        return {"authors": Layout(*drops, *authors_rules(config))}


@reference("qsd-transformer")
def read_authors(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> nn.Module:
    """Constructor values of the authors' class, and the constants of its neurons and quantisers."""
    depth, levels, bits = config.get("depths", 8), config.get("spike_levels", 4), config.get("bits_w", 4)
    attention = attention_spec(levels, heads=config.get("num_heads", 8), scale=config.get("attn_scale", 0.25))
    ours = QSDTransformerConfig.released(
        {
            "dims": config.get("embed_dim", (64, 128, 256, 360)),
            "depths": config.get("depths_stage3_stage4", (int(0.75 * depth), int(0.25 * depth))),
            "mlp_ratio": int(config.get("mlp_ratio", 4)),
            "mixer": attention,
            "neuron": Spec("ie_lif", {"levels": levels}),
            "time_steps": config.get("T", 1),
            "in_channels": config.get("in_channels", 3),
            "num_classes": config.get("num_classes", 1000),
            "weight_bits": bits if bits > 0 else None,
            "activation_stubs": "head.act.alpha" in state,
        }
    )
    return load_reference("qsd_transformer", ours, state)
