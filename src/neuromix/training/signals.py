"""Stopping on Ctrl-C and SIGTERM between two steps, so that the run can be saved."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

from neuromix.core.errors import NeuromixError

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(NeuromixError):
    """A run was stopped by a signal; the message says how to go on.

    Attributes:
        number: of the signal.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number


class StopSignals:
    """While entered, the first SIGINT or SIGTERM is only noted; the second acts as it always does.

    Attributes:
        received: the signal's number, or 0. Outside the main thread no signal is ever received.
    """

    def __init__(self) -> None:
        self.received = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
