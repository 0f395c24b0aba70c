"""Tables of the documentation that are not written by hand: from the registry and from `results/`.

    python docs/generate.py            # brings README.md up to date
    python docs/generate.py --check    # fails where it is not

In the README the tables stand in the text, between markers, so that they can be read where it lies; on the pages of
the site they are put between the same markers while it is built (this file is a hook of mkdocs).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import measured
import torch
from measured import result, table

from neuromix.core import registry
from neuromix.core.registry import Entry
from neuromix.measure.energy import energy_models

ROOT = Path(__file__).resolve().parents[1]
_MARKED = re.compile(r"(<!-- generated: (?P<name>[\w-]+)[^>]*-->)\n.*?(<!-- end of generated -->)", re.DOTALL)

# What the keys of `published` mean to a reader; a key that is not here is shown as it is.
PUBLISHED = {
    "parameters_m": "{} M parameters",
    "gmacs": "{} G multiply-adds",
    "gmacs_without_norms": "{} G of them without norms (counted on the authors' code)",
    "frozen_parameters": "{:,} frozen parameters",
    "parameters_in_training": "{:,} parameters in training",
    "miou": "mIoU {} %",
    "seen": "{} % on classes of the training",
    "unseen": "{} % on unseen classes",
    "top1": "top-1 {} %",
    "top1_t1": "top-1 {} % at T = 1",
    "top1_t4": "top-1 {} % at T = 4",
    "mj_t1": "{} mJ at T = 1",
    "mj_t4": "{} mJ at T = 4",
}
# How figures are counted, not what they are.
_ABOUT_COUNTING = ("parameters", "scope", "counting", "gmacs_at")


def fill(text: str) -> str:
    """The text with a fresh table between each pair of markers."""
    return _MARKED.sub(lambda marked: f"{marked[1]}\n{_table(marked['name'])}\n{marked[3]}", text)


def _table(name: str) -> str:
    kind, _, ledger = name.partition("-")
    of_files = {"ledger": measured.system_figures, "bench": measured.side_by_side}
    return of_files[kind](ledger) if kind in of_files else TABLES[name]()


def systems() -> str:
    """A row a system."""
    rows = [
        (
            f"**{entry.name}**",
            _paper(entry),
            ", ".join(entry.tasks),
            entry.family,
            str(len(entry.variants) or 1),
            _span(entry),
        )
        for entry in registry.entries("model").values()
    ]
    return table(("System", "Paper", "Task", "Family", "Sizes", "Parameters"), rows)


def variants() -> str:
    """A row a variant of a model, under a heading a system; counted beside published from results/published.json."""
    counted, parts = result("published")["models"], []
    for entry in registry.entries("model").values():
        rows = [
            (
                f"`{name}`",
                f"{_parameters(entry, name):,}",
                _published(entry.published.get(name, {})),
                _compared(counted.get(name, {})),
            )
            for name in entry.variants or (entry.name,)
        ]
        tasks = ", ".join(entry.tasks)
        about = f"Task: {tasks}. Family: {entry.family}. Written from: {entry.provenance}."
        parts.append(
            f"### {entry.name}\n\n{_paper(entry)}.\n{about}\n\n"
            + table(("Variant", "Parameters", "Published", "Counted here"), rows)
        )
    return "\n\n".join(parts)


def parts() -> str:
    """What else is registered: a row a kind."""
    kinds = [kind for kind in registry.ROOMS if kind != "model"]
    rows = [(kind, ", ".join(f"`{name}`" for name in registry.names(kind))) for kind in kinds]
    return table(("Kind", "Names"), [row for row in rows if row[1]])


def energy() -> str:
    """The energy models of the library: a row a table."""
    rows = [
        (
            f"`{name}`",
            model.process,
            ", ".join(f"`{operation}` {price:g}" for operation, price in model.picojoules.items()),
            model.notes,
            model.source,
        )
        for name, model in energy_models().items()
    ]
    return table(("Name", "Process", "pJ", "", "Source"), rows)


def _paper(entry: Entry) -> str:
    paper = entry.paper
    if paper is None:
        return "–"
    title = f"[{paper.title}]({paper.url})" if paper.url else paper.title
    return f"{title} ({', '.join(filter(None, (paper.venue, str(paper.year))))})"


def _parameters(entry: Entry, name: str) -> int:
    _, config = registry.find("model", name)
    with torch.device("meta"):  # shapes alone: no memory is taken
        return int(entry.build(config).num_parameters())


def _span(entry: Entry) -> str:
    # A contract test holds models to their published counts; building every one of them takes long.
    sizes = sorted(
        entry.published.get(name, {}).get("parameters") or _parameters(entry, name)
        for name in entry.variants or (entry.name,)
    )
    low, high = (_short(number) for number in (sizes[0], sizes[-1]))
    return low if low == high else f"{low} to {high}"


def _short(number: int) -> str:
    return f"{number / 1e6:.3g} M"


def _published(figures: Mapping[str, Any]) -> str:
    shown = [
        PUBLISHED.get(key, key + " {}").format(figures[key]) for key in figures if key not in _ABOUT_COUNTING
    ]
    return "; ".join(shown) or "–"


def _compared(figures: Mapping[str, Any]) -> str:
    """What is counted here of the figures that a paper prints, and how far off that is."""
    names = {"parameters_m": "parameters", "parameters": "parameters", "gmacs": "G multiply-adds"}
    shown = {}
    for key, name in names.items():
        if key in figures and name not in shown:
            one = figures[key]
            value = f"{one['counted'] / 1e6:.4g} M" if key == "parameters" else f"{one['counted']:.4g}"
            unit = " M" if key == "parameters_m" else ""
            off = "equal" if one["difference"] == 0 else f"{100 * one['difference']:+.1f} %"
            shown[name] = f"{value}{unit} {name} ({off})"
    return "; ".join(shown.values()) or "–"


TABLES: Mapping[str, Callable[[], str]] = {
    "systems": systems,
    "variants": variants,
    "parts": parts,
    "demo": measured.demo,
    "runtime": measured.runtime,
    "layers": measured.layers,
    "comparison": measured.comparison,
    "training": measured.training,
    "gpu": measured.gpu,
    "gpu-training": measured.gpu_training,
    "energy": energy,
}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by mkdocs with the text of each page."""
    return fill(markdown)


def main() -> int:
    """Brings the README up to date, or says that it is not."""
    page = ROOT / "README.md"
    text = page.read_text(encoding="utf-8")
    fresh = fill(text)
    if "--check" in sys.argv:
        if text != fresh:
            print("README.md is out of date; run: python docs/generate.py", file=sys.stderr)
        return int(text != fresh)
    page.write_text(fresh, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
