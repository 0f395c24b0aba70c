"""`.aedat4`: what DV writes. The `aedat` library reads it, in a process of its own.

It is in the process of `isolated` because on some damaged files it ends the process that it runs in.
"""

from __future__ import annotations

from pathlib import Path

from neuromix.core.errors import DataError
from neuromix.data.events.formats.isolated import ask
from neuromix.data.events.formats.raw import Part, Raw


def read(path: Path, part: Part) -> Raw:
    """Reads the first stream of events of a file.

    Raises:
        DataError: the file is damaged or has no stream of events.
        MissingExtraError: aedat is not installed.
    """
    found = ask("aedat", path)
    height, width = (int(side) for side in found["sensor"])
    if min(height, width) < 1:
        raise DataError(f"{path} says that its sensor is {height} pixels high and {width} wide")
    return Raw(found["t"], found["x"], found["y"], found["p"], (height, width))
