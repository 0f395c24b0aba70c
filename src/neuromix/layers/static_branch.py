"""The edit "static_branch": a second classifier on the same trunk, for training with images beside events.

Shapes: T spike time, K classes.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from neuromix.core.config import Config
from neuromix.core.edits import register_edit
from neuromix.core.errors import ConfigError
from neuromix.core.model import Model

EDIT = "static_branch"  # also the attribute that the model gets


@dataclass(frozen=True)
class StaticBranchConfig(Config):
    """Config of the edit "static_branch"."""

    classifier: str = "head.classify"  # path of the layer that gives the logits
    time_steps: int = 4  # T, of the coefficients

    def validate(self) -> None:
        self.require_positive("time_steps")


class StaticBranch(nn.Module):
    """A fresh classifier of the shape of the model's own, and a learnable coefficient for each time step, from 1."""

    def __init__(self, classify: nn.Module, config: StaticBranchConfig) -> None:
        super().__init__()
        self.classifier = config.classifier
        self.classify = copy.deepcopy(classify)
        self.classify.reset_parameters()  # type: ignore[operator]
        self.coefficient = nn.ParameterList(torch.ones(1) for _ in range(config.time_steps)).to(
            next(classify.parameters())
        )

    def coefficient_T(self) -> Tensor:
        """All coefficients, [T]."""
        return torch.cat(list(self.coefficient))

    def extra_repr(self) -> str:
        return f"classifier={self.classifier}"


@register_edit(EDIT, StaticBranchConfig)
def static_branch(model: Model, config: StaticBranchConfig) -> Model:
    """Gives the model a `static_branch`; its own forward pass goes on without.

    Raises:
        ConfigError: there is no such layer, or it cannot be made afresh.
    """
    try:
        classify = model.get_submodule(config.classifier)
    except AttributeError:
        classify = nn.Identity()
    if not hasattr(classify, "reset_parameters"):
        raise ConfigError(
            f"{model.name or type(model).__name__} has no layer {config.classifier!r} that gives the logits"
        )
    model.static_branch = StaticBranch(classify, config)
    return model


def branch_of(model: Model) -> StaticBranch:
    """The static branch of a model that has one."""
    branch = model.static_branch
    assert isinstance(branch, StaticBranch)
    return branch


@contextmanager
def static_classifier(model: Model) -> Iterator[None]:
    """Within the context, the classifier of the static branch answers in the place of the model's own."""
    branch = branch_of(model)
    classify = model.get_submodule(branch.classifier)
    handle = classify.register_forward_hook(lambda _, given, __: branch.classify(*given))
    try:
        yield
    finally:
        handle.remove()


def without_static_branch(model: Model) -> Model:
    """The model as if it had never had the edit, with the weights that it has now."""
    plain = copy.deepcopy(model)
    del plain.static_branch
    plain.edits = tuple(edit for edit in model.edits if edit.name != EDIT)
    return plain
