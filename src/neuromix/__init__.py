"""neuromix: efficient networks behind one design - build, train, measure, compare, deploy.

The public names are imported when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "create_model": "neuromix.core.checkpoint",
    "load_checkpoint": "neuromix.core.checkpoint",
    "save_checkpoint": "neuromix.core.checkpoint",
    "rebuild": "neuromix.core.checkpoint",
    "from_reference": "neuromix.core.reference",
    "list_models": "neuromix.core.catalogue",
    "stream": "neuromix.core.stream",
    "apply_edit": "neuromix.core.edits",
    "record": "neuromix.core.observe",
    "draws": "neuromix.core.observe",
    "tune_allocator": "neuromix.core.allocator",
    "profile": "neuromix.measure.profile",
    "train": "neuromix.training.api",
    "evaluate": "neuromix.training.evaluate",
    "NeuromixError": "neuromix.core.errors",
    "Spec": "neuromix.core.config",
}
_ROOMS = (
    "core",
    "ops",
    "neurons",
    "layers",
    "mixers",
    "models",
    "measure",
    "data",
    "sampling",
    "training",
    "methods",
    "tasks",
    "runtime",
    "compare",
    "report",
    "bench",
)
__all__ = sorted([*_HOMES, "__version__"])

if TYPE_CHECKING:
    from neuromix.core.allocator import tune_allocator
    from neuromix.core.catalogue import list_models
    from neuromix.core.checkpoint import create_model, load_checkpoint, rebuild, save_checkpoint
    from neuromix.core.config import Spec
    from neuromix.core.edits import apply_edit
    from neuromix.core.errors import NeuromixError
    from neuromix.core.observe import draws, record
    from neuromix.core.reference import from_reference
    from neuromix.core.stream import stream


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in _ROOMS:
        return importlib.import_module(f"neuromix.{name}")
    raise AttributeError(f"module 'neuromix' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, *_ROOMS})
