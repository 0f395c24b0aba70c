"""LMUFormer: sizes, the authors' names, and frames that come one at a time.

Shapes: T frames, B batch, N features, K classes.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

import neuromix
from neuromix.core import registry
from neuromix.core.errors import CheckpointError, ConfigError, ShapeError
from neuromix.core.model import call
from neuromix.core.state import state_bytes
from neuromix.mixers.lmu import LegendreMemory

SIZES = {
    "lmu_rnn_conv1d": 1_621_796,
    "slmu_rnn_ms_conv1d": 1_689_894,
    "slmu_rnn_conv1d": 1_689_382,
    "attn_ms_conv1d": 1_689_379,
}
NETS = ("lmuformer", "spiking_lmuformer", "spiking_lmuformer_on_spikes")


def small(name, **options):
    torch.manual_seed(0)
    values = {"in_channels": 6, "dim": 8, "mlp_ratio": 2.0, "theta": 16.0, "num_classes": 3, "depth": 2}
    model = neuromix.create_model(name, **{**values, **options}).double().eval()
    for module in model.modules():  # statistics as they may be after some steps
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.1, 0.5)
            nn.init.normal_(module.bias, 0.3, 0.3)
    return model


def frames(length, batch=2, channels=6):
    return torch.randn(
        batch, length, channels, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )


@pytest.mark.parametrize("name", SIZES)
def test_parameters(name):
    with torch.device("meta"):
        assert neuromix.create_model(name).num_parameters() == SIZES[name]


@pytest.mark.parametrize("name", NETS)
def test_answers_come_five_frames_late_and_are_those_of_the_whole(name):
    model, x_BTN = small(name), frames(20)
    with torch.no_grad():
        whole = model.forward_steps(model.encode(x_BTN))
        session = neuromix.stream(model).session()
        answers = [session.step(x_BN) for x_BN in x_BTN.unbind(1)]
        assert [answer is None for answer in answers] == [True] * 5 + [False] * 15
        stepped = torch.cat([torch.stack(answers[5:]), session.drain()])
    torch.testing.assert_close(stepped, whole, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(model(x_BTN), whole[-1])
    one = small(name)(frames(1))
    assert one.shape == (2, 3) and one.isfinite().all()


@pytest.mark.parametrize("length", [16, 100, pytest.param(784, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", NETS[:2])
def test_the_recurrence_sends_the_same_spikes_as_the_fft(name, length):
    model, x_BTN = small(name, order=12), frames(length)
    seen = {}

    def run(form):
        for module in model.modules():
            if isinstance(module, LegendreMemory):
                module.form = form
        handles = [
            m.register_forward_hook(lambda _, __, y, p=p: seen.setdefault(form, {}).update({p: y}))
            for p, m in model.named_modules()
            if p.endswith(("combine_spikes", "memory"))
        ]
        with torch.no_grad():
            logits = model(x_BTN)
        for handle in handles:
            handle.remove()
        return logits

    torch.testing.assert_close(run("fft"), run("loop"), rtol=0, atol=1e-9)
    assert seen["fft"]
    for path, y in seen["fft"].items():
        other = seen["loop"][path]
        if path.endswith("spikes"):
            assert torch.equal(y, other) and 0 < y.mean() < 1
        else:
            torch.testing.assert_close(y, other, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", NETS)
def test_the_memory_of_a_stream_does_not_grow(name):
    session, sizes = neuromix.stream(small(name)).session(), []
    with torch.no_grad():
        for x_BN in frames(40).unbind(1):
            session.step(x_BN)
            sizes.append(state_bytes(session.state))
    assert len(set(sizes[6:])) == 1


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_weights_of_the_authors(name, prefix):
    entry, _ = registry.find("model", name)
    options = {"heads": 2} if name == "attn_ms_conv1d" else {"order": 7}
    model = small(entry.name, **options)
    theirs = model.layouts(model.config)["authors"].to_theirs(model.state_dict())
    state = {f"{prefix}{key}": value for key, value in theirs.items()}
    if "order" in options:  # their files hold the fixed matrices as well
        state |= {
            f"{prefix}block.{i}.attn.lmu.{k}": torch.zeros(2)
            for i in (0, 1)
            for k in ("A", "B", "H", "fft_H")
        }
    again = neuromix.from_reference("lmuformer", {"model": name, "theta": 16, "num_heads": 2}, state)
    torch.testing.assert_close(again(frames(9)), model(frames(9)))
    differing = {key for key, value in again.config.to_dict().items() if value != model.config.to_dict()[key]}
    assert differing <= {"neuron"}  # which is written out in full


def test_the_memory_is_exact_in_whatever_dtype():
    for dtype, tolerance in ((torch.float64, 1e-14), (torch.float32, 1e-6), (torch.bfloat16, 1e-6)):
        memory = LegendreMemory(32, 50.0).to(dtype).to(torch.float32 if dtype == torch.bfloat16 else dtype)
        exact = LegendreMemory(32, 50.0).double().A
        torch.testing.assert_close(memory.A.double(), exact, rtol=0, atol=tolerance)


def test_bad_input():
    for wrong in (frames(4, channels=5), frames(4)[0], frames(4).long(), frames(0)):
        with pytest.raises(ShapeError, match=r"expected a floating-point tensor \[B, T, 6\]"):
            small("lmuformer")(wrong)
    for values, match in (
        ({"theta": 0.0}, "theta"),
        ({"order": 0}, "order"),
        ({"deviation": 0.0}, "deviation"),
    ):
        with pytest.raises(ConfigError, match=match):
            small("lmuformer", **values)
    with pytest.raises(ConfigError, match="multiple of 3 heads"):
        small("spiking_attention_former", heads=3)
    with pytest.raises(ConfigError, match="stream_axis is None"):
        neuromix.stream(small("spiking_attention_former", heads=2))


def test_weights_of_something_else_are_refused():
    with pytest.raises(ConfigError, match="given 'resnet'"):
        neuromix.from_reference("lmuformer", {"model": "resnet"}, {})
    with pytest.raises(ConfigError, match=r"the weights have no head\.weight"):
        neuromix.from_reference("lmuformer", {}, {"conv.weight": torch.zeros(1)})
    model = small("lmuformer")
    state = model.layouts(model.config)["authors"].to_theirs(model.state_dict())
    with pytest.raises(CheckpointError):
        neuromix.from_reference("lmuformer", {"theta": 16}, {**state, "extra": torch.zeros(1)})
    spiking = small("spiking_lmuformer")
    state = spiking.layouts(spiking.config)["authors"].to_theirs(spiking.state_dict())
    config = {"model": "slmu_rnn_ms_conv1d", "surrogate": "Rectangle"}
    with pytest.raises(ConfigError, match="Sigmoid or ATan"):
        neuromix.from_reference("lmuformer", config, state)


@pytest.mark.parametrize("name", ["lmu_psmnist", "spiking_lmu_psmnist"])
def test_pixels_one_by_one(name):
    torch.manual_seed(0)
    model = neuromix.create_model(name, order=9, hidden=12, theta=16.0).double().eval()
    x = torch.rand(2, 16, 1, dtype=torch.float64)
    session = neuromix.stream(model).session()
    with torch.no_grad():
        torch.testing.assert_close([session.step(p) for p in x.unbind(1)][-1], call(model, batch(x)))


def batch(x):
    return neuromix.core.batch.Batch({"series": x})
