"""How the process of a job ends is told in one line, whatever ended it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from neuromix.compare import process
from neuromix.compare.job import LOG, RESULT
from neuromix.compare.pool import LocalPool
from neuromix.compare.process import JobProcess, Outcome
from tests.compare.fake import a_plan


@pytest.fixture(scope="module")
def job():
    return a_plan().jobs()[0]


@pytest.fixture
def instead(monkeypatch):
    """Lets processes run this text instead; `folder` is that of the job."""
    begin = subprocess.Popen

    def run(text: str) -> None:
        def popen(words: list[str], **about: Any) -> Any:
            return begin([sys.executable, "-c", f"folder = {words[-1]!r}\n{text}"], **about)

        monkeypatch.setattr(process.subprocess, "Popen", popen)

    return run


def outcome_of(started: JobProcess) -> Outcome:
    while (outcome := started.wait(0.1)) is None:
        pass
    return outcome


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("raise SystemExit(0)", Outcome("done")),
        ("print('one'); raise SystemExit('error: no luck\\n')", Outcome("failed", "no luck")),
        ("raise ValueError('odd')", Outcome("failed", "ValueError: odd")),
        ("raise SystemExit(3)", Outcome("failed", "exit code 3")),
        (
            "import os; os.kill(os.getpid(), 9)",
            Outcome("failed", "ended by signal SIGKILL; the machine may have run out of memory"),
        ),
        ("import os; os.kill(os.getpid(), 11)", Outcome("failed", "ended by signal SIGSEGV")),
    ],
)
def test_how_it_ended(tmp_path, job, instead, text, outcome):
    instead(text)
    assert outcome_of(JobProcess("train", tmp_path, job)) == outcome


def test_its_result_counts_and_that_of_an_earlier_try_does_not(tmp_path, job, instead):
    result = {"status": "failed", "error": "of this try"}
    text = f"import json; from pathlib import Path; (Path(folder) / 'result.json').write_text({json.dumps(result)!r})"
    instead(f"{text}; raise SystemExit(2)")
    assert outcome_of(JobProcess("train", tmp_path, job)) == Outcome("failed", "of this try")
    instead("raise SystemExit('error: of the next')")
    assert outcome_of(JobProcess("train", tmp_path, job)) == Outcome("failed", "of the next")
    assert not (tmp_path / job.folder / RESULT).exists()


def test_its_last_words_are_its_own(tmp_path, job, instead):
    instead("raise SystemExit('error: first')")
    outcome_of(JobProcess("train", tmp_path, job))
    instead("raise SystemExit(2)")
    assert outcome_of(JobProcess("train", tmp_path, job)).error == "exit code 2"
    assert "first" in (tmp_path / job.folder / LOG).read_text()


def test_stopping_and_ending(tmp_path, job, instead):
    instead("import sys; sys.stdin.read()")  # until the pipe is closed
    pool = LocalPool(tmp_path)
    pool.start("train", job)
    assert pool.ended(0.01) == []
    pool.stop()
    ended: list[Any] = []
    while not ended:
        ended = pool.ended(0.1)
    assert ended == [(job, Outcome("stopped"))]
    pool.close()
    pool.start("train", job)
    pool.close()


def test_it_trains_with_its_own_threads_and_apart_from_torchrun(tmp_path, job, instead, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    instead("import os; print(os.environ.get('RANK'), os.environ['OMP_NUM_THREADS'])")
    assert outcome_of(JobProcess("time", tmp_path_of(tmp_path, job), job)) == Outcome("done")
    assert (tmp_path / job.folder / LOG).read_text() == "None 1\n"


def tmp_path_of(tmp_path: Path, job: Any) -> Path:
    (tmp_path / job.folder).mkdir(parents=True)
    return tmp_path


WATCHED = """
import subprocess, sys, time
from neuromix.compare import worker
worker._end_with_parent()
print("ready", flush=True)
time.sleep(600)
"""


def test_a_worker_ends_when_its_pipe_is_closed():
    child = subprocess.Popen(
        [sys.executable, "-c", WATCHED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout.readline() == "ready\n"
    assert child.poll() is None
    child.stdin.close()
    assert child.wait(60) == 1
    child.stdout.close()
