"""Long recordings in several clips, whose scores are averaged."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from neuromix.core import registry
from neuromix.core.batch import Batch
from neuromix.core.config import Spec
from neuromix.core.errors import ConfigError
from neuromix.data.events import Events
from neuromix.data.events.transforms import clip
from neuromix.tasks.recording_scores import RecordingAccuracy, RecordingConfusion


def make(**options):
    return registry.build("task", Spec("events", {"data": "four-motions:40", **options}))


def events(*times: int) -> Events:
    columns = [np.zeros(len(times), np.int64)] * 2
    return Events(times, *columns, np.zeros(len(times), bool), height=1, width=1)


@pytest.mark.parametrize(("share", "times"), [(0.0, [0, 10]), (0.5, [10]), (1.0, [9, 19])])
def test_a_clip_lies_where_its_share_says(share, times):
    recording = events(100, 110, 150, 190, 200)
    assert clip(recording, 20, share).t_N.tolist() == times


def test_a_short_recording_is_one_clip_and_a_silent_one_is_empty():
    assert clip(events(100, 110), 1000, 0.7).t_N.tolist() == [0, 10]
    assert clip(events(), 1000, 0.5).size == 0
    assert clip(events(0, 100), 20, 0.5).size == 0


def test_samples_are_clips():
    task = make(window=30_000, clips=3)
    test, whole = task.data("test"), make().data("test")
    assert len(test) == 3 * len(whole) and test.recordings == len(whole)
    samples = [test.sample(index, torch.Generator()) for index in range(6)]
    assert [sample["recording"] for sample in samples] == [0, 0, 0, 1, 1, 1]
    assert samples[3]["label"] == whole.sample(1, torch.Generator())["label"]
    pieces = [test.events(index, torch.Generator()) for index in range(3)]
    assert all(piece.t_N[-1] < 30_000 for piece in pieces)
    assert sum(piece.size for piece in pieces) < whole.events(0, torch.Generator()).size
    assert not torch.equal(samples[0]["image"], samples[1]["image"])


def test_training_takes_one_clip_that_begins_anywhere():
    data = make(window=30_000, clips=3).data("train", augment=True)
    assert len(data) == len(make().data("train")) and "recording" not in data.sample(0, torch.Generator())
    first, second = (data.events(0, torch.Generator().manual_seed(seed)).size for seed in (0, 1))
    assert first != second


def test_the_answer_is_that_of_the_mean_score():
    scores_BK = torch.tensor([[0.9, 0.1], [0.2, 0.3], [0.0, 0.1], [0.4, 0.5], [0.0, 0.6]])
    recording, label = torch.tensor([7, 7, 2, 2, 5]), torch.tensor([0, 0, 1, 1, 0])
    accuracy, confusion = RecordingAccuracy(2), RecordingConfusion(2)
    for rows in ([0, 2], [1, 3, 4]):  # the clips of a recording may be in several batches
        batch = Batch({"recording": recording[rows], "label": label[rows]})
        accuracy.update(scores_BK[rows], batch)
        confusion.update(scores_BK[rows], batch)
    assert accuracy.compute() == {"accuracy": round(2 / 3, 6)}
    assert confusion.compute().tolist() == [[1, 1], [0, 1]]


def test_metrics_are_of_recordings_only_where_there_are_clips():
    assert isinstance(make(window=30_000).metrics(), RecordingAccuracy)
    assert isinstance(make(window=30_000).confusion(), RecordingConfusion)
    assert not isinstance(make(window=30_000, clips=1).metrics(), RecordingAccuracy)
    assert not isinstance(make().metrics(), RecordingAccuracy)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"window": 0}, "window must be positive, got 0"), ({"clips": 0}, "clips must be positive, got 0")],
)
def test_wrong_values(options, message):
    with pytest.raises(ConfigError, match=message):
        make(**options)
