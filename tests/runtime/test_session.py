"""Sessions: the C++ engine gives what the definition of a program gives, to the last spike."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch

from neuromix.core.errors import NeuromixError, ProgramError
from neuromix.runtime.lowering import lower
from neuromix.runtime.program import Program
from neuromix.runtime.program_file import to_bytes, write_program
from neuromix.runtime.quantization import quantize
from neuromix.runtime.reference import run_reference
from neuromix.runtime.session import Network, load
from tests.runtime.lowered import META, images, lively, tiny, tiny_meta

DIGIT = (1, 8, 8)


@pytest.fixture(scope="module", autouse=True)
def engine():
    return pytest.importorskip("neuromix._runtime")


NETS = {
    **{f"attention form {form}": (META, DIGIT, tiny_meta(attention={"form": form})) for form in (1, 2, 3, 4)},
    "preact": ("spiking_preact_resnet", (3, 8, 8), tiny("spiking_preact_resnet")),
    "vgg": ("spiking_vgg", (2, 8, 8), tiny("spiking_vgg", in_channels=2)),
    "nf": ("spiking_nf_resnet", (3, 8, 8), tiny("spiking_nf_resnet", **{"activation.v_threshold": 0.3})),
    "integers": ("spiking_vgg", (2, 8, 8), tiny("spiking_vgg", in_channels=2, activation=("i_lif", {"levels": 3}))),
}  # fmt: skip


def dyadic(program: Program) -> Program:
    """The program with a first layer whose sums are exact in any order: the format does not prescribe one there."""
    first = program.nodes[1]
    weight, bias = (
        (first[key] * 64).round() / 64 if first[key] is not None else None for key in ("weight", "bias")
    )
    nodes = (program.nodes[0], first.replace(weight=weight, bias=bias), *program.nodes[2:])
    return program.replace(nodes=nodes)


@pytest.mark.parametrize("int8", [False, True], ids=["float32", "int8"])
@pytest.mark.parametrize("name, shape, overrides", NETS.values(), ids=NETS.keys())
def test_the_engine_gives_what_the_definition_gives(name, shape, overrides, int8):
    program = lower(lively(name, shape, **overrides), input_shape=shape)
    program = dyadic(quantize(program, images(shape)) if int8 else program)
    x_BCHW = (images(shape, 2) * 8).round() / 8
    expected = run_reference(program, x_BCHW, ordered=True)
    session = Network(to_bytes(program)).session(keep_all=True)
    for sample, x_CHW in enumerate(x_BCHW):
        y_K = session.run(x_CHW.numpy())
        np.testing.assert_allclose(y_K, expected.output[sample].numpy(), rtol=1e-5, atol=1e-6)
        for index, edge in enumerate(program.edges):
            value = torch.from_numpy(session.value(index))
            wanted = expected.values[index][:, sample]
            if edge.type.levels:
                assert torch.equal(value, wanted), program.nodes[index]
            else:
                torch.testing.assert_close(value, wanted, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def program():
    model = lively("spiking_vgg", (2, 8, 8), **tiny("spiking_vgg", in_channels=2))
    return lower(model, input_shape=(2, 8, 8), classes=("a", "b", "c"))


def test_a_network_tells_what_it_is(program, tmp_path):
    path = tmp_path / "net.nmx"
    write_program(program, path)
    network = load(path)
    assert network.input_shape == (2, 8, 8)
    assert (network.time_steps, network.readout, network.classes) == (3, "mean", ("a", "b", "c"))
    assert [node["op"] for node in network.nodes] == [node.op for node in program.nodes]
    assert [tuple(node["shape"]) for node in network.nodes] == [edge.shape for edge in program.edges]
    assert [node["type"] for node in network.nodes] == [edge.type.name for edge in program.edges]


def test_steps_runs_and_threads_agree(program):
    network = Network(to_bytes(program))
    x_TCHW = torch.randn(5, 2, 8, 8).numpy()
    session = network.session()
    whole = session.run(x_TCHW)
    assert np.array_equal(network.session(threads=2).run(x_TCHW), whole)
    session.reset()
    steps = [session.step(x_CHW) for x_CHW in x_TCHW]
    assert np.array_equal(session.readout(), whole)
    np.testing.assert_allclose(np.mean(steps, 0), whole, rtol=1e-5, atol=1e-6)
    frames = run_reference(program, x_TCHW, frames=True).output[0]
    np.testing.assert_allclose(whole, frames.numpy(), rtol=1e-4, atol=1e-5)
    assert len(session.report()) == len(program.nodes)


def test_mistakes_are_one_line_with_the_name_of_the_file(program, tmp_path):
    path = tmp_path / "net.nmx"
    with pytest.raises(ProgramError, match="no file at"):
        load(path)
    path.write_bytes(to_bytes(program)[:-3])
    with pytest.raises(ProgramError) as caught:
        load(path)
    assert str(caught.value).count(str(path)) == 1
    assert "\n" not in str(caught.value)
    with pytest.raises(ProgramError):
        Network(b"hello")
    write_program(program, path)
    session = load(path).session()
    for call in (
        lambda: session.run(np.zeros((3, 8, 8))),
        lambda: session.step(np.zeros((5, 2, 8, 8))),
        lambda: session.run(np.zeros((2, 8, 8)), 0),
        lambda: session.value(0),
        lambda: session.run("x"),
        lambda: session.run(np.zeros((2, 8, 8)), -1),
    ):
        with pytest.raises(ProgramError, match=f"^{path}: ") as caught:
            call()
        assert "\n" not in str(caught.value)


def test_without_the_extension_there_is_one_clear_error(program, monkeypatch):
    def missing(name: str) -> object:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(
        NeuromixError, match=r"the event-driven engine is missing: .* without its C\+\+ extension"
    ):
        Network(to_bytes(program))
