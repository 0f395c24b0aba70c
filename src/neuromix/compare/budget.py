"""Budget: what every candidate is given, and the seeds it is given it with, as a command line says them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from neuromix.core.config import Config, field_types, parse_assignments
from neuromix.core.errors import ConfigError, UnknownNameError


@dataclass(frozen=True)
class Budget(Config):
    """The same for every candidate. With neither `epochs` nor `minutes` it is the epochs that suit the task."""

    epochs: int | None = None  # of each run
    minutes: float | None = None  # of training, for each run: as many epochs as fit
    joules_per_inference: float | None = None  # a model above it is shown, and not ranked

    def validate(self) -> None:
        for name in field_types(Budget):
            if getattr(self, name) is not None:
                self.require_positive(name)
        self.require(
            self.epochs is None or self.minutes is None,
            "epochs and minutes both say how long a run trains; give one of them",
        )

    def given(self) -> dict[str, Any]:
        """The fields that are set."""
        return {name: value for name, value in self.to_dict().items() if value is not None}


def parse_budget(texts: Sequence[str]) -> Budget:
    """Reads `epochs=20`, `minutes=1.5`, `joules-per-inference=2e-6`; a text may hold several, with commas.

    Raises:
        ConfigError: a text without `=`, a key twice, a number out of its range, or epochs with minutes.
        UnknownNameError: another key.
    """
    known = [name.replace("_", "-") for name in field_types(Budget)]
    values: dict[str, Any] = {}
    for part in (part.strip() for text in texts for part in text.split(",")):
        ((key, value),) = parse_assignments([part]).items()
        name = key.replace("_", "-")
        if name not in known:
            raise UnknownNameError("budget", key, known)
        if name in values:
            raise ConfigError(f"budget: {name} is given twice")
        values[name] = value
    return Budget(**{name.replace("-", "_"): value for name, value in values.items()})


def parse_seeds(text: str) -> tuple[int, ...]:
    """`3` is 0, 1, 2; `0,5,7` are these.

    Raises:
        ConfigError: no whole numbers, none at all, or one twice.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise ConfigError(f"seeds are a number of them, as 3, or a list, as 0,5,7; got {text!r}")
    seeds = tuple(int(part) for part in parts)
    seeds = tuple(range(seeds[0])) if len(seeds) == 1 else seeds
    if not seeds:
        raise ConfigError("a comparison needs at least one seed, got 0")
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"a seed comes twice in {text}")
    return seeds
