"""Runs in a process of its own and reads files with libraries that may crash; see `isolated`.

On standard input come requests, each a line of JSON; on standard output go the answers, each a length in 8 bytes
and an .npz file. It imports nothing of neuromix, so that it starts quickly.
"""

from __future__ import annotations

import io
import json
import struct
import sys
from typing import Any

import numpy as np

_MEMORY = 2**33  # bytes that a damaged file may make this process ask for


class Refused(Exception):
    """What is wrong with a file, in words for its reader."""


def read_h5py(path: str, record: int | None) -> dict[str, Any]:
    """Labels and names of an SHD file, or the spikes of one recording."""
    import h5py

    with h5py.File(path, "r") as file:
        missing = [name for name in ("spikes/times", "spikes/units", "labels") if name not in file]
        if missing:
            raise Refused(
                f"has no {missing[0]}; expected the layout of SHD: spikes/times, spikes/units, labels"
            )
        times, units, labels = file["spikes/times"], file["spikes/units"], file["labels"]
        if not times.shape == units.shape == labels.shape or len(labels.shape) != 1:
            raise Refused(
                f"has times {list(times.shape)}, units {list(units.shape)} and labels {list(labels.shape)}; "
                "expected one of each a recording"
            )
        if record is None:
            names = file["extra/keys"][:] if "extra/keys" in file else []
            speakers = file["extra/speaker"][:] if "extra/speaker" in file else np.zeros(0, np.int64)
            return {
                "labels": labels[:],
                "names": np.array([_text(name) for name in names], dtype=str),
                "speakers": np.asarray(speakers),
            }
        if not 0 <= record < len(labels):
            raise Refused(f"has {len(labels)} recordings; there is no number {record}")
        return {"times": np.asarray(times[record]), "units": np.asarray(units[record])}


def read_aedat(path: str, record: int | None) -> dict[str, Any]:
    """The first stream of events of an AEDAT 4 file."""
    import aedat

    decoder = aedat.Decoder(path)
    streams = {
        number: stream
        for number, stream in sorted(decoder.id_to_stream().items())
        if stream["type"] == "events"
    }
    if not streams:
        raise Refused("has no stream of events")
    number, stream = next(iter(streams.items()))
    packets = [packet["events"] for packet in decoder if packet["stream_id"] == number]
    columns = {
        name: np.concatenate([packet[name] for packet in packets] or [[]]) for name in ("t", "x", "y", "on")
    }
    columns["p"] = columns.pop("on")
    return {**columns, "sensor": np.array([stream["height"], stream["width"]])}


READERS = {"h5py": read_h5py, "aedat": read_aedat}


def answer(line: str) -> dict[str, Any]:
    """The arrays that a request is answered with, or its `error`."""
    request = json.loads(line)
    try:
        return READERS[request["library"]](request["path"], request["record"])
    except Refused as error:
        return {"error": np.array(str(error))}
    except BaseException as error:  # what a library raises on a damaged file, a Rust panic among it
        return {"error": np.array(f"is damaged ({' '.join(str(error).split()) or type(error).__name__})")}


def main() -> None:
    """Answers until there are no more requests."""
    _limit_memory()
    for line in sys.stdin:
        buffer = io.BytesIO()
        try:
            np.savez(buffer, allow_pickle=False, **answer(line))
        except ValueError:  # arrays of objects
            buffer = io.BytesIO()
            np.savez(buffer, error=np.array("is damaged (it holds no numbers where numbers belong)"))
        sys.stdout.buffer.write(struct.pack("<q", buffer.tell()) + buffer.getvalue())
        sys.stdout.buffer.flush()


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:  # not on Windows
        return
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


if __name__ == "__main__":
    main()
