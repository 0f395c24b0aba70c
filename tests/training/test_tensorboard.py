"""TensorBoard events: what is in them, also after a stop."""

from __future__ import annotations

import builtins
import signal
import sys

import pytest

from neuromix.core.errors import MissingExtraError
from neuromix.training.api import train
from neuromix.training.run_folder import RunFolder
from neuromix.training.signals import Interrupted
from tests.training.killed import Killer

accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")


def scalars(run) -> dict[str, dict[int, float]]:
    """Tag -> step -> value, of the only stage."""
    (folder,) = (run / "tensorboard").iterdir()
    events = accumulator.EventAccumulator(str(folder))
    events.Reload()
    return {tag: {e.step: e.value for e in events.Scalars(tag)} for tag in events.Tags()["scalars"]}


def test_events_hold_what_the_run_noted(run_tiny):
    run = run_tiny(tensorboard=True).run
    seen, records = scalars(run), RunFolder(run).records()
    assert sorted(seen["loss"]) == list(range(1, 17))
    for record in records:
        step = record["step"]
        assert seen["validation/accuracy"][step] == pytest.approx(record["validation"]["accuracy"])
        assert seen["train/loss"][step] == pytest.approx(record["train"]["loss"])
        assert seen["lr"][step] == pytest.approx(record["lr"])


def test_a_run_writes_none_unless_asked(run_tiny):
    assert not (run_tiny().run / "tensorboard").exists()


def test_a_resumed_run_goes_on_where_its_checkpoint_is(run_tiny, tmp_path):
    whole = scalars(run_tiny("whole", tensorboard=True).run)
    with pytest.raises(Interrupted):
        run_tiny(tensorboard=True, observer=Killer(signal.SIGTERM, step=11))
    train(out=tmp_path / "run", resume=True)
    resumed = scalars(tmp_path / "run")
    assert resumed["loss"] == pytest.approx(whole["loss"])
    assert resumed["validation/accuracy"] == whole["validation/accuracy"]


def test_a_new_run_replaces_the_events_of_the_old_one(run_tiny):
    run_tiny(tensorboard=True, epochs=1)
    run = run_tiny(tensorboard=True, overwrite=True).run
    assert len(list(run.glob("tensorboard/*/*"))) == 1
    assert not list(run_tiny(overwrite=True).run.glob("tensorboard/*/*"))


def test_without_the_package_nothing_is_trained(run_tiny, tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name.startswith("torch.utils.tensorboard"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(MissingExtraError, match=r"neuromix\[tensorboard\]"):
        run_tiny(tensorboard=True)
    assert not (tmp_path / "run").exists()
