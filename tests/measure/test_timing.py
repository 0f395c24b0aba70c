"""timing: what is called and how often, by a clock of the test's own; no real time is asserted."""

from __future__ import annotations

import copy
import itertools
import json

import pytest
import torch
from torch import nn

import neuromix
from neuromix.core.batch import Batch
from neuromix.core.errors import ConfigError, ShapeError
from neuromix.measure import latency, measure_latency, throughput, timing
from neuromix.measure.inputs import Frames, batch_size, resized


@pytest.fixture
def clock(monkeypatch):
    """Each run takes one second more than the one before, the first one 1 s."""
    ticks = itertools.chain.from_iterable((0.0, float(n)) for n in itertools.count(1))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(ticks))


class Watched(nn.Module):
    """Notes how it is run, outside of itself."""

    def __init__(self, seen):
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.note = seen.append

    def forward(self, x_BC):
        self.note((self.training, torch.is_grad_enabled(), torch.get_num_threads(), tuple(x_BC.shape)))
        return self.norm(x_BC) + torch.rand(())


def test_the_spread_is_that_of_the_timed_runs(clock):
    calls, after = [], []
    took = latency(lambda: calls.append(1), warm_up=2, runs=11, on_run=lambda: after.append(len(calls)))
    assert (took.low, took.median, took.high) == (4.0, 8.0, 12.0)  # of 3 .. 13 seconds
    assert len(calls) == 13 and after == list(range(1, 14))
    assert (took.runs, took.warm_up, took.threads) == (11, 2, torch.get_num_threads())
    assert took.batch_size is None
    with pytest.raises(ConfigError, match="batch size"):
        _ = took.throughput


def test_json_names():
    took = latency(lambda: None, runs=2, warm_up=0, batch_size=4)
    assert json.loads(json.dumps(took.to_dict())).keys() == {
        "median", "low", "high", "batch_size", "threads", "warm_up", "runs"
    }  # fmt: skip


def test_a_model_runs_as_it_would_be_used_and_is_left_alone():
    seen = []
    net = Watched(seen).train()
    before, threads = copy.deepcopy(net.state_dict()), torch.get_num_threads()
    fast = torch.backends.mha.get_fastpath_enabled()
    x_BC = torch.randn(6, 3)
    torch.manual_seed(5)
    expected = torch.rand(())
    torch.manual_seed(5)
    took = measure_latency(net, x_BC, runs=2, warm_up=1, threads=threads + 1)
    assert torch.rand(()) == expected
    assert seen == [(False, False, threads + 1, (6, 3))] * 3
    assert (took.batch_size, took.threads) == (6, threads + 1)
    assert torch.get_num_threads() == threads
    assert net.training and torch.backends.mha.get_fastpath_enabled() == fast
    assert all(torch.equal(net.state_dict()[name], value) for name, value in before.items())


def test_threads_are_put_back_after_a_failure():
    threads = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError):
        latency(lambda: 1 / 0, threads=threads + 1)
    assert torch.get_num_threads() == threads


def test_throughput_is_samples_by_median(clock):
    seen = []
    net = Watched(seen)
    assert throughput(net, torch.randn(2, 3), 12, runs=3, warm_up=1) == 12 / 3  # of 2, 3, 4 seconds
    assert seen[-1][-1] == (12, 3)
    assert throughput(net, torch.randn(2, 3), runs=1, warm_up=0) == 2 / 5


def test_a_batch_is_repeated_in_its_order_or_cut():
    net, x = nn.Identity(), torch.arange(3.0)
    assert resized(net, x, 5).tolist() == [0, 1, 2, 0, 1]
    assert [part.tolist() for part in resized(net, [x, x + 3], 2)] == [[0, 1], [3, 4]]
    batch = resized(net, Batch({"image": x, "label": x + 3}), 4)
    assert {name: batch[name].tolist() for name in batch} == {"image": [0, 1, 2, 0], "label": [3, 4, 5, 3]}
    spiking = neuromix.create_model("meta_spikeformer_nano")
    frames_TBCHW = torch.rand(4, 2, 1, 8, 8)
    assert resized(spiking, frames_TBCHW, 5).shape == (4, 5, 1, 8, 8)
    frames = resized(net, Frames(torch.arange(6.0).view(2, 3)), 4)
    assert frames.x_TB.tolist() == [[0, 1, 2, 0], [3, 4, 5, 3]]
    assert batch_size(net, frames) == 4 and batch_size(net, frames.x_TB) == 2


def test_a_registered_model_by_its_named_fields():
    net = neuromix.create_model("poolformer_nano")
    assert measure_latency(net, net.example(3), runs=1, warm_up=0).batch_size == 3


@pytest.mark.parametrize("wrong", [{"runs": 0}, {"warm_up": -1}, {"threads": 0}])
def test_refuses(wrong):
    with pytest.raises(ConfigError, match="runs >= 1"):
        latency(lambda: None, **wrong)
    with pytest.raises(ShapeError, match="at least one sample"):
        throughput(nn.Identity(), torch.ones(2), 0)
