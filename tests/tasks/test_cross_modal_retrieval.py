"""The task cross-modal-retrieval: pairs by class, held-out classes, accuracy at k both ways, and what it refuses."""

from __future__ import annotations

import pytest
import torch

import neuromix
from neuromix.core import registry
from neuromix.core.batch import Batch
from neuromix.core.config import Spec
from neuromix.core.errors import ConfigError, DataError, ShapeError, UnknownNameError
from neuromix.layers.contrastive import Embeddings
from neuromix.tasks.cross_modal_retrieval import RetrievalAccuracy, retrieval_accuracy
from neuromix.training.api import train
from neuromix.training.task import total
from tests.tasks.test_image_classification import image_folder

SMALL = {"representation": ["time", {"frames": 4, "most": 1}], "steps": 6}


def make(name="digits-zero-shot", **options):
    return registry.build("task", Spec(name, options))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    pytest.importorskip("PIL.Image")
    # Brightness tells the class: dark enough ones make no events.
    return image_folder(tmp_path_factory.mktemp("few") / "images", classes=3)


@pytest.fixture
def few(folder):
    """Three classes of eight pictures: recorded, and heard."""
    return {
        "data": f"images-dvs:{folder}",
        "sounds": f"heard:{folder}",
        "unseen": ("class2",),
        "size": 8,
        "simulation": {"pictures": 8},
        **SMALL,
    }


@pytest.fixture(scope="module")
def task():
    return make(**SMALL)


def test_digits(task):
    assert task.trained == tuple("1234567") and task.class_names() == tuple("123456789")
    assert [len(task.data(part)) for part in ("train", "validation", "test")] == [774, 139, 450]
    sample = task.data("test").sample(449, torch.Generator())
    assert sample["image"].shape == (4, 2, 16, 16) and sample["audio"].shape == (6, 32)
    assert sample["label"] == 8
    labels = {part: set(task._rows[part][:, 2]) for part in ("train", "validation", "test")}
    assert labels == {"train": {*range(7)}, "validation": {*range(7)}, "test": {*range(9)}}


def test_an_image_is_never_paired_with_its_own_sound(task):
    for rows in task._rows.values():
        assert (rows[:, 0] != rows[:, 1]).all()


def test_the_model_takes_its_sizes_from_the_data(task):
    model = neuromix.create_model("resistive_contrastive_nano")
    values = task.prepare(model.config)
    config = model.config.replace(**values)
    assert task.prepare(config) == values  # as a stored run is asked again
    net = neuromix.create_model("resistive_contrastive_nano", **values)
    assert net.first.config.time_steps == 4 and net.second.config.time_steps == 6
    assert net.second.config.in_channels == 32 and net.first.config.num_classes == 0
    data, generator = task.data("train"), torch.Generator()
    batch = task.collate([data.sample(i, generator) for i in (0, 1, 200)])
    losses = task.objective(net, batch, generator)
    total(losses).backward()
    assert set(losses) == {"contrastive"} and losses["contrastive"].isfinite()


def test_batch_of_one_class_and_prototypes(task):
    found = Embeddings(torch.eye(4), torch.eye(4))
    one = Batch({"label": torch.zeros(4, dtype=torch.int64)})
    assert task.loss(found, one)["contrastive"].isfinite()
    episodes = make(**SMALL, loss="prototype")
    assert float(episodes.loss(found, one)["prototype"]) == 0.0
    two = Batch({"label": torch.tensor([0, 1, 0, 1])})
    # Support: samples 0 and 1; queries: 2 and 3, as far from both prototypes.
    assert float(episodes.loss(found, two)["prototype"]) == pytest.approx(0.6931, abs=1e-3)
    alone = Batch({"label": torch.arange(4)})
    with pytest.raises(ShapeError, match="two samples of a class in a batch; raise batch_size"):
        episodes.loss(found, alone)


def test_retrieval_accuracy_at_k():
    scores = torch.tensor([[0.9, 0.5, 0.1], [0.2, 0.8, 0.3], [0.6, 0.5, 0.4]])
    query, gallery = torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1])
    assert retrieval_accuracy(scores, query, gallery, 1) == pytest.approx(1 / 3)
    assert retrieval_accuracy(scores, query, gallery, 2) == pytest.approx(2 / 3)
    assert retrieval_accuracy(scores, query, gallery, 9) == 1.0
    with pytest.raises(ShapeError, match="k of at least 1"):
        retrieval_accuracy(scores, query, gallery, 0)


def test_seen_and_unseen_are_searched_apart():
    metrics = RetrievalAccuracy(seen=2, ranks=(1, 2))
    image, audio = torch.eye(4), torch.eye(4)[[0, 1, 3, 2]]  # the two unseen ones are swapped
    for part in (slice(0, 3), slice(3, 4)):
        metrics.update(Embeddings(image[part], audio[part]), Batch({"label": torch.arange(4)[part]}))
    scores = metrics.compute()
    assert scores["seen_accuracy"] == 1.0 and scores["unseen_accuracy"] == 0.0
    assert scores["unseen_image_to_audio_at_2"] == scores["unseen_audio_to_image_at_2"] == 1.0
    assert next(iter(scores)) == "seen_accuracy"
    assert not any(name.startswith("unseen") for name in _only_seen())


def _only_seen():
    metrics = RetrievalAccuracy(seen=2, ranks=(1,))
    metrics.update(Embeddings(torch.eye(2), torch.eye(2)), Batch({"label": torch.arange(2)}))
    return metrics.compute()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"data": ""}, ConfigError, "needs data: --data digits-dvs"),
        ({"unseen": ()}, ConfigError, "unseen needs a class"),
        ({"unseen": ("7",)}, ConfigError, "unseen and trained share 7"),
        ({"unseen": ("eight",)}, UnknownNameError, "unknown class 'eight'"),
        ({"trained": ("1",)}, ConfigError, "trained needs two classes"),
        ({"trained": ("1", "one")}, UnknownNameError, "unknown class 'one'"),
        ({"trained": (), "unseen": tuple("012345678")}, ConfigError, "training needs two classes"),
        ({"ranks": ()}, ConfigError, "ranks needs a number"),
        ({"steps": 0}, ConfigError, "steps must be positive"),
        ({"sounds": "nowhere"}, DataError, "nowhere is not there"),
        ({"sounds": "heard:nowhere"}, DataError, "unknown data 'nowhere'"),
        ({"hearing": "cochlea"}, ConfigError, "hearing is for a folder of sounds"),
    ],
)
def test_refused(options, error, message):
    with pytest.raises(error, match=message):
        make(**options)


def test_a_model_of_one_kind_of_events_is_refused(task):
    with pytest.raises(ShapeError, match="needs embeddings of both kinds of events"):
        task.loss(torch.zeros(2, 3), Batch({"label": torch.zeros(2, dtype=torch.int64)}))


@pytest.mark.slow
def test_it_trains_on_stored_features(few, tmp_path):
    result = train(
        "resistive_contrastive_nano",
        "retrieval",
        tmp_path / "run",
        task_config=few,
        model_config={"projection": 8},
        epochs=2,
        batch_size=4,
    )
    assert "unseen_accuracy" in result.test and "unseen_accuracy" not in result.validation
    assert {"seen_image_to_audio_at_1", "unseen_audio_to_image_at_1"} <= result.test.keys()
    model = result.model()
    assert model.first.config.liquid.seed == 10 and not model.first.liquid.cell.recurrent.weight.requires_grad
