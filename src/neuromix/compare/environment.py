"""Where a comparison was made: what its figures depend on besides the plan."""

from __future__ import annotations

import platform
from typing import Any

import torch

import neuromix
from neuromix.training.devices import processor_name


def environment(threads: int, **more: Any) -> dict[str, str]:
    """Versions and machine, as texts.

    Args:
        threads: of PyTorch in every run.
        more: what else belongs to it.
    """
    values = {
        "neuromix": neuromix.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.platform(),
        "processor": processor_name(),
        "threads": threads,
        **more,
    }
    return {name: str(value) for name, value in values.items()}
