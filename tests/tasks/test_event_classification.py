"""The task event-classification: from recordings to frames, and through everything that is done to a model."""

from __future__ import annotations

import pytest
import torch

import neuromix
from neuromix.core import registry
from neuromix.core.batch import Batch, Ragged
from neuromix.core.config import Spec
from neuromix.core.errors import ConfigError, DataError, ShapeError, UnknownNameError
from neuromix.core.model import Field, arguments, call
from neuromix.data.dataset import Loader
from neuromix.measure.profile import profile
from neuromix.training.api import evaluate_run, train
from neuromix.training.observer import Observer
from neuromix.training.recipe import Request, new_recipe
from tests.tasks.test_image_classification import image_folder
from tests.training.tiny import assert_same_weights

TINY = {"layers": (4, "A", 8, "A"), "map_side": 2}  # of spiking_vgg_nano
ONE_STEP = {"model_config": TINY, "max_steps": 1, "batch_size": 8}
SIMULATED = {"size": 8, "simulation": {"pictures": 8}}


def make(name: str = "digits-dvs", **options):
    return registry.build("task", Spec(name, options))


def batch_of(task, count: int = 3, split: str = "test") -> Batch:
    data, generator = task.data(split), torch.Generator().manual_seed(0)
    return task.collate([data.sample(index, generator) for index in range(count)])


@pytest.fixture
def few(tmp_path) -> dict[str, object]:
    """A task on simulated recordings of 16 images in two classes."""
    pytest.importorskip("PIL.Image")
    return {"data": f"images-dvs:{image_folder(tmp_path / 'images')}", **SIMULATED}


@pytest.fixture(scope="module")
def task():
    return make(representation=["count", {"frames": 3}])


@pytest.fixture
def model(task):
    torch.manual_seed(0)
    net = neuromix.create_model("spiking_vgg_nano", **TINY)
    return neuromix.create_model("spiking_vgg_nano", **{**TINY, **task.prepare(net.config)}).eval()


def test_names_and_parts(task):
    assert make("events", data="digits-dvs").config == make("digits-dvs").config
    assert task.kind == "event-classification" and task.class_names() == tuple("0123456789")
    assert [len(task.data(split)) for split in ("train", "validation", "test")] == [1100, 197, 500]
    assert task.training() == {"batch_size": 32, "lr": 5e-3, "threads": 1}
    assert task.confusion() is not None and task.score == "accuracy"


def test_a_model_takes_steps_channels_classes_and_size_from_the_data(task):
    config = registry.find("model", "spiking_vgg_nano")[1]
    assert task.prepare(config) == {"num_classes": 10, "time_steps": 3, "in_channels": 2}

    class Sized:
        input_size = None

    assert make(size=12).prepare(Sized()) == {"input_size": (12, 12)}
    recipe, _ = new_recipe(Request("spiking_vgg_nano", "digits-dvs", model_config={"time_steps": 5}))
    assert recipe.model.options["time_steps"] == 5  # what the user says goes first


@pytest.mark.parametrize("name", ["count", "time", "voxel", "surface"])
def test_frames_are_batch_first(name):
    batch = batch_of(make(representation=[name, {"frames": 5}], size=10))
    assert batch.tensor("image").shape == (3, 5, 2, 10, 10) and batch.tensor("label").dtype == torch.int64


def test_frames_can_be_the_channels_of_one_image(tmp_path, few):
    task = make(representation=["voxel", {"frames": 5}], layout="channels")
    steps = batch_of(make(representation=["voxel", {"frames": 5}])).tensor("image")
    assert torch.equal(batch_of(task).tensor("image"), steps.reshape(3, 10, 16, 16))
    config = registry.find("model", "poolformer_nano")[1]
    assert task.kind == "image-classification" and task.prepare(config)["in_channels"] == 10
    result = train(
        "poolformer_nano",
        "events",
        tmp_path / "run",
        model_config={"depths": (1, 1, 1)},
        task_config={**few, "layout": "channels"},
        max_steps=1,
    )
    assert result.model().config.in_channels == 16
    with pytest.raises(ConfigError, match="layout channels is for frames; cloud makes none"):
        make(representation="cloud", layout="channels")


def test_clouds_are_ragged():
    cloud = batch_of(make(representation=["cloud", {"points": 64}]))["cloud"]
    assert isinstance(cloud, Ragged) and cloud.lengths.tolist() == [64] * 3 and cloud.values.shape == (192, 4)


def test_training_recordings_are_fresh_and_test_recordings_are_not():
    def image(task, split, seed, **how):
        return task.data(split, **how).sample(1, torch.Generator().manual_seed(seed))["image"]

    task, fixed = make(), make(fresh=False)
    assert not torch.equal(image(task, "train", 1, augment=True), image(task, "train", 2, augment=True))
    for one in ((task, "train", {}), (task, "test", {}), (fixed, "train", {"augment": True})):
        assert torch.equal(image(one[0], one[1], 1, **one[2]), image(one[0], one[1], 2, **one[2]))
    moved = make(fresh=False, augmentation="shift-flip")
    assert not torch.equal(image(moved, "train", 1, augment=True), image(moved, "train", 2, augment=True))
    assert torch.equal(image(moved, "train", 1), image(fixed, "train", 1))


def test_settings_reach_into_representation_and_simulation():
    config = registry.find("task", "digits-dvs")[1].replace(
        **{"representation": "voxel", "representation.frames": 5, "simulation.camera.shot_rate": 9}
    )
    assert config.representation == Spec("voxel", {"frames": 5})
    task = registry.build("task", Spec("events", config.to_dict()))
    assert task.representation.frames == 5 and task.recordings.source.simulation.camera.shot_rate == 9


def test_wrong_values_are_told():
    with pytest.raises(ConfigError, match="needs data: --data digits-dvs"):
        make("events")
    with pytest.raises(UnknownNameError, match="unknown representation 'counts'; did you mean count"):
        make(representation="counts")
    with pytest.raises(UnknownNameError, match="unknown augmentation of events 'flip'"):
        make(augmentation="flip")
    with pytest.raises(DataError, match="unknown data 'digits'"):
        make("events", data="digits")
    with pytest.raises(ConfigError, match="made for image-classification, not for event-classification"):
        new_recipe(Request("poolformer_nano", "digits-dvs"))


# The time axis: second in a batch, first in a model.


def test_a_spiking_model_is_given_time_first(task, model):
    batch = batch_of(task)
    image_BTCHW = batch.tensor("image")
    (image_TBCHW,) = arguments(model, batch)
    assert torch.equal(image_TBCHW, image_BTCHW.transpose(0, 1))
    with torch.no_grad():
        logits_BK = call(model, batch)
        torch.testing.assert_close(logits_BK, model(image_TBCHW))
        for b in range(3):  # samples do not meet
            torch.testing.assert_close(call(model, batch.select([b]))[0], logits_BK[b], atol=1e-5, rtol=1e-4)


def test_static_images_and_other_models_are_given_what_the_batch_has(model):
    image_BCHW = torch.rand(2, 2, 16, 16)
    assert arguments(model, Batch({"image": image_BCHW}))[0] is image_BCHW
    words = torch.zeros(2, 7, 4)

    class Tokens:
        inputs, stream_axis = (Field("ids", "BL"), Field("cloud", "", optional=True)), 1

    cloud = Ragged.of([torch.zeros(3, 4), torch.zeros(1, 4)])
    assert arguments(Tokens(), Batch({"cloud": cloud, "ids": words}))[0] is words
    with pytest.raises(ShapeError, match="Tokens needs ids; the batch has cloud"):
        arguments(Tokens(), Batch({"cloud": cloud}))


def test_frames_of_another_number_are_refused(model):
    batch = batch_of(make(representation=["count", {"frames": 4}]))
    with pytest.raises(ShapeError, match=r"input has 4 time steps; expected 1 .* or 3"):
        call(model, batch)


def test_step_form_is_the_whole(task, model):
    batch = batch_of(task)
    (image_TBCHW,) = arguments(model, batch)
    net, state, outputs = neuromix.stream(model), None, []
    with torch.no_grad():
        for frame_BCHW in image_TBCHW:
            y_BK, state = net.step(frame_BCHW, state)
            outputs.append(y_BK)
        torch.testing.assert_close(torch.stack(outputs).mean(0), call(model, batch))


def test_the_profile_is_a_mean_over_samples(task, model):
    batch = batch_of(task)
    whole = profile(model, batch)
    assert whole.batch_size == 3 and not whole.not_counted
    alone = [profile(model, batch.select([b])) for b in range(3)]
    assert whole.macs_dense == alone[0].macs_dense
    operations = sum(one.synaptic_operations for one in alone) / 3
    assert whole.synaptic_operations == pytest.approx(operations, rel=1e-3)


def test_it_runs_on_the_engine(task, model, tmp_path):
    from neuromix.runtime import lower, write_program
    from neuromix.runtime.session import has_engine, load

    batch = batch_of(task)
    program = lower(model, classes=task.class_names(), input_shape=tuple(batch.tensor("image").shape[2:]))
    assert program.time_steps == 3
    if not has_engine():
        pytest.skip("the engine is not built")
    write_program(program, tmp_path / "net.nmx")
    session = load(tmp_path / "net.nmx").session()
    with torch.no_grad():
        expected_BK = call(model, batch)
    for frames_TCHW, expected_K in zip(batch.tensor("image"), expected_BK, strict=True):
        answer_K = torch.from_numpy(session.run(frames_TCHW.numpy()).copy())
        torch.testing.assert_close(answer_K, expected_K, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(
    ("method", "method_config"),
    [
        ("bptt", {}),
        ("bptt", {"loss": "tet", "checkpoint": True}),
        ("sltt", {}),
        ("sltt", {"k": 2}),
    ],
)
def test_methods_train_on_it(tmp_path, few, method, method_config):
    result = train(
        "spiking_vgg_nano",
        "events",
        tmp_path / "run",
        method=method,
        method_config=method_config,
        task_config={**few, "representation": ["count", {"frames": 3}]},
        accumulate=2,
        **ONE_STEP,
    )
    net = result.model()
    assert (net.config.in_channels, net.config.time_steps) == (2, 3)
    assert evaluate_run(result.run).scores == result.test


def test_sltt_of_frames_is_that_of_the_steps_one_by_one(task):
    """The gradient of a step alone, added up, with the state cut between steps."""
    from neuromix.methods.sltt import sltt

    torch.manual_seed(0)
    net = neuromix.create_model("spiking_vgg_nano", **TINY, in_channels=2, time_steps=3, dropout=0.0).double()
    batch = batch_of(task, 4)
    x_TBCHW = net.encode(batch.tensor("image").transpose(0, 1).double())
    expected = [p.grad for p in _trained(net, sltt(neuromix.stream(net), x_TBCHW, _loss(task, batch)))]
    (given,) = arguments(net, Batch({"image": batch.tensor("image").double()}))
    found = [p.grad for p in _trained(net, sltt(neuromix.stream(net), net.encode(given), _loss(task, batch)))]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def _trained(net, steps):
    net.zero_grad(set_to_none=True)
    list(steps)
    return [p for p in net.parameters() if p.grad is not None]


def _loss(task, batch):
    return lambda output: task.loss(output, batch)


class Stop(Exception):
    pass


class Stopper(Observer):
    def batch(self, done, loss):
        if done == 2:
            raise Stop


def test_a_run_that_is_resumed_ends_as_one_that_was_not(tmp_path, few):
    options = {**ONE_STEP, "batch_size": 4, "max_steps": 4, "checkpoint_steps": 1, "epochs": 2, "seed": 3}
    options["task_config"] = {**few, "augmentation": "shift", "representation": ["voxel", {"frames": 2}]}
    whole = train("spiking_vgg_nano", "events", tmp_path / "whole", **options)
    with pytest.raises(Stop):
        train("spiking_vgg_nano", "events", tmp_path / "cut", observer=Stopper(), **options)
    resumed = train(out=tmp_path / "cut", resume=True)
    assert_same_weights(whole.run / "best.safetensors", resumed.run / "best.safetensors")
    assert resumed.test == whole.test


def test_fresh_recordings_do_not_depend_on_workers(task):
    data = task.data("train", augment=True)
    batches = [
        next(iter(Loader(data, 4, seed=1, shuffle=True, workers=w, collate=task.collate))) for w in (0, 1)
    ]
    assert torch.equal(batches[0].tensor("image"), batches[1].tensor("image"))


@pytest.mark.slow
def test_a_small_spiking_net_learns_the_digits(tmp_path):
    result = train(
        "spiking_vgg_nano",
        "digits-dvs",
        tmp_path / "run",
        model_config={"layers": (16, "A", 32, 32, "A")},
        task_config={"representation": ["count", {"frames": 4}]},
        epochs=8,
    )
    assert result.test["accuracy"] > 0.85  # 0.1 by chance
