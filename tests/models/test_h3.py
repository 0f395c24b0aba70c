"""H3 language models: new and old files, options of the reader, how weights start and are trained."""

from __future__ import annotations

import pytest
import torch

import neuromix
from neuromix.core import registry
from neuromix.core.batch import Batch
from neuromix.core.checkpoint import build_model
from neuromix.core.config import Spec
from neuromix.core.errors import CheckpointError, ConfigError
from neuromix.models.language.h3_reading import config_of_authors
from neuromix.training.config import TrainConfig
from neuromix.training.optimiser import make_optimiser

VALUES = {
    "d_model": 8,
    "n_layer": 3,
    "d_inner": 16,
    "vocab_size": 21,
    "pad_vocab_size_multiple": 8,
    "attn_layer_idx": [1],
    "attn_cfg": {"num_heads": 2, "rotary_emb_dim": 4},
    "ssm_cfg": {"d_state": 4, "mode": "diag", "measure": "diag-lin"},
}
IDS = torch.arange(12).view(1, 12)


def released() -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    net = build_model("h3", config_of_authors(VALUES)).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return net, net.layouts(net.config)["authors"].to_theirs(net.state_dict())


def older(state: dict[str, torch.Tensor], layers: int) -> dict[str, torch.Tensor]:
    """The file as it would have been when each block ended with a norm."""
    old = {name: tensor for name, tensor in state.items() if ".norm" not in name and ".ln_f" not in name}
    for part in ("weight", "bias"):
        old[f"backbone.ln_0.{part}"] = state[f"backbone.layers.0.norm1.{part}"]
        for i in range(layers):
            after = f"backbone.layers.{i + 1}.norm1." if i + 1 < layers else "backbone.ln_f."
            old[f"backbone.layers.{i}.norm1.{part}"] = state[f"backbone.layers.{i}.norm2.{part}"]
            old[f"backbone.layers.{i}.norm2.{part}"] = state[after + part]
    return old


def test_released_names():
    net, state = released()
    assert torch.equal(neuromix.from_reference("h3", VALUES, state)(IDS), net(IDS))
    assert state["backbone.layers.0.mixer.kernel.kernel.C"].shape == (1, 8, 2, 2)
    assert state["backbone.layers.0.mixer.ssm_k_kernel.kernel.C"].shape == (1, 8, 4)
    assert state["backbone.layers.1.mixer.Wqkv.weight"].shape == (24, 8)
    del state["lm_head.weight"]
    state["backbone.layers.1.mixer.rotary_emb.inv_freq"] = torch.zeros(2)
    assert torch.equal(neuromix.from_reference("h3", VALUES, state)(IDS), net(IDS))


@pytest.mark.parametrize("prefix", ["", "model."])
@pytest.mark.parametrize("shifted", [False, True])
def test_older_names(prefix, shifted):
    net, state = released()
    if shifted:
        state = older(state, 3)
    renamed = {}
    for name, tensor in state.items():
        name = name.replace("backbone.embeddings.word_embeddings", "embedding").replace(
            "backbone", "s4seq.encoder"
        )
        renamed[prefix + name.replace("encoder.ln_f", "encoder.norm")] = tensor
    assert torch.equal(neuromix.from_reference("h3", VALUES, renamed)(IDS), net(IDS))
    kept = {prefix + name: tensor for name, tensor in state.items()}
    assert torch.equal(neuromix.from_reference("h3", VALUES, kept)(IDS), net(IDS))


def test_options_beside_the_others_mean_the_same():
    flat = {k: v for k, v in VALUES.items() if k not in ("attn_cfg", "ssm_cfg")}
    assert config_of_authors({**flat, **VALUES["attn_cfg"], **VALUES["ssm_cfg"]}) == config_of_authors(VALUES)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"ssm_cfg": {"mode": "nplr"}}, "mode diag"),
        ({"ssm_cfg": {"real_type": "relu"}}, "real_type must be 'exp'"),
        ({"resid_dropout": 0.1}, "resid_dropout"),
        ({"max_position_embeddings": 8}, "position embeddings"),
        ({"attn_layer_idx": [3]}, "attention_layers must lie in 0 to 2"),
    ],
)
def test_values_that_are_refused(values, message):
    _, state = released()
    with pytest.raises(ConfigError, match=message):
        neuromix.from_reference("h3", {**VALUES, **values}, state)


def test_files_that_are_refused():
    _, state = released()
    with pytest.raises(CheckpointError, match="do not fit"):
        neuromix.from_reference("h3", {**VALUES, "d_inner": 24}, state)
    with pytest.raises(CheckpointError, match="another model"):
        neuromix.from_reference("h3", VALUES, {**state, "backbone.extra": torch.zeros(1)})


def test_state_spaces_have_a_rate_of_their_own_and_no_decay():
    net = build_model("h3", config_of_authors(VALUES).replace(ssm_lr=0.1))
    optimiser = make_optimiser(net, TrainConfig(weight_decay=0.1), net.parameter_rules())
    names = {parameter: name for name, parameter in net.named_parameters()}
    for group in optimiser.param_groups:
        for parameter in group["params"]:
            ends = names[parameter].endswith
            if ends(("shift.B", "diagonal.B", ".A_imag", ".inv_A_real", ".log_dt")):
                assert (group["lr_scale"], group["weight_decay"]) == (0.1, 0.0)
            elif ends(("shift.C", "diagonal.C", "q.weight")):
                assert (group["lr_scale"], group["weight_decay"]) == (1.0, 0.1)


def test_how_weights_start():
    torch.manual_seed(0)
    net = neuromix.create_model("h3_nano")
    hybrid, attention = net.blocks[0], net.blocks[2].mixer.branch
    small = 0.02 / 8**0.5
    assert attention.out.weight.std().item() == pytest.approx(small, rel=0.05)
    assert hybrid.ffn.branch.contract.weight.std().item() == pytest.approx(small, rel=0.05)
    assert hybrid.mixer.branch.out.weight.std().item() == pytest.approx(0.02, rel=0.05)
    ssm = hybrid.mixer.branch.diagonal
    assert torch.allclose(-ssm.inv_A_real.exp(), torch.tensor(-0.5))
    assert torch.allclose(ssm.A_imag[3], torch.pi * torch.arange(32.0))
    assert ssm.log_dt.exp().min() >= 0.001 * (1 - 1e-5) and ssm.log_dt.exp().max() <= 0.1 * (1 + 1e-5)
    assert torch.view_as_complex(ssm.C).abs().square().mean().item() == pytest.approx(1, rel=0.1)


def test_width_of_the_start():
    torch.manual_seed(0)
    net = neuromix.create_model("h3_nano", init_std=0.4)
    block = net.blocks[0]
    assert net.embedding.weight.std().item() == pytest.approx(0.4, rel=0.05)
    assert block.mixer.branch.k.weight.std().item() == pytest.approx(0.4, rel=0.05)
    assert block.ffn.branch.contract.weight.std().item() == pytest.approx(0.4 / 8**0.5, rel=0.05)
    with pytest.raises(ConfigError, match="init_std"):
        neuromix.create_model("h3_nano", init_std=0.0)
    # From 0.02 on, the net for recall stays at the share of a guess among the values that it saw.
    recall = neuromix.create_model("h3_recall")
    assert recall.embedding.weight.std().item() == pytest.approx(recall.config.dim**-0.5, rel=0.2)


@pytest.mark.slow
def test_two_layers_learn_to_look_up():
    """Four keys, five pairs: far from sure after 300 steps, but far above the half that a small start is stuck at."""
    torch.manual_seed(0)
    task = registry.build("task", Spec("associative-recall", {"vocab": 10, "pairs": 5, "others": 0.25}))
    generator, net = torch.Generator().manual_seed(0), neuromix.create_model("h3_recall", vocab_size=10)

    def batch(split: str, count: int) -> Batch:
        samples = [task.data(split).sample(i, generator) for i in range(count)]
        return Batch({name: torch.stack([s[name] for s in samples]) for name in samples[0]})

    optimiser = make_optimiser(net, TrainConfig(lr=5e-3, weight_decay=0.1), net.parameter_rules())
    for _ in range(300):
        part = batch("train", 64)
        optimiser.zero_grad()
        sum(task.loss(net(part.tensor("ids")), part).values()).backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
    scores, held_out = task.metrics(), batch("validation", 500)
    scores.update(net.eval()(held_out.tensor("ids")), held_out)
    assert scores.compute()["accuracy"] > 0.85
