"""Config: the frozen, validated, JSON-able description from which everything is built.

Models, mixers, neurons, edits, methods and tasks each have one. A Config holds numbers, strings, tuples and
`Spec`s - a name and options of another registered thing - and never an object, so that a checkpoint can carry it.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, Self, TypeVar, Union, get_args, get_origin

from neuromix.core.errors import ConfigError, UnknownNameError

C = TypeVar("C", bound="Config")


class Spec(NamedTuple):
    """How a Config names another registered thing: its name and the options that differ from the defaults.

    In JSON it is `"lif"` or `["lif", {"tau": 2.0}]`.
    """

    name: str
    options: Mapping[str, Any] = {}  # never written to

    @classmethod
    def of(cls, value: Spec | str | tuple[Any, ...] | list[Any]) -> Spec:
        """Reads `"name"`, `("name", options)` or a Spec."""
        if isinstance(value, str):
            return cls(value)
        match list(value):
            case [str(name)]:
                return cls(name)
            case [str(name), Mapping() as options]:
                return cls(name, dict(options))
        raise ConfigError(f"expected a name or [name, options], got {value!r}")

    def with_options(self, **options: Any) -> Spec:
        """The same name with `options` added to, or in place of, what it has."""
        return Spec(self.name, {**self.options, **options})

    def with_defaults(self, **options: Any) -> Spec:
        """The same name with `options` added where it does not say otherwise."""
        return Spec(self.name, {**options, **self.options})


@dataclass(frozen=True)
class Config:
    """Base of all configs: construction checks types and calls `validate`, so a Config that exists is valid.

    `RELEASED` holds, as values of ordinary fields, what the authors' released code does where another
    value suits new training better; `released()` fills them in.
    """

    RELEASED: ClassVar[Mapping[str, Any]] = {}

    def __post_init__(self) -> None:
        for name, hint in field_types(type(self)).items():
            where = f"{type(self).__name__}.{name}"
            object.__setattr__(self, name, _coerce(getattr(self, name), hint, where))
        self.validate()

    def validate(self) -> None:
        """Raises ConfigError where a value is out of its range; overridden by each config."""

    def require(self, condition: bool, message: str) -> None:
        """Raises ConfigError with `message` unless `condition` holds."""
        if not condition:
            raise ConfigError(f"{type(self).__name__}: {message}")

    def require_positive(self, *names: str) -> None:
        """Each named field - a number or a tuple of numbers - must be above zero."""
        for name in names:
            value = getattr(self, name)
            for number in value if isinstance(value, tuple) else (value,):
                self.require(number > 0, f"{name} must be positive, got {value}")

    def require_within(self, low: float, high: float, *names: str) -> None:
        """Each named field must lie in [low, high)."""
        for name in names:
            value = getattr(self, name)
            self.require(low <= value < high, f"{name} must be in [{low}, {high}), got {value}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Builds from plain values (JSON or keyword arguments); `a.b` reaches into a Spec or Config field `a`.

        Raises:
            UnknownNameError: a key that is not a field.
            ConfigError: a value of the wrong type or out of range.
        """
        return cls._updated({}, values)

    def replace(self, **values: Any) -> Self:
        """A copy with some fields changed; keys as in `from_dict`."""
        return self._updated({name: getattr(self, name) for name in field_types(type(self))}, values)

    @classmethod
    def _updated(cls, fields: dict[str, Any], values: Mapping[str, Any]) -> Self:
        for key, value in values.items():
            name, _, rest = key.partition(".")
            if name not in field_types(cls):
                raise UnknownNameError(f"{cls.__name__} key", name, field_types(cls))
            fields[name] = _reach(cls._current(name, fields), rest, value) if rest else value
        missing = [f.name for f in dataclasses.fields(cls) if f.name not in fields and _is_required(f)]
        if missing:
            raise ConfigError(f"{cls.__name__} needs a value for {', '.join(missing)}")
        return cls(**fields)

    @classmethod
    def _current(cls, name: str, fields: Mapping[str, Any]) -> Any:
        """A field that is to be reached into; the name of a spec, just given, is one already."""
        value = fields.get(name, _default(cls, name))
        return value if value is None else _coerce(value, field_types(cls)[name], f"{cls.__name__}.{name}")

    @classmethod
    def released(cls, values: Mapping[str, Any]) -> Self:
        """As `from_dict`, with the authors' released behaviour where `values` does not say otherwise."""
        return cls.from_dict({**cls.RELEASED, **values})

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `from_dict(json.loads(json.dumps(c.to_dict()))) == c`."""
        return {name: _plain(getattr(self, name)) for name in field_types(type(self))}


def parse_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """Reads `key=value` texts of a command line; a value is JSON where it parses as such, else a string.

    Raises:
        ConfigError: a text without `=`.
    """
    values: dict[str, Any] = {}
    for text in assignments:
        key, separator, value = text.partition("=")
        if not separator or not key:
            raise ConfigError(f"expected key=value, got {text!r}")
        try:
            values[key] = json.loads(value)
        except json.JSONDecodeError:
            values[key] = value
    return values


def field_types(cls: type[Any]) -> dict[str, Any]:
    """The type of each field of a config class, in order of declaration."""
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _default(cls: type[Config], name: str) -> Any:
    field = next(f for f in dataclasses.fields(cls) if f.name == name)
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None if field.default is dataclasses.MISSING else field.default


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _reach(current: Any, key: str, value: Any) -> Any:
    if isinstance(current, Config):
        return current.replace(**{key: value})
    if isinstance(current, Spec):
        return current.with_options(**{key: value})
    if isinstance(current, Mapping):
        return {**current, key: value}
    raise ConfigError(f"cannot set {key!r} inside {current!r}: it is neither a spec nor a config")


def _plain(value: Any) -> Any:
    if isinstance(value, Config):
        return value.to_dict()
    if isinstance(value, Spec):
        return [value.name, _plain(value.options)] if value.options else value.name
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value


def _coerce(value: Any, hint: Any, where: str) -> Any:
    """`value` as the type `hint`, turning lists into tuples, ints into floats and JSON into Specs and Configs."""
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _coerce_union(value, args, where)
    if origin is Literal:
        if value in args and type(value) in {type(arg) for arg in args}:
            return value
        raise ConfigError(f"{where} must be one of {', '.join(map(repr, args))}, got {value!r}")
    if origin is tuple and isinstance(value, tuple | list) and not isinstance(value, Spec):
        return _coerce_tuple(value, args, where)
    if isinstance(hint, type) and origin is None:
        coerced = _coerce_class(value, hint)
        if coerced is not _MISFIT:
            return coerced
    elif origin in (dict, Mapping, typing.get_origin(Mapping[str, Any])) and isinstance(value, Mapping):
        return dict(value)
    raise ConfigError(f"{where} must be {_type_name(hint)}, got {value!r}")


_MISFIT = object()


def _coerce_class(value: Any, hint: type) -> Any:
    if hint is Spec:
        return Spec.of(value) if isinstance(value, str | tuple | list) else _MISFIT
    if issubclass(hint, Config) and isinstance(value, Mapping):
        return hint.from_dict(value)
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value) if math.isfinite(value) else _MISFIT
    if hint is int and (isinstance(value, bool) or not isinstance(value, int)):
        return _MISFIT
    return value if isinstance(value, hint) else _MISFIT


def _coerce_union(value: Any, args: tuple[Any, ...], where: str) -> Any:
    for arg in sorted(args, key=lambda arg: arg is not type(value)):  # an exact type first: 1 stays an int
        try:
            return _coerce(value, arg, where)
        except ConfigError:
            continue
    raise ConfigError(f"{where} must be {' or '.join(map(_type_name, args))}, got {value!r}")


def _coerce_tuple(value: Any, args: tuple[Any, ...], where: str) -> tuple[Any, ...]:
    if len(args) == 2 and args[1] is Ellipsis:
        return tuple(_coerce(item, args[0], f"{where}[{i}]") for i, item in enumerate(value))
    if len(value) != len(args):
        raise ConfigError(f"{where} needs {len(args)} values, got {len(value)}: {value!r}")
    return tuple(
        _coerce(item, arg, f"{where}[{i}]") for i, (item, arg) in enumerate(zip(value, args, strict=True))
    )


def _type_name(hint: Any) -> str:
    if hint is type(None):
        return "null"
    return (
        hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint).replace("typing.", "")
    )
