"""Finds the C++ extension `neuromix._native`, or tells once that it is missing."""

from __future__ import annotations

import functools
import importlib
import os
import warnings
from types import ModuleType


def _load() -> tuple[ModuleType | None, str]:
    """The extension, or None and the reason."""
    if os.environ.get("NEUROMIX_NO_NATIVE") == "1":
        return None, "NEUROMIX_NO_NATIVE=1 switches it off"
    try:
        return importlib.import_module("neuromix._native"), ""
    except ImportError as error:
        return None, f"{error}; to get it, reinstall neuromix where a C++17 compiler is found"


native, _reason = _load()


@functools.cache
def get_native() -> ModuleType | None:
    """The extension for an op that is about to run.

    Returns None where it is missing; the first such call warns, an import of neuromix does not.
    """
    if native is None:
        warnings.warn(
            f"the C++ extension of neuromix is not in use, slower PyTorch references run instead: {_reason}",
            RuntimeWarning,
            stacklevel=2,
        )
    return native
