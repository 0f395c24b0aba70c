"""Kernels of older processors: the tests of the engine and of the scan again, in processes that take no newer ones."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ENGINE = ["tests/runtime/test_engine.py"]
SCAN = ["tests/ops/test_selective_scan.py", "-k", "native or decays"]


@pytest.mark.slow
@pytest.mark.parametrize("kernels", ["portable", "avx2"])
@pytest.mark.parametrize("tests", [ENGINE, SCAN], ids=["engine", "scan"])
def test_older_kernels(tests: list[str], kernels: str) -> None:
    environment = {**os.environ, "NEUROMIX_KERNELS": kernels}
    in_use = "import neuromix._runtime as engine; print(engine.kernels())"
    asked = subprocess.run(
        [sys.executable, "-c", in_use], env=environment, capture_output=True, text=True, check=True
    )
    if asked.stdout.strip() != kernels and kernels != "portable":
        pytest.skip(f"this processor has no {kernels}")
    assert asked.stdout.strip() == kernels
    command = [sys.executable, "-m", "pytest", "-q", "-m", "not slow", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,  # where a worker of pytest is told what to do
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
