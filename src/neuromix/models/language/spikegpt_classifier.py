"""Text classification by SpikeGPT: the mean of its features over the tokens, then a small network (Zhu et al., 2024).

Reconstructed from the paper, whose classifier was not released.

Shapes: B batch, L tokens, D width, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from neuromix.core.batch import Batch
from neuromix.core.model import Field, Model, ModelConfig
from neuromix.core.registry import register_model
from neuromix.layers.chance import Dropout
from neuromix.mixers.sequence import Tokens
from neuromix.models.language.spikegpt import PAPER, SpikeGPT, SpikeGPTConfig


@dataclass(frozen=True)
class SpikeGPTClassifierConfig(SpikeGPTConfig):
    """Config of SpikeGPTClassifier."""

    num_classes: int = 2
    hidden: int = 512  # units between features and classes
    head_dropout: float = 0.1  # in [0, 1), of these units

    def validate(self) -> None:
        super().validate()
        self.require_positive("num_classes", "hidden")
        self.require_within(0, 1, "head_dropout")


@register_model(
    "spikegpt_classifier",
    paper=PAPER,
    family="spiking",
    provenance="reconstructed",
    tiny={"dim": 16, "layers": 2, "vocab_size": 31, "hidden": 8, "num_classes": 3},
)
class SpikeGPTClassifier(Model):
    """ids [B, L] to logits [B, K]; `trunk` takes the weights of a trained SpikeGPT, its head apart.

    It cannot be stepped, as the mean is over all tokens.
    """

    Config: ClassVar[type[ModelConfig]] = SpikeGPTClassifierConfig
    inputs: ClassVar[tuple[Field, ...]] = (Field("ids", "BL"), Field("mask", "BL", optional=True))
    stream_axis = None

    def __init__(self, config: SpikeGPTClassifierConfig) -> None:
        super().__init__(config)
        self.trunk = SpikeGPT(config)
        del self.trunk.head, self.trunk.penalty
        self.head = nn.Sequential(
            nn.Linear(config.dim, config.hidden),
            nn.GELU(),
            Dropout(config.head_dropout),
            nn.Linear(config.hidden, config.num_classes),
        )

    def forward(self, ids_BL: Tensor, mask_BL: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """Logits [B, K] from the mean over the real tokens.

        Raises:
            ShapeError: ids or mask of another shape or dtype.
        """
        x_BLD = self.trunk.features(ids_BL, Tokens(mask_BL))
        if mask_BL is None:
            mean_BD = x_BLD.mean(1)
        else:
            count_B1 = mask_BL.sum(1, keepdim=True).clamp(min=1)
            mean_BD = x_BLD.masked_fill(~mask_BL[..., None], 0.0).sum(1) / count_B1
        logits_BK: Tensor = self.head(mean_BD)
        return logits_BK

    def example(self, batch_size: int, generator: torch.Generator | None = None) -> Batch:
        ids_BL = torch.randint(self.config.vocab_size, (batch_size, 12), generator=generator)
        label_B = torch.randint(self.config.num_classes, (batch_size,), generator=generator)
        return Batch({"ids": ids_BL, "label": label_B})
