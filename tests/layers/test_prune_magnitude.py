from __future__ import annotations

import pytest
import torch

import neuromix
from neuromix.core.edits import apply_edit
from neuromix.core.errors import ConfigError
from neuromix.core.model import call
from neuromix.measure import profile


def net(**options):
    torch.manual_seed(0)
    return neuromix.create_model("l2mu", **{**TINY, **options})


TINY = {"in_channels": 3, "hidden": 12, "memories": 5, "order": 3, "num_classes": 3, "theta": 8.0}


@pytest.mark.parametrize("scope", ["layer", "model"])
def test_the_smallest_weights_are_zero_and_stay_zero(scope, tmp_path):
    dense = net()
    torch.nn.init.normal_(dense.cell.e_m.weight)
    pruned = apply_edit(dense, ("prune_magnitude", {"amount": 0.5, "scope": scope}))
    layer = pruned.cell.w_h
    zero = layer.weight == 0
    if scope == "layer":
        assert int(zero.sum()) == zero.numel() // 2
        sizes = dense.cell.w_h.weight.abs()
        assert sizes[zero].max() <= sizes[~zero].min()
    assert (dense.cell.w_h.weight != 0).all()
    assert torch.equal(pruned.cell.A.weight, dense.cell.A.weight)
    optimiser = torch.optim.AdamW(pruned.parameters(), lr=0.1)
    for _ in range(3):
        optimiser.zero_grad()
        call(pruned, pruned.example(2)).square().sum().backward()
        optimiser.step()
    assert torch.equal(layer.weight == 0, zero)
    assert pruned.num_parameters() == dense.num_parameters()
    neuromix.save_checkpoint(pruned, tmp_path / "net.safetensors")
    again = neuromix.load_checkpoint(tmp_path / "net.safetensors")
    assert torch.equal(again.cell.w_h.weight, layer.weight)


def test_the_profile_sees_what_is_left():
    dense = net().eval()
    pruned = apply_edit(dense, ("prune_magnitude", {"amount": 0.5}))
    x = 5 * torch.randn(2, 8, 3)
    before, after = profile(dense, x), profile(pruned, x)
    assert after.connection_sparsity > 0.45
    assert after.effective_macs <= 0.55 * before.effective_macs
    assert not after.not_counted


def test_what_cannot_be_pruned():
    pruned = apply_edit(net(), ("prune_magnitude", {}))
    with pytest.raises(ConfigError, match="pruned already"):
        apply_edit(pruned, ("prune_magnitude", {}))
    with pytest.raises(ConfigError, match="amount"):
        apply_edit(net(), ("prune_magnitude", {"amount": 1.0}))
