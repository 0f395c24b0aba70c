"""Finds the C++ extension `neuromix._native`, or tells once that it is missing."""

from __future__ import annotations

import functools
import importlib
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import torch


def _load() -> tuple[ModuleType | None, str]:
    """The extension, or None and the reason."""
    if os.environ.get("NEUROMIX_NO_NATIVE") == "1":
        return None, "NEUROMIX_NO_NATIVE=1 switches it off"
    try:
        return importlib.import_module("neuromix._native"), ""
    except ImportError as error:
        return None, f"{error}; to get it, reinstall neuromix where a C++17 compiler is found"


native, _reason = _load()
_references_only = False


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


def runs_native() -> bool:
    """Whether ops that have a kernel should take it; warns once where there is no extension."""
    if _references_only:
        return False
    if native is None and not torch.compiler.is_compiling():
        get_native()
    return native is not None


@contextmanager
def references_only() -> Iterator[None]:
    """Within the context every op runs by its PyTorch reference: for comparisons, and to trace plain PyTorch."""
    global _references_only
    before, _references_only = _references_only, True
    try:
        yield
    finally:
        _references_only = before
