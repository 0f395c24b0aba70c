"""The edit "fuse": every module that knows an exact simpler form of itself takes it, for inference."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from neuromix.core.config import Config
from neuromix.core.edits import register_edit, replace_modules
from neuromix.core.model import Model


@dataclass(frozen=True)
class FuseConfig(Config):
    """Config of the edit "fuse"."""

    # Make of a re-parameterised convolution its pointwise, depthwise and pointwise factors, which have a quarter of the
    # weights and keep integer ones, instead of one dense convolution.
    factored: bool = False


@register_edit("fuse", FuseConfig)
def fuse(model: Model, config: FuseConfig) -> Model:
    """Folds batch-norms and re-parameterised branches into single convolutions; same outputs in eval mode."""

    def simpler(module: nn.Module) -> nn.Module | None:
        factored = getattr(module, "factored", None)
        if config.factored and callable(factored):
            return nn.Sequential(*factored())
        fused = getattr(module, "fused", None)
        return fused() if callable(fused) else None

    replace_modules(model, simpler)
    return model.eval()
