"""Fixtures of the command line tests."""

from __future__ import annotations

import json
import shlex

import pytest

from neuromix.cli import main


@pytest.fixture
def run(capsys):
    """Runs a command line; gives exit code, standard output and standard error."""

    def run(line):
        capsys.readouterr()
        code = main(shlex.split(line))
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture
def run_json(run):
    """The same for a command that succeeds and prints one JSON object, which it gives."""

    def run_json(line):
        code, out, err = run(f"{line} --json")
        assert code == 0, err
        return json.loads(out)

    return run_json
