"""The fused kernel of the integrate-and-fire recurrence against its reference, and the inputs that it takes."""

from __future__ import annotations

import mmap
import os
import threading
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils import _pytree as pytree

from neuromix.core.errors import NeuromixError, ShapeError
from neuromix.neurons.surrogate import Rectangle, Sigmoid, make_surrogate
from neuromix.ops import _layout, references_only
from neuromix.ops._native import native
from neuromix.ops.lif import LIFParameters, lif
from neuromix.ops.spike import KINDS

needs_native = pytest.mark.skipif(native is None, reason="the extension is not in use")
PLAIN = LIFParameters(decay=0.5, gain=0.5, offset=0.0, v_threshold=1.0, v_reset=0.0)
HALF = (torch.bfloat16, torch.float16)


def state_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype in HALF else dtype


@st.composite
def cases(draw: st.DrawFn) -> dict[str, Any]:
    """Options of every kind, shapes [T, B, C, N] that are not multiples of anything, and a seed for the values."""
    extra = draw(st.sampled_from(["none", "synapse", "adaptation"]))
    reset = draw(st.sampled_from(["hard", "shifted", "soft", "none"]))
    if extra != "adaptation":
        reset = draw(st.sampled_from([reset, "next"]))
    return {
        "dtype": draw(st.sampled_from([torch.float64, torch.float32, torch.bfloat16])),
        "shape": tuple(draw(st.integers(1, most)) for most in (7, 3, 5, 90)),
        "extra": extra,
        "reset": reset,
        "learns": draw(st.sampled_from(["nothing", "a number", "channels"])),
        "surrogate": draw(st.sampled_from(KINDS)),
        "detach_reset": draw(st.booleans()),
        "strict": draw(st.booleans()),
        "ratio": extra != "adaptation" and draw(st.booleans()),
        "fire_at": draw(st.sampled_from([1.0, 0.75])),
        "with_state": draw(st.booleans()),
        "seed": draw(st.integers(0, 2**31)),
    }


def build(case: dict[str, Any]) -> tuple[Tensor, tuple[Tensor, ...] | None, LIFParameters]:
    generator = torch.Generator().manual_seed(case["seed"])
    shape, dtype = case["shape"], state_dtype(case["dtype"])

    def draw(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64).to(dtype)

    def coefficient(value: float) -> float | Tensor:
        if case["learns"] == "nothing":
            return value
        return value + 0.05 * draw(*(() if case["learns"] == "a number" else (shape[2],)))

    # Multiples of 1/4 reach the threshold exactly, where >= and > differ.
    x_T = (draw(*shape) * 6).round() / 4
    x_T = torch.where(draw(*shape) > 0, x_T, x_T + 0.1 * draw(*shape)).to(case["dtype"])
    p = LIFParameters(
        decay=coefficient(0.5),
        gain=coefficient(0.75),
        offset=coefficient(0.0),
        v_threshold=coefficient(0.75),
        v_reset={"hard": 0.0, "shifted": -0.25}.get(case["reset"]),
        detach_reset=case["detach_reset"],
        strict=case["strict"],
        fire_at=case["fire_at"],
        height=coefficient(1.0),
        reset="next" if case["reset"] == "next" else "now",
        ratio=case["ratio"],
        v_init=0.25,
        fires=case["reset"] != "none",
        extra=case["extra"],
        extra_decay=coefficient(0.5) if case["extra"] != "none" else 0.0,
        strength=coefficient(0.25) if case["extra"] == "adaptation" else 0.0,
    )
    state = (draw(*shape[1:]), draw(*shape[1:]).abs())[: 1 if case["extra"] == "none" else 2]
    return x_T, state if case["with_state"] else None, p


def moved(inputs: Any, device: str) -> Any:
    return pytree.tree_map_only(Tensor, lambda tensor: tensor.to(device), inputs)


def run(x_T: Tensor, state: Any, p: LIFParameters, surrogate: Any) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs and last states; gradients of input, states and coefficients from a loss on all of them."""
    inputs = [x_T, *(state or ()), *(value for value in p if isinstance(value, Tensor))]
    leaves = [tensor.detach().clone().requires_grad_() for tensor in inputs]
    states = len(state or ())
    names = [name for name, value in p._asdict().items() if isinstance(value, Tensor)]
    p = p._replace(**dict(zip(names, leaves[1 + states :], strict=True)))
    y_T, last = lif(leaves[0], tuple(leaves[1 : 1 + states]) or None, p, surrogate)
    weights = torch.linspace(-1, 1, y_T.numel(), dtype=state_dtype(y_T.dtype), device=y_T.device)
    weights = weights.view_as(y_T).sin()
    loss = (y_T * weights).sum() + sum((v * (i + weights[0])).sum() for i, v in enumerate(last))
    gradients = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
    return [y_T, *last], list(gradients)


def assert_near(actual: Tensor, expected: Tensor, tolerance: float, scale: float | None = None) -> None:
    """Equal up to `tolerance` of the largest entry, or of 1, the size of the terms that may cancel in it."""
    scale = max(1.0, float(expected.abs().max())) if scale is None else scale
    torch.testing.assert_close(actual.to(expected), expected, rtol=0, atol=tolerance * scale)


@needs_native
@settings(max_examples=120, deadline=None)
@given(cases())
def test_kernel_equals_reference(case: dict[str, Any]) -> None:
    assert_kernel_equals_reference(case)


def assert_kernel_equals_reference(case: dict[str, Any], device: str = "cpu") -> None:
    x_T, state, p = moved(build(case), device)
    surrogate = make_surrogate(case["surrogate"])
    outputs, gradients = run(x_T, state, p, surrogate)
    with references_only():
        expected, expected_gradients = run(x_T, state, p, surrogate)
    for one, other in zip(outputs, expected, strict=True):
        assert one.dtype == other.dtype and torch.equal(one, other)
    # The slope of the fast sigmoid is so steep that the last bit of h shows in the fifth digit, in references too.
    single = 2e-5 if case["surrogate"] == "fast_sigmoid" else 1e-6
    tolerance = 1e-12 if case["dtype"] == torch.float64 else single
    of_states = len(state or ())
    for i, (one, other) in enumerate(zip(gradients, expected_gradients, strict=True)):
        if i == 0 and case["dtype"] in HALF:
            assert_near(one, other, 2**-8)  # one rounding to bfloat16, of nearly the same number
        elif i <= of_states:
            assert_near(one, other, tolerance)
        else:  # sums that may cancel, over all neurons of a channel and all steps
            assert_near(one, other, tolerance, scale=x_T.numel() ** 0.5 + float(other.abs().max()))


@needs_native
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("learns", [False, True])
def test_any_number_of_threads_gives_the_same(dtype: torch.dtype, learns: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x_T = torch.randn(4, 3, 70_001, generator=generator).to(dtype)
    wide = state_dtype(dtype)
    p = PLAIN._replace(v_threshold=torch.full((3,), 0.5, dtype=wide), channel_axis=0) if learns else PLAIN
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 3, 8):
            torch.set_num_threads(threads)
            results.append(run(x_T, None, p, Sigmoid()))
    finally:
        torch.set_num_threads(before)
    for outputs, gradients in results[1:]:
        assert all(map(torch.equal, outputs, results[0][0]))
        assert torch.equal(gradients[0], results[0][1][0])
        for one, other in zip(gradients[1:], results[0][1][1:], strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("kind", ["hard", "soft", "next", "none", "synapse", "adaptation"])
def test_gradcheck_where_nothing_is_near_the_threshold(kind: str) -> None:
    # There the function is smooth, and a surrogate narrower than the distance from the threshold is exact.
    generator = torch.Generator().manual_seed(1)
    x_T = torch.randn(4, 2, 3, generator=generator, dtype=torch.float64) * 2
    extra = kind if kind in ("synapse", "adaptation") else "none"
    values = (
        [0.6, 0.8, 0.1, 0.7] + ([0.5] if extra != "none" else []) + ([0.3] if extra == "adaptation" else [])
    )
    names = ["decay", "gain", "offset", "v_threshold", "extra_decay", "strength"]
    surrogate = Rectangle(width=1e-5)

    def function(x_T: Tensor, *leaves: Tensor) -> tuple[Tensor, ...]:
        states, coefficients = leaves[: 1 + (extra != "none")], leaves[1 + (extra != "none") :]
        p = LIFParameters(
            **dict(zip(names, coefficients, strict=False)),
            v_reset=-0.1 if kind == "hard" else None,
            reset="next" if kind == "next" else "now",
            fires=kind != "none",
            extra=extra,
        )
        y_T, last = lif(x_T, states, p, surrogate)
        return (y_T, *last)

    states = [
        torch.rand(2, 3, generator=generator, dtype=torch.float64) for _ in range(1 + (extra != "none"))
    ]
    coefficients = [torch.full((3,), value, dtype=torch.float64) for value in values]
    leaves = [leaf.requires_grad_() for leaf in (x_T, *states, *coefficients)]
    assert torch.autograd.gradcheck(function, leaves)


def test_derivatives_of_a_spike_are_those_of_the_surrogate() -> None:
    u = torch.linspace(-2, 2, 41, dtype=torch.float64)
    p = PLAIN._replace(decay=0.0, gain=1.0, v_threshold=1.0)
    for kind in KINDS:
        surrogate, x_T = make_surrogate(kind), (u + 1.0)[None].requires_grad_()
        lif(x_T, None, p, surrogate)[0].sum().backward()
        assert x_T.grad is not None
        torch.testing.assert_close(
            x_T.grad[0], surrogate.derivative(x_T.detach()[0] - 1.0), rtol=1e-13, atol=1e-15
        )


def inputs_in_other_layouts() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    image = torch.randn(1, 2, 3, 4, 5, generator=generator)
    return {
        "expanded over time": image.expand(4, 2, 3, 4, 5),
        "channels last": torch.randn(8, 3, 4, 5, generator=generator)
        .to(memory_format=torch.channels_last)
        .view(4, 2, 3, 4, 5),
        "permuted": torch.randn(4, 5, 2, 4, 3, generator=generator).permute(0, 2, 4, 3, 1),
        "every other step": torch.randn(8, 2, 3, 4, 5, generator=generator)[::2],
        "every other neuron": torch.randn(4, 2, 3, 4, 10, generator=generator)[..., ::2],
        "expanded over channels": torch.randn(4, 2, 1, 4, 5, generator=generator).expand(4, 2, 3, 4, 5),
        "time last": torch.randn(2, 3, 4, 5, 4, generator=generator).permute(4, 0, 1, 2, 3),
    }


@pytest.mark.parametrize("name", inputs_in_other_layouts())
@pytest.mark.parametrize("learns", [False, True])
def test_layouts(name: str, learns: bool) -> None:
    x_T = inputs_in_other_layouts()[name]
    p = PLAIN._replace(v_threshold=torch.tensor([0.3, 0.6, 0.9])) if learns else PLAIN
    state = (torch.randn(5, 4, 3, 2).permute(3, 2, 1, 0),)
    outputs, gradients = run(x_T, state, p, Sigmoid())
    expected, expected_gradients = run(x_T.contiguous(), state, p, Sigmoid())
    assert all(map(torch.equal, outputs, expected))
    for one, other in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_dense_steps_are_not_copied() -> None:
    layouts = inputs_in_other_layouts()
    for name in ("expanded over time", "channels last", "permuted", "every other step"):
        assert _layout.dense_steps(layouts[name]) is layouts[name]
    y_T, _ = lif(layouts["channels last"], None, PLAIN, Sigmoid())
    assert y_T[0].stride() == layouts["channels last"][0].stride()


def test_gradients_in_other_layouts() -> None:
    x_T = torch.randn(4, 2, 3, 5)
    for gradient in (
        torch.ones(()).expand(4, 2, 3, 5),
        torch.randn(4, 5, 3, 2).transpose(1, 3),
        torch.randn(1, 2, 3, 5),
    ):
        results = []
        for g_T in (gradient.expand(4, 2, 3, 5), gradient.expand(4, 2, 3, 5).contiguous()):
            leaf = x_T.clone().requires_grad_()
            lif(leaf, None, PLAIN, Sigmoid())[0].backward(g_T)
            results.append(leaf.grad)
        assert torch.equal(*results)


@needs_native
def test_steps_further_apart_than_32_bits_count() -> None:
    # Address space without memory behind it, of which two rows are touched.
    apart = 2**31 + 64
    with mmap.mmap(
        -1, 4 * (apart + 64), flags=mmap.MAP_PRIVATE | getattr(mmap, "MAP_NORESERVE", 0x4000)
    ) as memory:
        flat = torch.frombuffer(memory, dtype=torch.float32)
        x_T = flat.as_strided((2, 64), (apart, 1))
        rows = torch.randn(2, 64, generator=torch.Generator().manual_seed(3)) * 2
        x_T.copy_(rows)
        y_T, (v,) = lif(x_T, None, PLAIN, Sigmoid())
        expected, (expected_v,) = lif(rows, None, PLAIN, Sigmoid())
        del flat, x_T
        assert torch.equal(y_T, expected) and torch.equal(v, expected_v)


def test_more_elements_than_32_bits_count_on_paper() -> None:
    x_T = torch.empty(3, 2**31, device="meta", requires_grad=True)
    y_T, (v,) = lif(x_T, None, PLAIN, Sigmoid())
    assert y_T.shape == x_T.shape and v.shape == x_T.shape[1:]
    y_T.sum().backward()
    assert x_T.grad is not None and x_T.grad.shape == x_T.shape


@pytest.mark.parametrize("shape", [(3, 0, 4), (3, 2, 0), (1, 0)])
@pytest.mark.parametrize("learns", [False, True])
def test_empty_batch(shape: tuple[int, ...], learns: bool) -> None:
    p = PLAIN._replace(v_threshold=torch.tensor(1.0)) if learns else PLAIN
    (y_T, v), gradients = run(torch.zeros(shape), None, p, Sigmoid())
    assert y_T.shape == shape and v.shape == shape[1:] and gradients[0].shape == shape
    assert all(float(g) == 0 for g in gradients[1:])


@pytest.mark.parametrize("shape", [(1, 3), (5,), (1,)])
def test_one_step_and_one_neuron(shape: tuple[int, ...]) -> None:
    x_T = torch.full(shape, 3.0)
    (y_T, v), _ = run(x_T, None, PLAIN, Sigmoid())
    assert torch.equal(y_T, torch.ones(shape)) and torch.equal(v, torch.zeros(shape[1:]))


@pytest.mark.parametrize(
    ("x_T", "state", "message"),
    [
        (torch.zeros(0, 3), None, r"at least one step, got \[0, 3\]"),
        (torch.zeros(()), None, "at least one step"),
        (torch.zeros(2, 3, dtype=torch.int64), None, "floating-point input, got torch.int64"),
        (torch.zeros(2, 3, dtype=torch.bool), None, "floating-point input"),
        (torch.zeros(2, 3, dtype=torch.complex64), None, "floating-point input"),
        (torch.zeros(2, 3), (torch.zeros(4),), r"state is torch.float32 \[4\]"),
        (torch.zeros(2, 3), (torch.zeros(3, dtype=torch.float64),), r"state is torch.float64 \[3\]"),
        (
            torch.zeros(2, 3, dtype=torch.bfloat16),
            (torch.zeros(3, dtype=torch.bfloat16),),
            "needs torch.float32",
        ),
        (torch.zeros(2, 3), (torch.zeros(3, device="meta"),), "on meta"),
        (torch.zeros(2, 3, device="meta"), (torch.zeros(3),), r"on cpu.*on meta"),
        (torch.zeros(2, 3), (torch.zeros(3), torch.zeros(3)), "1 tensor"),
    ],
)
def test_refused(x_T: Tensor, state: Any, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        lif(x_T, state, PLAIN, Sigmoid())


def test_coefficients_that_do_not_fit_are_refused() -> None:
    x_T = torch.zeros(2, 3, 4)
    with pytest.raises(ShapeError, match=r"v_threshold has shape \[3\].*have 4 channels, on axis 1"):
        lif(x_T, None, PLAIN._replace(v_threshold=torch.ones(3)), Sigmoid())
    with pytest.raises(ShapeError, match="v_threshold is on meta"):
        lif(x_T, None, PLAIN._replace(v_threshold=torch.ones((), device="meta")), Sigmoid())


@needs_native
def test_second_derivatives_are_left_to_the_reference() -> None:
    x_T = torch.randn(2, 3, requires_grad=True)
    with pytest.raises(NeuromixError, match="references_only"):
        torch.autograd.grad(lif(x_T, None, PLAIN, Sigmoid())[0].sum(), x_T, create_graph=True)
    with references_only():
        (gradient,) = torch.autograd.grad(lif(x_T, None, PLAIN, Sigmoid())[0].sum(), x_T, create_graph=True)
    gradient.sum().backward()
    assert x_T.grad is not None and x_T.grad.abs().sum() > 0


def test_not_a_number_stays_one() -> None:
    x_T = torch.tensor([[float("nan")], [1.0]], requires_grad=True)
    y_T, (v,) = lif(x_T, None, PLAIN, Sigmoid())
    assert torch.equal(y_T, torch.zeros(2, 1)) and v.isnan().all()
    y_T.sum().backward()
    assert x_T.grad is not None and x_T.grad.isnan().all()


@needs_native
def test_calls_from_several_python_threads() -> None:
    x_T = torch.randn(4, 200_000, generator=torch.Generator().manual_seed(4))
    expected, _ = lif(x_T, None, PLAIN, Sigmoid())
    results: list[Tensor] = []

    def work() -> None:
        for _ in range(5):
            results.append(lif(x_T, None, PLAIN, Sigmoid())[0])

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 15 and all(torch.equal(y_T, expected) for y_T in results)


@needs_native
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_has_threads_of_its_own() -> None:
    def spikes() -> bytes:
        x, v = np.ones((4, 200_000), "f4") * 1.5, np.zeros(200_000, "f4")
        y = np.empty_like(x)
        native.lif_forward(x, v, y, 0.5, 0.5, 0.0, 1.0, 0.0, True, False, threads=2)
        return y.tobytes()

    expected = spikes()
    child = os.fork()
    if child == 0:
        os._exit(0 if spikes() == expected else 1)
    assert os.waitpid(child, 0)[1] == 0
