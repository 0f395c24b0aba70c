"""The method lsm: every sample is encoded once, the head alone is trained, and liquids are set to a firing rate."""

from __future__ import annotations

import math

import pytest
import torch

import neuromix
from neuromix.core import registry
from neuromix.core.checkpoint import load_checkpoint
from neuromix.core.config import Spec
from neuromix.core.errors import ConfigError, DataError
from neuromix.methods.lsm import const_for_rate, tuned
from neuromix.models.events.liquid import Liquid, LiquidConfig
from neuromix.training.api import evaluate_run, train
from neuromix.training.cached import Cached, encoded
from neuromix.training.method import Stack
from neuromix.training.observer import Observer
from neuromix.training.run_folder import RunFolder
from tests.tasks.test_image_classification import image_folder
from tests.training.stopped import Stop, StopAfter
from tests.training.test_processes import torchrun
from tests.training.tiny import assert_same_weights


def few_events(folder, **train_options):
    """A task on 16 simulated recordings, and the arguments of `train` for a small liquid on them."""
    data = {"data": f"images-dvs:{image_folder(folder / 'images')}", "size": 8, "simulation": {"pictures": 8}}
    options = {
        "model": "resistive_lsm_nano",
        "task": "events",
        "task_config": data,
        "model_config": {"liquid.hidden": 20, "time_steps": 5, "liquid.const": 0.3},
        "epochs": 2,
        "batch_size": 4,
        **train_options,
    }
    return data, options


@pytest.fixture
def few(tmp_path):
    pytest.importorskip("PIL.Image")
    return few_events(tmp_path)


def liquid(**options):
    return Liquid(LiquidConfig(**{"hidden": 40, **options}), 10, 20)


def spikes(seed=0, rate=0.3):
    return (torch.rand(20, 8, 10, generator=torch.Generator().manual_seed(seed)) < rate).float()


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.3])
def test_const_for_rate(rate):
    x_TBN = spikes()
    const = const_for_rate(liquid(), x_TBN, rate)
    found = float(liquid(const=const)(x_TBN).mean())
    assert found == pytest.approx(rate, abs=0.01)
    assert const_for_rate(liquid(const=1.0), x_TBN, rate) == pytest.approx(const, rel=0.1)


def test_const_for_rate_leaves_the_liquid_as_it_was():
    net = liquid()
    before = net.input.stem.weight.clone()
    const_for_rate(net, spikes(), 0.1)
    assert torch.equal(net.input.stem.weight, before)


def test_silence_has_no_const():
    with pytest.raises(DataError, match="are its inputs silent"):
        const_for_rate(liquid(), torch.zeros(20, 2, 10))
    with pytest.raises(ConfigError, match=r"firing_rate is in \(0, 1\)"):
        const_for_rate(liquid(), spikes(), 1.0)


def test_tuned_sets_every_liquid_and_keeps_the_head():
    entry = registry.entries("model")["resistive_contrastive"]
    model = neuromix.create_model(entry.name, **entry.tiny)
    batch = model.example(16, torch.Generator().manual_seed(0))
    other = tuned(model, batch, 0.2)
    consts = [part.config.liquid.const for part in (other.first, other.second)]
    assert consts[0] != consts[1] and 0.07 not in consts
    for rates in other.features(*batch.values()):
        assert float(rates.mean()) == pytest.approx(0.2, abs=0.06)
    for name, tensor in model.head.state_dict().items():
        assert torch.equal(tensor, other.head.state_dict()[name])
    with pytest.raises(ConfigError, match="has no liquid"):
        tuned(neuromix.create_model("poolformer_nano"), batch)


def test_encoded_features_are_those_of_the_model(few):
    task = registry.build(
        "task", Spec("events", {**few[0], "representation": ["time", {"frames": 5, "most": 1}]})
    )
    model = neuromix.create_model(
        "resistive_lsm_nano", **few[1]["model_config"], input_size=(8, 8), num_classes=2
    )
    stored = encoded(task, model, "test", batch_size=3)
    assert set(stored) == {"features_0", "label"}
    sample = task.data("test").sample(1, torch.Generator())
    torch.testing.assert_close(stored["features_0"][1], model.features(sample["image"][:, None])[0])
    cached = Cached(task, model, copies=3)
    assert len(cached.data("train", augment=True)) == 3 * len(task.data("train"))
    assert cached.data("test") is cached.data("test")
    assert cached.class_names() == task.class_names() and cached.score == task.score
    copies = cached.data("train").batch["features_0"].unflatten(0, (3, -1))
    assert not torch.equal(copies[0], copies[1])  # new recordings of the same images


class Encodings(Observer):
    """Counts the samples that go through the encoder."""

    def __init__(self, monkeypatch):
        self.seen = 0
        forward = Liquid.forward

        def counted(net, x_TBN):
            self.seen += x_TBN.shape[1]
            return forward(net, x_TBN)

        monkeypatch.setattr(Liquid, "forward", counted)


@pytest.mark.slow
def test_every_sample_is_encoded_once_and_the_liquid_stays(few, tmp_path, monkeypatch):
    observer = Encodings(monkeypatch)
    result = train(out=tmp_path / "run", observer=observer, **few[1])
    assert RunFolder(result.run).recipe().methods[0].name == "lsm"  # without being asked for
    assert observer.seen == 16 + 2  # all of them, and the two of the trial before
    trained, fresh = (
        result.model(),
        neuromix.create_model("resistive_lsm_nano", **few[1]["model_config"], input_size=(8, 8)),
    )
    for name, tensor in fresh.liquid.state_dict().items():
        assert torch.equal(tensor, trained.liquid.state_dict()[name]), name
    assert evaluate_run(result.run).scores == result.test


@pytest.mark.slow
def test_only_the_head_is_in_the_optimiser(few, tmp_path):
    names = []

    class Look(Observer):
        def batch(self, done, loss):
            names.append(done)

    train(out=tmp_path / "run", observer=Look(), **few[1])
    from safetensors.torch import load_file

    kept = load_file(tmp_path / "run" / "last.safetensors")
    moments = {name for name in kept if name.startswith("extra/optimiser/")}
    assert names and moments
    assert {name.split("/")[2] for name in moments} == {"head.weight", "head.bias"}


@pytest.mark.slow
def test_a_stopped_run_goes_on_to_the_same_weights(few, tmp_path):
    options = {**few[1], "method": "lsm", "method_config": {"firing_rate": 0.1}, "checkpoint_steps": 1}
    train(out=tmp_path / "whole", **options)
    with pytest.raises(Stop):
        train(out=tmp_path / "part", observer=StopAfter(4), **options)
    train(out=tmp_path / "part", resume=True, **options)
    for name in ("best.safetensors", "last.safetensors"):
        if name.startswith("best"):
            assert_same_weights(tmp_path / "whole" / name, tmp_path / "part" / name)
    tuned_model = load_checkpoint(tmp_path / "part" / "best.safetensors")
    assert tuned_model.config.liquid.const != few[1]["model_config"]["liquid.const"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"liquid.trainable": True}, "also trains liquid.input.stem.weight: use --method bptt"),
        ({"readout": "spiking"}, "has a spiking read-out, which needs the spikes of every step"),
    ],
)
def test_a_model_without_stored_features_is_refused(few, tmp_path, changes, message):
    options = {**few[1], "model_config": {**few[1]["model_config"], **changes}}
    with pytest.raises(ConfigError, match=message):
        train(out=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()
    result = train(out=tmp_path / "run", method="bptt", **options)
    assert math.isfinite(result.test["accuracy"])


@pytest.mark.slow
def test_a_model_of_another_kind_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="poolformer_nano has none, resistive_lsm has"):
        train("poolformer_nano", "digits", tmp_path / "run", method="lsm", max_steps=1)


@pytest.mark.parametrize("values", [{"firing_rate": 0.0}, {"firing_rate": 1.0}, {"copies": 0}])
def test_wrong_values(values):
    with pytest.raises(ConfigError, match=r"firing_rate must be in|copies must be positive"):
        Stack([Spec("lsm", values)])


@pytest.mark.slow
def test_two_processes_have_the_gradient_of_the_whole_batch(tmp_path):
    done = torchrun("tests.methods.two_lsm", tmp_path)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"done-0", "done-1"}


@pytest.mark.slow
def test_the_order_of_events_is_remembered():
    """Two orders of the same events: the liquid tells them apart, a sum over time cannot."""
    from sklearn.linear_model import LogisticRegression

    from neuromix.data.dataset import Loader
    from neuromix.data.events.motifs import Motifs

    batch = next(iter(Loader(Motifs(size=300), 300)))
    audio_BTN, label_B = batch["audio"], batch["label"].numpy()
    x_TBN = audio_BTN.transpose(0, 1)
    net = Liquid(LiquidConfig(hidden=100, decay=0.97, v_threshold=5.3), 32, 40)
    net = Liquid(net.config.replace(const=const_for_rate(net, x_TBN[:, :150], 0.05)), 32, 40)
    scores = []
    for features in (net(x_TBN).mean(0), audio_BTN.sum(1)):
        x_BF = features.detach().numpy()
        readout = LogisticRegression(C=100.0, max_iter=1000).fit(x_BF[:150], label_B[:150])
        scores.append(readout.score(x_BF[150:], label_B[150:]))
    assert scores[0] > 0.9
    assert scores[1] < 0.65
