"""SLTT and BPTT in two processes that share a batch: the gradient is that of the whole batch."""

from __future__ import annotations

import pytest

from tests.training.test_processes import torchrun


@pytest.mark.slow
def test_two_processes_have_the_gradient_of_the_whole_batch(tmp_path):
    done = torchrun("tests.methods.two", tmp_path)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"done-0", "done-1"}
