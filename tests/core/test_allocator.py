"""tune_allocator keeps memory in the process, which page faults show; the command line calls it unless told not to."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

import neuromix
from neuromix.core import allocator

needs_glibc = pytest.mark.skipif(
    not (sys.platform.startswith("linux") and "CS_GNU_LIBC_VERSION" in os.confstr_names),
    reason="needs Linux with glibc",
)
COUNT_FAULTS = """
import resource, torch

def faults():
    "Page faults of eight tensors of 40 MiB, one after the other."
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        torch.empty(10 << 20).fill_(1.0)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def settled():
    "The same once the process has enough memory, which takes a few."
    return min(faults() for _ in range(4))
"""
IN_PYTHON = f"""{COUNT_FAULTS}
import neuromix
before = faults()
took_effect = [neuromix.tune_allocator() for _ in range(2)]
print(*took_effect, settled() < before / 10)
"""
IN_COMMAND_LINE = f"""{COUNT_FAULTS}
import sys
from neuromix.cli import main
before = faults()
sys.argv[1:] = ["--version"]
main()
print(settled() < before / 10)
"""


def run(code: str, **environment: str) -> str:
    """What a program prints, without settings of the allocator but those given."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MALLOC_", "GLIBC_TUNABLES", "NEUROMIX_ALLOCATOR", "LD_PRELOAD"))
    }
    program = [sys.executable, "-c", code]
    return subprocess.run(
        program, env=kept | environment, capture_output=True, text=True, check=True
    ).stdout.strip()


@needs_glibc
def test_freed_memory_is_used_again():
    assert run(IN_PYTHON) == "True True True"


@needs_glibc
@pytest.mark.parametrize(
    ("environment", "tunes"),
    [
        ({}, True),
        ({"NEUROMIX_ALLOCATOR": "system"}, False),
        ({"MALLOC_ARENA_MAX": "2"}, False),
        ({"GLIBC_TUNABLES": "glibc.malloc.arena_max=2"}, False),
    ],
    ids=["by default", "switched off", "MALLOC_ of the user's", "tunables of the user's"],
)
def test_the_command_line_tunes_its_own_process(environment, tunes):
    assert run(IN_COMMAND_LINE, **environment).splitlines() == [neuromix.__version__, str(tunes)]


def test_an_unknown_choice_is_told(monkeypatch, capsys):
    from neuromix.cli import main

    monkeypatch.setattr(sys, "argv", ["neuromix", "--version"])
    monkeypatch.setenv("NEUROMIX_ALLOCATOR", "sytem")
    assert main() == 2
    assert capsys.readouterr().err == "error: unknown NEUROMIX_ALLOCATOR 'sytem'; did you mean system?\n"


def test_a_call_with_arguments_leaves_the_process_alone(monkeypatch):
    from neuromix import cli

    monkeypatch.setattr(cli, "tune_allocator", lambda: pytest.fail("the process is not the command line's"))
    assert cli.main(["--version"]) == 0


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_other_systems(platform, monkeypatch):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: pytest.fail("nothing to load"))
    assert neuromix.tune_allocator() is False


@pytest.fixture
def libraries(monkeypatch):
    """Libraries in the place of those of the process, by name; None: whatever the process calls."""
    libraries = {}
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: libraries[name])
    monkeypatch.setattr(allocator, "_address", lambda function: function)
    return libraries


class Libc(SimpleNamespace):
    """Notes calls of mallopt, of which some are refused."""

    def __init__(self, refused=()):
        super().__init__(malloc="glibc's", calls=[], refused=refused)

    def mallopt(self, option, value):
        self.calls.append((option, value))
        return int(option not in self.refused)


def test_a_libc_that_is_not_glibc(monkeypatch, libraries):
    libraries |= {None: Libc(), "libc.so.6": SimpleNamespace(malloc="glibc's")}
    assert neuromix.tune_allocator() is False

    def missing(name):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert neuromix.tune_allocator() is False


def test_another_malloc_in_the_place_of_glibcs(libraries):
    libc = Libc()
    libraries |= {None: SimpleNamespace(malloc="jemalloc's"), "libc.so.6": libc}
    assert neuromix.tune_allocator() is False
    assert libc.calls == []


@pytest.mark.parametrize(
    ("refused", "expected", "took_effect"),
    [
        ([], [(-3, 1 << 30), (-1, -1)], True),
        ([-3], [(-3, 1 << 30), (-4, 0), (-1, -1)], True),
        ([-3, -4], [(-3, 1 << 30), (-4, 0)], False),
    ],
    ids=["glibc of today", "old glibc", "neither"],
)
def test_what_is_set(libraries, refused, expected, took_effect):
    libc = Libc(refused)
    libraries |= {None: libc, "libc.so.6": libc}
    assert neuromix.tune_allocator() is took_effect
    assert libc.calls == expected
