"""The Triton kernels in Triton's interpreter, on CPU tensors in the place of the C++ kernels.

Triton must be imported with TRITON_INTERPRET=1, and then runs nothing else: test_triton.py runs this file in a process
of its own. Much of it is tests of the C++ kernels, collected here once more.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from triton.runtime import interpreter

from neuromix.neurons.surrogate import Sigmoid
from neuromix.ops import _kernels, _layout, _lif_kernel, levels, references_only
from neuromix.ops.lif import lif
from neuromix.ops.triton import launch
from tests.ops import test_lif
from tests.ops.test_levels import run as run_levels
from tests.ops.test_levels import test_layouts_and_empty_batches  # noqa: F401
from tests.ops.test_lif import (  # noqa: F401
    PLAIN,
    assert_kernel_equals_reference,
    cases,
    test_derivatives_of_a_spike_are_those_of_the_surrogate,
    test_empty_batch,
    test_gradients_in_other_layouts,
    test_layouts,
    test_not_a_number_stays_one,
    test_one_step_and_one_neuron,
)

# Small, so that few neurons make several programs, segments and rows of lanes.
SIZES = {"BLOCK": 64, "BLOCK_BACK": 32, "BLOCK_HEAVY": 16, "SEGMENT": 3, "SEGMENT_HEAVY": 2, "LANES": 40}


@pytest.fixture(scope="module", autouse=True)
def launches() -> Iterator[list[Any]]:
    """Puts the Triton kernels in the place of those for CPUs; the kernels that ran since."""
    ran: list[Any] = []
    run, convert = launch._launch, interpreter._convert_float

    def recorded(kernel: Any, *arguments: Any) -> None:
        ran.append(kernel)
        run(kernel, *arguments)

    def rounded(values: Any, given: Any, wanted: Any, mode: Any) -> Any:
        """The interpreter cuts off what bfloat16 does not hold; a GPU rounds to nearest."""
        if str(wanted) != "bf16" or str(given) != "fp32":
            return convert(values, given, wanted, mode)
        nearest = torch.from_numpy(np.ascontiguousarray(values)).bfloat16()
        return nearest.view(torch.int16).numpy().view(np.uint16)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_kernels, "native", launch)
        patch.setitem(_layout.DTYPES, "cpu", _layout.DTYPES["cuda"])
        for module in (_lif_kernel, levels):
            patch.setattr(module, "kernels_for", lambda x: launch)
        patch.setattr(launch, "_launch", recorded)
        patch.setattr(interpreter, "_convert_float", rounded)
        for name, size in SIZES.items():
            patch.setattr(launch, name, size)
        yield ran


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_kernel_equals_reference(launches: list[Any], data: st.DataObject) -> None:
    case = data.draw(cases())
    case["shape"] = (*case["shape"][:3], 1 + case["shape"][3] % 19)
    if case["dtype"] == torch.bfloat16 and case["seed"] % 2:
        case["dtype"] = torch.float16
    before = len(launches)
    assert_kernel_equals_reference(case)
    is_fused = case["reset"] != "none" or case["extra"] == "none"  # else the formula runs
    assert len(launches) == before + 2 * is_fused


def test_gradcheck() -> None:
    test_lif.test_gradcheck_where_nothing_is_near_the_threshold("adaptation")


@pytest.mark.parametrize("extra", ["none", "synapse"])
@pytest.mark.parametrize("learns", ["nothing", "channels"])
def test_sizes_that_run_on_a_gpu(extra: str, learns: str) -> None:
    sizes = {"BLOCK": 512, "BLOCK_BACK": 256, "BLOCK_HEAVY": 128, "SEGMENT": 16, "SEGMENT_HEAVY": 8}
    case = {
        "dtype": torch.float32,
        "shape": (19, 2, 3, 45),
        "extra": extra,
        "reset": "hard",
        "learns": learns,
        "surrogate": "atan",
        "detach_reset": False,
        "strict": False,
        "ratio": False,
        "fire_at": 1.0,
        "with_state": True,
        "seed": 5,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, size in sizes.items():
            patch.setattr(launch, name, size)
        assert_kernel_equals_reference(case)


def test_steps_further_apart_than_32_bits_count() -> None:
    # Two strides are more than 2^31 elements, one is not; address space without memory behind it.
    apart = 2**30 + 64
    flags = mmap.MAP_PRIVATE | getattr(mmap, "MAP_NORESERVE", 0x4000)
    with mmap.mmap(-1, 2 * (2 * apart + 64), flags=flags) as memory:
        flat = torch.frombuffer(memory, dtype=torch.bfloat16)
        x_T = flat.as_strided((3, 64), (apart, 1))
        rows = (torch.randn(3, 64, generator=torch.Generator().manual_seed(3)) * 2).bfloat16()
        x_T.copy_(rows)
        outputs = [lif(x_T, None, PLAIN, Sigmoid())[0], levels.integer_levels(x_T, 3)]
        expected = [lif(rows, None, PLAIN, Sigmoid())[0], levels.integer_levels(rows, 3)]
        del flat, x_T
        assert all(map(torch.equal, outputs, expected))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("options", [(4, 1.0, 1.0), (4, 4.0, 0.25), (7, 3.0, 1 / 7)])
def test_levels_equal_reference(dtype: torch.dtype, options: tuple[int, float, float]) -> None:
    x_T = torch.randn(3, 2, 150, generator=torch.Generator().manual_seed(0)) * 3
    x_T[0] = (x_T[0] * 4).round() / 8  # halves, where rounding decides, and the ends of the range
    results = run_levels(x_T.to(dtype), *options)
    with references_only():
        expected = run_levels(x_T.to(dtype), *options)
    assert torch.equal(results[0], expected[0])
    torch.testing.assert_close(results[1], expected[1])
