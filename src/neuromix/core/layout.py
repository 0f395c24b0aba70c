"""Layouts: how somebody else's weight names become ours, as a table of invertible rules."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import NamedTuple

from torch import Tensor, nn

from neuromix.core.errors import CheckpointError

Tensors = Mapping[str, Tensor]


class Rule(NamedTuple):
    """One line of a layout: names that match `theirs` become `ours`, values go through `to` (and `back`)."""

    theirs: str
    ours: str | None
    to: Callable[[Tensor], Tensor]
    back: Callable[[Tensor], Tensor]


def rename(theirs: str, ours: str) -> Rule:
    """`{i}` stands for a number and `*` for the rest of a name: rename("a.{i}.fc1.*", "b.{i}.expand.*")."""
    return Rule(theirs, ours, _same, _same)


def reshape(theirs: str, ours: str, to: Callable[[Tensor], Tensor], back: Callable[[Tensor], Tensor]) -> Rule:
    """A renaming whose values change form as well: `to` makes ours of theirs, `back` undoes it."""
    return Rule(theirs, ours, to, back)


def drop(theirs: str) -> Rule:
    """A name that has no meaning for us: constants and dead weights of a release."""
    return Rule(theirs, None, _same, _same)


class Layout:
    """An ordered table of rules; the first that matches a name decides."""

    def __init__(self, *rules: Rule) -> None:
        self.rules = rules

    def to_ours(self, state: Tensors) -> dict[str, Tensor]:
        """The tensors under our names.

        Raises:
            CheckpointError: a name that no rule explains.
        """
        ours: dict[str, Tensor] = {}
        for name, tensor in state.items():
            found = _first_match(((r.theirs, r.ours, r) for r in self.rules), name)
            if found is None:
                raise CheckpointError(f"no rule explains the weight {name!r}")
            new_name, rule = found
            if new_name is not None:
                ours[new_name] = rule.to(tensor)
        return ours

    def to_theirs(self, state: Tensors) -> dict[str, Tensor]:
        """Our tensors under their names; those that they do not have are left out."""
        theirs: dict[str, Tensor] = {}
        for name, tensor in state.items():
            table = ((rule.ours, rule.theirs, rule) for rule in self.rules if rule.ours is not None)
            found = _first_match(table, name)
            if found is not None and found[0] is not None:
                theirs[found[0]] = found[1].back(tensor)
        return theirs

    def unexplained(self, state: Tensors) -> list[str]:
        """The names that no rule matches."""
        return [n for n in state if _first_match(((r.theirs, r.ours, r) for r in self.rules), n) is None]


def load_layout(model: nn.Module, layouts: Mapping[str, Layout], state: Tensors) -> None:
    """Loads released weights through the layout that explains every name.

    Raises:
        CheckpointError: no layout explains all, or the tensors do not fit the model.
    """
    left = {who: layout.unexplained(state) for who, layout in layouts.items()}
    fitting = [who for who, names in left.items() if not names]
    if not fitting:
        reasons = "; ".join(f"as {who}: {', '.join(names[:3])}" for who, names in left.items())
        raise CheckpointError(
            f"these weights are of another model; names left over {reasons or 'all of them'}"
        )
    transfer(model, layouts[fitting[0]].to_ours(state))


def transfer(model: nn.Module, state: Tensors, fresh: tuple[str, ...] = ()) -> None:
    """Loads `state` strictly: every tensor of the model, of its shape, and nothing else.

    Of tensors that are one in the model, such as a head tied to its embedding, one name is enough.

    Args:
        fresh: globs over tensors that stay as the model has them, whatever `state` says.

    Raises:
        CheckpointError: names the first tensors that are missing, unknown or of another shape.
    """

    def strict(names: Iterable[str]) -> list[str]:
        return [name for name in names if not any(fnmatchcase(name, glob) for glob in fresh)]

    own = model.state_dict()
    given = strict(state)
    told = {own[name].data_ptr() for name in given if name in own and own[name].numel()}
    expected = [name for name in strict(own) if name in state or own[name].data_ptr() not in told]
    missing = [name for name in expected if name not in state]
    unknown = [name for name in given if name not in own]
    misshapen = [
        f"{name} has {list(state[name].shape)} instead of {list(own[name].shape)}"
        for name in expected
        if name in state and state[name].shape != own[name].shape
    ]
    problems = [f"missing {', '.join(missing[:3])}" + _more(missing)] if missing else []
    problems += [f"unknown {', '.join(unknown[:3])}" + _more(unknown)] if unknown else []
    problems += [f"{', '.join(misshapen[:3])}" + _more(misshapen)] if misshapen else []
    if problems:
        raise CheckpointError(f"the weights do not fit {type(model).__name__}: {'; '.join(problems)}")
    model.load_state_dict({**own, **{name: state[name] for name in expected}})


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _more(names: list[str]) -> str:
    return f" and {len(names) - 3} more" if len(names) > 3 else ""


def _first_match(table: Iterable[tuple[str, str | None, Rule]], name: str) -> tuple[str | None, Rule] | None:
    for pattern, target, rule in table:
        match = _regex(pattern).fullmatch(name)
        if match:
            return (None if target is None else _fill(target, match.groupdict())), rule
    return None


_PARTS = re.compile(r"\{(\w+)\}|\*")
_cache: dict[str, re.Pattern[str]] = {}


def _regex(pattern: str) -> re.Pattern[str]:
    if pattern not in _cache:
        text, end = "", 0
        for part in _PARTS.finditer(pattern):
            text += re.escape(pattern[end : part.start()])
            text += f"(?P<{part[1]}>\\d+)" if part[1] else "(?P<rest>.+)"
            end = part.end()
        _cache[pattern] = re.compile(text + re.escape(pattern[end:]))
    return _cache[pattern]


def _fill(target: str, values: Mapping[str, str]) -> str:
    return _PARTS.sub(lambda part: values[part[1] or "rest"], target)
