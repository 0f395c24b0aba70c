"""The event-driven engine against PyTorch, on files written by hand. Where the arithmetic is exact, so must the
answers be: weights and inputs are small multiples of powers of two.

Shapes: T spike time, C channels, H W map, K values of the output.
"""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.runtime.files import Draw, Keys, Net, every_op, network, random_network

runtime = pytest.importorskip("neuromix._runtime", reason="the engine is not built")

ROOT = Path(__file__).parents[2]
TYPES = ("real", "binary", "integer")


def run(net: Net, x: Tensor, steps: int, **options: Any) -> np.ndarray:
    return runtime.Session(runtime.Program(net.data()), **options).run(x.numpy(), steps)


def check(net: Net, x: Tensor, steps: int) -> None:
    """All values and what is read out, of an image [C, H, W] or of frames [T, C, H, W]."""
    expected = net.values(x if x.dim() == 4 else x[None], steps)
    program = runtime.Program(net.data())
    session = runtime.Session(program, keep_all=True)
    readout = session.run(x.numpy(), steps)
    for node, value in enumerate(expected):
        np.testing.assert_array_equal(
            session.value(node), value.numpy(), err_msg=str(net.graph["nodes"][node])
        )
    y_TK = expected[-1].expand(steps, -1, 1, 1).flatten(1)
    total = sum(y_TK[1:], y_TK[0])  # in this order
    by_hand = {"mean": total / steps, "sum": total, "last": y_TK[-1]}[net.graph["readout"]]
    np.testing.assert_array_equal(readout, by_hand.numpy())
    np.testing.assert_array_equal(run(net, x, steps), readout)  # now fused, and with memory used again


CONVS: list[tuple[int, int, tuple[int, int], Keys]] = [
    (1, 1, (1, 1), {}),
    (3, 70, (3, 3), {"padding": [1, 1]}),
    (70, 3, (1, 1), {}),
    (64, 128, (1, 1), {"stride": [2, 2]}),
    (12, 20, (2, 3), {"stride": [2, 1], "padding": [0, 2]}),
    (6, 9, (3, 3), {"dilation": [2, 1], "padding": [2, 1], "groups": 3}),
    (130, 130, (3, 3), {"padding": [1, 1], "groups": 130}),
    (8, 16, (5, 5), {"padding": [4, 4], "stride": [3, 2], "groups": 8}),
    (128, 128, (3, 3), {"padding": [1, 1], "groups": 2}),
    (5, 10, (7, 6), {}),
]


@pytest.mark.parametrize("steps", [1, 2, 5, 9])
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("small", [False, True], ids=["float32", "int8"])
@pytest.mark.parametrize("case", range(len(CONVS)))
def test_conv(case: int, small: bool, kind: str, steps: int) -> None:
    inputs, outputs, kernel, keys = CONVS[case]
    draw = Draw(case)
    shape = (outputs, inputs // keys.get("groups", 1), *kernel)
    weight = draw.dyadic(*shape)
    if small:
        weight = draw.integers(-128, 127, *shape).to(torch.int8)
        keys = {**keys, "scale": draw.integers(1, 8, outputs) / 64}
    bias = draw.one_of(None, draw.dyadic(outputs))
    for is_static in (False, True):
        net = Net(inputs, 7, 6)
        x = net.as_type(0, kind)
        net.add("mean", net.lif(net.conv(x, weight, bias, **keys)))
        check(net, draw.dyadic(*(() if is_static else (steps,)), inputs, 7, 6), steps)


def integers(draw: Draw, outputs: int, *shape: int) -> tuple[Tensor, Tensor]:
    """int8 weights, and a scale for each output."""
    weight = draw.integers(-128, 127, outputs, *shape).to(torch.int8)
    return weight, draw.integers(1, 8, outputs) / 64


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("small", [False, True], ids=["float32", "int8"])
@pytest.mark.parametrize(
    ("kernel", "stride", "dilation"),
    [
        ((3, 3), 1, 1),
        ((5, 5), 1, 1),
        ((7, 7), 1, 1),
        ((2, 4), 1, 1),
        ((3, 3), 2, 1),
        ((3, 3), 1, 2),
    ],
)
def test_depthwise(
    kernel: tuple[int, int], stride: int, dilation: int, small: bool, kind: str, steps: int
) -> None:
    """Maps wider than the outputs that are computed at once."""
    draw, net = Draw(stride + dilation), Net(70, 5, 17)
    keys: Keys = {
        "padding": [kernel[0] // 2, kernel[1] // 2],
        "stride": [stride] * 2,
        "dilation": [dilation] * 2,
    }
    weight = draw.dyadic(70, 1, *kernel)
    if small:
        weight, keys["scale"] = integers(draw, 70, 1, *kernel)
    y = net.conv(net.as_type(0, kind), weight, draw.dyadic(70), groups=70, **keys)
    net.add("mean", net.lif(y, v_init=0.375))
    check(net, draw.dyadic(steps, 70, 5, 17), steps)


@pytest.mark.parametrize("weight", [-128, 127])
@pytest.mark.parametrize("rows", [15, 16])
def test_the_largest_sums_of_a_depthwise_convolution(rows: int, weight: int) -> None:
    """As many integers as a short holds the sum of, and more."""
    net = Net(70, rows, 17)
    largest = torch.full((70, 1, rows, 17), weight, dtype=torch.int8)
    net.conv(net.as_type(0, "binary"), largest, torch.zeros(70), groups=70, scale=torch.ones(70))
    check(net, torch.ones(70, rows, 17), 2)


@pytest.mark.parametrize("outputs", [64, 30])
@pytest.mark.parametrize("weight", [-128, 127])
@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_any_number_of_spikes_adds_up(share: float, weight: int, outputs: int) -> None:
    """Sums of integers beyond what a short holds, in places that are crowded while others are not."""
    draw, net = Draw(outputs), Net(300, 4, 5)
    weights = draw.integers(-128, 127, outputs, 300, 3, 3).to(torch.int8)
    weights[: outputs // 2] = weight
    keys: Keys = {"scale": torch.ones(outputs), "padding": [1, 1]}
    y = net.conv(net.as_type(0, "binary"), weights, torch.zeros(outputs), **keys)
    crowded = torch.rand(3, 300, 4, 5, generator=draw.generator) < share * torch.linspace(0, 1, 5)
    crowded[..., -1] = share == 1
    net.add("mean", net.lif(y))
    check(net, crowded.float(), 3)


@pytest.mark.parametrize("steps", [1, 4, 9])
@pytest.mark.parametrize("small", [False, True], ids=["float32", "int8"])
@pytest.mark.parametrize("channels", [6, 70, 128])
def test_separable(channels: int, small: bool, steps: int) -> None:
    """A depthwise convolution, a pointwise one, their residual sum, and the neurons behind it."""
    draw, net = Draw(channels), Net(channels, 9, 11)
    first, second = draw.dyadic(channels, 1, 5, 5), draw.dyadic(channels, channels, 1, 1)
    keys: list[Keys] = [{"groups": channels, "padding": [2, 2]}, {}]
    if small:
        first, keys[0]["scale"] = integers(draw, channels, 1, 5, 5)
        second, keys[1]["scale"] = integers(draw, channels, channels, 1, 1)
        second %= 3  # so that the sums are exact
    made = net.conv(net.as_type(0, "binary"), first, draw.dyadic(channels), **keys[0])
    total = net.add("add", 0, net.conv(made, second, draw.dyadic(channels), **keys[1]))
    again = net.add("add", total, net.conv(net.lif(total), draw.dyadic(channels, channels, 1, 1)))
    net.add("token_sum", net.lif(again))
    for is_static in (False, True):
        check(net, draw.dyadic(*(() if is_static else (steps,)), channels, 9, 11), steps)


@pytest.mark.parametrize("steps", [3, 8, 9])
@pytest.mark.parametrize("side", [5, 40])
@pytest.mark.parametrize("groups", [1, 2])
def test_convolutions_of_one_input(groups: int, side: int, steps: int) -> None:
    """Those of integer weights and one shape list the spikes once; others come between."""
    draw, net = Draw(side), Net(6, side, 7)
    x, spikes = net.as_type(0, "binary"), []
    for kernel, small in ((3, True), (3, True), (3, False), (3, True), (1, True)):
        shape, keys = (66, 6 // groups, kernel, kernel), {"padding": [kernel // 2] * 2, "groups": groups}
        weight, scale = integers(draw, *shape)
        y = net.conv(x, weight, scale=scale, **keys) if small else net.conv(x, draw.dyadic(*shape), **keys)
        spikes.append(net.lif(y))
    y = net.lif(net.add("add", *spikes))
    for _ in range(2):  # of the same shape, but not of one input
        weight, scale = integers(draw, 66, 66 // groups, 1, 1)
        y = net.lif(net.conv(y, weight, scale=scale, groups=groups))
    net.add("token_sum", y)
    check(net, draw.dyadic(steps, 6, side, 7), steps)
    images = draw.dyadic(2, steps, 6, side, 7).numpy()
    session = runtime.Session(runtime.Program(net.data()), threads=3)
    for image in (*images, images[0]):  # nothing is left of the run before
        fresh = runtime.Session(runtime.Program(net.data()))
        np.testing.assert_array_equal(session.run(image), fresh.run(image))


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_a_pointwise_convolution_in_groups(groups: int) -> None:
    draw, net = Draw(groups), Net(6, 5, 9)
    made = net.conv(net.as_type(0, "binary"), draw.dyadic(6, 1, 3, 3), groups=6, padding=[1, 1])
    net.add("mean", net.lif(net.conv(made, draw.dyadic(6, 6 // groups, 1, 1), groups=groups)))
    check(net, draw.dyadic(3, 6, 5, 9), 3)


def test_what_is_fused_is_reported_as_before() -> None:
    draw, net = Draw(), Net(70, 9, 11)
    made = net.conv(net.as_type(0, "binary"), draw.dyadic(70, 1, 3, 3), groups=70, padding=[1, 1])
    net.add("mean", net.lif(net.add("add", 0, net.conv(made, draw.dyadic(70, 70, 1, 1)))))
    x, reports = draw.dyadic(70, 9, 11), []
    for keep_all in (True, False):
        session = runtime.Session(runtime.Program(net.data()), keep_all=keep_all)
        session.run(x.numpy(), 9)
        reports.append([{**layer, "seconds": None} for layer in session.report()])
    assert reports[0][made]["operations"] > 0 and reports[0] == reports[1]


@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("channels", [1, 64, 100])
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("reset", ["hard", "soft", "none"])
def test_lif(reset: str, strict: bool, channels: int, steps: int) -> None:
    draw, net = Draw(channels), Net(channels, 3, 2, readout="sum")
    numbers = {key: draw.dyadic(channels) for key in ("decay", "gain", "offset", "threshold")}
    options = {"v_reset": -0.25, "v_init": 0.375, "fire_at": 0.75}
    net.add("mean", net.lif(0, reset=reset, strict=strict, **numbers, **options))
    check(net, draw.dyadic(steps, channels, 3, 2), steps)


def test_lif_rounds_as_pytorch_does() -> None:
    draw, net = Draw(), Net(200, 8, 8)
    numbers = {key: draw.real(200) for key in ("decay", "gain", "offset", "threshold")}
    net.add("token_sum", net.lif(0, reset="soft", fire_at=0.9, **numbers))
    check(net, draw.real(9, 200, 8, 8), 9)


@pytest.mark.parametrize("levels", [1, 4, 255])
def test_levels(levels: int) -> None:
    draw, net = Draw(), Net(70, 4, 4)
    net.add("mean", net.add("levels", 0, gain=levels / 3.0, levels=levels))
    x = draw.real(5, 70, 4, 4) * 2
    x[0, 0, 0, :3] = torch.tensor([torch.inf, -torch.inf, 1e30])
    check(net, x, 5)


@pytest.mark.parametrize("readout", ["mean", "sum", "last"])
@pytest.mark.parametrize("kind", TYPES)
def test_affine_and_add(kind: str, readout: str) -> None:
    draw, net = Draw(), Net(300, 2, 3, readout=readout)
    x = net.as_type(0, kind)
    y = net.add("affine", x, scale=draw.real(300), shift=draw.real(300))
    net.add("token_sum", net.lif(net.add("add", x, y, 0, net.as_type(0, "integer"), y)))
    check(net, draw.real(3, 300, 2, 3), 3)
    check(net, draw.real(300, 2, 3), 5)


@pytest.mark.parametrize("count_padding", [False, True])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [([2, 2], [2, 2], [0, 0]), ([3, 3], [2, 2], [1, 1]), ([3, 2], [1, 3], [2, 1]), ([7, 5], [1, 1], [6, 4])],
)
@pytest.mark.parametrize("kind", TYPES)
def test_pools(
    kind: str, kernel: list[int], stride: list[int], padding: list[int], count_padding: bool
) -> None:
    draw, net = Draw(), Net(70, 7, 5)
    x = net.as_type(0, kind)
    keys = {"kernel": kernel, "stride": stride, "padding": padding}
    largest = net.add("max_pool", x, **keys)
    average = net.add("avg_pool", x, count_padding=count_padding, **keys)
    both = net.add("add", largest, average)
    net.add("mean", net.lif(both))
    check(net, draw.dyadic(3, 70, 7, 5), 3)


@pytest.mark.parametrize(
    ("channels", "heads"), [(64, 1), (12, 3), (192, 2), (130, 13), (3, 3), (96, 2), (80, 1)]
)
@pytest.mark.parametrize("side", [1, 8, 9])
def test_attend(channels: int, heads: int, side: int) -> None:
    draw, net = Draw(), Net(channels, side, side)
    q, k, v = (net.lif(0, offset=draw.dyadic(channels) / 2) for _ in range(3))
    net.add("mean", net.lif(net.add("attend", q, k, v, heads=heads, scale=0.125)))
    check(net, draw.dyadic(4, channels, side, side), 4)


@pytest.mark.parametrize("channels", [5, 64, 300])
def test_token_sum_and_gate(channels: int) -> None:
    draw, net = Draw(), Net(channels, 5, 4)
    q, k = net.lif(0), net.lif(0, decay=0.75 * torch.ones(channels))
    gate = net.lif(net.add("token_sum", q), threshold=torch.full((channels,), 4.0))
    net.add("token_sum", net.add("gate", gate, k), q)
    x = draw.dyadic(5, channels, 5, 4)
    assert net.values(x, 5)[-1].any()
    check(net, x, 5)


@pytest.mark.parametrize("seed", range(60))
def test_fusing_and_reuse_change_no_bit(seed: int) -> None:
    draw = Draw(seed)
    net = network(draw) if seed < 4 else random_network(draw)
    frame = net.graph["input"]
    for x, steps in ((draw.real(5, *frame), 5), (draw.real(*frame), 3), (draw.real(*frame), 19)):
        kept = run(net, x, steps, keep_all=True)
        assert np.isfinite(kept).all()
        np.testing.assert_array_equal(run(net, x, steps), kept)
        np.testing.assert_array_equal(run(net, x, steps, threads=2), kept)


@pytest.mark.parametrize("seed", range(2))
def test_network_near_pytorch(seed: int) -> None:
    draw = Draw(seed)
    net = network(draw)
    x = draw.real(4, 3, 8, 8)
    session = runtime.Session(runtime.Program(net.data()), keep_all=True)
    session.run(x.numpy())
    for node, value in list(enumerate(net.values(x, 4)))[:8]:  # until a spike differs by rounding
        np.testing.assert_allclose(session.value(node), value.numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("readout", ["mean", "sum", "last"])
@pytest.mark.parametrize("steps", [1, 2, 9, 40])
def test_steps_are_a_run(steps: int, readout: str) -> None:
    draw = Draw(steps)
    net = network(draw)
    net.graph["readout"] = readout
    x_T = draw.real(steps, 3, 8, 8).numpy()
    program = runtime.Program(net.data())
    whole, stepwise = runtime.Session(program, threads=2), runtime.Session(program)
    expected = whole.run(x_T)
    for _ in range(2):  # the second time after a reset
        outputs = [stepwise.step(x) for x in x_T]
        np.testing.assert_array_equal(stepwise.readout(), expected)
        stepwise.reset()
    if readout == "last":
        np.testing.assert_array_equal(outputs[-1], expected)
    image = np.ascontiguousarray(np.broadcast_to(x_T[0], x_T.shape))
    np.testing.assert_array_equal(whole.run(x_T[0], steps), whole.run(image))
    np.testing.assert_array_equal(whole.run(x_T), expected)  # nothing is left of the runs before


def test_a_step_after_a_run_is_a_first_step() -> None:
    draw = Draw()
    net, x_T = network(draw), draw.real(6, 3, 8, 8).numpy()
    session = runtime.Session(runtime.Program(net.data()))
    session.run(x_T[:4])
    outputs = [session.step(x) for x in x_T]
    fresh = runtime.Session(runtime.Program(net.data()))
    np.testing.assert_array_equal(outputs, [fresh.step(x) for x in x_T])
    np.testing.assert_array_equal(session.readout(), fresh.run(x_T))


def test_sessions_in_threads_share_a_program() -> None:
    draw = Draw()
    program = runtime.Program(network(draw).data())
    inputs = [draw.real(4, 3, 8, 8).numpy() for _ in range(2)]
    expected = [runtime.Session(program).run(x) for x in inputs]
    equal = []

    def work(session: Any, which: int) -> None:
        for _ in range(20):
            equal.append(np.array_equal(session.run(inputs[which]), expected[which]))

    shared = runtime.Session(program, threads=2)
    sessions = [
        (runtime.Session(program, threads=2), 0),
        (runtime.Session(program), 1),
        (shared, 0),
        (shared, 1),
    ]
    threads = [threading.Thread(target=work, args=arguments) for arguments in sessions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(equal) == 80 and all(equal)


def test_program_says_what_it_is() -> None:
    net = Net(2, 3, 4, readout="sum", time_steps=7)
    net.add("mean", net.lif(0))
    net.graph["classes"] = ["cat", "Füchsin"]
    program = runtime.Program(net.data())
    assert (program.name, program.input_shape, program.time_steps) == ("by hand", (2, 3, 4), 7)
    assert (program.readout, program.classes, program.outputs) == ("sum", ["cat", "Füchsin"], 2)
    assert program.nodes[1] == {
        "op": "lif",
        "name": "lif1",
        "inputs": [0],
        "shape": (2, 3, 4),
        "type": "binary",
    }
    assert [node["type"] for node in program.nodes] == ["real", "binary", "real"]


def test_report_counts() -> None:
    draw, net = Draw(), Net(8, 6, 6)
    spikes = net.lif(0)
    conv = net.conv(spikes, draw.dyadic(16, 8, 3, 3), padding=[1, 1])
    net.add("mean", net.lif(conv))
    x = draw.dyadic(5, 8, 6, 6)
    spikes_T = net.values(x, 5)[spikes]
    ones = torch.ones(1, 8, 3, 3)
    operations = 16 * torch.nn.functional.conv2d(spikes_T, ones, padding=1).sum()
    dense = 16 * torch.nn.functional.conv2d(torch.ones(5, 8, 6, 6), ones, padding=1).sum()
    session = runtime.Session(runtime.Program(net.data()))
    session.run(x.numpy())
    layer = session.report()[conv]
    assert (layer["op"], layer["name"], layer["weight_bytes"]) == ("conv", "conv2", 4 * 16 * 8 * 9)
    assert layer["activity"] == pytest.approx(float(spikes_T.mean()))
    assert layer["dense_operations"] == dense
    assert layer["operations"] == operations
    assert layer["seconds"] > 0 and session.report()[0]["activity"] is None
    session.reset()
    assert session.report()[conv]["operations"] == 0


def test_opens_a_path_as_well_as_bytes(tmp_path: Path) -> None:
    net, x = network(Draw()), Draw(1).real(3, 8, 8)
    (tmp_path / "net.nmx").write_bytes(net.data())
    program = runtime.Program(str(tmp_path / "net.nmx"))
    np.testing.assert_array_equal(runtime.Session(program).run(x.numpy(), 4), run(net, x, 4))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda s: s.run(np.zeros((2, 4, 4), np.float32)),
            r"x must be float32 \[3, 8, 8\], it is float32\[2, 4, 4\]",
        ),
        (lambda s: s.run(np.zeros((3, 8, 8))), "it is float64"),
        (lambda s: s.run(np.zeros((0, 3, 8, 8), np.float32)), "x must be"),
        (lambda s: s.run(np.zeros((2, 3, 8, 8), np.float32), 3), "x has 2 time steps, not 3"),
        (lambda s: s.run(np.zeros((3, 8, 8), np.float32), 0), "at least one time step"),
        (lambda s: s.run(np.zeros((3, 8, 16), np.float32)[:, :, ::2]), "contiguous"),
        (lambda s: s.step(np.zeros((1, 3, 8, 8), np.float32)), "x must be"),
        (lambda s: s.readout(), "before the first step"),
        (lambda s: s.value(0), "keep_all"),
        (lambda s: s.value(1000), "none is number 1000"),
    ],
)
def test_mistakes_in_calls(call: Callable[[Any], Any], message: str) -> None:
    session = runtime.Session(runtime.Program(network(Draw()).data()))
    with pytest.raises(ValueError, match=message):
        call(session)


@pytest.mark.parametrize("threads", [0, 257])
def test_threads_have_limits(threads: int) -> None:
    with pytest.raises(ValueError, match="threads must be 1 to 256"):
        runtime.Session(runtime.Program(network(Draw()).data()), threads=threads)


# Each a change of one key in the graph of `every_op`, and what the reader says.
def put(*path: Any, value: Any) -> Callable[[Keys], None]:
    def change(graph: Keys) -> None:
        inner = graph
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value

    return change


def drop(*path: Any) -> Callable[[Keys], None]:
    def change(graph: Keys) -> None:
        inner = graph
        for key in path[:-1]:
            inner = inner[key]
        del inner[path[-1]]

    return change


NODES = "nodes"
MISTAKES: list[tuple[Callable[[Keys], None], str]] = [
    (put("version", value=2), "graph: 'version' must be 1"),
    (put("more", value=1), "graph: 'more' is not a key of it"),
    (drop("readout"), "graph: 'readout' is missing"),
    (put("readout", value="max"), "graph: 'readout' must be mean, sum or last, not 'max'"),
    (put("time_steps", value=0), "graph: 'time_steps' must be made of integers from 1 to 65536"),
    (put("time_steps", value="4"), "graph: 'time_steps' must be made of integers"),
    (put("time_steps", value=2.5), "graph: 'time_steps' must be made of integers"),
    (put("time_steps", value=True), "graph: 'time_steps' must be made of integers"),
    (put("input", value=[4, 6]), r"graph: 'input' must be \[C, H, W\]"),
    (put("input", value=[4, 0, 6]), "graph: 'input' must be made of integers from 1"),
    (put("name", value=None), "graph: 'name' must be a string"),
    (put("classes", value=["a", "b"]), "graph: 'classes' must be 4 or none, not 2"),
    (put("classes", value=[1, 2, 3, 4]), "graph: 'classes' must be strings"),
    (put("output", value=15), "graph: 'output' must be one of the nodes, not 15"),
    (put("output", value=8), r"'output' must be a real value \[K, 1, 1\], node 8 is real \[4, 3, 3\]"),
    (put("output", value=10), r"'output' must be a real value \[K, 1, 1\], node 10 is binary"),
    (put(NODES, value=[]), "graph: 'nodes' must be 1 to 4096, not 0"),
    (put(NODES, 3, value=7), "node 3: an object is expected"),
    (put(NODES, 0, "op", value="lif"), "node 0 .*: 'op' must be input for node 0"),
    (put(NODES, 0, "shape", value=[4, 6, 5]), r"node 0 .*'shape' must be \[4, 6, 6\], not \[4, 6, 5\]"),
    (put(NODES, 1, "op", value="input"), "node 1 .*: 'op' must be input for node 0, and no other"),
    (put(NODES, 1, "op", value="dense"), r"node 1 \('conv1'\): 'op' is unknown: 'dense'"),
    (put(NODES, 1, "name", value="a\nb"), None),
    (put(NODES, 1, "inputs", value=[1]), r"node 1 \('conv1'\): 'inputs' must be nodes before it, not 1"),
    (put(NODES, 1, "inputs", value=[-1]), "node 1 .*'inputs' must be made of integers"),
    (put(NODES, 1, "inputs", value=[]), "node 1 .*'inputs' must be 1, not 0"),
    (
        put(NODES, 1, "weight", value="none"),
        "node 1 .*'weight' names a tensor that is not in the file: 'none'",
    ),
    (put(NODES, 1, "weight", value="conv1.bias"), r"node 1 .*'weight' must be \[O, 2, kh, kw\]"),
    (drop(NODES, 1, "scale"), "node 1 .*'scale' is missing"),
    (drop(NODES, 1, "bias"), "node 1 .*'bias' is missing"),
    (put(NODES, 1, "bias", value="conv1.weight"), r"node 1 .*'bias' must be float32 \[4\]"),
    (put(NODES, 1, "groups", value=3), "node 1 .*'groups' must divide the 4 channels of the input"),
    (put(NODES, 1, "groups", value=4), r"node 1 .*'weight' must be \[O, 1, kh, kw\]"),
    (put(NODES, 1, "stride", value=[1]), "node 1 .*'stride' must be a pair"),
    (put(NODES, 1, "stride", value=[0, 1]), "node 1 .*'stride' must be made of integers from 1"),
    (put(NODES, 1, "stride", value=[2, 1]), r"node 1 .*'shape' must be \[4, 3, 6\]"),
    (
        put(NODES, 1, "padding", value=[65537, 1]),
        "node 1 .*'padding' must be made of integers from 0 to 65536",
    ),
    (put(NODES, 1, "padding", value=[65536, 1]), "node 1 .*'shape' must have sides up to 65536"),
    (put(NODES, 1, "padding", value=[30000, 30000]), "node 1 .*'shape' must have at most 268435456 elements"),
    (put(NODES, 1, "dilation", value=[4, 1]), "node 1 .*'weight' reaches over 9 of 8 positions"),
    (put(NODES, 2, "reset", value="both"), "node 2 .*'reset' must be hard, soft or none"),
    (put(NODES, 2, "strict", value=1), "node 2 .*'strict' must be true or false"),
    (put(NODES, 2, "v_reset", value="0"), "node 2 .*'v_reset' must be a number"),
    (put(NODES, 2, "v_init", value=1e39), "node 2 .*'v_init' must be finite in float32"),
    (put(NODES, 2, "decay", value="conv1.weight"), r"node 2 .*'decay' must be float32 \[4\]"),
    (put(NODES, 3, "inputs", value=[2]), "node 3 .*'inputs' must be real"),
    (put(NODES, 4, "heads", value=3), "node 4 .*'heads' must divide the 4 channels"),
    (put(NODES, 4, "inputs", value=[2, 1, 2]), "node 4 .*'inputs' must be binary: node 1 is not"),
    (put(NODES, 4, "inputs", value=[2, 2]), "node 4 .*'inputs' must be 3, not 2"),
    (put(NODES, 5, "levels", value=256), "node 5 .*'levels' must be made of integers from 1 to 255"),
    (put(NODES, 6, "shift", value=None), "node 6 .*'shift' must be a string"),
    (put(NODES, 7, "padding", value=[2, 0]), "node 7 .*'padding' must be less than the kernel"),
    (put(NODES, 7, "kernel", value=[7, 2]), "node 7 .*'kernel' reaches over 7 of 6 positions"),
    (put(NODES, 7, "count_padding", value=True), "node 7 .*'count_padding' is not a key of it"),
    (put(NODES, 11, "inputs", value=[2, 2]), r"node 11 .*'inputs' must be \[C, 1, 1\] and \[C, H, W\]"),
    (put(NODES, 14, "inputs", value=[12, 8]), r"node 14 .*'inputs' must be of one shape"),
    (put(NODES, 14, "inputs", value=[12]), "node 14 .*'inputs' must be 2 or more, not 1"),
]


def test_every_op_in_one_network() -> None:
    check(every_op(), Draw().dyadic(3, 4, 6, 6), 3)


@pytest.mark.parametrize("which", range(len(MISTAKES)))
def test_mistakes_in_graphs(which: int) -> None:
    change, message = MISTAKES[which]
    if message is None:
        runtime.Program(every_op().changed(change))
        return
    with pytest.raises(ValueError, match=message) as caught:
        runtime.Program(every_op().changed(change))
    assert "\n" not in str(caught.value)


def with_header(change: Callable[[dict[str, Any]], None]) -> bytes:
    """The file with its header changed; the tensors stay as they are."""
    data = every_op().data()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    change(header)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + size :]


def raw(header: str, tensors: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header.encode())) + header.encode() + tensors


FILES: list[tuple[Callable[[], bytes], str]] = [
    (lambda: b"", "too short"),
    (lambda: b"1234567", "too short"),
    (lambda: struct.pack("<Q", 2**63) + b"{}", "header is longer than the file"),
    (lambda: every_op().data()[:-1], "the tensors take [0-9]+ bytes, the file has"),
    (lambda: every_op().data() + b"0", "the tensors take [0-9]+ bytes, the file has"),
    (lambda: raw("[]"), "header is no object"),
    (lambda: raw("{"), "not JSON at byte 1: a key is expected"),
    (lambda: raw("{} {}"), "something follows"),
    (lambda: raw("{}"), "no metadata"),
    (lambda: raw('{"__metadata__": {"format": "pt"}}'), "format in the metadata is not 'nmx'"),
    (lambda: raw('{"__metadata__": {"format": "nmx"}}'), "metadata has no graph"),
    (lambda: raw('{"__metadata__": {"format": 1}}'), "metadata 'format' must be a string"),
    (lambda: raw('{"__metadata__": {"format": "nmx", "graph": "{]"}}'), "graph: not JSON"),
    (lambda: raw('{"__metadata__": {"format": "nmx", "graph": "[]"}}'), "graph: an object is expected"),
    (lambda: raw('{"a": ' + "[" * 100000), "nested too deep"),
    (lambda: raw('{"a": [' + "0," * 1100000 + "0]}"), "too many values"),
    (lambda: raw('{"a": 1, "a": 2}'), "'a' occurs twice"),
    (lambda: raw('{"a": 1e999}'), "a number is out of range"),
    (lambda: raw('{"a": 01}'), "a number begins with 0"),
    (lambda: raw('{"a": NaN}'), "a value is expected"),
    (lambda: raw('{"a": "\\ud800"}'), "surrogate"),
    (lambda: raw('{"a": "\\x"}'), "unknown escape"),
    (lambda: struct.pack("<Q", 8) + b'{"\xff": 1}', "not UTF-8"),
    (
        lambda: with_header(lambda h: h["lif2.decay"].update(dtype="F16")),
        "'lif2.decay': the dtype must be F32 or I8",
    ),
    (lambda: with_header(lambda h: h["lif2.decay"].update(shape=[5])), "the offsets do not fit the shape"),
    (lambda: with_header(lambda h: h["lif2.decay"].update(shape=[2**32, 2**32])), "the shape is too large"),
    (lambda: with_header(lambda h: h["lif2.decay"].update(shape=[-1])), "integers of at least 0"),
    (lambda: with_header(lambda h: h["lif2.decay"].update(shape=[1.5])), "integers of at least 0"),
    (lambda: with_header(lambda h: h["lif2.decay"].update(more=0)), "the keys must be"),
    (lambda: with_header(lambda h: h["lif2.decay"].update(data_offsets=[16, 0])), "two ascending offsets"),
    (lambda: with_header(lambda h: h["lif2.decay"].update(data_offsets=[0, 16])), "overlap or leave gaps"),
    (lambda: with_header(lambda h: h.pop("lif2.decay")), "overlap or leave gaps"),
]


@pytest.mark.parametrize("which", range(len(FILES)))
def test_mistakes_in_files(which: int) -> None:
    make, message = FILES[which]
    with pytest.raises(ValueError, match=message) as caught:
        runtime.Program(make())
    assert "\n" not in str(caught.value)


def test_coefficients_must_be_finite() -> None:
    net = every_op()
    net.tensors["lif2.decay"][1] = torch.nan
    with pytest.raises(ValueError, match=r"'lif2\.decay' has numbers that are not finite"):
        runtime.Program(net.data())


def test_mistakes_in_paths(tmp_path: Path) -> None:
    for path in (tmp_path / "none.nmx", tmp_path):
        with pytest.raises(ValueError, match="there is no such file"):
            runtime.Program(str(path))


@pytest.fixture(scope="session")
def nmx_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command, built without Python."""
    if not shutil.which("cmake"):
        pytest.skip("needs cmake")
    build = tmp_path_factory.mktemp("runtime")
    subprocess.run(["cmake", "-S", ROOT / "src/neuromix/runtime/native", "-B", build], check=True)
    subprocess.run(["cmake", "--build", build, "-j1"], check=True)
    return build / "nmx-run"


@pytest.mark.slow
def test_command(nmx_run: Path, tmp_path: Path) -> None:
    draw = Draw()
    data = network(draw).data()
    (tmp_path / "net.nmx").write_bytes(data)
    session = runtime.Session(runtime.Program(data))

    def command(x: np.ndarray, *options: str) -> np.ndarray:
        np.save(tmp_path / "x.npy", x)
        files = ["net.nmx", "--input", "x.npy", "--output", "y.npy"]
        done = subprocess.run([nmx_run, *files, *options], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0 and not done.stderr
        assert bool(done.stdout) == ("--report" in options)
        return np.load(tmp_path / "y.npy")

    images, frames = draw.real(3, 3, 8, 8).numpy(), draw.real(2, 5, 3, 8, 8).numpy()
    np.testing.assert_array_equal(command(images[0]), session.run(images[0]))
    expected = np.stack([session.run(x, 7) for x in images])
    np.testing.assert_array_equal(
        command(images, "--time-steps", "7", "--threads", "2", "--report"), expected
    )
    np.testing.assert_array_equal(command(frames, "--frames"), np.stack([session.run(x) for x in frames]))
    np.testing.assert_array_equal(command(frames[1], "--frames"), session.run(frames[1]))

    for x in (images.astype(np.float64), np.asfortranarray(images), images[:, :2], frames):
        np.save(tmp_path / "x.npy", x)
        arguments = [nmx_run, "net.nmx", "--input", "x.npy", "--output", "z.npy"]
        done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and "x.npy: " in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.nmx", "x.npy", "y.npy"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "a network, --input and --output are needed"),
        (["net.nmx", "--input"], "--input needs a value"),
        (["net.nmx", "--threads", "x"], "--threads must be a number of at least 1"),
        (["net.nmx", "--frobnicate"], "unknown argument '--frobnicate'"),
        (["none.nmx", "--input", "x.npy", "--output", "y.npy"], "none.nmx: there is no such file"),
    ],
)
def test_mistakes_in_commands(nmx_run: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    done = subprocess.run([nmx_run, *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and message in done.stderr
