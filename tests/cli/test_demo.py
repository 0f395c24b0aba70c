"""neuromix demo, from the command to the page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from neuromix.cli import main

QUICK = ["--epochs", "1", "--time-steps", "1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo") / "out"


@pytest.fixture(scope="module")
def finished(folder: Path) -> Path:
    """The folder of a demo of one epoch."""
    assert main(["demo", "--out", str(folder), *QUICK]) == 0
    return folder


def test_it_writes_everything(finished: Path) -> None:
    record = json.loads((finished / "demo.json").read_text())
    assert record["report"] == str(finished / "report.html")
    assert (finished / "report.html").stat().st_size > 1_000_000
    assert record["command"] == f"neuromix demo --out {finished} --epochs 1 --seed 0 --time-steps 1"
    for role in ("spiking", "analog"):
        twin = record[role]
        assert (Path(twin["run"]) / "best.safetensors").is_file()
        assert 0 < twin["accuracy"] <= 1
        assert twin["parameters"] > 100_000
        assert twin["macs_dense"] > 0
        assert twin["energy"]["45nm"] > 0
        assert twin["fused"]["energy"]["45nm"] > 0
        assert twin["paper"]["energy"]["45nm"] > 0
    runtime = record["runtime"]
    assert runtime["images"] == 500
    assert runtime["float32"]["same_class"] == 1
    assert runtime["spike_mismatch"] < 1e-5
    for weights in ("float32", "int8"):
        assert (finished / f"{weights}.nmx").stat().st_size == runtime[weights]["size"]
    assert record["spiking"]["synaptic_operations"] > 0
    assert 0 < record["spiking"]["firing_rate"] < 1
    assert record["analog"]["firing_rate"] is None


def test_it_does_not_write_over_another(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (finished / "demo.json").read_bytes()
    assert main(["demo", "--out", str(finished), *QUICK]) == 2
    error = capsys.readouterr().err.strip()
    assert error == f"error: {finished} already holds a demo; --overwrite replaces it, or give another --out"
    assert (finished / "demo.json").read_bytes() == before


def test_json_and_overwrite(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--out", str(finished), *QUICK, "--json", "--overwrite", "--seed", "1"]) == 0
    printed: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert printed == json.loads((finished / "demo.json").read_text())
    assert printed["command"].endswith("--seed 1 --time-steps 1")


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--time-steps", "0", "time_steps must be positive, got 0"),
        ("--epochs", "0", "epochs must be positive, got 0"),
        ("--seed", "-1", "seed must be 0 or more, got -1"),
    ],
)
def test_wrong_numbers(
    option: str, value: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--out", str(tmp_path / "demo"), option, value]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert not (tmp_path / "demo").exists()


def test_out_is_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "demo").touch()
    assert main(["demo", "--out", str(tmp_path / "demo")]) == 2
    assert "is a file; a demo needs a folder" in capsys.readouterr().err


@pytest.mark.slow
def test_whole_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--out", str(tmp_path / "demo"), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["spiking"]["accuracy"] >= 0.97
    assert record["analog"]["accuracy"] >= 0.97
    assert record["spiking"]["parameters"] < 300_000
