"""Mamba and Mamba-2 as language models: weights of others, padding, segments, how they start and are trained.

Shapes: B batch, L tokens, V vocabulary.
"""

from __future__ import annotations

import math

import pytest
import torch
from safetensors.torch import save_file

import neuromix
from neuromix.core import registry
from neuromix.core.checkpoint import build_model, create_model
from neuromix.core.config import Spec
from neuromix.core.errors import CheckpointError, ConfigError, NeuromixError
from neuromix.core.state import state_bytes
from neuromix.models.language.mamba_reading import (
    attention_spec,
    config_of_authors,
    config_of_transformers,
    mixer_spec,
)
from neuromix.training.config import TrainConfig
from neuromix.training.optimiser import make_optimiser

CLOSE = {"rtol": 1e-10, "atol": 1e-10}
NAMES = ("mamba", "mamba2")


def tiny(name, **values):
    torch.manual_seed(0)
    entry, _ = registry.find("model", name)
    model = build_model(name, entry.config.from_dict({**entry.tiny, **values})).double().eval()
    for parameter in model.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return model


def ids(batch, length, seed=1):
    return torch.randint(29, (batch, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", NAMES)
def test_a_left_padded_batch_gives_the_logits_of_each_prompt(name):
    model, lengths = tiny(name).float(), (3, 9, 6)
    ids_BL, mask_BL = ids(3, 9), torch.stack([torch.arange(9) >= 9 - n for n in lengths])
    net = neuromix.stream(model)
    with torch.no_grad():
        logits_BLV, state = net.prefill(ids_BL, mask=mask_BL)
        next_BV, _ = net.step(ids(3, 1)[:, 0], state)
        for b, n in enumerate(lengths):
            alone, own = net.prefill(ids_BL[b : b + 1, 9 - n :])
            torch.testing.assert_close(logits_BLV[b : b + 1, 9 - n :], alone, rtol=1e-5, atol=1e-5)
            after, _ = net.step(ids(3, 1)[b : b + 1, 0], own)
            torch.testing.assert_close(next_BV[b : b + 1], after, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_segments_and_steps_equal_one_pass(name):
    model, ids_BL = tiny(name), ids(2, 19)
    net = neuromix.stream(model)
    with torch.no_grad():
        whole, last = net.prefill(ids_BL)
        torch.testing.assert_close(whole, model(ids_BL), **CLOSE)
        parts, state = [], None
        for part in ids_BL.split([7, 5, 7], 1):
            y, state = net.prefill(part, state)
            parts.append(y)
        torch.testing.assert_close(torch.cat(parts, 1), whole, **CLOSE)
        for key, tensors in last.items():
            for a, b in zip(state[key], tensors, strict=True):
                torch.testing.assert_close(a, b, **CLOSE)
        y, state = net.prefill(ids_BL[:, :7])
        stepped = [y]
        for ids_B in ids_BL[:, 7:].unbind(1):
            y, state = net.step(ids_B, state)
            stepped.append(y[:, None])
        torch.testing.assert_close(torch.cat(stepped, 1), whole, **CLOSE)


def test_the_state_of_mamba_does_not_grow():
    net = neuromix.stream(tiny("mamba"))
    with torch.no_grad():
        sizes = {state_bytes(net.prefill(ids(1, n))[1]) for n in (2, 5, 50)}
    assert len(sizes) == 1


@pytest.mark.parametrize("names", ["authors", "hf"])
@pytest.mark.parametrize("name", NAMES)
def test_released_files_load_strictly(name, names, tmp_path):
    model = tiny(name)
    theirs = model.layouts(model.config)[names].to_theirs(model.state_dict())
    prefix = "backbone.embeddings" if names == "hf" else "backbone.embedding"
    assert f"{prefix}.weight" in theirs and "backbone.layers.1.mixer.conv1d.weight" in theirs
    save_file(
        {key: tensor.clone().contiguous() for key, tensor in theirs.items()}, tmp_path / "w.safetensors"
    )
    torch.save(theirs, tmp_path / "pytorch_model.bin")
    for file in ("w.safetensors", "pytorch_model.bin"):
        again = neuromix.load_checkpoint(tmp_path / file, name, **registry.find("model", name)[0].tiny)
        for key, tensor in again.state_dict().items():
            torch.testing.assert_close(tensor, model.state_dict()[key].float())
    theirs.pop("backbone.layers.0.mixer.A_log")
    torch.save(theirs, tmp_path / "less.bin")
    with pytest.raises(CheckpointError, match=r"missing blocks\.0\.mixer\.branch\.A_log"):
        neuromix.load_checkpoint(tmp_path / "less.bin", name, **registry.find("model", name)[0].tiny)


def test_every_name_of_the_release():
    """The names and shapes of mamba-130m."""
    entry, config = registry.find("model", "mamba_130m")
    with torch.device("meta"):
        model = entry.build(config)
    theirs = model.layouts(config)["authors"].to_theirs(model.state_dict())
    shapes = {name: list(tensor.shape) for name, tensor in theirs.items()}
    assert len(shapes) == 24 * 10 + 3
    assert shapes["lm_head.weight"] == shapes["backbone.embedding.weight"] == [50280, 768]
    layer = "backbone.layers.23."
    assert {name.removeprefix(layer): s for name, s in shapes.items() if name.startswith(layer)} == {
        "norm.weight": [768],
        "mixer.A_log": [1536, 16],
        "mixer.D": [1536],
        "mixer.in_proj.weight": [3072, 768],
        "mixer.conv1d.weight": [1536, 1, 4],
        "mixer.conv1d.bias": [1536],
        "mixer.x_proj.weight": [80, 1536],
        "mixer.dt_proj.weight": [1536, 48],
        "mixer.dt_proj.bias": [1536],
        "mixer.out_proj.weight": [768, 1536],
    }


def test_a_file_may_leave_out_the_tied_head():
    model = tiny("mamba")
    theirs = dict(model.layouts(model.config)["hf"].to_theirs(model.state_dict()))
    del theirs["lm_head.weight"]
    values = {"hidden_size": 16, "num_hidden_layers": 2, "state_size": 4, "vocab_size": 32}
    again = neuromix.from_reference("mamba", values, theirs)
    torch.testing.assert_close(again(ids(1, 5)), model(ids(1, 5)))


def test_values_of_the_authors():
    config = config_of_authors(
        {
            "d_model": 32,
            "n_layer": 3,
            "vocab_size": 61,
            "ssm_cfg": {
                "layer": "Mamba2",
                "headdim": 8,
                "dt_limit": [0.0, math.inf],
                "use_mem_eff_path": True,
            },
            "attn_layer_idx": [1],
            "attn_cfg": {
                "causal": True,
                "num_heads": 2,
                "d_conv": 4,
                "qkv_proj_bias": False,
                "out_proj_bias": False,
            },
            "d_intermediate": 100,
            "rms_norm": False,
            "pad_vocab_size_multiple": 16,
        }
    )
    assert config.rows == 64 and config.norm == "layer"
    mamba, attention, _ = config.blocks()
    assert mamba.mixer == Spec("mamba2", {"headdim": 8, "dt_limit": (0.0, None)})
    assert mamba.ffn == Spec("fused_glu", {"hidden": 128})
    assert attention.mixer.name == "conv_attention" and attention.mixer.options["d_conv"] == 4
    assert not attention.mixer.options["qkv_bias"]
    assert mixer_spec("mamba", {"dt_rank": "auto", "use_fast_path": False}) == Spec("mamba")


def test_values_of_transformers():
    values = {"hidden_size": 32, "num_hidden_layers": 2, "n_groups": 2, "head_dim": 8, "conv_kernel": 3}
    config = config_of_transformers(values)
    assert config.mixer == Spec("mamba2", {"ngroups": 2, "headdim": 8, "d_conv": 3}) and not config.tied
    first = config_of_transformers({**values, "model_type": "mamba", "n_groups": 1} | {"time_step_rank": 5})
    assert first.layers == 2


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda: config_of_authors({"ssm_cfg": {"layer": "S4"}}), "layer must be Mamba1 or Mamba2, got 'S4'"),
        (lambda: attention_spec({"num_heads": 2}), "must say causal: true"),
        (
            lambda: attention_spec({"num_heads": 2, "causal": True, "mlp_dim": 8}),
            "mlp_dim=8 is not supported",
        ),
        (lambda: create_model("mamba_nano", layers=0), "layers must be positive, got 0"),
        (lambda: create_model("mamba_nano", d_intermediate=-1), "d_intermediate must be 0 or more, got -1"),
        (lambda: create_model("mamba_nano", attention_layers=(8,)), "attention_layers must lie in 0 to 7"),
        (lambda: create_model("mamba_nano", d_state=8), "d_state"),
    ],
)
def test_bad_values_are_refused(read, message):
    with pytest.raises(NeuromixError, match=message) as caught:
        read()
    assert "\n" not in str(caught.value)


def test_what_sets_the_time_scales_does_not_decay():
    model = tiny("mamba", **{"mixer.selective": False})
    groups = make_optimiser(model, TrainConfig(weight_decay=0.1), model.parameter_rules()).param_groups
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    kept = {name.rpartition(".")[2] for name, p in model.named_parameters() if id(p) not in decayed}
    assert {"A_log", "D", "B", "C", "dt_bias"} <= kept
    assert "blocks.0.mixer.branch.in_proj.weight" in {
        name for name, p in model.named_parameters() if id(p) in decayed
    }


def test_how_it_starts():
    """Embedding N(0, 0.02); what ends a branch as PyTorch starts it, over the root of the number of branches."""
    torch.manual_seed(0)
    plain = create_model("mamba_nano", layers=4)
    with_mlp = create_model("mamba_nano", layers=4, d_intermediate=200)
    assert plain.embedding.weight.std().item() == pytest.approx(0.02, rel=0.02)
    for model, branches in ((plain, 4), (with_mlp, 8)):
        weight = model.blocks[0].mixer.branch.out_proj.weight
        assert weight.abs().max().item() == pytest.approx(256**-0.5 / branches**0.5, rel=0.01)
        assert model.blocks[0].mixer.branch.dt_proj.bias.abs().min() > 1  # no initialisation zeroed it
    contract = with_mlp.blocks[0].ffn.branch.contract
    assert contract.in_features == 256 and contract.weight.abs().max() < 256**-0.5 / 8**0.5


def test_layer_norm_and_an_untied_head():
    model = tiny("mamba", norm="layer", tied=False, vocab_multiple=8)
    assert model.norm.bias is not None and model.head.weight is not model.embedding.weight
    assert model(ids(2, 4)).shape == (2, 4, 32)
    theirs = model.layouts(model.config)["authors"].to_theirs(model.state_dict())
    assert "backbone.norm_f.bias" in theirs and "backbone.layers.0.norm.bias" in theirs


def test_attention_of_mamba2_keeps_what_goes_into_its_convolution():
    """A prefill of fewer tokens than taps, then steps: as the whole. (Kept behind the convolution, it is not.)"""
    model = tiny("mamba2")
    assert model.blocks[1].mixer.branch.conv.activation is None
    net, ids_BL = neuromix.stream(model), ids(1, 8)
    with torch.no_grad():
        y, state = net.prefill(ids_BL[:, :2])
        rest, _ = net.prefill(ids_BL[:, 2:], state)
        torch.testing.assert_close(torch.cat([y, rest], 1), model(ids_BL), **CLOSE)


def test_attention_layers_out_of_range_are_named():
    with pytest.raises(ConfigError, match=r"got \[-1\]"):
        create_model("mamba2_nano", attention_layers=(-1,))
