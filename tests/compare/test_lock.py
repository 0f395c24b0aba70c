"""One process at a time works in a folder."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import pytest

from neuromix.compare.lock import locked
from neuromix.core.errors import RunError

HOLD = """
import sys, time
from pathlib import Path
from neuromix.compare.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_lock_is_held_once_and_let_go(tmp_path):
    file = tmp_path / "lock"
    told = rf"process {os.getpid()} on .* is at work in {tmp_path}"
    with locked(file), pytest.raises(RunError, match=told), locked(file):
        pass
    with locked(file):
        pass


def test_waiting_for_a_lock(tmp_path):
    file, order = tmp_path / "lock", []

    def hold() -> None:
        with locked(file):
            order.append("held")
            time.sleep(0.2)
            order.append("let go")

    thread = threading.Thread(target=hold)
    thread.start()
    while not order:
        time.sleep(0.01)
    with locked(file, patience=60):
        assert order == ["held", "let go"]
    thread.join()


def test_a_lock_ends_with_its_process(tmp_path):
    file = tmp_path / "lock"
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(file)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    with pytest.raises(RunError, match=f"process {process.pid} on"), locked(file):
        pass
    process.kill()
    process.communicate()
    with locked(file):
        pass


def test_a_folder_that_is_not_there(tmp_path):
    with (
        pytest.raises(RunError, match=r"cannot write .*nowhere/lock: No such file"),
        locked(tmp_path / "nowhere" / "lock"),
    ):
        pass
