"""Energy: counts of operations times a table of what each costs, and nothing else.

A table is a frozen dataclass registered by name. Its keys are a kind and a word length: `mac32` is a 32-bit
multiply-accumulate, `ac32` an accumulate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar

from neuromix.core import registry
from neuromix.core.config import Config
from neuromix.core.errors import ConfigError

# (kind, bits) -> how many. Kinds: mac, ac; further ones (shift, xnor, read, write, pulse) come with their users.
Operation: TypeAlias = tuple[str, int]
# A whole number where operations are counted; a firing rate times MACs need not be one.
Counts: TypeAlias = Mapping[Operation, float]
E = TypeVar("E", bound="EnergyModel")


@dataclass(frozen=True)
class EnergyModel(Config):
    """What one operation costs, in pJ, by kind and bits: {"mac32": 4.6}."""

    source: str = ""  # where the figures are from
    picojoules: Mapping[str, float] = field(default_factory=dict)  # each >= 0

    def validate(self) -> None:
        for name, cost in self.picojoules.items():
            self.require(cost >= 0, f"picojoules of {name} must not be negative, got {cost}")

    def millijoules(self, operations: Counts) -> float:
        """Energy of these operations in mJ: 1e-9 * sum of number * pJ.

        Raises:
            ConfigError: an operation that the table does not price.
        """
        missing = [label(operation) for operation in operations if label(operation) not in self.picojoules]
        if missing:
            known = ", ".join(self.picojoules) or "none"
            raise ConfigError(f"{type(self).__name__} has no price for {', '.join(missing)}; it has {known}")
        return 1e-9 * sum(
            number * self.picojoules[label(operation)] for operation, number in operations.items()
        )

    def prices(self, operations: Counts) -> bool:
        """Whether the table has a price for each of these operations."""
        return all(label(operation) in self.picojoules for operation in operations)


def label(operation: Operation) -> str:
    """The name of an operation in tables and JSON: ("mac", 32) is "mac32"."""
    kind, bits = operation
    return f"{kind}{bits}"


def register_energy_model(name: str) -> Callable[[type[E]], type[E]]:
    """Decorator that registers an EnergyModel class."""

    def decorate(cls: type[E]) -> type[E]:
        registry.register("energy model", name, config=cls, build=lambda config: config)(cls)
        return cls

    return decorate


def energy_models() -> dict[str, EnergyModel]:
    """All registered tables by name."""
    return {name: entry.build(entry.config()) for name, entry in registry.entries("energy model").items()}


@register_energy_model("45nm")
@dataclass(frozen=True)
class Arithmetic45nm(EnergyModel):
    """Arithmetic alone in 45 nm CMOS at 0.9 V, without memory and control: the table of the papers.

    A 32-bit floating-point addition is 0.9 pJ, a multiplication 3.7 pJ; 16 bits: 0.4 and 1.1 pJ.
    """

    source: str = "M. Horowitz, Computing's Energy Problem, ISSCC 2014"
    picojoules: Mapping[str, float] = field(
        default_factory=lambda: {"mac32": 4.6, "ac32": 0.9, "mac16": 1.5, "ac16": 0.4}
    )
