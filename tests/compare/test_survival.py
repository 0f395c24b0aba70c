"""A comparison that is killed, anywhere, and started again finds what an undisturbed one does."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from neuromix.compare.job import LOCK, LOG, RESULT
from neuromix.compare.process import JobProcess
from tests.compare.fake import ANALOG, SPIKING, a_plan

pytestmark = pytest.mark.slow

MODELS = [(SPIKING, {"time_steps": 1}), (ANALOG, {"depths": [1, 1, 1], "dims": [8, 16, 16]})]
SETTINGS = [f"{name}.{key}={json.dumps(value)}" for name, values in MODELS for key, value in values.items()]
COMMAND = [
    *(sys.executable, "-m", "neuromix", "compare", "--task", "digits", "--models", f"{SPIKING},{ANALOG}"),
    *("--budget", "epochs=3", "--seeds", "1", "--train", "checkpoint_steps=3", "--train", "ema=0.9"),
    *(word for setting in SETTINGS for word in ("--set", setting)),
]
RUNS = [f"runs/{name}/seed0" for name in (SPIKING, ANALOG)]
# What a clock tells, and what names the folder; the rest must be equal.
TIMES = ("latency", "throughput", "train_seconds")


def start(out: Path, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, "--out", str(out), *more],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def finish(out: Path, *more: str) -> tuple[dict[str, Any], str]:
    """The record of a comparison that is left in peace, and what it told."""
    process = start(out, "--json", *more)
    printed, told = process.communicate()
    assert process.returncode == 0, told
    record = json.loads(printed)
    assert record == json.loads((out / "comparison.json").read_text())
    return record, told


def wait_for_progress(run: Path, process: subprocess.Popen[str]) -> None:
    """Waits until the process has written a checkpoint of a run that has not finished."""
    last, begin = run / "last.safetensors", time.time()
    while not (last.exists() and last.stat().st_mtime > begin):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.005)
    assert not (run / "metrics.json").exists()


def without_times(record: dict[str, Any]) -> dict[str, Any]:
    models = []
    for model in record["models"]:
        summary = {key: value for key, value in model["summary"].items() if key not in TIMES}
        runs = [{key: value for key, value in run.items() if key not in TIMES} for run in model["runs"]]
        models.append({**model, "summary": summary, "runs": runs})
    return {**record, "models": models, "command": ""}


def process_of(run: Path) -> int:
    """The process that works on a run: its lock says so."""
    (number,) = re.findall(r"^process (\d+) on ", (run / LOCK).read_text())
    return int(number)


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    return state != "Z"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    record, told = finish(tmp_path_factory.mktemp("undisturbed"))
    assert told.count(": training\n") == told.count(" after 3 epochs\n") == 2
    return record


def test_killed_in_every_way(undisturbed, tmp_path):
    first, second = (tmp_path / run for run in RUNS)

    stopped = start(tmp_path)
    wait_for_progress(first, stopped)
    stopped.send_signal(signal.SIGINT)
    _, told = stopped.communicate()
    assert stopped.returncode == 130
    assert told.endswith("stopped; the same command goes on where it was\n")
    assert "stopped in epoch 1" in (first / LOG).read_text()

    killed = start(tmp_path)
    wait_for_progress(first, killed)
    job = process_of(first)
    killed.kill()
    killed.communicate()
    until = time.monotonic() + 60
    while is_alive(job):  # it ends with its parent
        assert time.monotonic() < until
        time.sleep(0.01)

    bereft = start(tmp_path)
    wait_for_progress(first, bereft)
    os.kill(process_of(first), signal.SIGKILL)
    _, told = bereft.communicate()
    assert bereft.returncode == 0
    error = "ended by signal SIGKILL; the machine may have run out of memory"
    assert f"{SPIKING}, seed 0: failed: {error}\n" in told
    spiking, analog = json.loads((tmp_path / "comparison.json").read_text())["models"]
    assert (spiking["runs"][0]["status"], spiking["runs"][0]["error"]) == ("failed", error)
    assert (spiking["rank"], analog["rank"]) == (None, 1)
    done = (second / RESULT).stat().st_mtime_ns

    record, told = finish(tmp_path)
    assert "1 of 2 runs are trained already\n" in told
    assert f"{SPIKING}, seed 0: goes on\n" in told
    assert (second / RESULT).stat().st_mtime_ns == done
    assert without_times(record) == without_times(undisturbed)
    assert (tmp_path / record["page"]).exists()


def test_the_figures_of_a_run_are_those_of_the_training_alone(undisturbed, tmp_path):
    """The command that the record gives."""
    run = undisturbed["models"][1]["runs"][0]
    words = shlex.split(run["command"])
    assert words[:2] == ["neuromix", "train"]
    done = subprocess.run(
        [sys.executable, "-m", *words, "--out", str(tmp_path / "run"), "--json"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout)["test"] == run["test"]


def test_a_loss_that_is_not_finite(tmp_path):
    job = a_plan([(ANALOG, {"layer_scale": 1e30})], (0,)).jobs()[0]
    process = JobProcess("train", tmp_path, job)
    while (outcome := process.wait(1)) is None:
        pass
    assert outcome.status == "failed"
    assert outcome.error.startswith("loss or gradient is not finite at step")
    left = json.loads((tmp_path / job.folder / RESULT).read_text())
    assert left == {"status": "failed", "error": outcome.error}
