"""The package as installed: its C++ extension, and life without one."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

import neuromix
from neuromix.ops._native import get_native

ROOT = Path(__file__).parents[1]
WITHOUT_NATIVE = """
import warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import neuromix
    from neuromix.ops import _native
    before = len(caught)
    assert _native.native is None and _native.get_native() is None and _native.get_native() is None
messages = [str(w.message) for w in caught if w.category is RuntimeWarning and "extension" in str(w.message)]
print(before, len(messages), messages[0])
"""

native = get_native()
needs_native = pytest.mark.skipif(
    os.environ.get("NEUROMIX_NO_NATIVE") == "1", reason="NEUROMIX_NO_NATIVE=1 switches the extension off"
)


def test_version() -> None:
    from importlib.metadata import version

    assert neuromix.__version__ == version("neuromix")


@needs_native
def test_extension_is_built() -> None:
    assert native is not None
    info = native.build_info()
    assert "default" in info["instruction_sets"]
    assert info["compiler"] and info["flags"]


def test_without_extension_one_warning_at_first_use() -> None:
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT_NATIVE],
        env=os.environ | {"NEUROMIX_NO_NATIVE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.startswith("0 1 the C++ extension of neuromix is not in use")


@pytest.mark.slow
def test_wheel_is_pure_python_where_no_compiler_works(tmp_path: Path) -> None:
    pip_wheel = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    broken = os.environ | {"CXX": "/bin/false", "NEUROMIX_REQUIRE_NATIVE": "0"}
    subprocess.run([*pip_wheel, "-w", tmp_path, ROOT], env=broken, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert wheel.name.endswith("-py3-none-any.whl")
    assert "neuromix/ops/_native.py" in names
    assert not [name for name in names if name.startswith("neuromix/_native")]


def lif_reference(
    x_TN: np.ndarray, v_N: np.ndarray, *options: float, hard_reset: bool, strict: bool
) -> tuple[np.ndarray, np.ndarray]:
    decay, gain, offset, v_threshold, v_reset = map(x_TN.dtype.type, options)
    spikes_TN = np.empty_like(x_TN)
    for t, x_N in enumerate(x_TN):
        h_N = decay * v_N + gain * x_N + offset
        s_N = (h_N > v_threshold) if strict else (h_N >= v_threshold)
        spikes_TN[t] = s_N
        v_N = np.where(s_N, v_reset, h_N) if hard_reset else h_N - s_N.astype(h_N.dtype) * v_threshold
    return spikes_TN, v_N


@needs_native
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("hard_reset", "strict"), list(product([True, False], repeat=2)))
@pytest.mark.parametrize("shape", [(6, 1), (4, 2500), (1, 33), (3, 2, 5, 7), (7, 0), (0, 5), (4,)])
def test_lif_equals_numpy_bit_for_bit(
    dtype: str, hard_reset: bool, strict: bool, shape: tuple[int, ...]
) -> None:
    rng = np.random.default_rng(0)
    # Multiples of 1/4 reach the threshold exactly, where >= and > differ.
    x = (rng.integers(-4, 9, shape) / 4 + rng.normal(size=shape) * rng.integers(0, 2, shape)).astype(dtype)
    v = rng.normal(size=shape[1:]).astype(dtype)
    options = (0.5, 0.75, 0.125, 1.0, -0.25)
    expected_spikes, expected_v = lif_reference(x, v, *options, hard_reset=hard_reset, strict=strict)

    spikes = np.full_like(x, np.nan)
    native.lif_forward(x, v, spikes, *options, hard_reset, strict)
    assert spikes.tobytes() == expected_spikes.tobytes()
    assert v.tobytes() == expected_v.tobytes()


@needs_native
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("hard_reset", [True, False])
def test_lif_equals_torch_bit_for_bit_with_any_threads(dtype: torch.dtype, hard_reset: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x_TBN = torch.randn(4, 3, 70_001, generator=generator, dtype=dtype)
    v_BN = torch.zeros(3, 70_001, dtype=dtype)
    decay, gain, offset, v_threshold, v_reset = options = (1 - 1 / 3, 1 / 3, 0.1, 0.4, -0.1)
    expected = []
    v = v_BN
    for x in x_TBN:
        h = decay * v + gain * x + offset
        s = (h >= v_threshold).to(dtype)
        v = torch.where(s > 0, v_reset, h) if hard_reset else h - s * v_threshold
        expected.append(s)

    for threads in (1, 3):
        spikes, final = torch.empty_like(x_TBN), v_BN.clone()
        native.lif_forward(x_TBN, final, spikes, *options, hard_reset, False, threads=threads)
        assert torch.equal(spikes, torch.stack(expected))
        assert torch.equal(final, v)


@needs_native
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"v": np.zeros(4, "f4")}, ValueError, r"v_N float32\[4\] does not fit x_TN float32\[3, 5\]"),
        ({"spikes": np.zeros((2, 5), "f4")}, ValueError, "spikes_TN .* the shapes differ"),
        ({"spikes": np.zeros((5, 3), "f4").T}, ValueError, "spikes_TN must be contiguous"),
        ({"x": np.zeros((3, 10), "f4")[:, ::2]}, ValueError, "x_TN must be contiguous"),
        ({"v": np.zeros(5, "f8")}, TypeError, "v_N float64.* the dtypes differ"),
        (
            {"x": np.zeros((3, 5), "i4"), "v": np.zeros(5, "i4"), "spikes": np.zeros((3, 5), "i4")},
            TypeError,
            r"x_TN int32\[3, 5\] must be float32 or float64",
        ),
        ({"x": np.float32(0).reshape(())}, ValueError, "time axis"),
        ({"x": [[0.0]]}, TypeError, "incompatible"),
    ],
)
def test_lif_refuses_arrays_that_do_not_fit(
    change: dict[str, object], error: type[Exception], message: str
) -> None:
    arrays = {"x": np.zeros((3, 5), "f4"), "v": np.zeros(5, "f4"), "spikes": np.zeros((3, 5), "f4")} | change
    with pytest.raises(error, match=message):
        native.lif_forward(*arrays.values(), 0.5, 0.5, 0.0, 1.0, 0.0, True, False)


@needs_native
def test_lif_refuses_outputs_that_share_memory() -> None:
    x = np.zeros((3, 5), "f4")
    with pytest.raises(ValueError, match="x_TN and spikes_TN must not share memory"):
        native.lif_forward(x, np.zeros(5, "f4"), x, 0.5, 0.5, 0.0, 1.0, 0.0, True, False)
