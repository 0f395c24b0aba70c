"""The random liquid: its equation, its weights from the seed, what is trained of it, sizes of the paper, bad input.

Shapes: T spike time, B batch, N inputs of a step, H neurons.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

import neuromix
from neuromix.core import registry
from neuromix.core.checkpoint import load_checkpoint, save_checkpoint
from neuromix.core.errors import CheckpointError, ConfigError, ShapeError
from neuromix.core.model import call
from neuromix.models.events.liquid import Liquid, LiquidConfig, LiquidState

SMALL = {"liquid.hidden": 12, "liquid.v_threshold": 2.0, "time_steps": 4}
AUDIO = {**SMALL, "in_channels": 5, "num_classes": 3}
IMAGE = {**SMALL, "input_size": (8, 6), "crop": 4, "num_classes": 3}


def audio(**overrides):
    return neuromix.create_model("resistive_lsm_ntidigits", **{**AUDIO, **overrides})


def spikes(*shape, seed=0, rate=0.4):
    return (torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < rate).float()


def by_hand(liquid, x_TBN):
    """The equation, as the paper writes it."""
    config, w_in, w_rec = liquid.config, liquid.input.stem.weight, liquid.cell.recurrent.weight
    m = s = torch.zeros(x_TBN.shape[1], config.hidden, dtype=x_TBN.dtype)
    steps = []
    for x_BN in x_TBN:
        m = m * config.decay * (1 - s) + x_BN @ w_in.T + s @ w_rec.T
        s = (m > config.v_threshold).to(m)
        steps.append(s)
    return torch.stack(steps)


@settings(max_examples=25, deadline=None)
@given(
    steps=st.integers(2, 6),
    batch=st.integers(1, 3),
    inputs=st.integers(1, 7),
    hidden=st.integers(1, 9),
    decay=st.sampled_from([0.0, 0.5, 0.97, 1.0]),
    seed=st.integers(0, 99),
)
def test_the_equation(steps, batch, inputs, hidden, decay, seed):
    config = LiquidConfig(hidden=hidden, decay=decay, v_threshold=1.0, seed=seed)
    liquid, x_TBN = Liquid(config, inputs, steps).double(), spikes(steps, batch, inputs, seed=seed).double()
    assert torch.equal(liquid(x_TBN), by_hand(liquid, x_TBN))


def test_steps_of_the_cell_carry_spikes_and_membrane():
    liquid, x_TBH = Liquid(LiquidConfig(hidden=6, v_threshold=0.5), 4, 5), spikes(5, 2, 6)
    whole, last = liquid.cell(x_TBH, return_state=True)
    state, steps = liquid.cell.initial_state(x_TBH[0]), []
    for x_BH in x_TBH:
        y_BH, state = liquid.cell.step(x_BH, state)
        steps.append(y_BH)
    assert torch.equal(torch.stack(steps), whole)
    assert isinstance(state, LiquidState) and torch.equal(state.v, last.v)
    assert torch.equal(state.spikes, whole[-1])


def test_weights_are_rebuilt_bit_for_bit_from_the_seed():
    torch.manual_seed(1)
    one = audio()
    torch.manual_seed(2)
    other, unlike = audio(), audio(**{"liquid.seed": 11})
    for name, tensor in one.liquid.state_dict().items():
        assert torch.equal(tensor, other.liquid.state_dict()[name])
        assert not torch.equal(tensor, unlike.liquid.state_dict()[name])
    # These numbers never change: runs of last year load into the net of today.
    assert one.liquid.input.stem.weight[0, :2].tolist() == [0.7046182155609131, 0.3785525858402252]


def test_weights_have_the_measured_statistics():
    weight_HN = Liquid(LiquidConfig(hidden=300, const=0.5), 300, 1).cell.recurrent.weight.detach() / 0.5
    assert float(weight_HN.mean()) == pytest.approx(0.00606, abs=0.08)
    assert float(weight_HN.std()) == pytest.approx(6.67268, rel=0.01)


def test_a_checkpoint_keeps_weights_that_are_not_those_of_the_seed(tmp_path):
    model = audio()
    with torch.no_grad():
        model.liquid.cell.recurrent.weight.mul_(1.5)
    save_checkpoint(model, tmp_path / "net.safetensors")
    again = load_checkpoint(tmp_path / "net.safetensors")
    assert torch.equal(again.liquid.cell.recurrent.weight, model.liquid.cell.recurrent.weight)
    assert not again.liquid.cell.recurrent.weight.requires_grad


def test_only_the_head_is_trained_and_the_baseline_trains_all():
    frozen, trained = audio(), audio(**{"liquid.trainable": True})
    assert [n for n, p in frozen.named_parameters() if p.requires_grad] == ["head.weight", "head.bias"]
    x_TBN = spikes(4, 2, 5)
    for model in (frozen, trained):
        F.cross_entropy(model(x_TBN), torch.tensor([0, 2])).backward()
    assert all(p.grad is None for p in frozen.liquid.parameters())
    assert all(p.grad is not None and p.grad.any() for p in trained.liquid.parameters())


def test_the_gradient_through_time_is_not_detached():
    """Against autograd on the equation with the rectangle in the place of the step."""

    class Rectangle(torch.autograd.Function):
        @staticmethod
        def forward(ctx, u):
            ctx.save_for_backward(u)
            return (u > 0).to(u)

        @staticmethod
        def backward(ctx, grad):
            (u,) = ctx.saved_tensors
            return grad * (u.abs() < 0.25).to(u) / 0.5

    options = {"liquid.trainable": True, "liquid.v_threshold": 0.3, "liquid.const": 0.05}
    model, x_TBN = audio(**options).double(), spikes(4, 3, 5).double()
    model.liquid(x_TBN).mean(0)[:, 0].sum().backward()
    w_in, w_rec = model.liquid.input.stem.weight, model.liquid.cell.recurrent.weight
    actual = [w_in.grad.clone(), w_rec.grad.clone()]
    m = s = torch.zeros(3, 12, dtype=torch.float64)
    total = 0.0
    for x_BN in x_TBN:
        m = m * 0.97 * (1 - s) + x_BN @ w_in.T + s @ w_rec.T
        s = Rectangle.apply(m - 0.3)
        total = total + s[:, 0].sum() / 4
    expected = torch.autograd.grad(total, [w_in, w_rec])
    for one, other in zip(actual, expected, strict=True):
        assert other.any()
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "trained", "fixed"),
    [
        ("resistive_lsm_nmnist", 2010, 91_200),
        ("resistive_lsm_ntidigits", 2211, 52_800),
        ("resistive_srnn_nmnist", 2010 + 91_200, 0),
        ("resistive_contrastive_av", 25_728, 91_200 + 52_800),
    ],
)
def test_sizes_of_the_paper(name, trained, fixed):
    model = neuromix.create_model(name)
    assert model.num_parameters() == trained
    assert model.num_parameters(trainable_only=False) == trained + fixed


def test_settings_of_the_paper():
    entry = registry.find("model", "resistive_lsm_ntidigits")[1]
    assert (entry.liquid.decay, entry.liquid.v_threshold, entry.liquid.const) == (0.97, 5.3, 0.08)
    bci = neuromix.create_model("resistive_contrastive_bci")
    assert [field.name for field in bci.inputs] == ["neural", "letters"]
    assert bci.first.config.liquid == bci.second.config.liquid
    assert bci.config.temperature == 0.5 and bci.first.config.liquid.hidden == 2048


def test_the_centre_of_one_polarity_is_seen():
    model = neuromix.create_model("resistive_lsm_nmnist", **IMAGE)
    image = spikes(4, 2, 2, 8, 6)
    seen = image[:, :, :1, 2:6, 1:5]
    assert torch.equal(model.encode(image), seen.flatten(2))
    both = neuromix.create_model("resistive_lsm_nmnist", **{**IMAGE, "channel": None, "crop": None})
    assert torch.equal(both.encode(image), image.flatten(2))
    assert model.config.window == (4, 4) and both.config.inputs == 2 * 8 * 6


def test_a_frame_is_shown_at_every_step():
    model, image = neuromix.create_model("resistive_lsm_nmnist", **IMAGE), spikes(2, 2, 8, 6)
    torch.testing.assert_close(model(image), model(image.expand(4, *image.shape)))


def test_every_sequence_has_the_same_length_whatever_its_batch():
    model, short, long = audio(), spikes(2, 1, 5), spikes(9, 1, 5, seed=1)
    padded = torch.cat([F.pad(short, (0, 0, 0, 0, 0, 7)), long], 1)
    torch.testing.assert_close(model.features(short), model.features(padded)[:1])
    torch.testing.assert_close(model.features(long[:4]), model.features(padded)[1:])


def test_features_and_heads():
    model, x_TBN = audio(), spikes(4, 3, 5)
    rates_BH = model.features(x_TBN)
    assert rates_BH.shape == (3, 12) and 0 < rates_BH.mean() < 1
    assert torch.equal(rates_BH, model.liquid(x_TBN).sum(0) / 4)
    torch.testing.assert_close(model(x_TBN), model.from_features(rates_BH))
    assert torch.equal(audio(num_classes=0)(x_TBN), rates_BH)
    with pytest.raises(ConfigError, match="spiking read-out needs the spikes of every step"):
        audio(readout="spiking").features(x_TBN)


def test_the_spiking_readout_counts_its_own_spikes():
    model, x_TBN = audio(readout="spiking"), spikes(4, 3, 5)
    with torch.no_grad():
        model.head.weight.mul_(20)
        scores_BK = model(x_TBN)
        m = s = torch.zeros(3, 3)
        count = 0
        for current in model.head(model.liquid(x_TBN)):
            m = m * 0.99 * (1 - s) + current
            s = (m > 0.3).float()
            count = count + s
    assert scores_BK.any()
    torch.testing.assert_close(scores_BK, count / 4)


@pytest.mark.parametrize(("layers", "activation"), [(1, "gelu"), (2, "relu"), (3, "tanh"), (1, "sigmoid")])
def test_projections(layers, activation):
    entry = registry.entries("model")["resistive_contrastive"]
    torch.manual_seed(0)
    model = neuromix.create_model(
        entry.name, **{**entry.tiny, "layers": layers, "activation": activation, "temperature": 0.5}
    )
    batch = model.example(3, torch.Generator().manual_seed(0))
    first, second, temperature = call(model, batch)
    assert first.shape == second.shape == (3, 6) and temperature == 0.5
    torch.testing.assert_close(first.norm(dim=1), torch.ones(3))
    weights = [n for n, p in model.named_parameters() if p.requires_grad and p.dim() == 2]
    assert len(weights) == 2 * layers and all(name.startswith("head.") for name in weights)


def test_both_forms_of_a_batch_are_taken():
    """One step a sample, or a sequence: samples come first, as in any batch."""
    entry = registry.entries("model")["resistive_contrastive"]
    model = neuromix.create_model(entry.name, **entry.tiny)
    batch = model.example(2)
    steps = {name: x[:, None].expand(-1, 3, *x.shape[1:]) for name, x in batch.items()}
    for one, other in zip(model(*batch.values())[:2], model(*steps.values())[:2], strict=True):
        torch.testing.assert_close(one, other)


def test_silence_is_no_error():
    model = audio()
    assert torch.equal(model(torch.zeros(4, 2, 5)), model.head.bias.expand(2, 3))
    entry = registry.entries("model")["resistive_contrastive"]
    pair = neuromix.create_model(entry.name, **entry.tiny)
    embeddings = pair(*(torch.zeros_like(x) for x in pair.example(2).values()))
    (embeddings.first.sum() + embeddings.second.sum()).backward()
    assert all(p.grad.isfinite().all() for p in pair.head.parameters())


def test_weights_under_the_names_of_sibling_code():
    model = audio(**{"liquid.bias": True})
    theirs = model.layouts(model.config)["authors"].to_theirs(model.state_dict())
    assert sorted({name.partition(".")[0] for name in theirs}) == ["fc1", "fc1h", "fc2"]
    config = {"T": 4, "decay": 0.97, "vth": 2.0}
    again = neuromix.from_reference("resistive-lsm", config, theirs)
    x_TBN = spikes(4, 2, 5)
    torch.testing.assert_close(again(x_TBN), model(x_TBN))
    with pytest.raises(CheckpointError, match="names left over"):
        neuromix.from_reference("resistive-lsm", config, {**theirs, "fc9.weight": torch.zeros(1)})


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(0, 2, 5), "at least one time step"),
        (torch.zeros(4, 2, 6), r"expected floating-point audio \[T, B, 5\]"),
        (torch.zeros(4, 2, 5, dtype=torch.int64), r"got torch.int64 \[4, 2, 5\]"),
        (torch.zeros(5), "expected floating-point audio"),
    ],
)
def test_wrong_sounds(x, message):
    with pytest.raises(ShapeError, match=message):
        audio()(x)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(0, 2, 2, 8, 6), "at least one time step"),
        (torch.zeros(4, 2, 2, 9, 6), r"expected frames of \[8, 6\] pixels, got \[9, 6\]"),
        (torch.zeros(4, 2, 3, 8, 6), r"expected a floating-point tensor \[B, 2, H, W\]"),
    ],
)
def test_wrong_frames(image, message):
    with pytest.raises(ShapeError, match=message):
        neuromix.create_model("resistive_lsm_nmnist", **IMAGE)(image)


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("resistive_lsm_nmnist", {"liquid.const": 0.0}, "const must be positive"),
        ("resistive_lsm_nmnist", {"liquid.decay": 1.1}, r"decay must be in \[0, 1\]"),
        ("resistive_lsm_nmnist", {"liquid.seed": -1}, r"seed must be in \[0, 2\^32\)"),
        ("resistive_lsm_nmnist", {"channel": 2}, "channel must be below in_channels 2"),
        ("resistive_lsm_nmnist", {"crop": 0}, "crop must be positive"),
        ("resistive_lsm_nmnist", {"num_classes": -1}, "num_classes must be 0 or more"),
        ("resistive_lsm_nmnist", {"num_classes": 0, "readout": "spiking"}, "needs classes"),
        ("resistive_lsm_ntidigits", {"field": "a b"}, "field must be a name"),
        ("resistive_contrastive_av", {"temperature": 0.0}, "temperature must be positive"),
        ("resistive_contrastive_av", {"first": "poolformer_s12"}, "first must be a liquid state machine"),
        ("resistive_contrastive_av", {"first": "resistive_audio_lsm"}, "both parts read 'audio'"),
    ],
)
def test_wrong_configs(name, overrides, message):
    with pytest.raises(ConfigError, match=message):
        neuromix.create_model(name, **overrides)
