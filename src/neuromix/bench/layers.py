"""Where the time of a program goes, layer by layer, and the least that its additions and multiplications would take.

The floor is measured with the same engine on the same machine: rows of weights added up, and multiplied, in one small
convolution whose weights, spikes and sums all stay in the nearest caches.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from neuromix.runtime import Program, load, read_program
from neuromix.runtime.node import Node
from neuromix.runtime.program_file import to_bytes
from neuromix.runtime.session import Network, Session

# The outputs that a row of weights is for.
ROW = 64
SPIKES, SEPARABLE, REAL, ATTENTION, REST = KINDS = (
    "convolutions of spikes",
    "depthwise and pointwise",
    "convolutions of real values",
    "attention",
    "the rest",
)


def layer_times(path: str | Path, image_CHW: np.ndarray, *, rounds: int) -> dict[str, Any]:
    """Times of a run on one thread, each layer at its best of `rounds`, summed up by stage and kind.

    Returns:
        row_seconds, multiply_seconds: of one row of 64 weights added, of one multiply-add, where all is near.
        layers: stage, kind, layers, seconds, operations (additions, or multiply-adds of real values), weight_bytes,
            and floor_seconds: what rows and multiply-adds would take at those rates; depthwise convolutions and
            attention, which add no whole rows, have no part in it.
    """
    program = read_program(path)
    reports = _reports(load(path).session(), image_CHW, rounds)
    is_small = any(node.tensors["weight"].dtype == torch.int8 for node in program.nodes if node.op == "conv")
    row, multiply = _row_seconds(is_small, rounds), _multiply_seconds(rounds)
    groups: dict[tuple[str, str], dict[str, Any]] = {}
    for node, layer in zip(program.nodes, reports, strict=True):
        key = _stage(node), _kind(program, node)
        group = groups.setdefault(
            key, {"stage": key[0], "kind": key[1], "layers": 0, **dict.fromkeys(_SUMS, 0)}
        )
        group["layers"] += 1
        for name in _SUMS[:-1]:
            group[name] += layer[name]
        if node.op == "conv" and not _is_depthwise(node):
            rate = multiply if layer["activity"] is None else row / ROW
            group["floor_seconds"] += rate * layer["operations"]
    return {"row_seconds": row, "multiply_seconds": multiply, "layers": list(groups.values())}


_SUMS = ("seconds", "operations", "weight_bytes", "floor_seconds")


def _stage(node: Node) -> str:
    names = node.name.split(".")
    return ".".join(names[:2] if names[0] == "stages" else names[:1])


def _reports(session: Session, image_CHW: np.ndarray, rounds: int) -> list[dict[str, Any]]:
    best: list[dict[str, Any]] = []
    for _ in range(rounds):
        session.run(image_CHW)
        found = session.report()
        seconds = [min(a["seconds"], b["seconds"]) for a, b in zip(best or found, found, strict=True)]
        best = [{**layer, "seconds": least} for layer, least in zip(found, seconds, strict=True)]
    return best


def _kind(program: Program, node: Node) -> str:
    if node.op != "conv":
        return ATTENTION if node.op == "attend" else REST
    before = program.nodes[node.inputs[0]]
    if _is_depthwise(node) or _is_depthwise(before):  # the engine makes them one
        return SEPARABLE
    return REAL if program.edges[node.inputs[0]].type.name == "real" else SPIKES


def _is_depthwise(node: Node) -> bool:
    return node.op == "conv" and node["groups"] == len(node["weight"]) > 1 == node["weight"].shape[1]


def _row_seconds(is_small: bool, rounds: int) -> float:
    """Of adding a row to the sums, with a spike at every input: 256 inputs, 64 outputs, 8 steps."""
    weight = torch.ones(ROW, 256, 1, 1, dtype=torch.int8 if is_small else torch.float32)
    keys = {"scale": torch.ones(ROW)} if is_small else {}
    ones = torch.ones(256)
    spikes = Node(
        "lif",
        "spikes",
        (0,),
        {
            "decay": ones,
            "gain": ones,
            "offset": ones,
            "threshold": ones,
            "reset": "hard",
            "v_reset": 0.0,
            "v_init": 0.0,
            "fire_at": 1.0,
            "strict": False,
        },
    )
    return ROW * _seconds_an_operation(spikes, weight, keys, rounds)


def _multiply_seconds(rounds: int) -> float:
    """Of a multiply-add, of 256 inputs and 64 outputs."""
    scaled = Node("affine", "scaled", (0,), {"scale": torch.ones(256), "shift": torch.ones(256)})
    return _seconds_an_operation(scaled, torch.ones(ROW, 256, 1, 1), {}, rounds)


def _seconds_an_operation(inputs: Node, weight: torch.Tensor, keys: Mapping[str, Any], rounds: int) -> float:
    plain = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1, "bias": None}
    conv = Node("conv", "conv", (1,), {"weight": weight, **plain, **keys})
    program = Program(
        name="floor",
        input_shape=(256, 5, 5),
        time_steps=8,
        readout="mean",
        classes=(),
        output=3,
        nodes=(Node("input", "input", (), {}), inputs, conv, Node("mean", "mean", (2,), {})),
    )
    frames = np.zeros((8, 256, 5, 5), np.float32)  # one after the other, so that no step stands for all
    layer = _reports(Network(to_bytes(program)).session(), frames, 20 * rounds)[2]
    return float(layer["seconds"] / layer["operations"])
