"""The .nmx file: what is written is read again, and whatever breaks a rule is refused with one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from neuromix.core.errors import ProgramError, RunError
from neuromix.runtime.lowering import lower
from neuromix.runtime.node import Node
from neuromix.runtime.program import Program
from neuromix.runtime.program_file import read_program, to_bytes, write_program
from neuromix.runtime.quantization import quantize
from neuromix.runtime.reference import run_reference
from tests.runtime.lowered import META, images, lively, tiny_meta

DIGIT = (1, 8, 8)


def ones(channels: int) -> torch.Tensor:
    return torch.ones(channels)


def lif_keys(channels: int) -> dict[str, Any]:
    numbers = {key: ones(channels) for key in ("decay", "gain", "offset", "threshold")}
    return {**numbers, "reset": "hard", "v_reset": 0.0, "v_init": 0.0, "fire_at": 1.0, "strict": False}


def conv_keys(*shape: int, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    plain = {"stride": [1, 1], "padding": [0, 0], "dilation": [1, 1], "groups": 1}
    return {"weight": torch.ones(shape, dtype=dtype), "bias": None, **plain}


def small_program() -> Program:
    """One of every operation."""
    window = {"kernel": [3, 3], "stride": [1, 1], "padding": [1, 1]}
    nodes = [
        Node("input", "net"),
        Node("conv", "conv", (0,), conv_keys(4, 2, 1, 1)),
        Node("lif", "neuron", (1,), lif_keys(4)),
        Node("max_pool", "pool", (2,), window),
        Node("attend", "attention", (2, 3, 3), {"heads": 2, "scale": 0.5}),
        Node("token_sum", "sum", (2, 3)),
        Node("lif", "gate neuron", (5,), lif_keys(4)),
        Node("gate", "gate", (6, 2)),
        Node("affine", "affine", (7,), {"scale": ones(4), "shift": ones(4)}),
        Node("avg_pool", "pool", (8,), {**window, "count_padding": True}),
        Node("add", "add", (4, 8, 9)),
        Node("levels", "integers", (10,), {"gain": 1.0, "levels": 3}),
        Node("mean", "mean", (11,)),
        Node("conv", "head", (12,), {**conv_keys(3, 4, 1, 1, dtype=torch.int8), "scale": ones(3)}),
    ]
    return Program("net", (2, 5, 6), 2, "mean", ("a", "b", "c"), len(nodes) - 1, tuple(nodes))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "net.nmx"


def test_a_program_is_read_as_it_was_written(path):
    for program in (small_program(), lower(lively(META, DIGIT, **tiny_meta()), input_shape=DIGIT)):
        write_program(program, path)
        again = read_program(path)
        assert to_bytes(again) == to_bytes(program)
        assert again.edges == program.edges
        x = images(program.input_shape, 2)
        torch.testing.assert_close(run_reference(again, x).output, run_reference(program, x).output)


def test_an_int8_program_is_read_as_it_was_written(path):
    program = lower(lively(META, DIGIT, **tiny_meta()), input_shape=DIGIT)
    program = quantize(program, images(DIGIT))
    write_program(program, path)
    assert to_bytes(read_program(path)) == to_bytes(program)


def test_the_types_of_values():
    names = [edge.type.name for edge in small_program().edges]
    assert names == ["real", "real", *["binary"] * 2, "real", "real", *["binary"] * 2, *["real"] * 3, "integer",
                     "real", "real"]  # fmt: skip


def stored(path: Path, graph: Any, tensors: dict[str, torch.Tensor], **metadata: str) -> Path:
    text = graph if isinstance(graph, str) else json.dumps(graph)
    save_file(tensors, path, metadata={"format": "nmx", "graph": text, **metadata})
    return path


def taken_apart(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    write_program(small_program(), path)
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["graph"]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


# What is changed in the graph - a path of keys, and the value (... takes the key away) - and what is then said.
WRONG: list[tuple[tuple[Any, ...], Any, str]] = [
    (("version",), 2, "reads version 1, got 2"),
    (("name",), 7, "name must be a text"),
    (("input",), [2, 5], "channels and sides"),
    (("input",), [2, 0, 6], "channels and sides"),
    (("input",), [2, 5, 65537], "channels and sides"),
    (("input",), [2, 60000, 60000], "at most 268435456 elements"),
    (("input",), "2,5,6", r"input must be \[C, H, W\]"),
    (("input",), [3, 5, 6], "weight does not fit an input of 3 channels"),
    (("time_steps",), 0, "time_steps must be an integer"),
    (("time_steps",), True, "time_steps must be an integer"),
    (("time_steps",), 1.5, "time_steps must be an integer"),
    (("readout",), "median", "readout must be mean, sum or last"),
    (("readout",), ["mean"], "readout must be mean, sum or last"),
    (("classes",), ["a"], "needs no class names or 3"),
    (("classes",), [1, 2, 3], "classes must be a list of texts"),
    (("output",), 14, "output must be a node"),
    (("output",), -1, "output must be a node"),
    (("output",), 6, "the output must be real"),
    (("output",), 1, "the output must be real"),
    (("colour",), "red", "unknown key of the graph, got 'colour'"),
    (("output",), ..., "the graph lacks a key, got 'output'"),
    (("nodes",), [], "needs 1 to 4096 nodes"),
    (("nodes",), [{}] * 4097, "up to 4096 nodes"),
    (("nodes",), {}, "up to 4096 nodes"),
    (("nodes", 0), 3, "node 0 must be an object"),
    (("nodes", 0, "op"), "lif", "node 0 .*the input is node 0 and no other"),
    (("nodes", 1, "op"), "conv3d", r"node 1 \(conv3d 'conv'\): unknown operation; known: input, conv"),
    (("nodes", 1, "op"), 1, "node 1: op must be a text"),
    (("nodes", 1, "name"), None, "node 1: name must be a text"),
    (("nodes", 1, "shape"), [4, 5, 5], r"node 1: its shape is \[4, 5, 6\]"),
    (("nodes", 1, "shape"), ..., "node 1 lacks a key, got 'shape'"),
    (("nodes", 1, "inputs"), [1], "reads only nodes before it"),
    (("nodes", 1, "inputs"), [-1], "reads only nodes before it"),
    (("nodes", 1, "inputs"), [0.0], "reads only nodes before it"),
    (("nodes", 1, "inputs"), [[0]], "reads only nodes before it"),
    (("nodes", 1, "inputs"), [], "needs 1 inputs"),
    (("nodes", 1, "inputs"), [0, 0], "needs 1 inputs"),
    (("nodes", 1, "inputs"), None, "inputs must be a list"),
    (("nodes", 1, "colour"), 1, "unknown key, got 'colour'"),
    (("nodes", 1, "groups"), ..., "lacks a key, got 'groups'"),
    (("nodes", 1, "groups"), 3, "in 3 groups"),
    (("nodes", 1, "weight"), "head.bias", "weight must name a tensor of the file"),
    (("nodes", 1, "weight"), ["conv.weight"], "weight must name a tensor of the file"),
    (("nodes", 1, "weight"), None, "weight must be a float32 or int8 tensor"),
    (("nodes", 1, "weight"), "head.weight", "weight does not fit|int8 weights, and they alone"),
    (("nodes", 1, "bias"), "head.scale", r"bias must be \[4\], got \[3\]"),
    (("nodes", 1, "bias"), 0, "bias must name a tensor"),
    (("nodes", 1, "scale"), "affine.scale", "int8 weights, and they alone, have a scale"),
    (("nodes", 1, "stride"), [0, 1], "stride must be two integers from 1"),
    (("nodes", 1, "stride"), 1, "stride must be two integers"),
    (("nodes", 1, "padding"), [1, -1], "padding must be two integers from 0"),
    (("nodes", 1, "dilation"), [1], "dilation must be two integers"),
    (("nodes", 2, "inputs"), [0], r"decay must be \[2\], got \[4\]"),
    (("nodes", 6, "inputs"), [2], "reads real input, got 'binary'"),
    (("nodes", 2, "reset"), "next", "reset must be hard, soft or none"),
    (("nodes", 2, "reset"), "none", "node 3|reads binary"),
    (("nodes", 2, "v_reset"), "0", "v_reset must be a number"),
    (("nodes", 2, "v_init"), 1e39, "v_init must be a number"),
    (("nodes", 2, "fire_at"), True, "fire_at must be a number"),
    (("nodes", 2, "strict"), 0, "strict must be true or false"),
    (("nodes", 2, "decay"), "conv.weight", r"decay must be \[4\]"),
    (("nodes", 3, "kernel"), [9, 9], "its window is larger than the padded map"),
    (("nodes", 3, "padding"), [3, 3], "padding must be less than the kernel"),
    (("nodes", 4, "heads"), 3, "heads must divide 4 channels"),
    (("nodes", 4, "inputs"), [2, 3, 1], "reads binary queries, keys and values, got 'real'"),
    (("nodes", 5, "inputs"), [2, 3, 3], "inputs"),
    (("nodes", 7, "inputs"), [2, 2], r"the gate must be \[4, 1, 1\]"),
    (("nodes", 9, "count_padding"), None, "count_padding must be true or false"),
    (("nodes", 10, "inputs"), [4], "needs 2 or more inputs"),
    (("nodes", 10, "inputs"), [4, 5], "adds values of one shape"),
    (("nodes", 11, "levels"), 256, "levels must be an integer from 1 to 255"),
    (("nodes", 13, "scale"), ..., "int8 weights, and they alone, have a scale"),
]  # fmt: skip


@pytest.mark.parametrize("where, value, message", WRONG, ids=[f"{w}={v!r:.20}" for w, v, _ in WRONG])
def test_what_breaks_a_rule_is_refused(path, where, value, message):
    graph, tensors = taken_apart(path)
    place = graph
    for key in where[:-1]:
        place = place[key]
    if value is ...:
        del place[where[-1]]
    else:
        place[where[-1]] = value
    stored(path, graph, tensors)
    with pytest.raises(ProgramError, match=message) as caught:
        read_program(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "its graph is not JSON"),
        ("{", "its graph is not JSON"),
        ("[" * 100_000, "its graph is not JSON"),
        ("[]", "the graph must be an object"),
        ('{"version": NaN}', "NaN is no JSON number"),
        ('{"version": 1, "version": 1}', "a key comes twice"),
        ('{"version": ' + "9" * 5000 + "}", "its graph is not JSON"),
    ],
)
def test_texts_that_are_no_graph(path, text, message):
    with pytest.raises(ProgramError, match=message) as caught:
        read_program(stored(path, text, {"a": ones(1)}))
    assert "\n" not in str(caught.value)


def test_weights_of_another_type_or_not_finite(path):
    graph, tensors = taken_apart(path)
    stored(path, graph, {**tensors, "conv.weight": tensors["conv.weight"].double()})
    with pytest.raises(ProgramError, match="tensors are float32 or int8"):
        read_program(path)
    stored(path, graph, {**tensors, "neuron.gain": tensors["neuron.gain"] * torch.nan})
    with pytest.raises(ProgramError, match="gain must be finite"):
        read_program(path)


def test_files_that_are_none(path, tmp_path):
    with pytest.raises(ProgramError, match="no file at"):
        read_program(path)
    for content in (b"", b"hello", b"\xff" * 100, b"\0\0\0\2" + bytes(100), to_bytes(small_program())[:-5]):
        path.write_bytes(content)
        with pytest.raises(ProgramError, match=r"is damaged or not an \.nmx file") as caught:
            read_program(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(ProgramError):
        read_program(tmp_path)
    graph, tensors = taken_apart(path)
    stored(path, graph, tensors, format="onnx")
    with pytest.raises(ProgramError, match="its metadata must say format nmx, got 'onnx'"):
        read_program(path)


def test_nothing_is_half_written(path, monkeypatch):
    path.write_bytes(b"before")

    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(RunError, match="No space left"):
        write_program(small_program(), path)
    assert [file.name for file in path.parent.iterdir()] == ["net.nmx"]
    assert path.read_bytes() == b"before"


def test_a_program_that_breaks_a_rule_cannot_be_made():
    program = small_program()
    with pytest.raises(ProgramError, match=r"node 1 \(conv 'conv'\)"):
        program.replace(input_shape=(3, 5, 6))
    with pytest.raises(ProgramError, match="time_steps"):
        program.replace(time_steps=0)
