"""Nodes Delay of other tools, damaged ones, and delays that have no form."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from neuromix.core.edits import apply_edit
from neuromix.core.errors import CheckpointError, NeuromixError, UnsupportedError
from neuromix.exchange.nir import from_nir, to_nir
from neuromix.runtime.lowering import lower
from tests.exchange.test_nir_delays import dcls, run, x_TBN

nir = pytest.importorskip("nir")


# What others write.


def graph_of(*nodes: Any, shape: tuple[int, ...] = (3,), **metadata: Any) -> Any:
    """Nodes one behind the other; a Delay is called 'delay'."""
    ends = {"input": nir.Input(np.array(shape)), "output": nir.Output(np.array(shape))}
    inner = {type(node).__name__.lower(): node for node in nodes}
    path = ["input", *inner, "output"]
    edges = list(itertools.pairwise(path))
    return nir.NIRGraph({**ends, **inner}, edges, metadata=metadata, type_check=False)


@pytest.mark.parametrize("shape", [(3,), (2, 2, 2)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_delay_for_each_place(shape: tuple[int, ...], dtype: Any) -> None:
    steps = np.random.default_rng(0).integers(0, 900, shape)
    steps.flat[:2] = 0, 2
    net = from_nir(graph_of(nir.Delay((steps * 1e-4).astype(dtype)), shape=shape))
    x = torch.randn(1000, 2, *shape, generator=torch.Generator().manual_seed(0))
    y = run(net, x)
    for place, delay in np.ndenumerate(steps):
        late, one = y[(..., *place)], x[(..., *place)]
        assert torch.equal(late[delay:], one[: 1000 - delay]) and not late[:delay].any()
    if len(shape) == 1:
        np.testing.assert_allclose(to_nir(net).nodes["nodes.delay"].delay, steps * 1e-4)
    else:
        with pytest.raises(UnsupportedError, match=r"nodes\.delay: only features \[F\] are delayed"):
            to_nir(net)


def test_other_time_steps() -> None:
    graph = graph_of(nir.Delay(np.full(3, 2e-3)))
    x = x_TBN(3)
    assert torch.equal(run(from_nir(graph, dt=1e-3), x)[2:], x[:-2])
    assert torch.equal(run(from_nir(graph, dt=2e-3), x)[1:], x[:-1])
    with pytest.raises(CheckpointError, match=r"whole number of time steps dt=0\.003, got 0\.002"):
        from_nir(graph, dt=3e-3)


def test_it_can_be_trained() -> None:
    net = from_nir(to_nir(dcls())).train()
    net(x_TBN()).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


# What is refused.


def tails(value: Any) -> Any:
    return graph_of(nir.Delay(np.zeros(3)), tails=value)


def unlike_ends() -> Any:
    graph = graph_of(nir.Delay(np.zeros(3)), tails='{"delay": 2}')
    graph.edges.append(("input", "output"))
    return graph


DAMAGED = [
    (
        lambda: graph_of(nir.Delay(np.array([0, -1e-4, 0]))),
        r"'delay' \(Delay\): a delay is 0 or more, got -0\.0001",
    ),
    (
        lambda: graph_of(nir.Delay(np.array([0, 1.5e-4, 0]))),
        r"'delay' \(Delay\): a delay must be a whole number of time steps dt=0\.0001, got 0\.00015",
    ),
    (
        lambda: graph_of(nir.Delay(np.zeros(2))),
        r"'delay' \(Delay\): delay must be \[3\], as its input, got \[2\]",
    ),
    (
        lambda: graph_of(nir.Delay(np.array([0, np.nan, 0]))),
        r"'delay' \(Delay\): delay holds NaN or infinity",
    ),
    (lambda: graph_of(nir.Delay(np.full(3, 1e6))), r"'delay' \(Delay\): a delay is at most 65536 time steps"),
    (
        lambda: graph_of(nir.Delay(np.full(3, 1e300))),
        r"'delay' \(Delay\): a delay is at most 65536 time steps",
    ),
    (lambda: tails("{"), "tails must be JSON of node -> steps, whole numbers from 0 to 65536, got '{'"),
    (lambda: tails(3), "tails must be JSON of node -> steps"),
    (lambda: tails('{"delay": -1}'), "tails must be JSON of node -> steps"),
    (lambda: tails('{"delay": true}'), "tails must be JSON of node -> steps"),
    (lambda: tails('{"delay": 65537}'), "tails must be JSON of node -> steps"),
    (lambda: tails("[" * 100_000), "tails must be JSON of node -> steps"),
    (lambda: tails('{"output": 2}'), "the metadata's tails name 'output', which is no node Delay"),
    (lambda: tails('{"other": 2}'), "the metadata's tails name 'other', which is no node Delay"),
    (unlike_ends, r"'output' adds values that go on for unlike numbers of steps after the input: \[0, 2\]"),
]


@pytest.mark.parametrize(("make", "match"), DAMAGED, ids=[match for _, match in DAMAGED])
@pytest.mark.parametrize("as_file", [False, True], ids=["graph", "file"])
def test_damaged_delays(make: Callable[[], Any], match: str, as_file: bool, tmp_path: Path) -> None:
    graph = make()
    if as_file:
        nir.write(tmp_path / "net.nir", graph)
        graph = tmp_path / "net.nir"
    with pytest.raises(CheckpointError, match=match) as caught:
        from_nir(graph)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_a_graph_that_goes_on_for_too_long() -> None:
    names = [f"d{index}" for index in range(3)]
    ends = {"input": nir.Input(np.array([3])), "output": nir.Output(np.array([3]))}
    path = ["input", *names, "output"]
    graph = nir.NIRGraph(
        {**ends, **{name: nir.Delay(np.zeros(3)) for name in names}},
        list(itertools.pairwise(path)),
        metadata={"tails": json.dumps(dict.fromkeys(names, 30_000))},
    )
    with pytest.raises(CheckpointError, match="'d2' goes on for 90000 steps after the input, at most 65536"):
        from_nir(graph)


def test_delays_between_two_steps() -> None:
    model = dcls(round_delays=False)
    with pytest.raises(
        UnsupportedError, match=r"^dcls\.blocks\.0\.delay: its delays lie between .*\"discretise\""
    ) as caught:
        to_nir(model)
    assert "\n" not in str(caught.value)
    assert to_nir(apply_edit(model, "discretise")).nodes


def test_what_was_read_has_no_form_in_other_files() -> None:
    with pytest.raises(NeuromixError, match="NIRDelay") as caught:
        lower(from_nir(to_nir(dcls()), readout="mean"))
    assert "\n" not in str(caught.value)
