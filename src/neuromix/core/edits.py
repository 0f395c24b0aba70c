"""Edits: structural changes of a model - fused, pruned, quantised, grown - that a checkpoint can replay.

An edit is a registered function `edit(model, config) -> Model` that leaves its argument as it was. The list of
edits that were applied is part of the model, so a checkpoint is Config + edits + tensors.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TypeVar

from torch import nn

from neuromix.core import registry
from neuromix.core.config import Config, Spec
from neuromix.core.model import Model

C = TypeVar("C", bound=Config)
Edit = Callable[[Model, C], Model]


def register_edit(name: str, config: type[C]) -> Callable[[Edit[C]], Edit[C]]:
    """Registers `edit(model, config) -> Model`; it is given a copy that it may change and return."""

    def decorate(edit: Edit[C]) -> Edit[C]:
        def build(options: C, model: Model) -> Model:
            edited = edit(copy.deepcopy(model), options)
            edited.edits = (*model.edits, Spec(name, options.to_dict()))
            return edited

        build.__qualname__, build.__module__ = edit.__qualname__, edit.__module__
        registry.register("edit", name, config=config)(build)
        return edit

    return decorate


def apply_edit(model: Model, spec: Spec | str) -> Model:
    """The model with one more edit; the given one is left as it was.

    Raises:
        UnknownNameError, ConfigError: no such edit, or options that do not fit.
    """
    edited: Model = registry.build("edit", spec, model)
    return edited


def replace_modules(model: nn.Module, replace: Callable[[nn.Module], nn.Module | None]) -> None:
    """Walks the tree from the top; where `replace` gives a module, it takes the old one's place."""
    for name, child in model.named_children():
        other = replace(child)
        if other is None:
            replace_modules(child, replace)
        else:
            setattr(model, name, other)
