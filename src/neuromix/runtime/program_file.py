"""The `.nmx` file: one safetensors file with the graph as JSON in its metadata. Reading trusts nothing in it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from neuromix.core.errors import ProgramError
from neuromix.core.files import replacing
from neuromix.runtime.node import MAX_NODES, Node, require
from neuromix.runtime.operations import OPERATIONS, TENSOR_KEYS
from neuromix.runtime.program import Program

FORMAT, VERSION = "nmx", 1
MAX_HEADER = 2**24  # bytes
_DTYPES = {torch.float32: "F32", torch.int8: "I8"}
# Keys of the graph, and of every node.
_GRAPH = ("version", "name", "input", "time_steps", "readout", "classes", "output", "nodes")
_NODE = ("op", "name", "inputs", "shape")


def write_program(program: Program, path: str | Path) -> None:
    """Writes a program, as a whole or not at all.

    Raises:
        RunError: the file cannot be written.
    """
    with replacing(Path(path)) as temporary:
        temporary.write_bytes(to_bytes(program))


def to_bytes(program: Program) -> bytes:
    """The content of the file of a program; the same program gives the same bytes."""
    graph, tensors = _to_graph(program)
    text = json.dumps(graph, separators=(",", ":"), allow_nan=False)
    header: dict[str, Any] = {"__metadata__": {"format": FORMAT, "graph": text}}
    # Wide numbers first, so that all are aligned.
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
    data, start = [], 0
    for name, tensor in ordered:
        dtype, end = _DTYPES[tensor.dtype], start + tensor.nbytes
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [start, end]}
        data.append(tensor.detach().contiguous().numpy().tobytes())
        start = end
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-(len(encoded) + 8) % 64)
    return b"".join([len(encoded).to_bytes(8, "little"), encoded, *data])


def read_program(path: str | Path) -> Program:
    """The program of an `.nmx` file.

    Raises:
        ProgramError: no such file, or one that breaks a rule of the format.
    """
    try:
        with open(path, "rb") as start:
            size = int.from_bytes(start.read(8), "little")
        require(size <= MAX_HEADER, f"a header has at most {MAX_HEADER} bytes", size)
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except FileNotFoundError:
        raise ProgramError(f"no file at {path}") from None
    except (SafetensorError, OSError, ValueError, ProgramError) as error:
        raise ProgramError(f"{path} is damaged or not an .nmx file: {error}") from error
    try:
        require(
            metadata.get("format") == FORMAT, f"its metadata must say format {FORMAT}", metadata.get("format")
        )
        odd = [f"{name}: {tensor.dtype}" for name, tensor in tensors.items() if tensor.dtype not in _DTYPES]
        require(not odd, "tensors are float32 or int8", ", ".join(odd))
        return _from_graph(_parse(metadata.get("graph", "")), tensors)
    except ProgramError as error:
        raise ProgramError(f"{path}: {error}") from None


def _to_graph(program: Program) -> tuple[dict[str, Any], dict[str, Tensor]]:
    tensors: dict[str, Tensor] = {}
    nodes = []
    for index, (node, edge) in enumerate(zip(program.nodes, program.edges, strict=True)):
        keys = dict(node.keys)
        for key, tensor in node.tensors.items():
            name = f"{node.name}.{key}"
            keys[key] = name if name not in tensors else f"{name}@{index}"  # a module may give several nodes
            tensors[keys[key]] = tensor
        head = {"op": node.op, "name": node.name, "inputs": list(node.inputs), "shape": list(edge.shape)}
        nodes.append({**head, **keys})
    graph = {
        "version": VERSION,
        "name": program.name,
        "input": list(program.input_shape),
        "time_steps": program.time_steps,
        "readout": program.readout,
        "classes": list(program.classes),
        "output": program.output,
        "nodes": nodes,
    }
    return graph, tensors


def _parse(text: str) -> dict[str, Any]:
    try:
        graph = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ProgramError(f"its graph is not JSON: {error}") from None
    return _exactly(graph, _GRAPH, "the graph")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):  # two readers could take different ones
        raise ValueError("a key comes twice in one object")
    return values


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is no JSON number")


def _exactly(value: Any, keys: tuple[str, ...], what: str, more: bool = False) -> dict[str, Any]:
    """The value as an object with these keys, and no others unless `more`."""
    require(isinstance(value, dict), f"{what} must be an object", type(value).__name__)
    missing, unknown = set(keys) - value.keys(), value.keys() - set(keys)
    require(not missing, f"{what} lacks a key", ", ".join(sorted(missing)))
    require(more or not unknown, f"unknown key of {what}", ", ".join(sorted(unknown)))
    return dict(value)


def _from_graph(graph: dict[str, Any], tensors: Mapping[str, Tensor]) -> Program:
    require(
        graph["version"] == VERSION, f"this version of neuromix reads version {VERSION}", graph["version"]
    )
    require(isinstance(graph["name"], str), "name must be a text", graph["name"])
    classes, shape, listed = graph["classes"], graph["input"], graph["nodes"]
    is_texts = isinstance(classes, list) and all(isinstance(name, str) for name in classes)
    require(is_texts, "classes must be a list of texts", classes)
    require(isinstance(shape, list), "input must be [C, H, W]", shape)
    require(
        isinstance(listed, list) and len(listed) <= MAX_NODES, f"needs a list of up to {MAX_NODES} nodes", ""
    )
    nodes = [_read_node(index, value, tensors) for index, value in enumerate(listed)]
    program = Program(
        name=graph["name"],
        input_shape=tuple(shape),
        time_steps=graph["time_steps"],
        readout=graph["readout"],
        classes=tuple(classes),
        output=graph["output"],
        nodes=tuple(nodes),
    )
    for index, (value, edge) in enumerate(zip(listed, program.edges, strict=True)):
        require(
            value["shape"] == list(edge.shape),
            f"node {index}: its shape is {list(edge.shape)}",
            value["shape"],
        )
    return program


def _read_node(index: int, value: Any, tensors: Mapping[str, Tensor]) -> Node:
    keys = _exactly(value, _NODE, f"node {index}", more=True)
    op, name, inputs, _ = (keys.pop(key) for key in _NODE)
    require(isinstance(op, str), f"node {index}: op must be a text", op)
    require(isinstance(name, str), f"node {index}: name must be a text", name)
    require(isinstance(inputs, list), f"node {index}: inputs must be a list", inputs)
    known = OPERATIONS[op].keys if op in OPERATIONS else {}
    for key in keys.keys() & {key for key, kind in known.items() if kind in TENSOR_KEYS}:
        if keys[key] is not None:
            found = isinstance(keys[key], str) and keys[key] in tensors
            require(found, f"node {index}: {key} must name a tensor of the file", keys[key])
            keys[key] = tensors[keys[key]]
    return Node(op, name, tuple(inputs), keys)
