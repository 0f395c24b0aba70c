"""What all commands share: where output goes, and how it looks.

Results go to standard output; everything else - notes, progress, errors - to standard error.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress


def report(text: str) -> None:
    """Prints a line for the user on standard error; one of several processes says which it is."""
    text = text if is_first_process() else f"[process {os.environ['RANK']}] {text}"
    print(text, file=sys.stderr, flush=True)


def is_first_process() -> bool:
    """Whether this is the one that prints results, of the processes that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def print_json(value: Mapping[str, Any]) -> None:
    """Prints the one JSON object that `--json` asks for."""
    print(json.dumps(value, indent=2))


def print_rows(rows: Sequence[tuple[str, object]]) -> None:
    """Prints names and values in two columns; a float with four digits."""
    width = max((len(name) for name, _ in rows), default=0)
    for name, value in rows:
        print(f"{name:<{width}}  {f'{value:.4f}' if isinstance(value, float) else value}")


@contextmanager
def progress() -> Iterator[Progress]:
    """A progress display on standard error; silent where that is not a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(
        *columns, console=console, transient=True, disable=not (console.is_terminal and is_first_process())
    ) as display:
        yield display


def parse_settings(settings: Sequence[str], prefixes: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Reads `--set` texts: `prefix.key=value` for each prefix, and `key=value`, which go under "".

    Raises:
        ConfigError: a text without `=`.
    """
    from neuromix.core.config import parse_assignments

    groups: dict[str, dict[str, Any]] = {prefix: {} for prefix in ("", *prefixes)}
    for key, value in parse_assignments(settings).items():
        prefix, _, rest = key.partition(".")
        if rest and prefix in prefixes:
            groups[prefix][rest] = value
        else:
            groups[""][key] = value
    return groups
