"""Figures that papers print, beside what is counted here of the same models: parameters and multiply-adds.

python benchmarks/published.py --json results/published.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

import neuromix
from neuromix.core import registry
from neuromix.core.files import write_json
from neuromix.measure.published import published_figures


def counted() -> dict[str, dict[str, Any]]:
    """Variant -> key -> published, counted, difference, note; what is not counted is left out."""
    found = {}
    for entry in registry.entries("model").values():
        for name in entry.published:
            figures = published_figures(name)
            found[name] = {key: f.to_dict() for key, f in figures.items() if f.counted is not None}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="file to write")
    out = parser.parse_args().json
    environment = {"neuromix": neuromix.__version__, "torch": torch.__version__}
    result = {"models": counted(), "environment": environment}
    if out is None:
        print(json.dumps(result, indent=2))
    else:
        write_json(out, result)


if __name__ == "__main__":
    main()
