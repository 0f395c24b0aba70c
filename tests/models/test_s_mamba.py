"""S-Mamba: what the paper says of it, its options, and released weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import neuromix
from neuromix.core.errors import CheckpointError, ConfigError, ShapeError
from neuromix.core.layout import load_layout
from neuromix.core.model import call
from neuromix.layers.window_norm import WindowNorm
from neuromix.measure.profile import profile

TINY = {"look_back": 12, "horizon": 4, "variates": 5, "calendar": 2, "dim": 16, "depth": 2, "hidden": 24}
WAYS = [
    {},
    {"directions": "forward"},
    {"directions": "none", "mixer": ["attention", {"head_dim": 8}]},
    {"channel_mixer": "mamba"},
    {"normalise": False, "activation": "relu"},
    {"quantiles": 3},
    {"calendar": 0},
]


def net_of(**options):
    torch.manual_seed(0)
    return neuromix.create_model("s_mamba", **{**TINY, **options}).eval()


@pytest.mark.parametrize("options", WAYS, ids=str)
def test_every_option_trains(options):
    model = net_of(**options).train()
    forecast = call(model, model.example(2))
    assert forecast.shape == (2, 4, 5) + ((3,) if "quantiles" in options else ())
    forecast.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "horizon", "parameters"),
    [
        ("s_mamba_etth1", 96, 1_145_696),
        ("s_mamba_ettm1", 720, 383_056),
        ("s_mamba_weather", 96, 6_631_008),
        ("s_mamba_electricity_96", 96, 6_760_032),
        ("s_mamba_traffic", 96, 9_176_672),
        ("s_mamba_pems04", 12, 35_568_652),
    ],
)
def test_parameters_are_those_that_the_authors_use(name, horizon, parameters):
    with torch.device("meta"):
        assert neuromix.create_model(name, horizon=horizon).num_parameters() == parameters


def test_any_number_of_variates():
    model = net_of()
    with torch.no_grad():
        assert model(torch.randn(2, 12, 9)).shape == (2, 4, 9)
        assert model(torch.randn(2, 12, 1), torch.randn(2, 12, 7)).shape == (2, 4, 1)


def test_a_forecast_follows_the_level_and_the_unit_of_its_window():
    model, series_BLN = net_of(calendar=0).double(), torch.randn(2, 12, 5, dtype=torch.float64)
    with torch.no_grad():
        plain, moved = model(series_BLN), model(1000 * series_BLN + 77)
    # The 1e-5 in the deviation is all that keeps it from being exact.
    torch.testing.assert_close(moved, 1000 * plain + 77, rtol=1e-4, atol=0.1)


def test_no_gradient_goes_through_the_mean_and_one_does_through_the_deviation():
    x_BLN = torch.randn(1, 6, 1, dtype=torch.float64, requires_grad=True)
    before = x_BLN.detach().clone()
    y_BLN, scale = WindowNorm()(x_BLN)
    assert torch.equal(x_BLN.detach(), before)  # out of place
    assert not scale.mean_B1N.requires_grad and scale.deviation_B1N.requires_grad
    (gradient,) = torch.autograd.grad(y_BLN.sum(), x_BLN)
    # For a constant mean c, sum((x - c) / s) moves by 1/s with each x; the share of s is 0 in sum.
    assert float(gradient.mean() * scale.deviation_B1N.detach()) == pytest.approx(1, abs=1e-9)
    assert WindowNorm(active=False)(x_BLN)[0] is x_BLN


@pytest.mark.parametrize(
    ("options", "hears"),
    [({}, [True, True]), ({"directions": "forward"}, [True, False])],
    ids=["both", "forward"],
)
def test_which_variates_hear_which(options, hears):
    """Of the first and the last variate: whether the other one hears it."""
    model = net_of(calendar=0, normalise=False, **options)
    series_BLN = torch.randn(1, 12, 5)
    with torch.no_grad():
        plain = model(series_BLN)
        for variate, other, heard in ((0, 4, hears[0]), (4, 0, hears[1])):
            changed = series_BLN.clone()
            changed[:, :, variate] += 1
            assert bool((model(changed) - plain)[:, :, other].abs().max() > 1e-7) == heard


def test_attention_does_not_see_the_order_of_the_variates_and_a_scan_does():
    order = torch.tensor([3, 0, 4, 1, 2])
    series_BLN = torch.randn(1, 12, 5)
    for options, blind in ((WAYS[2], True), ({}, False)):
        model = net_of(calendar=0, **options)
        with torch.no_grad():
            same = torch.allclose(model(series_BLN)[..., order], model(series_BLN[..., order]), atol=1e-5)
        assert same == blind


def test_work_grows_linearly_with_the_variates_and_faster_with_attention():
    def macs(variates, **options):
        model = net_of(calendar=0, variates=variates, **options)
        return profile(model, model.example(1)).macs_dense

    assert macs(400) == pytest.approx(8 * macs(50), rel=0.02)
    attention = {"directions": "none", "mixer": ["attention", {"head_dim": 8}]}
    assert macs(400, **attention) > 10 * macs(50, **attention)


def released(model, dead=True):
    """Weights under the names of the release, with those it never uses."""
    state = model.layouts(model.config)["authors"].to_theirs(model.state_dict())
    unused = {f"encoder.attn_layers.{i}.{name}": torch.zeros(11)
              for i in range(2) for name in ("man.A_log", "man2.in_proj.weight", "a.out_projection.bias")}  # fmt: skip
    return {**state, **unused} if dead else state


def test_released_weights_load_with_their_dead_keys():
    model, other = net_of(), net_of()
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    load_layout(other, other.layouts(other.config), released(model))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    again = neuromix.from_reference("s-mamba", {"n_vars": 5, "n_marks": 2}, released(model))
    batch = model.example(2)
    torch.testing.assert_close(call(again, batch), call(model, batch))


def test_names_of_released_weights():
    names = released(net_of(), dead=False)
    layer = "encoder.attn_layers.1"
    assert names["enc_embedding.value_embedding.weight"].shape == (16, 12)
    assert names[f"{layer}.conv1.weight"].shape == (24, 16, 1)
    assert names[f"{layer}.attention_r.conv1d.weight"].shape == (16, 1, 2)
    assert names[f"{layer}.attention.x_proj.weight"].shape == (1 + 2 * 2, 16)
    assert names["projector.bias"].shape == (4,)


def test_released_weights_that_are_none():
    model = net_of()
    state = released(model)
    with pytest.raises(ConfigError, match=r"no projector\.weight"):
        neuromix.from_reference("s-mamba", {}, {k: v for k, v in state.items() if k != "projector.weight"})
    with pytest.raises(CheckpointError, match="names left over"):
        neuromix.from_reference("s-mamba", {}, {**state, "extra.weight": torch.zeros(1)})


def test_wrong_inputs():
    model = net_of()
    good = torch.randn(2, 12, 5)
    for wrong in (good[:, :11], good[0], good.long(), good[..., :0]):
        with pytest.raises(ShapeError, match=r"expected series .* \[B, 12, N\]"):
            model(wrong)
    with pytest.raises(ShapeError, match=r"expected calendar .* \[2, 12, N\]"):
        model(good, torch.randn(3, 12, 4))


@pytest.mark.parametrize(
    "options",
    [{"horizon": 0}, {"dim": 0}, {"dropout": 1.0}, {"calendar": -1}, {"quantiles": -1}, {"directions": "up"}],
)
def test_wrong_options(options):
    with pytest.raises(ConfigError):
        net_of(**options)


@pytest.mark.slow
def test_it_learns_more_than_a_line_where_variates_tell_of_one_another(tmp_path):
    from neuromix.training.api import train

    scores = {}
    for name, config in (("s_mamba", {"dim": 64, "depth": 1}), ("linear_forecast", {})):
        done = train(name, "forecasting", tmp_path / name, model_config={"horizon": 6, **config},
                     lr=2e-3, epochs=4, batch_size=64)  # fmt: skip
        scores[name] = done.test["mse"]
    assert scores["s_mamba"] < scores["linear_forecast"]
