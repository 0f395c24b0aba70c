"""What a command line means by a model: a registered name, a run, a weights file, or an attribute of a module."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuromix.core.errors import CheckpointError, ConfigError, suggest

if TYPE_CHECKING:
    from types import ModuleType

    from torch import nn

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


def is_attribute(target: str) -> bool:
    """Whether a target is `module:attribute`, dots allowed in both."""
    return re.fullmatch(r"[^\W\d][\w.]*:[^\W\d][\w.]*", target) is not None


def load_attribute(target: str) -> nn.Module:
    """The network that `module:attribute` means.

    The module is imported from the current folder or where Python finds it. The attribute is a network, or a class
    or function that makes one without being given anything.

    Raises:
        ConfigError: no such module or attribute, an import or a call that fails, or something else than a network.
    """
    from torch import nn

    module_name, _, path = target.partition(":")
    made = found = _attribute(_imported(module_name), path)
    if not isinstance(found, nn.Module) and callable(found):
        made = _called(target, found)
    if isinstance(made, nn.Module):
        return made
    what = "is" if made is found else "gives"
    raise ConfigError(
        f"{target} {what} a {type(made).__name__}, which is no network; expected a torch.nn.Module, or a class or "
        "function without required arguments that gives one"
    )


def _imported(name: str) -> ModuleType:
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise ConfigError(
                f"no module {error.name} in {Path.cwd()} or where Python looks for modules (sys.path)"
            ) from error
        raise ConfigError(f"importing {name} failed: {_reason(error)}") from error
    except (Exception, SystemExit) as error:  # whatever the code of others raises
        raise ConfigError(f"importing {name} failed: {_reason(error)}") from error


def _attribute(module: ModuleType, path: str) -> Any:
    value: Any = module
    for name in path.split("."):
        if not hasattr(value, name):
            known = (
                [key for key in vars(value) if not key.startswith("_")] if hasattr(value, "__dict__") else []
            )
            owner = module.__name__ if value is module else type(value).__name__
            raise ConfigError(f"{owner} has no attribute {name!r}; {suggest(name, known)}")
        value = getattr(value, name)
    return value


def _called(target: str, make: Any) -> Any:
    """What a class or function gives."""
    needed = _required(make)
    if needed:
        raise ConfigError(
            f"{target} needs {', '.join(needed)}; name a class or function without required arguments, "
            "or a network that is made"
        )
    try:
        return make()
    except Exception as error:  # whatever the code of others raises
        raise ConfigError(f"calling {target} failed: {_reason(error)}") from error


def _required(make: Any) -> list[str]:
    """Names of the arguments that must be given."""
    try:
        parameters = inspect.signature(make).parameters.values()
    except (TypeError, ValueError):  # one that Python cannot look into
        return []
    free = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in parameters if p.default is p.empty and p.kind not in free]


def _reason(error: BaseException) -> str:
    """An error in one line, and the last line in the current folder that it came through."""
    where, trace = "", error.__traceback__
    while trace is not None:
        file = Path(trace.tb_frame.f_code.co_filename)
        if file.is_relative_to(Path.cwd()) and "site-packages" not in file.parts:
            where = f" ({file.relative_to(Path.cwd())}, line {trace.tb_lineno})"
        trace = trace.tb_next
    message = " ".join(str(error).split())
    return type(error).__name__ + (f": {message}" if message else "") + where
