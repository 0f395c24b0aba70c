"""A small Spikformer V2 learns digits of 32x32 pixels at four time steps."""

from __future__ import annotations

import pytest

from neuromix.training.api import train


@pytest.mark.slow
def test_small_net_learns_large_digits(tmp_path):
    result = train(
        "spikformer_v2_nano",
        "digits",
        tmp_path / "run",
        task_config={"size": 32},
        model_config={"strides": (2, 2, 2)},
        epochs=12,
        threads=1,
    )
    print(f"test accuracy {result.test['accuracy']:.4f}")
    assert result.test["accuracy"] >= 0.95
