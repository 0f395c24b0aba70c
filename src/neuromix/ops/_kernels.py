"""Which kernels run where: those in C++ on a CPU, those in Triton on CUDA, and references where there are none."""

from __future__ import annotations

import functools
import importlib.metadata
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import torch
from torch import Tensor

from neuromix.ops import _cpu
from neuromix.ops._layout import DTYPES
from neuromix.ops._native import get_native, native


def _find_triton() -> bool:
    """Whether a Triton that reads our kernels is installed: not imported, as that takes long and a CPU needs none."""
    try:
        major, minor = importlib.metadata.version("triton").split(".")[:2]
    except importlib.metadata.PackageNotFoundError:
        return False
    return (int(major), int(minor)) >= (3, 3)


_has_triton = _find_triton()
_references_only = False


def has_kernel(x: Tensor) -> bool:
    """Whether a kernel can run on this input; else the op's PyTorch reference does.

    Warns once for a kind of device whose kernels are not installed; an import of neuromix does not.
    """
    device = x.device.type
    if _references_only or x.dtype not in DTYPES.get(device, ()):
        return False
    compiling = torch.compiler.is_compiling()
    if native is None if device == "cpu" else not _has_triton:
        if not compiling:
            get_native() if device == "cpu" else _warn_without_triton()
        return False
    return compiling or not torch._C._functorch.is_functorch_wrapped_tensor(x)


def kernels_for(x: Tensor) -> ModuleType:
    """The module with the kernels for this input, which has some: `lif`, `lif_backward`, `levels`."""
    if x.device.type == "cpu":
        return _cpu
    from neuromix.ops.triton import launch

    return launch


@contextmanager
def references_only() -> Iterator[None]:
    """Within the context every op runs by its PyTorch reference: for comparisons, and to trace plain PyTorch."""
    global _references_only
    before, _references_only = _references_only, True
    try:
        yield
    finally:
        _references_only = before


@functools.cache
def _warn_without_triton() -> None:
    warnings.warn(
        "neuromix runs slower PyTorch references on this GPU, as Triton 3.3 or newer is not installed: "
        'pip install "neuromix[gpu]"',
        RuntimeWarning,
        stacklevel=3,
    )
