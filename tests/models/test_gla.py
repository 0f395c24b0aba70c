"""GLA and RetNet language models: counts, the three kinds of files, how weights start."""

from __future__ import annotations

import pytest
import torch

import neuromix
from neuromix.core import registry
from neuromix.core.errors import CheckpointError, ConfigError

TINY = {"vocab_size": 19, "hidden_size": 16, "num_hidden_layers": 2, "num_heads": 2, "intermediate_size": 24}


@pytest.mark.parametrize(
    ("name", "tied"), [("gla_340m", 341_707_776), ("gla_1_3b", 1_299_978_240), ("gla_2_7b", 2_621_667_840)]
)
def test_counts_with_a_tied_head(name, tied):
    entry, config = registry.find("model", name)
    with torch.device("meta"):
        assert entry.build(config.replace(tied=True)).num_parameters() == tied


def maintained(**options) -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """A net, and its weights under the names of released files."""
    torch.manual_seed(0)
    values = {**TINY, **options}
    entry = registry.entries("model")["gla"]
    from neuromix.models.language.gla_reading import config_of_maintained

    net = entry.build(config_of_maintained(values)).eval()
    return net, net.layouts(net.config)["maintained"].to_theirs(net.state_dict())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_short_conv": True, "num_kv_heads": 1, "conv_size": 3},
        {"use_output_gate": False},
        {"tie_word_embeddings": True, "clamp_min": -0.5, "feature_map": "relu"},
    ],
)
def test_released_files(options):
    net, state = maintained(**options)
    ids = torch.arange(10).view(1, 10)
    again = neuromix.from_reference("gla", {**TINY, **options}, state)
    assert torch.equal(again(ids), net(ids))
    expected = {"lm_head.weight", "model.embeddings.weight", "model.layers.1.attn.gk_proj.1.bias"}
    assert expected <= state.keys()


def test_names_of_other_options():
    net, state = maintained(tie_word_embeddings=True)
    ids = torch.arange(10).view(1, 10)
    plain = {name.replace("g_norm_swish_gate", "g_norm"): tensor for name, tensor in state.items()}
    del plain["lm_head.weight"]  # tied weights are in the file once
    again = neuromix.from_reference("gla", {**TINY, "tie_word_embeddings": True}, plain)
    assert torch.equal(again(ids), net(ids))


def test_older_files_have_gate_and_up_in_one():
    net, state = maintained()
    for i in range(2):
        gate, up = (state.pop(f"model.layers.{i}.mlp.{name}_proj.weight") for name in ("gate", "up"))
        state[f"model.layers.{i}.mlp.gate_proj.weight"] = torch.cat([gate, up])
    ids = torch.arange(10).view(1, 10)
    assert torch.equal(neuromix.from_reference("gla", TINY, state)(ids), net(ids))


def test_files_of_the_first_repository():
    """There a head's norm has no weights, k is scaled by the root of the head's width, and the gate has a bias."""
    dim, heads, vocab, generator = 16, 2, 19, torch.Generator().manual_seed(0)
    values = {"d_model": dim, "n_head": heads, "n_layer": 1, "vocab_size": vocab}
    block = {
        "ln_1.weight": (dim,), "ln_2.weight": (dim,), "attn.q_proj.weight": (8, dim), "attn.k_proj.weight": (8, dim),
        "attn.k_gate.0.weight": (16, dim), "attn.k_gate.1.weight": (8, 16), "attn.k_gate.1.bias": (8,),
        "attn.v_proj.weight": (dim, dim), "attn.g_proj.weight": (dim, dim), "attn.g_proj.bias": (dim,),
        "attn.out_proj.weight": (dim, dim), "w1.weight": (256, dim), "w2.weight": (dim, 256), "w3.weight": (256, dim),
    }  # fmt: skip
    shapes = {f"transformer.h.0.{name}": shape for name, shape in block.items()}
    shapes |= {
        "transformer.wte.weight": (vocab, dim),
        "transformer.ln_f.weight": (dim,),
        "lm_head.weight": (vocab, dim),
    }
    state = {
        name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()
    }
    net = neuromix.from_reference("gla", values, state)
    assert torch.equal(net.blocks[0].ffn.branch.up.weight, state["transformer.h.0.w3.weight"])
    mixer, x = net.blocks[0].mixer.branch, torch.randn(1, 1, dim, generator=generator, dtype=torch.float64)
    w = {name: tensor for name, tensor in state.items() if ".attn." in name}
    q, k, v, g = (x[0, 0] @ w[f"transformer.h.0.attn.{n}_proj.weight"].mT for n in "qkvg")
    scores = (q * k).view(heads, -1).sum(-1) / 4**0.5 / 8**0.5  # of the first token with itself
    o = torch.nn.functional.layer_norm(scores[:, None] * v.view(heads, -1), (8,), eps=1e-5).flatten()
    gated = o * torch.nn.functional.silu(g + w["transformer.h.0.attn.g_proj.bias"])
    torch.testing.assert_close(mixer(x)[0, 0], gated @ w["transformer.h.0.attn.out_proj.weight"].mT)


def test_refused():
    _, state = maintained()
    with pytest.raises(ConfigError, match="attn"):
        neuromix.from_reference("gla", {**TINY, "attn": {"layers": [0], "num_heads": 2}}, state)
    with pytest.raises(ConfigError, match="use_gv"):
        neuromix.from_reference("gla", {"use_gv": True}, {"transformer.wte.weight": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=r"missing blocks\.1\.mixer"):
        lacking = {n: t for n, t in state.items() if "layers.1.attn.q_proj" not in n}
        neuromix.from_reference("gla", TINY, lacking)
    with pytest.raises(CheckpointError, match="another model"):
        neuromix.from_reference("gla", TINY, {"encoder.weight": torch.zeros(1)})


def test_weights_start_small_and_biases_at_zero():
    torch.manual_seed(0)
    net = neuromix.create_model("gla_nano")
    assert net.blocks[0].mixer.branch.q.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert (net.blocks[0].mixer.branch.decay[1].bias == 0).all()
    assert neuromix.create_model("retnet_nano").blocks[0].mixer.branch.v.weight.shape == (256, 128)
