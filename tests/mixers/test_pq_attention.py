"""Sparse attention by product quantisation."""

from __future__ import annotations

import pytest
import torch

from neuromix.core.config import Spec
from neuromix.core.errors import ConfigError, ShapeError
from neuromix.core.observe import record
from neuromix.layers.product_quantiser import ProductQuantiser
from neuromix.mixers.pq_attention import select_keys
from neuromix.mixers.sequence import Tokens, make_sequence_mixer


def build(name="pq_attention", dim=16, **options):
    torch.manual_seed(0)
    sizes = {"codeword_dim": 4} if name == "pq_attention" else {}
    return make_sequence_mixer(Spec(name, {"heads": 2, **sizes, **options}), dim)


def test_all_keys_and_no_limit_is_dense_attention():
    dense = build("attention", rotary=4).double().eval()
    sparse = build(rotary=4, share=1, clamp=None).double().eval()
    sparse.load_state_dict(dense.state_dict(), strict=False)
    x = torch.randn(2, 21, 16, dtype=torch.float64)
    torch.testing.assert_close(sparse(x), dense(x), rtol=1e-6, atol=1e-6)
    mask = torch.arange(21).expand(2, -1) >= 5
    torch.testing.assert_close(sparse(x, tokens=Tokens(mask))[:, 5:], dense(x, tokens=Tokens(mask))[:, 5:])


def by_definition(q_codes, k_codes, keep):
    """Best first, the lower index among equals, in plain Python."""
    rows = []
    for t in range(len(q_codes)):
        order = sorted(range(t + 1), key=lambda j: (-int((q_codes[t] == k_codes[j]).sum()), j))[:keep]
        rows.append(order + [-1] * (keep - len(order)))
    return torch.tensor(rows, dtype=torch.int32)


@pytest.mark.parametrize("length", [1, 5, 32, 37])
def test_the_keys_are_the_best_matches(length):
    q, k = torch.randint(3, (2, 2, length, 4))
    keep = max(1, length // 8)
    found = select_keys(q, k, keep)
    for row in range(2):
        assert torch.equal(found[row], by_definition(q[row], k[row], keep))
    assert (found <= torch.arange(length)[:, None]).all()


@pytest.mark.parametrize("length", [1, 7, 8, 100])
def test_any_length(length):
    mixer = build().train()
    x = torch.randn(2, length, 16, requires_grad=True)
    with record(mixer, "aux_loss") as seen:
        y = mixer(x)
    (loss,) = seen["aux_loss"]
    (y.sum() + loss).backward()
    assert x.grad.isfinite().all() and mixer.quantiser.weight.grad.isfinite().all()
    assert mixer.config.kept(length) == max(1, length // 8)


def test_it_steps_and_stays_as_sparse():
    mixer = build().eval()
    x, state = torch.randn(2, 20, 16), mixer.initial_state(torch.zeros(2, 16))
    with torch.no_grad():
        for x_t in x.unbind(1):
            y_t, state = mixer.step(x_t, state)
        torch.testing.assert_close(y_t, mixer(x)[:, -1])  # the last token sees as many keys either way


def saved_bytes(mixer, x):
    """Bytes that are kept for backward, each storage once, without parameters and what the caller holds."""
    kept, known = {}, {p.untyped_storage().data_ptr() for p in (*mixer.parameters(), x)}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = mixer(x)
    del y
    return sum(size for size, _ in kept.values())


def test_what_is_kept_for_backward_is_linear_in_the_keys():
    sizes = {keep: saved_bytes(build(keep=keep).train(), torch.randn(1, 256, 16)) for keep in (16, 32, 64)}
    assert sizes[64] - sizes[32] == 2 * (sizes[32] - sizes[16]) == 2 * 256 * 32 * 4
    lengths = {n: saved_bytes(build(keep=16).train(), torch.randn(1, n, 16)) for n in (128, 256)}
    assert lengths[256] < 2.1 * lengths[128]


def test_the_quantiser():
    quantiser = ProductQuantiser(2, 4, 3).double()
    codes = torch.tensor([[0, 3], [2, 1]])
    assert torch.equal(quantiser.encode(quantiser.decode(codes)), codes)
    z = torch.randn(50, 6, dtype=torch.float64)
    optimiser = torch.optim.Adam(quantiser.parameters(), 0.05)
    losses = []
    for _ in range(40):
        losses.append(quantiser.loss(z))
        optimiser.zero_grad()
        losses[-1].backward()
        optimiser.step()
    assert losses[-1] < 0.7 * losses[0]
    with pytest.raises(ShapeError, match="vectors of 2 x 3 numbers, got 5"):
        quantiser.encode(torch.randn(3, 5))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"codeword_dim": 5}, "codeword_dim must divide"),
        ({"keep": 0}, "keep must be positive"),
        ({"share": 0}, "share"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        build(**options)
