"""The event-driven runtime: lowering of a trained spiking model, the `.nmx` file, and sessions that run it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOMES = {
    "lower": "neuromix.runtime.lowering",
    "Program": "neuromix.runtime.program",
    "read_program": "neuromix.runtime.program_file",
    "write_program": "neuromix.runtime.program_file",
    "run_reference": "neuromix.runtime.reference",
    "quantize": "neuromix.runtime.quantization",
    "load": "neuromix.runtime.session",
    "Network": "neuromix.runtime.session",
    "Session": "neuromix.runtime.session",
}
__all__ = [
    "lower",
    "Program",
    "read_program",
    "write_program",
    "run_reference",
    "quantize",
    "load",
    "Network",
    "Session",
]

if TYPE_CHECKING:
    from neuromix.runtime.lowering import lower
    from neuromix.runtime.program import Program
    from neuromix.runtime.program_file import read_program, write_program
    from neuromix.runtime.quantization import quantize
    from neuromix.runtime.reference import run_reference
    from neuromix.runtime.session import Network, Session, load


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'neuromix.runtime' has no attribute {name!r}")
