"""On a Ray cluster the same runs find the same, and end with what started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from neuromix.compare import cluster
from neuromix.compare.api import compare
from neuromix.compare.budget import Budget
from neuromix.core.errors import RunError
from tests.compare.fake import ANALOG, a_plan
from tests.compare.test_survival import is_alive, process_of, wait_for_progress, without_times

pytestmark = pytest.mark.slow

SMALL = {"depths": [1, 1, 1], "dims": [8, 16, 16]}
RUNS = [f"runs/{ANALOG}/seed{seed}" for seed in (0, 1)]


@pytest.fixture
def ray():
    ray = pytest.importorskip("ray")
    yield ray
    ray.shutdown()


@pytest.fixture(scope="module")
def plan():
    return a_plan([(ANALOG, SMALL)], (0, 1), budget=Budget(epochs=1))


@pytest.fixture(scope="module")
def sequential(plan, tmp_path_factory):
    return compare(plan, tmp_path_factory.mktemp("sequential"))


def test_a_cluster_of_its_own(ray, plan, sequential, tmp_path):
    record = compare(plan, tmp_path, workers=2)
    assert not ray.is_initialized()
    assert without_times(record) == without_times(sequential)


def test_a_cluster_that_is_there(ray, plan, sequential, tmp_path, monkeypatch):
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=80 << 20,
        log_to_driver=False,
    )
    record = compare(plan, tmp_path / "out", address="auto")
    assert ray.is_initialized()  # it is not ours to end
    assert without_times(record) == without_times(sequential)
    assert not (tmp_path / "out" / cluster.MARKER).exists()

    monkeypatch.setattr(cluster, "write_text", lambda file, text: None)  # as if it were on another disk
    monkeypatch.setattr(cluster, "_PATIENCE", 0.1)
    with pytest.raises(
        RunError,
        match=r"machine \S+ of the cluster does not see .*other; give a folder that all machines share",
    ):
        compare(plan, tmp_path / "other", address="auto")
    assert not (tmp_path / "other" / "runs").exists()


def test_no_cluster_at_an_address(ray, plan, tmp_path):
    with pytest.raises(RunError, match=r"cannot use the Ray cluster at 127\.0\.0\.1:1"):
        compare(plan, tmp_path, address="127.0.0.1:1")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_jobs_end_with_what_started_them(ray, tmp_path, number):
    settings = [word for key, value in SMALL.items() for word in ("--set", f"{ANALOG}.{key}={value}")]
    command = ["neuromix", "compare", "--task", "digits", "--models", ANALOG, "--seeds", "2", *settings]
    options = [
        "--train",
        "checkpoint_steps=3",
        "--budget",
        "epochs=500",
        "--workers",
        "2",
        "--out",
        str(tmp_path),
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", *command, *options],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    for run in RUNS:
        wait_for_progress(tmp_path / run, process)
    jobs = [process_of(tmp_path / run) for run in RUNS]
    process.send_signal(number)
    _, told = process.communicate()
    assert process.returncode == (130 if number == signal.SIGINT else -number)
    until = time.monotonic() + 120
    while any(is_alive(job) for job in jobs):
        assert time.monotonic() < until
        time.sleep(0.05)
    if number == signal.SIGINT:
        assert told.endswith("stopped; the same command goes on where it was\n")
        for run in RUNS:
            assert "stopped in epoch" in (tmp_path / run / "job.log").read_text()
