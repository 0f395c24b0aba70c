"""The Triton kernels: in Triton's interpreter, in the code that they compile to, and on a GPU where there is one."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from neuromix.neurons import LIF
from neuromix.neurons.surrogate import Sigmoid
from neuromix.ops import _kernels, references_only
from neuromix.ops.levels import integer_levels
from neuromix.ops.lif import LIFParameters, lif
from tests.ops.test_levels import run as run_levels
from tests.ops.test_lif import assert_kernel_equals_reference, assert_near, cases

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason='Triton is not installed: pip install "neuromix[gpu]"'
)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU")
IN_INTERPRETER = Path(__file__).with_name("triton_in_interpreter.py")


@needs_triton
def test_in_the_interpreter() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(IN_INTERPRETER)],
        env=environment | {"TRITON_INTERPRET": "1"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_neurons_on_a_cpu_do_without_triton() -> None:
    code = (
        "import sys, torch, neuromix.neurons; neuromix.neurons.LIF()(torch.ones(2, 3, requires_grad=True)).sum()"
        ".backward(); sys.exit('triton' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_triton_one_warning_at_first_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_kernels, "_has_triton", False)
    _kernels._warn_without_triton.cache_clear()
    on_a_gpu: Any = SimpleNamespace(device=torch.device("cuda"), dtype=torch.float32)
    with pytest.warns(RuntimeWarning, match=r"pip install \"neuromix\[gpu\]\"") as caught:
        assert not _kernels.has_kernel(on_a_gpu) and not _kernels.has_kernel(on_a_gpu)
    assert len(caught) == 1


def compiled(kernel: Any, *, tensors: dict[str, str], ones: tuple[str, ...] = (), **options: Any) -> Any:
    """A kernel's code for a GPU of compute capability 8.0, which need not be there.

    Args:
        tensors: the types of those given; the others are None.
        ones: the numbers that are 1, for which Triton compiles apart.
        options: what is constant.
    """
    import triton
    from triton.backends.compiler import GPUTarget

    from neuromix.ops.triton.launch import COMPILER

    types, constants = {}, {}
    for parameter in kernel.params:
        name = parameter.name
        if parameter.is_constexpr or name in ones or (name.endswith("_ptr") and name not in tensors):
            types[name], constants[name] = "constexpr", 1 if name in ones else options.get(name)
        else:
            types[name] = tensors.get(name) or parameter.annotation_type or "i32"
    source = triton.compiler.ASTSource(kernel, types, constants)
    return triton.compile(source, target=GPUTarget("cuda", 80, 32), options=COMPILER)


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


@needs_triton
@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize("real", ["fp32", "fp64"])
def test_code_forward_fuses_no_product_with_a_sum(real: str) -> None:
    import triton.language as tl

    from neuromix.ops.triton.lif_forward import forward_kernel

    tensors = dict.fromkeys(["x_ptr", "extra_ptr", "output_ptr", "v_last_ptr"], f"*{real}")
    options = {"RESET": "next", "EXTRA": "synapse", "STRICT": True, "BLOCK": 256}
    options["REAL"] = tl.float32 if real == "fp32" else tl.float64
    code = compiled(forward_kernel, tensors=tensors, **options)
    assert re.search(rf"mul\.[a-z.]*f{real[2:]}", code.asm["ptx"])
    assert not re.search(FUSED, code.asm["ptx"])
    assert_offsets_have_64_bits(code.asm["ttir"])


@needs_triton
@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize("ones", [(), ("steps", "segments", "neurons", "width", "x_stride", "grad_stride")])
def test_code_backward(ones: tuple[str, ...]) -> None:
    import triton.language as tl

    from neuromix.ops.triton.lif_backward import backward_kernel

    names = ["x_ptr", "v_ptr", "grad_ptr", "grad_x_ptr", "grad_v_ptr", "sums_ptr"]
    tensors = dict.fromkeys(names if ones else [*names, "scratch_ptr"], "*fp32")
    options = {"RESET": "next", "EXTRA": "none", "STRICT": False, "DETACH": False, "RATIO": True}
    options |= {"KIND": "sigmoid", "ONE_CHANNEL": False, "REAL": tl.float32, "SEGMENT": 2, "BLOCK": 128}
    code = compiled(backward_kernel, tensors=tensors, ones=ones, **options)
    assert not re.search(FUSED, code.asm["ptx"])  # so that the potentials are those of forward
    assert_offsets_have_64_bits(code.asm["ttir"])


@needs_triton
@pytest.mark.usefixtures("own_cache")
def test_code_of_levels() -> None:
    import triton.language as tl

    from neuromix.ops.triton.levels import levels_kernel

    tensors = dict.fromkeys(["x_ptr", "grad_ptr", "output_ptr"], "*bf16")
    code = compiled(levels_kernel, tensors=tensors, REAL=tl.float32, BLOCK=256)
    assert_offsets_have_64_bits(code.asm["ttir"])


FUSED = r"\b(fma|mad)\.[a-z.]*f(32|64)"


def assert_offsets_have_64_bits(ttir: str) -> None:
    """Nothing is added to an address, and no product computed for it, in less."""
    offsets = re.findall(r"tt\.addptr .*, (?:tensor<\w+x)?i(\d+)>?", ttir)
    assert offsets and set(offsets) == {"64"}
    assert not re.search(r"arith\.muli .*i32", ttir)


@needs_gpu
@settings(max_examples=100, deadline=None)
@given(cases())
def test_kernel_equals_reference_on_a_gpu(case: dict[str, Any]) -> None:
    assert_kernel_equals_reference(case, "cuda")


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_levels_on_a_gpu(dtype: torch.dtype) -> None:
    x_T = (torch.randn(3, 2, 70_003, generator=torch.Generator().manual_seed(0)) * 12).round() / 4
    results, expected = (run_levels(x_T.to(device, dtype), 4, 1.0, 0.25) for device in ("cuda", "cpu"))
    assert all(torch.equal(one.cpu(), other) for one, other in zip(results, expected, strict=True))


def layer_results(layer: Any, x_T: Tensor, device: str) -> list[Tensor]:
    layer, leaf = layer.to(device), x_T.to(device, copy=True).requires_grad_()
    layer.zero_grad()
    spikes_T, state = layer(leaf, return_state=True)
    (spikes_T * torch.linspace(-1, 1, spikes_T.numel(), device=device).view_as(spikes_T)).sum().backward()
    gradients = [leaf.grad, *(parameter.grad for parameter in layer.parameters())]
    return [tensor.detach().cpu() for tensor in (spikes_T, *state, *gradients)]


@needs_gpu
@pytest.mark.parametrize("learnable", [(), ("v_threshold", "decay")])
@pytest.mark.parametrize("steps", [4, 40])
def test_layer_on_a_gpu_is_that_on_a_cpu(learnable: tuple[str, ...], steps: int) -> None:
    layer = LIF(learnable=learnable, channels=8 if learnable else None)
    x_T = torch.randn(steps, 16, 8, 33, 31, generator=torch.Generator().manual_seed(0)) * 2
    expected = layer_results(layer, x_T, "cpu")
    results = layer_results(layer, x_T, "cuda")
    assert all(map(torch.equal, results[:2], expected[:2]))
    for one, other in zip(results[2:], expected[2:], strict=True):
        assert_near(one, other, 1e-5)


@needs_gpu
def test_compiled_layer_on_a_gpu() -> None:
    layer, x_T = LIF(), torch.randn(4, 8, 100, generator=torch.Generator().manual_seed(0)) * 2
    expected = layer_results(layer, x_T, "cuda")
    results = layer_results(torch.compile(layer, fullgraph=True), x_T, "cuda")
    assert all(map(torch.equal, results, expected))


@needs_gpu
def test_more_elements_than_32_bits_count_on_a_gpu() -> None:
    steps, neurons, last = 3, 2**30 + 512, 1024
    if torch.cuda.mem_get_info()[0] < 4 * steps * neurons * 2:
        pytest.skip("the GPU has too little memory")
    row = (torch.randn(steps, last, generator=torch.Generator().manual_seed(0)) * 2).to(
        "cuda", torch.bfloat16
    )
    x_T = torch.zeros(steps, neurons, dtype=torch.bfloat16, device="cuda")
    x_T[:, -last:] = row
    parameters = LIFParameters(decay=0.5, gain=0.5, offset=0.0, v_reset=0.0)
    for function in (
        lambda x_T: lif(x_T, None, parameters, Sigmoid(), return_state=False)[0],
        lambda x_T: integer_levels(x_T, 4),
    ):
        assert torch.equal(function(x_T)[:, -last:], function(row))


@needs_gpu
def test_references_on_a_gpu_need_no_kernel() -> None:
    x_T = torch.randn(4, 100, device="cuda")
    parameters = LIFParameters(decay=0.5, gain=0.5, offset=0.0, v_reset=0.0)
    with references_only():
        expected, _ = lif(x_T, None, parameters, Sigmoid())
    assert torch.equal(lif(x_T, None, parameters, Sigmoid())[0], expected)
