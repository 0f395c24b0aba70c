"""Reading NumPy files of which nothing is known: what is damaged raises one kind of error, whatever NumPy raises."""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

# A damaged header goes through NumPy's parser of Python literals, a damaged archive through zipfile.
_DAMAGED = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


class DamagedArrayError(ValueError):
    """A file is no NumPy file, or a damaged one."""


def load_arrays(file: Path | IO[bytes]) -> Any:
    """The array of an .npy file, or those of an .npz file by name; nothing is unpickled.

    Raises:
        DamagedArrayError: with what was found, in one line.
        FileNotFoundError: there is no file.
    """
    import numpy as np

    try:
        found = np.load(file, allow_pickle=False)
        return found if isinstance(found, np.ndarray) else {name: found[name] for name in found.files}
    except FileNotFoundError:
        raise
    except _DAMAGED as error:
        raise DamagedArrayError(" ".join(str(error).split()) or type(error).__name__) from error
