"""What a command line means by a model: a registered name, the folder of a run, or a weights file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuromix.core.errors import CheckpointError

if TYPE_CHECKING:
    from neuromix.core.model import Model


def load_target(target: str, overrides: Mapping[str, Any]) -> tuple[Model, bool]:
    """The model that a name, a run folder or a weights file means, and whether its weights are trained ones."""
    from neuromix.core import registry
    from neuromix.core.checkpoint import create_model, load_checkpoint, rebuild
    from neuromix.training.run_folder import RunFolder

    path = Path(target)
    if target in registry.names("model") or not (path.exists() or _looks_like_a_path(target)):
        return create_model(target, **overrides), False
    if not path.exists():
        raise CheckpointError(f"no run folder or weights file at {target}")
    net = load_checkpoint(RunFolder(path).weights if path.is_dir() else path)
    return (rebuild(net, **overrides) if overrides else net), True


def _looks_like_a_path(target: str) -> bool:
    return len(Path(target).parts) > 1 or Path(target).suffix in (".safetensors", ".pth", ".pt", ".tar")
