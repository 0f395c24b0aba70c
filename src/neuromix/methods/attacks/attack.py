"""Attack: a way to change inputs so that a model errs; one a file or a family, registered as its own Config."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import torch
from torch import Tensor

from neuromix.core import registry
from neuromix.core.config import Config, Spec
from neuromix.methods.attacks.victim import Victim

A = TypeVar("A", bound="type[Attack]")


@dataclass(frozen=True)
class Attack(Config):
    """Base of all attacks: a Config that can be called.

    Attributes:
        batch_size: samples that it is best given at a time; None: as many as the model takes.
    """

    batch_size: ClassVar[int | None] = None

    def __call__(self, victim: Victim, x: Tensor, label_B: Tensor, chance: torch.Generator) -> Tensor:
        """Changed inputs, of the shape of x.

        Args:
            x: within the victim's range, [B, C, H, W] or [B, T, C, H, W].
            label_B: the right classes, int64.
            chance: all that it draws comes from here.

        Raises:
            ConfigError: the inputs or the victim are not for this attack.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say how it attacks")

    def check(self, victim: Victim, x: Tensor) -> None:
        """Raises ConfigError where this attack cannot work on the victim or on such inputs."""
        with victim.swapped():
            pass


def register_attack(name: str) -> Callable[[A], A]:
    """Registers an Attack, which is its own Config."""

    def decorate(kind: A) -> A:
        return registry.register("attack", name, config=kind, build=_itself)(kind)

    return decorate


def make_attack(spec: Spec | str | tuple[str, dict[str, object]]) -> Attack:
    """The attack that a spec names: "fgsm" or ("pgd", {"steps": 20})."""
    attack: Attack = registry.build("attack", Spec.of(spec))
    return attack


def _itself(config: Attack) -> Attack:
    return config
