"""From one time step to four: the weights of a short training serve a longer one."""

from __future__ import annotations

import pytest

from neuromix.training.api import train


@pytest.mark.slow
def test_one_step_weights_start_four_steps(tmp_path):
    """Weights trained at T = 1 on digits of 32x32 load into T = 4 unchanged, and two more epochs lose nothing."""
    task = {"size": 32}
    small = {"strides": (2, 2, 2, 2, 1)}
    once = train(
        "meta_spikeformer_nano",
        "digits",
        tmp_path / "T1",
        task_config=task,
        model_config={**small, "time_steps": 1},
        epochs=20,
    )
    longer = train(
        "meta_spikeformer_nano",
        "digits",
        tmp_path / "T4",
        task_config=task,
        model_config={**small, "time_steps": 4},
        epochs=2,
        lr=5e-4,
        init=str(once.run),
    )
    print(f"T = 1: {once.test['accuracy']:.4f}, T = 4 after 2 epochs: {longer.test['accuracy']:.4f}")
    assert longer.test["accuracy"] >= 0.95
    assert longer.test["accuracy"] >= once.test["accuracy"] - 0.01
