"""neuromix list: the models that there are."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from neuromix.cli.console import print_json


def command(
    task: Annotated[str | None, typer.Option(help="Only models for this task.")] = None,
    family: Annotated[
        str | None, typer.Option(help="Only models of this family: spiking, metaformer, ...")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object: models.")] = False,
) -> None:
    """List the models, with their family, tasks, year of the paper, and parameters.

    \b
    Examples:
      neuromix list --task image-classification
      neuromix list --family spiking --json
    """
    from neuromix.core.catalogue import list_models

    _require_known("task", task, lambda entry: entry.tasks)
    _require_known("family", family, lambda entry: (entry.family,))
    models = [_about(name) for name in list_models(task, family)]
    if as_json:
        print_json({"models": models})
    else:
        _print(models)


def _about(name: str) -> dict[str, Any]:
    from neuromix.core import registry

    entry, _ = registry.find("model", name)
    return {
        "name": name,
        "family": entry.family,
        "tasks": list(entry.tasks),
        "year": None if entry.paper is None else entry.paper.year,
        # As the catalogue knows it: building every model for it would take long.
        "parameters": entry.published.get(name, {}).get("parameters"),
    }


def _require_known(kind: str, value: str | None, of: Any) -> None:
    from neuromix.core import registry
    from neuromix.core.errors import UnknownNameError

    known = {name for entry in registry.entries("model").values() for name in of(entry) if name}
    if value is not None and value not in known:
        raise UnknownNameError(kind, value, known)


def _print(models: list[dict[str, Any]]) -> None:
    from neuromix.cli.tables import Table
    from neuromix.report.numbers import NOTHING, count

    table = Table("Model", "Family", "Task", "Year", "Parameters", numbers=("Year", "Parameters"))
    for model in models:
        year = NOTHING if model["year"] is None else str(model["year"])
        table.add(model["name"], model["family"], ", ".join(model["tasks"]), year, count(model["parameters"]))
    table.print()
