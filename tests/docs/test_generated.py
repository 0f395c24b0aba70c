"""What is generated is current, and the site can be built."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from neuromix.core.config import field_types
from neuromix.measure.energy import energy_models
from neuromix.measure.rules import PRESETS, CountingRule, counting_rule
from tests.catalogue import own_entries
from tests.docs.pages import PAGES, ROOT


def test_readme_is_current() -> None:
    # In a process of its own: other tests register things of theirs.
    subprocess.run([sys.executable, ROOT / "docs" / "generate.py", "--check"], check=True)


def test_every_published_model_is_in_the_ledger() -> None:
    ledger = json.loads((ROOT / "results" / "published.json").read_text(encoding="utf-8"))["models"]
    published = [name for entry in own_entries("model").values() for name in entry.published]
    assert sorted(ledger) == sorted(published), (
        "run: python benchmarks/published.py --json results/published.json"
    )


def test_measuring_page_has_the_rules_and_prices() -> None:
    page = (ROOT / "docs" / "measuring.md").read_text(encoding="utf-8")
    rows = {
        cells[0]: cells[1:]
        for line in page.splitlines()
        if line.startswith("| `") and (cells := [cell.strip(" `") for cell in line.strip("|").split("|")])
    }
    rules = {name: counting_rule(name) for name in PRESETS}
    for field in field_types(CountingRule):
        assert rows[field][:2] == [str(getattr(rules[name], field)) for name in ("exact", "paper")]
    for operation, price in energy_models()["45nm"].picojoules.items():
        assert re.search(rf"\(`{operation}`\) \| {price} \|", page)


def test_local_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target.replace("\n", " ")).exists(), f"{page.name}: {target}"


@pytest.mark.slow
def test_site_builds(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"]
    subprocess.run(command, cwd=ROOT, check=True)
    catalogue = (tmp_path / "site" / "catalogue" / "index.html").read_text(encoding="utf-8")
    assert "poolformer_nano" in catalogue
    assert not (tmp_path / "site" / "generate.py").exists()
