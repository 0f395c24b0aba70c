"""How the learning rate goes, and when a stage ends early."""

from __future__ import annotations

import pytest

from neuromix.core.errors import ConfigError
from neuromix.training.api import train
from neuromix.training.config import TrainConfig
from neuromix.training.optimiser import learning_rate
from neuromix.training.run_folder import RunFolder


def rates(steps, **config):
    return [learning_rate(TrainConfig(**config), step, steps) for step in range(steps)]


def test_halving_keeps_two_epochs_and_halves_in_each_further_one():
    found = rates(12, schedule="halving", warmup=0.0, epochs=4, lr=8.0)
    assert found == [8.0] * 6 + [4.0] * 3 + [2.0] * 3


def test_constant_stays_after_the_warm_up():
    assert rates(10, schedule="constant", warmup=0.2, lr=1.0) == [0.5] + [1.0] * 9


def test_the_cosine_is_what_it_was():
    found = rates(10, warmup=0.0, lr=1.0, final_lr=0.0)
    assert found[0] == 1.0 and found[5] == pytest.approx(0.5) and found == sorted(found, reverse=True)


def test_wrong_values():
    for wrong in ({"schedule": "steps"}, {"patience": 0}):
        with pytest.raises(ConfigError):
            TrainConfig(**wrong)


def test_a_stage_ends_when_validation_gets_no_better(tmp_path):
    # At this rate a line only goes astray, and no epoch is better than one of the first.
    done = train("linear_forecast", "forecasting", tmp_path / "a", task_config={"look_back": 12, "horizon": 4},
                 lr=3.0, schedule="constant", epochs=20, patience=1, batch_size=1400)  # fmt: skip
    scores = [line["validation"]["mse"] for line in RunFolder(done.run).records()]
    best = scores.index(min(scores)) + 1
    assert len(scores) == best + 1 < 20
