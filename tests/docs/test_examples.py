"""Every command and every piece of Python in the documentation is there and works."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer

from neuromix import cli
from tests.docs.pages import PAGES, ROOT, blocks, commands

GROUP: Any = typer.main.get_command(cli.app)
SHELL = ("", "sh", "shell", "bash", "text")
IN_PAGES = [
    (page.name, arguments)
    for page in PAGES
    for block in blocks(page, *SHELL)
    for arguments in commands(block)
]
IN_HELP = [
    (f"{name} --help", arguments)
    for name, command in GROUP.commands.items()
    for told in (command, *getattr(command, "commands", {}).values())  # of a group, also its own commands
    for arguments in commands(told.help or "")
]
# Those that take a moment and read nothing but the library itself.
CHEAP = [
    arguments
    for _, arguments in IN_PAGES + IN_HELP
    if (arguments[0] in ("list", "info") or arguments[:2] == ["profile", "meta_spikeformer_nano"])
    and "convmixer_768_32" not in arguments  # the example of CONTRIBUTING.md, which test_contributing.py adds
]


def _id(case: object) -> str:
    return " ".join(case) if isinstance(case, list) else str(case)


@pytest.mark.parametrize(("where", "arguments"), IN_PAGES + IN_HELP, ids=_id)
def test_command_parses(where: str, arguments: list[str]) -> None:
    command, rest = GROUP, arguments
    while hasattr(command, "commands"):
        name, *rest = rest
        assert name in command.commands, f"{where} shows neuromix {' '.join(arguments)}"
        command = command.commands[name]
    command.make_context(name, list(rest))


@pytest.mark.parametrize("name", list(GROUP.commands))
def test_every_command_has_an_example(name: str) -> None:
    assert [arguments for where, arguments in IN_HELP if where == f"{name} --help" and arguments[0] == name]


@pytest.mark.parametrize("arguments", CHEAP, ids=_id)
def test_cheap_command_runs(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == 0
    assert capsys.readouterr().out


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.name != "CONTRIBUTING.md"], ids=lambda page: page.name
)
def test_python_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for block in blocks(page, "python"):  # later ones may read what earlier ones wrote
        exec(compile(block, str(page.relative_to(ROOT)), "exec"), {})
