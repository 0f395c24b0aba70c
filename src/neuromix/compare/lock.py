"""A lock on a folder, which ends with the process that holds it, however that ends."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from neuromix.core.errors import RunError, UnsupportedError


@contextmanager
def locked(file: Path, *, patience: float = 0.0) -> Iterator[None]:
    """Holds the lock `file` while entered; the file stays, and says who held it last.

    Args:
        patience: seconds to wait for another process to let go.

    Raises:
        RunError: another process holds it, or it cannot be written.
        UnsupportedError: this system has no such locks.
    """
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise RunError(f"cannot write {file}: {error.strerror or error}") from error
    try:
        _acquire(descriptor, file, time.monotonic() + patience)
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        yield
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, file: Path, until: float) -> None:
    try:
        import fcntl
    except ImportError as error:
        raise UnsupportedError("a comparison needs file locks of POSIX, which this system lacks") from error
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                holder = file.read_text(encoding="utf-8").strip() or "another process"
                raise RunError(
                    f"{holder} is at work in {file.parent}; wait until it is done, or end it"
                ) from None
        except OSError as error:
            raise RunError(f"cannot lock {file}: {error.strerror or error}") from error
        time.sleep(0.05)
