"""How this process gets its memory: with glibc, whether that of a freed tensor stays or is mapped anew each time."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Mapping
from typing import Any

from neuromix.core.errors import UnknownNameError

# Of mallopt, as glibc's malloc.h numbers them.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4
_GIB = 1 << 30


def tune_allocator() -> bool:
    """Lets the memory of freed tensors stay with this process, so that the next ones need no fresh pages.

    By default glibc maps every tensor above 32 MiB when it is made and gives it back when it is freed. At the first
    touch of each page the kernel has to find and clear one: 16,384 page faults for 64 MiB, which take longer than a
    pointwise operation does. A training step makes the same tensors again and again. With M_MMAP_THRESHOLD at 1 GiB
    and M_TRIM_THRESHOLD off they come out of memory that the process already has, and after a few of them there is
    no page fault at all. Where all tensors are smaller, little is gained (`benchmarks/allocator.py` measures it).

    The cost: until it ends, the process holds the most that it ever needed, and more, since freed tensors are kept
    apart by what glibc cuts off to align them; a loop that makes one tensor of 64 MiB settles at seven places for it.
    Tensors above 1 GiB are mapped as before, unless glibc is so old that it refuses this threshold; then nothing is
    mapped apart (M_MMAP_MAX is 0). Large tensors that another thread than the main one makes are mapped as before.

    It works at any time, best before large tensors are made; calling it again changes nothing. The library never
    does so by itself; the command line does, for its own process (see `neuromix --help`).

    Returns:
        Whether it took effect. False, with nothing changed: another system than Linux, a C library other than glibc,
        or another malloc in the place of glibc's, as a preloaded jemalloc.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        libc = ctypes.CDLL("libc.so.6")
        if _address(ctypes.CDLL(None).malloc) != _address(libc.malloc):
            return False
        keeps = libc.mallopt(_M_MMAP_THRESHOLD, _GIB) or libc.mallopt(_M_MMAP_MAX, 0)
        return bool(keeps and libc.mallopt(_M_TRIM_THRESHOLD, -1))
    except (OSError, AttributeError):  # no such library, or one without mallopt
        return False


def may_tune_allocator(environment: Mapping[str, str]) -> bool:
    """Not where the user has chosen another way, by our switch or by glibc's own settings.

    Raises:
        UnknownNameError: NEUROMIX_ALLOCATOR is something else than tuned or system.
    """
    choice = environment.get("NEUROMIX_ALLOCATOR", "tuned")
    if choice not in ("tuned", "system"):
        raise UnknownNameError("NEUROMIX_ALLOCATOR", choice, ("tuned", "system"))
    own = any(name == "GLIBC_TUNABLES" or name.startswith("MALLOC_") for name in environment)
    return choice == "tuned" and not own


def _address(function: Any) -> int | None:
    return ctypes.cast(function, ctypes.c_void_p).value
