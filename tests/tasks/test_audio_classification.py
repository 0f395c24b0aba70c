from __future__ import annotations

import pytest
import torch

from neuromix.core import registry
from neuromix.core.errors import ConfigError
from neuromix.core.model import Field, Model, ModelConfig, arguments
from tests.data.audio.sounds import write_spoken


@pytest.fixture
def task(tmp_path):
    return registry.build("task", ["audio", {"data": str(write_spoken(tmp_path))}])


def batch_of(task, split="test"):
    data = task.data(split)
    return task.collate([data.sample(i, torch.Generator()) for i in range(len(data))])


def test_a_batch_is_padded_with_silence_at_the_end(task):
    batch = batch_of(task)
    x_BTN, lengths = batch.tensor("audio"), batch.tensor("length")
    assert x_BTN.shape == (10, int(lengths.max()), 70) and len(set(lengths.tolist())) > 1
    for x_TN, length, row in zip(x_BTN, lengths, range(10), strict=True):
        assert not x_TN[length:].any()
        assert torch.equal(x_TN[:length], task.data("test").sample(row, torch.Generator())["audio"])


def test_a_spiking_model_is_given_time_first(task):
    class Net(Model):
        inputs = (Field("audio", "BN"),)
        stream_axis = 0

    batch = batch_of(task)
    (x_TBN,) = arguments(Net(ModelConfig()), batch)
    assert torch.equal(x_TBN, batch.tensor("audio").transpose(0, 1))


def test_the_model_is_told_classes_and_channels(task):
    class Config(ModelConfig):
        num_classes = in_channels = 1

    assert task.prepare(Config()) == {"num_classes": 2, "in_channels": 70}
    assert task.class_names() == ("0", "1")


def test_without_data_it_says_what_it_needs():
    with pytest.raises(ConfigError, match="--data FOLDER"):
        registry.build("task", "audio")


def test_another_representation(tmp_path):
    options = {"data": str(write_spoken(tmp_path)), "representation": ["log-mel", {"bands": 16}], "steps": 20}
    task = registry.build("task", ["audio", options])
    assert batch_of(task).tensor("audio").shape == (10, 20, 16)
    with pytest.raises(ConfigError, match="cochlea or log-mel"):
        registry.build("task", ["audio", {**options, "representation": "bins"}])
