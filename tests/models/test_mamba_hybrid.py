"""The hybrid: where its layers stand, weights in Megatron's names, whole and in shards, and what its state weighs.

Shapes: B batch, L tokens, D width.
"""

from __future__ import annotations

import doctest

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import neuromix
from neuromix.core import registry
from neuromix.core.checkpoint import build_model, create_model
from neuromix.core.errors import CheckpointError, ConfigError, NeuromixError
from neuromix.core.layout import load_layout
from neuromix.core.state import state_bytes
from neuromix.models.language import mamba_hybrid
from neuromix.models.language.mamba_hybrid import layer_pattern
from neuromix.models.language.mamba_reading import config_of_megatron
from neuromix.models.language.megatron import merge_shards

TINY = registry.find("model", "mamba_hybrid")[0].tiny


def tiny(**values):
    torch.manual_seed(0)
    entry, _ = registry.find("model", "mamba_hybrid")
    return build_model("mamba_hybrid", entry.config.from_dict({**entry.tiny, **values})).double().eval()


def ids(batch, length):
    return torch.randint(29, (batch, length), generator=torch.Generator().manual_seed(1))


def test_the_published_pattern():
    pattern = create_model_config().symbols
    assert pattern == "M-M-M--M-M*-M-M-M-M--M*-M-M-M-M-M*--M-M-M-M-M*-M--M-M-M-"
    assert (pattern.count("M"), pattern.count("*"), pattern.count("-")) == (24, 4, 28)
    assert not doctest.testmod(mamba_hybrid).failed


def create_model_config():
    return registry.find("model", "mamba_hybrid_8b")[1]


@given(layers=st.integers(1, 80), attention=st.floats(0, 0.5), mlp=st.floats(0, 0.5))
def test_a_pattern_has_the_asked_for_layers(layers, attention, mlp):
    stars, dashes = round(layers * attention), round(layers * mlp)
    if stars + dashes > layers:
        with pytest.raises(ConfigError, match="together at most 1"):
            layer_pattern(layers, attention, mlp)
        return
    pattern = layer_pattern(layers, attention, mlp)
    assert len(pattern) == layers and set(pattern) <= set("M*-")
    assert pattern.count("*") == stars
    if stars == 0:
        assert pattern.count("-") == dashes


def test_the_8b_model_on_the_meta_device():
    entry, config = registry.find("model", "mamba_hybrid_8b")
    with torch.device("meta"):
        model = entry.build(config)
    assert all(p.is_meta for p in model.parameters())
    assert model.num_parameters() == 8_654_517_248


def test_the_cache_grows_in_the_attention_layers_only():
    model = tiny()
    net = neuromix.stream(model)
    with torch.no_grad():
        short, long = (net.prefill(ids(1, n))[1] for n in (4, 20))
    grown = {path for path, n in short if state_bytes(long[path, n]) != state_bytes(short[path, n])}
    stars = {f"blocks.{i}.mixer.branch" for i, symbol in enumerate(model.config.symbols) if symbol == "*"}
    assert grown == stars and len(stars) == 1
    width = 2 * model.config.attention.options["kv_heads"] * 4  # keys and values of heads of 16 / 4 numbers
    (path,) = stars
    assert state_bytes(long[path, 0]) - state_bytes(short[path, 0]) == 16 * (8 * width + 1)
    pure = neuromix.stream(tiny(pattern="M-MM"))
    with torch.no_grad():
        assert state_bytes(pure.prefill(ids(1, 4))[1]) == state_bytes(pure.prefill(ids(1, 20))[1])


def theirs_of(model):
    return dict(model.layouts(model.config)["megatron"].to_theirs(model.state_dict()))


def test_names_of_megatron():
    model = tiny()
    theirs = theirs_of(model)
    assert {name.removeprefix("decoder.layers.0.mixer.") for name in theirs if ".0.mixer." in name} == {
        "in_proj.layer_norm_weight", "in_proj.weight", "conv1d.weight", "conv1d.bias", "dt_bias", "A_log", "D",
        "norm.weight", "out_proj.weight",
    }  # fmt: skip
    assert "decoder.layers.1.mlp.linear_fc1.layer_norm_weight" in theirs
    assert "decoder.layers.2.self_attention.linear_qkv.layer_norm_weight" in theirs
    again = tiny(vocab_size=29)
    for parameter in again.parameters():
        parameter.data.zero_()
    theirs["decoder.layers.0.mixer.in_proj._extra_state"] = torch.zeros(1)
    load_layout(again, again.layouts(again.config), theirs)
    torch.testing.assert_close(again(ids(2, 5)), model(ids(2, 5)))


def test_older_and_newer_names_of_megatron():
    model = tiny()
    renamed = {
        "mixer.in_proj.layer_norm_weight": "norm.weight",
        "mlp.linear_fc1.layer_norm_weight": "pre_mlp_layernorm.weight",
        "self_attention.linear_qkv.layer_norm_weight": "input_layernorm.weight",
        "mixer.conv1d.weight": "mixer.conv1d_weight",
        "mixer.conv1d.bias": "mixer.conv1d_bias",
    }
    other = {}
    for name, tensor in theirs_of(model).items():
        for new, old in renamed.items():
            name = name.replace(new, old)
        other[name] = tensor
    assert "decoder.layers.0.norm.weight" in other and "decoder.layers.3.mixer.conv1d_bias" in other
    ours = model.layouts(model.config)["megatron"].to_ours(other)
    for name, tensor in model.state_dict().items():
        assert torch.equal(ours[name], tensor), name


def test_rows_of_queries_keys_and_values_are_grouped():
    """4 heads and 2 groups of width 4: q0 q1 k0 v0, q2 q3 k1 v1 of theirs are q0 q1 q2 q3 k0 k1 v0 v1 of ours."""
    model = tiny()
    theirs = {
        "decoder.layers.2.self_attention.linear_qkv.weight": torch.arange(8.0).repeat_interleave(4)[:, None]
    }
    (rows,) = model.layouts(model.config)["megatron"].to_ours(theirs).values()
    assert rows[::4, 0].tolist() == [0, 1, 4, 5, 2, 6, 3, 7]


def shard(theirs, rank, ranks=2):
    """What a rank of Megatron holds: its share of every part, of each group of heads, and of columns."""
    model_parts = {
        "in_proj.weight": (32, 32, 8, 8, 8),
        "conv1d.weight": (32, 8, 8),
        "conv1d.bias": (32, 8, 8),
    }
    columns = ("out_proj.weight", "linear_proj.weight", "linear_fc2.weight")
    whole = ("layer_norm_weight", "final_norm.weight")
    held = {}
    for name, tensor in theirs.items():
        parts = next((p for end, p in model_parts.items() if name.endswith(f"mixer.{end}")), None)
        if name.endswith(whole):
            held[name] = tensor
        elif parts:
            held[name] = torch.cat([part.chunk(ranks)[rank] for part in tensor.split(parts)])
        else:
            held[name] = tensor.chunk(ranks, 1 if name.endswith(columns) else 0)[rank]
    return held


def test_shards_of_two_ranks_become_one():
    model = tiny(vocab_size=30)
    theirs = theirs_of(model)
    shards = [shard(theirs, rank) for rank in range(2)]
    assert shards[0]["decoder.layers.0.mixer.in_proj.weight"].shape == (44, 16)
    merged = merge_shards(shards, TINY["mixer"].options, 16)
    assert merged.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert torch.equal(merged[name], tensor), name
    assert merge_shards([theirs], TINY["mixer"].options, 16).keys() == theirs.keys()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda shards: [], "needs one rank at least"),
        (lambda shards: [shards[0], {}], "rank 1 and rank 0 differ in their tensors"),
        (lambda shards: [*shards, shards[0]], "3 ranks with .* do not make up parts of"),
        (
            lambda shards: [shards[0], {n: t + 1 if "layer_norm" in n else t for n, t in shards[1].items()}],
            "must be the same on all ranks",
        ),
    ],
)
def test_bad_shards_are_refused(spoil, message):
    theirs = theirs_of(tiny(vocab_size=30))
    with pytest.raises(CheckpointError, match=message):
        merge_shards(spoil([shard(theirs, rank) for rank in range(2)]), TINY["mixer"].options, 16)


def test_values_of_megatron():
    config = config_of_megatron(
        {
            "hidden_size": 4096,
            "vocab_size": 256000,
            "num_layers": 56,
            "hybrid_attention_ratio": 0.08,
            "hybrid_mlp_ratio": 0.5,
            "num_attention_heads": 32,
            "num_query_groups": 8,
            "kv_channels": 128,
        }
    )
    published = create_model_config()
    assert config.symbols == published.symbols
    with torch.device("meta"):
        assert registry.find("model", "mamba_hybrid")[0].build(config).num_parameters() == 8_654_517_248


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"pattern": "MM+-"}, r"pattern 'MM\+-' has '\+'; known: M Mamba-2, \* attention, - MLP"),
        ({"pattern": ""}, "pattern must have a layer at least"),
        ({"attention_ratio": 0.8, "mlp_ratio": 0.5, "pattern": None}, "together at most 1; got 0.8 and 0.5"),
        ({"attention_ratio": -0.1, "pattern": None}, "must be shares of the layers"),
        ({"layers": 0}, "layers must be positive"),
        ({"mixer.headdim": 5}, "heads of 5 channels do not divide 256"),
    ],
)
def test_bad_values_are_refused(values, message):
    with pytest.raises(NeuromixError, match=message) as caught:
        create_model("mamba_hybrid_nano", **values)
    assert "\n" not in str(caught.value)


def test_how_it_starts():
    torch.manual_seed(0)
    model = create_model("mamba_hybrid_nano")
    assert model.head.weight.std().item() == pytest.approx(0.08, rel=0.05)
    ends = model.blocks[0].mixer.branch.out_proj.weight.std().item()
    assert ends == pytest.approx(0.08 / (2 * 11) ** 0.5, rel=0.05)
    assert create_model_config().init_std == 0.02
    assert model.parameter_rules()["*.branch.A_log"] == {"weight_decay": 0.0}
