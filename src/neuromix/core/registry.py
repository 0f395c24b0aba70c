"""One registry for models, mixers, neurons, edits, methods and tasks.

A file of the right room registers itself with a decorator; the first look-up of a kind imports that room, so that
adding a system is adding a file. Packages of other people list modules under the entry-point group
`neuromix.plugins`.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeVar

from neuromix.core.config import Config, Spec
from neuromix.core.errors import ConfigError, UnknownNameError

T = TypeVar("T")
Provenance = Literal["authors' code", "reconstructed", "own design"]

# Which rooms are imported to find what is registered of a kind.
ROOMS: Mapping[str, str | tuple[str, ...]] = {
    "model": "neuromix.models",
    "mixer": "neuromix.mixers",
    "sequence-mixer": "neuromix.mixers",
    "channel mixer": "neuromix.layers",
    "ffn": "neuromix.layers",
    "norm": "neuromix.layers",
    "activation": "neuromix.layers",
    "neuron": "neuromix.neurons",
    "surrogate": "neuromix.neurons",
    "edit": ("neuromix.layers", "neuromix.mixers"),
    "method": "neuromix.methods",
    "attack": "neuromix.methods",
    "task": "neuromix.tasks",
    "representation": "neuromix.data.events",
    "device": "neuromix.hardware",
    "audio-representation": "neuromix.data.audio",
    "tokeniser": "neuromix.data.text",
}


class Paper(NamedTuple):
    """Where a system was published."""

    title: str
    year: int
    venue: str = ""
    url: str = ""


def _no_values(config: Any) -> Mapping[str, Any]:
    return {}


@dataclass(frozen=True)
class Entry:
    """What the registry keeps of one thing.

    `variants` maps each full public name to the Config values that make it. `tiny` is a net of a few thousand
    weights on which every contract test runs. `published` maps a variant to the figures its paper prints.
    """

    name: str
    kind: str
    config: type[Config]
    build: Callable[..., Any]
    origin: str  # where the code is: module and qualified name
    paper: Paper | None = None
    tasks: tuple[str, ...] = ()
    family: str = ""
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    tiny: Mapping[str, Any] = field(default_factory=dict)
    provenance: Provenance = "own design"
    published: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    # Why torch.compile is not asked of it; "" where it must compile.
    no_compile: str = ""
    # Of a model: its Config -> the fields of a task's Config that suit it, see Model.task_values.
    task_values: Callable[[Any], Mapping[str, Any]] = _no_values
    # Of a model: the training methods that it is trained with where the user names none.
    methods: tuple[str, ...] = ()


_entries: dict[str, dict[str, Entry]] = {}


def register(kind: str, name: str, **about: Any) -> Callable[[T], T]:
    """Decorator that registers a class (with a `Config`) or a function `build(config, ...)` under `name`.

    Args:
        about: further fields of Entry; `build` and `config` only where the class does not tell them itself.

    Raises:
        ConfigError: the name is taken by something else.
    """

    def decorate(built: T) -> T:
        config = about.pop("config", None) or getattr(built, "Config", Config)
        build = about.pop("build", None) or getattr(built, "from_config", built)
        about.setdefault("task_values", getattr(built, "task_values", _no_values))
        entry = Entry(name=name, kind=kind, config=config, build=build, origin=_origin(built), **about)
        known = _entries.setdefault(kind, {})
        for key in (name, *entry.variants):
            other = known.get(key) or _variant_owner(kind, key)
            if other is not None and other.origin != entry.origin:
                raise ConfigError(f"{kind} {key!r} is registered already, by {other.origin}")
        known[name] = entry
        return built

    return decorate


register_model = functools.partial(register, "model")
register_mixer = functools.partial(register, "mixer")
register_neuron = functools.partial(register, "neuron")
register_method = functools.partial(register, "method")
register_task = functools.partial(register, "task")


def entries(kind: str) -> dict[str, Entry]:
    """All that is registered of a kind, by name, in alphabetical order."""
    _import_room(kind)
    return dict(sorted(_entries.get(kind, {}).items()))


def find(kind: str, name: str) -> tuple[Entry, Config]:
    """The entry that `name` - of an entry or of one of its variants - means, and the Config that it stands for.

    Raises:
        UnknownNameError: with the nearest known names.
    """
    known = entries(kind)
    entry = known.get(name) or _variant_owner(kind, name)
    if entry is None:
        raise UnknownNameError(kind, name, names(kind))
    return entry, entry.config.from_dict(entry.variants.get(name, {}))


def names(kind: str) -> list[str]:
    """Every name that `find` takes: those of the variants, and of the entries that have none."""
    found = [name for entry in entries(kind).values() for name in (entry.variants or (entry.name,))]
    return sorted({*found, *entries(kind)})


def build(kind: str, spec: Spec | str, *args: Any, **kwargs: Any) -> Any:
    """Builds what `spec` names: `Entry.build(config, *args, **kwargs)`."""
    spec = Spec.of(spec)
    entry, config = find(kind, spec.name)
    return entry.build(config.replace(**spec.options), *args, **kwargs)


def _variant_owner(kind: str, name: str) -> Entry | None:
    return next((e for e in _entries.get(kind, {}).values() if name in e.variants), None)


def _origin(built: Any) -> str:
    return f"{built.__module__}.{built.__qualname__}"


@functools.cache
def _import_room(kind: str) -> None:
    rooms = ROOMS.get(kind, ())
    for room in (rooms,) if isinstance(rooms, str) else rooms:
        _import_all(room)
    for plugin in importlib.metadata.entry_points(group="neuromix.plugins"):
        plugin.load()


@functools.cache
def _import_all(package_name: str) -> None:
    try:
        package = importlib.import_module(package_name)
    except ModuleNotFoundError as error:
        if error.name == package_name:  # a room that has nothing yet need not exist
            return
        raise
    for module in pkgutil.walk_packages(package.__path__, f"{package_name}."):
        if not module.name.rpartition(".")[2].startswith("_"):
            importlib.import_module(module.name)
