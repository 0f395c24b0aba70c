"""Energy: counts of operations times a table of what each costs, and nothing else.

A table must price the arithmetic (a network with an operation that has no price gets no figure) and may price data
movement (what it has no price for is left out, and said to be). Tables are TOML files, those of the library in
`energy_tables/`, those of a user's device anywhere.
"""

from __future__ import annotations

import functools
import math
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias, TypeVar

from neuromix.core import registry
from neuromix.core.config import Config, field_types
from neuromix.core.errors import ConfigError, NeuromixError, UnknownNameError
from neuromix.measure.operations import (
    ARITHMETIC,
    TRAFFIC,
    Counts,
    Operation,
    is_operation,
    is_traffic,
    label,
)

E = TypeVar("E", bound="EnergyModel")

FIRST = "45nm"  # the table of the papers
_TABLES = Path(__file__).parent / "energy_tables"


@dataclass(frozen=True)
class EnergyModel(Config):
    """What one operation costs, in pJ.

    A key of `picojoules` is a kind and a word length, as `mac32`, or a kind alone, as `ac`: the price at any length.
    """

    source: str = ""  # where the figures are from
    picojoules: Mapping[str, float] = field(default_factory=dict)  # each >= 0
    process: str = ""  # node and supply voltage
    bits: int | None = None  # word length that it charges at, > 0; None: that of the counting rule
    notes: str = ""

    def validate(self) -> None:
        self.require(self.bits is None or self.bits > 0, f"bits must be positive, got {self.bits}")
        for name, cost in self.picojoules.items():
            self.require(
                is_operation(name),
                f"picojoules has {name!r}, which is no operation; known: {', '.join(ARITHMETIC + TRAFFIC)}, "
                "each alone or with a word length, as mac32",
            )
            number = isinstance(cost, int | float) and not isinstance(cost, bool) and math.isfinite(cost)
            self.require(number, f"picojoules of {name} must be a number, got {cost!r}")
            self.require(cost >= 0, f"picojoules of {name} must not be negative, got {cost}")

    def price(self, operation: Operation) -> float | None:
        """pJ of one operation; None where the table does not say."""
        kind, bits = operation
        return self.picojoules.get(label((kind, self.bits or bits)), self.picojoules.get(kind))

    def millijoules(self, operations: Counts) -> float:
        """Energy of these operations in mJ: 1e-9 * sum of number * pJ. Traffic without a price adds nothing.

        Raises:
            ConfigError: arithmetic that the table does not price.
        """
        reason = self.not_priced(operations)
        if reason is not None:
            raise ConfigError(f"{type(self).__name__} has {reason}")
        return 1e-9 * sum(number * (self.price(operation) or 0.0) for operation, number in operations.items())

    def not_priced(self, operations: Counts) -> str | None:
        """Why these operations get no figure - arithmetic without a price - or None where they do."""
        missing = [
            label(op)
            for op, number in operations.items()
            if number and not is_traffic(op) and self.price(op) is None
        ]
        if not missing:
            return None
        return f"no price for {', '.join(missing)}; it has {', '.join(self.picojoules) or 'none'}"

    def left_out(self, operations: Counts) -> tuple[str, ...]:
        """The traffic among these operations that the table does not price."""
        return tuple(
            label(op)
            for op, number in sorted(operations.items())
            if number and is_traffic(op) and self.price(op) is None
        )


def register_energy_model(name: str) -> Callable[[type[E]], type[E]]:
    """Decorator that registers an EnergyModel class, whose defaults are the table."""

    def decorate(cls: type[E]) -> type[E]:
        registry.register("energy model", name, config=cls, build=lambda config: config)(cls)
        return cls

    return decorate


def energy_models() -> dict[str, EnergyModel]:
    """All tables by name, those of the library and registered ones; the first is "45nm"."""
    registered = {
        name: entry.build(entry.config()) for name, entry in registry.entries("energy model").items()
    }
    found: dict[str, EnergyModel] = {**_shipped(), **registered}
    return {name: found[name] for name in (FIRST, *sorted(found.keys() - {FIRST}))}


def energy_model(name: str | Path) -> EnergyModel:
    """The table that a name means, or the one in a TOML file.

    Raises:
        UnknownNameError: neither a name nor a file.
        ConfigError: a file that holds no table.
    """
    known = energy_models()
    if str(name) in known:
        return known[str(name)]
    if Path(name).suffix == ".toml" or Path(name).is_file():
        return load_energy_model(name)
    raise UnknownNameError("energy model", str(name), known)


def load_energy_model(path: str | Path) -> EnergyModel:
    """The table of a device, from a TOML file with the fields of `EnergyModel`; source and picojoules are a must.

    Raises:
        ConfigError: a file that cannot be read or is no TOML, an unknown key or operation, a wrong price.
    """
    try:
        values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the energy model {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise ConfigError(f"the energy model {path} is no TOML: {error}") from error
    for key in values:
        if key not in field_types(EnergyModel):
            known = ", ".join(field_types(EnergyModel))
            raise ConfigError(f"the energy model {path} has an unknown key {key!r}; known: {known}")
    for key in ("source", "picojoules"):
        if not values.get(key):
            raise ConfigError(f"the energy model {path} needs a value for {key}")
    try:
        return EnergyModel.from_dict(values)
    except NeuromixError as error:
        raise ConfigError(f"the energy model {path} is not valid: {error}") from error


Energies: TypeAlias = Mapping[str, EnergyModel] | Iterable[str | Path]


def energies_by_name(energies: Energies | None) -> dict[str, EnergyModel]:
    """Tables by name: as they are, or found by names and TOML files (a file goes by its stem); None means all.

    Raises:
        UnknownNameError, ConfigError: as of `energy_model`; two tables of one name.
    """
    if energies is None:
        return energy_models()
    if isinstance(energies, Mapping):
        return dict(energies)
    found: dict[str, EnergyModel] = {}
    for name in (energies,) if isinstance(energies, str | Path) else energies:
        key = str(name) if str(name) in energy_models() else Path(name).stem
        if key in found:
            raise ConfigError(f"two energy models go by the name {key!r}; rename one of the files")
        found[key] = energy_model(name)
    return found


@functools.cache
def _shipped() -> dict[str, EnergyModel]:
    return {path.stem: load_energy_model(path) for path in _TABLES.glob("*.toml")}
