"""Golden fixtures: inputs, weights and outputs of the authors' implementations, found by listing folders.

`NEUROMIX_GOLDEN` names folders (`:` between them) that hold SLUG/NAME.json and SLUG/NAME.safetensors.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor


@dataclass(frozen=True)
class Fixture:
    """One file: the authors' constructor values and tensors, named without their prefix."""

    path: Path
    slug: str
    kind: str
    config: dict[str, Any]
    state: dict[str, Tensor]
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    grads: dict[str, Tensor]


def folders() -> list[Path]:
    default = Path(__file__).parents[3] / "shared" / "golden"
    named = os.environ.get("NEUROMIX_GOLDEN", str(default))
    return [Path(folder) for folder in named.split(os.pathsep) if folder]


def list_fixtures(slugs: set[str]) -> list[Path]:
    """The description files of the systems named, in every folder."""
    found = [path for folder in folders() for slug in slugs for path in (folder / slug).glob("*.json")]
    return sorted(found)


def read_fixture(path: Path) -> Fixture:
    about = json.loads(path.read_text())
    numbers = path.with_suffix(".safetensors")
    tensors = load_file(numbers) if numbers.exists() else {}  # a table of texts has none

    def under(prefix: str) -> dict[str, Tensor]:
        return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}

    known = ("state/", "in/", "out/", "grad/")
    strange = [name for name in tensors if not name.startswith(known)]
    assert not strange, f"{path}: tensors that are neither state, input, output nor gradient: {strange}"
    state, inputs, outputs, grads = map(under, known)
    return Fixture(path, path.parent.name, about["kind"], about["config"], state, inputs, outputs, grads)
