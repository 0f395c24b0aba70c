from __future__ import annotations

import numpy as np
import torch

from neuromix.core import registry
from neuromix.data.audio import binned, open_audio
from neuromix.data.audio.lags import BURST, LAGS, SIZES, Lags


def test_every_part_has_every_class_and_is_the_same_again():
    dataset = open_audio("lags")
    assert {part: len(dataset.split(part)) for part in SIZES} == SIZES
    assert dataset.channels == 2 and len(dataset.classes) == len(LAGS)
    for part in SIZES:
        counts = np.bincount(dataset.source.labels[dataset.splits[part]])
        assert (counts == SIZES[part] // len(LAGS)).all()
    again = open_audio("lags")
    assert torch.equal(dataset.sample(7, None)["audio"], again.sample(7, None)["audio"])


def test_the_lag_is_where_the_channels_meet():
    source, guesses = Lags(), []
    for row in range(200):
        events = source.read(row)
        one, other = (events.t_N[events.x_N == channel] / 1000 for channel in (0, 1))
        apart = (other[None] - one[:, None]).ravel()
        guesses.append(max(range(len(LAGS)), key=lambda k: (np.abs(apart - LAGS[k]) < 7).sum()))
        assert events.size == 2 * len(BURST) and (np.diff(events.t_N) >= 0).all()
    assert np.mean(np.array(guesses) == source.labels[:200]) > 0.97


def test_a_channel_by_itself_tells_little():
    # The mean of what a channel sends, bin by bin from its own first spike, is the same in all classes.
    source = Lags()
    means = []
    for label in range(len(LAGS)):
        rows = range(label, 800, len(LAGS))
        sent = [source.read(row) for row in rows]
        alone = [binned(events.select(events.x_N == 0))[:3, 0] for events in sent]
        means.append(torch.stack([torch.nn.functional.pad(x, (0, 3 - len(x))) for x in alone]).mean(0))
    assert (torch.stack(means) - means[0]).abs().max() < 0.3


def test_the_task_takes_them_by_name():
    task = registry.build("task", ["audio", {"data": "lags"}])
    assert task.class_names()[0] == "-120 ms"
