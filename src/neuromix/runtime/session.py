"""Running `.nmx` files: a thin layer over the C++ engine `neuromix._runtime`. It needs NumPy alone, not PyTorch.

Shapes: C H W the input of one step, T spike time, K values of the output.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from neuromix.core.errors import NeuromixError, ProgramError

Array: TypeAlias = NDArray[np.float32]


def load(path: str | Path) -> Network:
    """Reads and checks an `.nmx` file.

    Raises:
        ProgramError: no such file, or one that breaks a rule of the format.

    Example:
        session = load("net.nmx").session(threads=2)
        logits_K = session.run(image_CHW)
    """
    if not Path(path).is_file():
        raise ProgramError(f"no file at {path}")
    return Network(str(path), str(path))


class Network:
    """A program that is ready to run; any number of sessions share its weights.

    Args:
        data: the bytes of an `.nmx` file, or its path.
        name: what errors call it.
    """

    def __init__(self, data: bytes | str, name: str = "program") -> None:
        self.name = name
        with _named(name):
            self._program = _engine().Program(data)
        self.input_shape: tuple[int, int, int] = tuple(self._program.input_shape)
        self.time_steps: int = self._program.time_steps
        self.readout: str = self._program.readout
        self.classes: tuple[str, ...] = tuple(self._program.classes)
        self.nodes: list[dict[str, Any]] = list(self._program.nodes)

    def session(self, *, threads: int = 1, keep_all: bool = False) -> Session:
        """A session of its own state.

        Args:
            threads: that share the work of a step; the answer does not depend on it.
            keep_all: keep every node's value for `Session.value`.
        """
        with _named(self.name):
            return Session(_engine().Session(self._program, threads=threads, keep_all=keep_all), self.name)


class Session:
    """A network together with the membrane potentials of its neurons; made by `Network.session`."""

    def __init__(self, session: Any, name: str) -> None:
        self._session, self._name = session, name

    def run(self, x: Any, time_steps: int | None = None) -> Array:
        """A whole run from rest; its state does not outlive it.

        Args:
            x: a static input [C, H, W], or one a step [T, C, H, W].
            time_steps: how often a static input is shown, by default as the program says.

        Returns:
            the output read over time, [K].
        """
        with _named(self._name):
            y_K: Array = self._session.run(_single(x), time_steps)
            return y_K

    def step(self, x_CHW: Any) -> Array:
        """One step on from where the last one ended; the output of this step, [K]."""
        with _named(self._name):
            y_K: Array = self._session.step(_single(x_CHW))
            return y_K

    def readout(self) -> Array:
        """The output read over the steps so far, [K]."""
        with _named(self._name):
            y_K: Array = self._session.readout()
            return y_K

    def reset(self) -> None:
        """Forgets everything: the next step is a first step."""
        self._session.reset()

    def report(self) -> list[dict[str, Any]]:
        """What each node did: activity, operations, and seconds, 0 where another node was computed along with it."""
        return list(self._session.report())

    def value(self, node: int) -> Array:
        """What a node gave in the last run or step, [T, C, H, W]; T = 1 where it is the same at every step.

        Only a session made with `keep_all` knows.
        """
        with _named(self._name):
            value_TCHW: Array = self._session.value(node)
            return value_TCHW


def _single(x: Any) -> Array:
    return np.ascontiguousarray(x, dtype=np.float32)


def has_engine() -> bool:
    """Whether the C++ extension is installed."""
    return importlib.util.find_spec("neuromix._runtime") is not None


def _engine() -> Any:
    try:
        return importlib.import_module("neuromix._runtime")
    except ImportError as error:
        raise NeuromixError(
            "the event-driven engine is missing: neuromix was installed without its C++ extension; install it again "
            f"where there is a C++17 compiler ({error})"
        ) from error


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Turns the engine's complaints into errors for the user, with the name of the file."""
    try:
        yield
    except (ValueError, MemoryError) as error:
        text = str(error) or type(error).__name__
        raise ProgramError(text if name in text else f"{name}: {text}") from error
