"""A job trains as `neuromix train` does, and its pilot flies once."""

from __future__ import annotations

import pytest

from neuromix.compare import trained
from neuromix.compare.budget import Budget
from neuromix.compare.trained import history, train_job
from neuromix.core import registry
from neuromix.training.api import train
from neuromix.training.run_folder import RunFolder
from tests.compare.fake import TINY, a_plan

SHORT = {"max_steps": 3, "batch_size": 200}


def test_a_job_is_an_ordinary_training(tmp_path):
    job = a_plan([(TINY, {"width": 4})], (7,), budget=Budget(epochs=2), train=SHORT).jobs()[0]
    run = train_job(job, tmp_path / "job")
    alone = train(TINY, "digits", tmp_path / "alone", model_config={"width": 4}, epochs=2, seed=7, **SHORT)
    assert (run.test, run.validation) == (alone.test, alone.validation)
    assert train_job(job, tmp_path / "job").test == run.test  # goes on, and is done at once


def test_a_resumed_job_keeps_the_epochs_that_its_pilot_found(tmp_path, monkeypatch):
    job = a_plan(budget=Budget(minutes=1), train=SHORT).jobs()[0]
    monkeypatch.setattr(trained, "epochs_within", lambda minutes, job, folder: 2)
    first = train_job(job, tmp_path)
    assert RunFolder(tmp_path).recipe().train.epochs == 2
    monkeypatch.setattr(trained, "epochs_within", lambda *_: pytest.fail("the pilot flew again"))
    (tmp_path / "metrics.json").unlink()
    assert train_job(job, tmp_path).test == first.test


def record(epoch, step, speed):
    train, validation = {"loss": 1.0 / epoch}, {"accuracy": epoch / 10}
    return {
        "epoch": epoch,
        "step": step,
        "train": train,
        "validation": validation,
        "samples_per_second": speed,
    }


@pytest.mark.parametrize(
    ("speeds", "seconds"),
    [
        ([100.0, 50.0], 3200 / 100 + 3200 / 50),
        ([100.0, None], 3200 / 100 + 3200 / 100),  # resumed when its steps were over: no speed was seen
        ([None, None], None),
    ],
)
def test_how_long_the_steps_took(tmp_path, speeds, seconds):
    folder = RunFolder(tmp_path)
    for epoch, speed in enumerate(speeds, 1):
        folder.append(record(epoch, 100 * epoch, speed))
    job = a_plan().jobs()[0]
    found = history(tmp_path, job.recipe, registry.build("task", "digits"))
    assert found["train_seconds"] == (None if seconds is None else pytest.approx(seconds))
    assert found["curve"] == {"epoch": [1, 2], "loss": [1.0, 0.5], "score": [0.1, 0.2]}


def test_the_steps_of_stages(tmp_path):
    folder = RunFolder(tmp_path)
    for epoch, step in ((1, 100), (2, 200), (1, 50)):  # each stage counts its own
        folder.append(record(epoch, step, 32.0))
    job = a_plan().jobs()[0]
    assert history(tmp_path, job.recipe, registry.build("task", "digits"))["train_seconds"] == pytest.approx(
        250
    )
