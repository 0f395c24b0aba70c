"""Every golden fixture of every system that has checks: the authors' weights in, the authors' numbers out.

A system's checks are in `checks_SYSTEM.py`, as CHECKS = {(slug, kind): function of a fixture}.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path

import pytest
import torch

from tests.golden.fixtures import folders, list_fixtures, read_fixture

CHECKS = {
    key: check
    for path in sorted(Path(__file__).parent.glob("checks_*.py"))
    for key, check in importlib.import_module(f"tests.golden.{path.stem}").CHECKS.items()
}
PATHS = list_fixtures({slug for slug, _ in CHECKS})


def test_fixtures_are_there():
    missing = sorted({slug for slug, _ in CHECKS} - {path.parent.name for path in PATHS})
    if missing and os.environ.get("NEUROMIX_REQUIRE_GOLDEN") != "1":
        pytest.skip(f"no golden fixtures of {', '.join(missing)} under {', '.join(map(str, folders()))}")
    assert not missing


@pytest.mark.parametrize("path", PATHS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_golden(path):
    fixture = read_fixture(path)
    assert (fixture.slug, fixture.kind) in CHECKS, f"no check for kind {fixture.kind!r} of {fixture.slug}"
    torch.manual_seed(0)
    CHECKS[fixture.slug, fixture.kind](fixture)
