"""Damaged `.nmx` files, opened and run with AddressSanitizer and UndefinedBehaviorSanitizer watching."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.runtime.files import Draw, every_op, network, random_network

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_no_damage_does_harm(tmp_path: Path) -> None:
    if not shutil.which("cmake"):
        pytest.skip("needs cmake")
    options = ["-DNMX_SANITIZE=ON", "-DNMX_FUZZ=ON"]
    subprocess.run(
        ["cmake", "-S", ROOT / "src/neuromix/runtime/native", "-B", tmp_path, *options], check=True
    )
    subprocess.run(["cmake", "--build", tmp_path, "-j1", "--target", "nmx-fuzz"], check=True)
    nets = [
        every_op(),
        network(Draw(), channels=4, side=3),
        *(random_network(Draw(seed)) for seed in range(6)),
    ]
    paths = [tmp_path / f"{index}.nmx" for index in range(len(nets))]
    for path, net in zip(paths, nets, strict=True):
        path.write_bytes(net.data())
    command = [tmp_path / "nmx-fuzz", "24000", *paths]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    files, opened, run = (int(word) for word in done.stdout.split() if word.isdigit())
    assert files == 24000 and opened > 1000 and run > 1000
