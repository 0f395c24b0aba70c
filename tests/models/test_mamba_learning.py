"""Induction heads: a small Mamba learns them and reads further than it was trained; constant weights do not."""

from __future__ import annotations

import pytest

from neuromix.core import registry
from neuromix.core.config import Spec
from neuromix.training.api import train
from neuromix.training.evaluate import evaluate


def train_on_32(path, selective):
    run = train(
        "mamba",
        "induction-heads",
        path,
        model_config={"dim": 32, "layers": 2, "mixer": Spec("mamba", {"selective": selective})},
        task_config={"length": 32, "samples": 3200, "held_out": 250},
        epochs=6,
        batch_size=32,
        lr=3e-3,
        weight_decay=0.0,
    )
    return run.model().eval()


@pytest.mark.slow
def test_induction_heads(tmp_path):
    net = train_on_32(tmp_path / "run", selective=True)
    for length, least in ((32, 0.98), (256, 0.9)):
        task = registry.build("task", Spec("induction-heads", {"length": length, "held_out": 250}))
        assert evaluate(net, task, "test")["accuracy"] >= least, length


@pytest.mark.slow
def test_constant_weights_do_not_learn_them(tmp_path):
    """After as many steps; one guess in 15 is right by chance."""
    net = train_on_32(tmp_path / "run", selective=False)
    for length, most in ((32, 0.4), (256, 0.15)):
        task = registry.build("task", Spec("induction-heads", {"length": length, "held_out": 250}))
        assert evaluate(net, task, "test")["accuracy"] < most, length
