"""The command line: one command a file, each a function `command` in a module with the command's name.

A module that has several commands keeps them in a Typer `group`.

A command module imports the library inside its function, so that help and mistakes are told at once.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys
from collections.abc import Sequence

import typer

import neuromix
from neuromix.cli.console import report
from neuromix.core.allocator import may_tune_allocator, tune_allocator
from neuromix.core.errors import NeuromixError

# What `neuromix --help` lists first, in this order; any other command follows.
_FIRST = ("list", "info", "train", "eval", "generate", "profile", "compare", "export", "run", "bench", "demo")
# The base of typer's own complaints about usage, which it keeps in another place from version to version.
_UsageError: type[Exception] = typer.BadParameter.__mro__[2]

app = typer.Typer(
    name="neuromix",
    help="Efficient networks: build, train, measure, compare and deploy them in one way.",
    epilog="Freed memory stays with the process, which saves page faults; NEUROMIX_ALLOCATOR=system, or any setting of "
    "glibc's own (MALLOC_..., GLIBC_TUNABLES) leaves the allocator as it is.",
    add_completion=False,
    rich_markup_mode=None,  # else brackets in an example would be read as markup
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        arguments: those of the process by default.

    Returns:
        The exit code: 0; 2 for whatever the user can put right, told in one line; 128 + n after signal n.
    """
    given = [*(sys.argv[1:] if arguments is None else arguments)]  # `list` is a command here
    try:
        if arguments is None and may_tune_allocator(os.environ):  # else the process is not ours
            tune_allocator()
        code = app(given or ["--help"], "neuromix", standalone_mode=False)
    except NeuromixError as error:
        report(f"error: {error}")
        return 2
    except (KeyboardInterrupt, typer.Abort):
        report("interrupted")
        return 130
    except BrokenPipeError:  # the reader of our output has gone
        sys.stdout = None
        return 1
    except _UsageError as error:
        report(f"error: {error.format_message()}")  # type: ignore[attr-defined]
        return 2
    return code if isinstance(code, int) else 0


def _print_version(wanted: bool) -> None:
    if wanted:
        print(neuromix.__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", help="Print the version.", is_eager=True, callback=_print_version
    ),
) -> None:
    pass


def _add_commands() -> None:
    names = [module.name for module in pkgutil.iter_modules(__path__)]
    for name in sorted(names, key=lambda name: (_FIRST.index(name) if name in _FIRST else len(_FIRST), name)):
        module = importlib.import_module(f"{__name__}.{name}")
        if hasattr(module, "command"):
            app.command(name)(module.command)
        elif hasattr(module, "group"):
            app.add_typer(module.group, name=name)


_add_commands()
