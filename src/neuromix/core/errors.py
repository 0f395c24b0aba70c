"""Errors whose message is one line for the user: what was given, what was expected, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class NeuromixError(Exception):
    """Base of every error that the library raises on purpose; the command line prints it and exits with 2."""


class UnknownNameError(NeuromixError):
    """A name that is not registered, or a key that a Config does not have."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        super().__init__(f"unknown {kind} {name!r}; {suggest(name, known)}")


class ConfigError(NeuromixError):
    """A Config value of the wrong type or out of its range."""


class ShapeError(NeuromixError):
    """A tensor whose shape, dtype or device does not fit."""


class ForwardError(NeuromixError):
    """A model whose forward fails on what it is given, by an error that is not the library's own."""


class CheckpointError(NeuromixError):
    """A weights file that is damaged, of another model, or of a kind that is not read."""


class DataError(NeuromixError):
    """A data set that is missing, empty or malformed."""


class RunError(NeuromixError):
    """A run folder that cannot be used, or a training run that cannot go on."""


class UnsupportedError(NeuromixError):
    """A model with a part that the format it is to be written in has no form for."""


class ProgramError(NeuromixError):
    """A graph, or a file of one, that breaks a rule of the `.nmx` format."""


class MissingExtraError(NeuromixError):
    """A feature whose optional dependency is not installed."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f'{feature} needs an extra that is not installed: pip install "neuromix[{extra}]"')


_SHOWN = 12  # names in one line


def suggest(name: str, known: Iterable[str]) -> str:
    """Text that names what is nearest to `name` in `known`, or the first of it where nothing is near.

    Example:
        >>> suggest("poolfromer_s12", ["poolformer_s12", "mamba"])
        'did you mean poolformer_s12?'
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    if near:
        return f"did you mean {' or '.join(near)}?"
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"known: {', '.join(names[:_SHOWN])}{more}" if names else "none is known"
