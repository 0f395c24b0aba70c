"""LoRA and routed feed-forward networks, as layers and as edits."""

from __future__ import annotations

import pytest
import torch

import neuromix
from neuromix.core.edits import apply_edit
from neuromix.core.errors import ConfigError
from neuromix.layers.ffn import make_ffn
from neuromix.layers.lora import LoRALinear
from neuromix.layers.routed_ffn import RoutedConfig, RoutedFeedForward

KINDS = pytest.mark.parametrize("kind", ["mlp", "glu"])


def transformer(**options):
    torch.manual_seed(0)
    values = {"dim": 16, "layers": 2, "vocab_size": 31, "attention": ["attention", {"heads": 2}]}
    return neuromix.create_model("transformer", **{**values, **options}).double()


@KINDS
def test_all_blocks_and_no_coefficient_is_the_dense_network(kind):
    torch.manual_seed(0)
    dense, x = make_ffn(kind, 8).double(), torch.randn(3, 5, 8, dtype=torch.float64)
    blocks = 3 if kind == "glu" else 4
    hidden = dense.contract.in_features
    blocks = next(n for n in (blocks, 3, 1) if hidden % n == 0)
    routed = RoutedFeedForward(dense, RoutedConfig(blocks=blocks, active=blocks, coefficients=False)).double()
    torch.testing.assert_close(routed(x), dense(x), rtol=1e-6, atol=1e-6)


@KINDS
def test_a_token_runs_its_blocks_and_no_other(kind):
    torch.manual_seed(0)
    dense, x = make_ffn([kind, {"hidden": 12}], 8).double(), torch.randn(7, 8, dtype=torch.float64)
    routed = RoutedFeedForward(dense, RoutedConfig(blocks=4, coefficients=False)).double()
    blocks = routed.chosen(routed.router(x).sigmoid())
    layers = (dense.gate, dense.up) if kind == "glu" else (dense.expand,)
    expected = []
    for t in range(7):
        h = [layer(x[t]) for layer in layers]
        h = dense.activation(h[0]) * (h[1] if len(h) > 1 else 1)
        keep = (torch.arange(12)[:, None] // 3 == blocks[t]).any(1)
        expected.append(dense.contract(h * keep))
    torch.testing.assert_close(routed(x), torch.stack(expected))


def test_lora_changes_nothing_at_first_and_learns_beside_frozen_weights():
    model = transformer()
    tuned = apply_edit(model, ("lora", {"rank": 3}))
    ids = torch.randint(31, (2, 9))
    torch.testing.assert_close(tuned(ids), model(ids))
    learning = {name for name, p in tuned.named_parameters() if p.requires_grad}
    assert learning and all(name.endswith((".left", ".right")) for name in learning)
    assert any(name.startswith("embedding") for name in learning)
    per_linear = sum(
        3 * (m.in_features + m.out_features) for m in tuned.modules() if isinstance(m, LoRALinear)
    )
    assert tuned.num_parameters() == per_linear + 3 * (31 + 16)
    assert all(p.requires_grad for p in model.parameters())


def test_lora_folds_into_a_plain_layer():
    layer = LoRALinear(torch.nn.Linear(4, 6), 2)
    torch.nn.init.normal_(layer.right)
    x = torch.randn(3, 4)
    torch.testing.assert_close(layer.fused()(x), layer(x))


@pytest.mark.parametrize(
    "edit",
    [
        ("lora", {"rank": 2}),
        ("routed_ffn", {"blocks": 2}),
        ("spt", {"rank": 2, "codeword_dim": 4, "blocks": 2}),
    ],
)
def test_checkpoints_bring_edits_back(edit, tmp_path):
    model = transformer(ffn=["mlp", {}]).float()
    edited = apply_edit(model, edit).eval()
    for p in edited.parameters():
        p.data += 0.1 * torch.randn_like(p)
    neuromix.save_checkpoint(edited, tmp_path / "net.safetensors")
    again = neuromix.load_checkpoint(tmp_path / "net.safetensors").eval()
    ids = torch.randint(31, (2, 9))
    assert torch.equal(again(ids), edited(ids))
    learns = [[name for name, p in m.named_parameters() if p.requires_grad] for m in (edited, again)]
    assert learns[0] == learns[1]


def test_what_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="no linear layer or embedding matches nothing"):
        apply_edit(transformer(), ("lora", {"layers": ["nothing"]}))
    with pytest.raises(ConfigError, match="5 blocks do not divide"):
        apply_edit(transformer(ffn=["mlp", {}]), ("routed_ffn", {"blocks": 5}))
    with pytest.raises(ConfigError, match="no feed-forward network"):
        apply_edit(neuromix.create_model("dcls_nano"), "routed_ffn")
    with pytest.raises(ConfigError, match=r"active must be in 1\.\.4"):
        RoutedConfig(active=5)
