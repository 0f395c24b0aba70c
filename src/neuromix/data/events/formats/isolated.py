"""Reads files with libraries that crash or hang on damaged ones: in a process of its own, which may then go.

Both h5py's and aedat's native code do so on a file with a few wrong bytes, and no `except` helps there. The process
is started with the first request, and again after it was lost; each process that reads data has one.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import io
import json
import os
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from neuromix.core.errors import DataError, MissingExtraError

SECONDS = 60.0  # that one answer may take

_SCRIPT = Path(__file__).with_name("_reader_process.py")
_LENGTH = struct.Struct("<q")
_FORMATS = {"h5py": "HDF5", "aedat": "AEDAT 4"}
_lock = threading.Lock()
_running: dict[int, subprocess.Popen[bytes]] = {}  # of this process, by its number: a fork must start its own


def ask(library: str, path: Path, record: int | None = None) -> dict[str, npt.NDArray[Any]]:
    """What the library reads in a file: of one recording, or about all of it.

    Raises:
        MissingExtraError: the library is not installed.
        DataError: the file cannot be read, is damaged, or has another layout.
    """
    if importlib.util.find_spec(library) is None:
        raise MissingExtraError(f"reading {_FORMATS[library]} files", "events")
    if not path.is_file():
        raise DataError(f"cannot read {path}: no such file")
    request = {"library": library, "path": str(path.resolve()), "record": record}
    with _lock:
        answer = _exchange(json.dumps(request).encode() + b"\n")
    where = f"{path}" if record is None else f"{path}, record {record},"
    if answer is None:
        raise DataError(
            f"{where} is damaged: {library} crashed on it or did not come to an end; get it again"
        )
    with np.load(io.BytesIO(answer), allow_pickle=False) as arrays:
        found = dict(arrays)
    if "error" in found:
        raise DataError(f"{where} {found['error']}")
    return found


def _exchange(request: bytes) -> bytes | None:
    """The answer to a request; None if the process was lost over it."""
    process = _process()
    timer = threading.Timer(SECONDS, process.kill)
    timer.start()
    try:
        answer = _answer(process, request)
    except BrokenPipeError:
        answer = None
    finally:
        timer.cancel()
    if answer is None:
        _end(_running.pop(os.getpid()))
    return answer


def _answer(process: subprocess.Popen[bytes], request: bytes) -> bytes | None:
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(request)
    process.stdin.flush()
    head = process.stdout.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    data = process.stdout.read(length)
    return data if len(data) == length else None


def _process() -> subprocess.Popen[bytes]:
    if os.getpid() not in _running:
        _running[os.getpid()] = subprocess.Popen(
            [sys.executable, str(_SCRIPT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
    return _running[os.getpid()]


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):  # what was still to be written is lost with the process
                stream.close()


@atexit.register
def _end_own() -> None:
    if os.getpid() in _running:
        _end(_running.pop(os.getpid()))
