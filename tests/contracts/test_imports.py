"""Imports point one way through the rooms."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "neuromix"
# Each room may import from itself and from the rows above its own.
ORDER = [
    {"core"},
    {"ops"},
    {"neurons"},
    {"layers"},
    {"mixers"},
    {"models"},
    {"measure", "sampling", "data"},
    {"training"},
    {"methods", "tasks"},
    {"runtime", "hardware"},
    {"exchange"},  # NIR is written from what the runtime lowers
    {"compare", "bench"},
    {"report"},
    {"cli"},
]
LEVEL = {room: level for level, rooms in enumerate(ORDER) for room in rooms}


def imported_rooms(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("neuromix.")}


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_point_one_way(path):
    room = path.relative_to(SOURCE).parts[0]
    if room.endswith(".py"):
        return  # the package itself hands out names of every room, lazily
    for other in imported_rooms(path) & LEVEL.keys():
        assert other == room or LEVEL[other] < LEVEL[room], f"{room} must not import {other}"
