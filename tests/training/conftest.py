"""Fixtures of the training tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tests.training.tiny  # noqa: F401 (registers the nets)
from neuromix.training.api import RunResult, train
from tests.training.killed import OPTIONS


@pytest.fixture
def run_tiny(tmp_path: Path) -> Callable[..., RunResult]:
    """Trains the tiny net on the digits for two epochs of eight steps, into `tmp_path / out`."""

    def run(out: str = "run", **changes: Any) -> RunResult:
        return train("tiny_test_net", "digits", tmp_path / out, **{**OPTIONS, **changes})

    return run
