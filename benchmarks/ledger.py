"""What a benchmark of a system writes: one JSON file that names its command and holds the table that the docs show."""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from neuromix.core.files import write_json


def parser(about: str) -> argparse.ArgumentParser:
    """The options that every such benchmark has: `--json FILE`, `--seeds N`, `--quick`."""
    options = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--json", type=Path, help="write the ledger here")
    options.add_argument("--seeds", type=int, default=3, help="runs of everything that is left to chance")
    options.add_argument(
        "--quick", action="store_true", help="a few steps of everything: whether it runs at all"
    )
    return options


def report(
    options: argparse.Namespace, columns: Sequence[str], rows: Sequence[Sequence[Any]], **figures: Any
) -> None:
    """Prints the table, and writes it with the figures behind it where `--json` says so.

    Args:
        columns, rows: what the docs show; the last two columns are usually what was found and what was claimed.
        figures: everything else worth keeping: scores of each seed, settings, times.
    """
    for row in (columns, *rows):
        print(" | ".join(str(cell) for cell in row))
    if options.json is None:
        return
    ledger = {
        "command": f"python benchmarks/{shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])}",
        "machine": {
            "processor": platform.machine(),
            "threads": torch.get_num_threads(),
            "cores": os.cpu_count(),
        },
        "versions": {"python": platform.python_version(), "torch": str(torch.__version__)},
        "table": {"columns": list(columns), "rows": [list(map(str, row)) for row in rows]},
        **figures,
    }
    write_json(options.json, ledger)


def mean_and_spread(values: Sequence[float], digits: int = 1) -> str:
    """`97.5 ± 0.8`: mean and standard deviation over seeds."""
    scores = torch.tensor(values, dtype=torch.float64)
    spread = f" ± {scores.std():.{digits}f}" if len(scores) > 1 else ""
    return f"{scores.mean():.{digits}f}{spread}"
