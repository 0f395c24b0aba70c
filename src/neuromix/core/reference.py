"""from_reference: builds a system, or a part of one, from its authors' constructor values and weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from neuromix.core import registry
from neuromix.core.checkpoint import build_model
from neuromix.core.config import Config
from neuromix.core.errors import UnknownNameError
from neuromix.core.layout import load_layout

# (constructor values of the authors, their weights) -> a module with these weights loaded.
Reader = Callable[[Mapping[str, Any], Mapping[str, Tensor]], nn.Module]

_readers: dict[str, dict[str, Reader]] = {}


def reference(slug: str, kind: str = "model") -> Callable[[Reader], Reader]:
    """Registers the reader of one form of a system: "model" is the whole of it, other kinds are parts."""

    def decorate(reader: Reader) -> Reader:
        _readers.setdefault(slug, {})[kind] = reader
        return reader

    return decorate


def from_reference(
    slug: str, config: Mapping[str, Any], state: Mapping[str, Tensor], kind: str = "model"
) -> nn.Module:
    """The system with the authors' constructor values `config` (their defaults where absent) and weights.

    The module has the widest floating dtype of the weights and is in eval mode.

    Raises:
        UnknownNameError: no reader for this slug or kind.
        CheckpointError: the weights do not fit.
    """
    registry.entries("model")  # importing the rooms registers the readers
    if slug not in _readers:
        raise UnknownNameError("system", slug, _readers)
    readers = _readers[slug]
    if kind not in readers:
        raise UnknownNameError(f"kind of {slug}", kind, readers)
    return readers[kind](config, state).eval()


def load_reference(name: str, config: Config, state: Mapping[str, Tensor]) -> nn.Module:
    """Builds the registered model `name` and loads released weights through its layouts, in their dtype."""
    model = build_model(name, config)
    floating = {tensor.dtype for tensor in state.values() if tensor.is_floating_point()}
    if floating:
        model.to(max(floating, key=lambda dtype: torch.finfo(dtype).bits))
    load_layout(model, model.layouts(model.config), state)
    return model
