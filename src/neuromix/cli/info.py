"""neuromix info: what a model is, without computing anything."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neuromix.cli.console import parse_settings, print_json, print_rows

if TYPE_CHECKING:
    from neuromix.core.model import Model
    from neuromix.core.registry import Entry


def command(
    model: Annotated[str, typer.Argument(help="A model, as `neuromix list` names it.")],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A value of its config that differs."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object: parameters, config, paper, published, ...")
    ] = False,
) -> None:
    """Tell what a model is: parameters, config, paper, and the figures that the paper published.

    \b
    Examples:
      neuromix info meta_spikeformer_15m
      neuromix info poolformer_s12 --set num_classes=10 --json
    """
    import torch

    from neuromix.core import registry
    from neuromix.core.checkpoint import create_model

    overrides = parse_settings(settings or [], ())[""]
    with torch.device("meta"):  # shapes without memory: the largest model costs nothing
        net = create_model(model, **overrides)
    entry, _ = registry.find("model", model)
    about = _about(model, entry, net)
    if as_json:
        print_json(about)
    else:
        _print(about)


def _about(name: str, entry: Entry, net: Model) -> dict[str, Any]:
    published = dict(entry.published.get(name, {}))
    return {
        "name": name,
        "parameters": _parameters(net, published.get("scope", "trainable")),
        "config": net.config.to_dict(),
        "paper": None if entry.paper is None else entry.paper._asdict(),
        "published": published,
        "provenance": entry.provenance,
        "family": entry.family,
        "tasks": list(entry.tasks),
        "inputs": [
            {"name": field.name, "axes": field.axes, "optional": field.optional} for field in net.inputs
        ],
    }


def _parameters(net: Model, scope: str) -> int:
    """The count that the published one is to be compared with.

    Args:
        scope: what the paper counted: "trainable", "all" (frozen ones too), or "fused" (after exact fusion).
    """
    from neuromix.core.edits import apply_edit
    from neuromix.measure.parameters import count_parameters

    if scope == "fused":
        net = apply_edit(net, "fuse")
    return count_parameters(net, trainable_only=scope != "all")


def _print(about: dict[str, Any]) -> None:
    paper = about["paper"]
    rows: list[tuple[str, object]] = [("model", about["name"]), ("parameters", f"{about['parameters']:,}")]
    if paper is not None:
        where = " ".join(str(part) for part in (paper["venue"], paper["year"]) if part)
        rows += [("paper", f"{paper['title']} ({where})")]
        rows += [("", paper["url"])] if paper["url"] else []
    rows += [
        ("made from", about["provenance"]),
        ("family", about["family"]),
        ("tasks", ", ".join(about["tasks"])),
        ("input", ", ".join(f"{field['name']} [{field['axes']}]" for field in about["inputs"])),
    ]
    print_rows(rows)
    for title in ("config", "published"):
        print(f"\n{title}")
        # repr-like figures here: 1e-05 and not 0.0000
        print_rows([(f"  {key}", json.dumps(value)) for key, value in about[title].items()])
        if not about[title]:
            print("  nothing")
