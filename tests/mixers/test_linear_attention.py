"""GLA, retention and linear attention: formulas, options, strong decays, memory. Forms: the contract of all mixers."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from neuromix.core.config import Spec
from neuromix.core.errors import ConfigError
from neuromix.measure.memory import peak_memory
from neuromix.mixers.retention import retention_log_decay
from neuromix.mixers.sequence import make_sequence_mixer
from neuromix.ops.recurrence import recurrence
from tests.golden.compare import assert_close
from tests.golden.fixtures import list_fixtures, read_fixture


def make(name: str, dim: int = 16, **options):
    torch.manual_seed(0)
    return make_sequence_mixer(Spec(name, options), dim).double()


def normal(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_gla_by_its_formula():
    layer, x = make("gla", heads=2, norm="layer", norm_affine=False, clamp_min=-0.05), normal(1, 6, 16)
    K, V = 4, 8
    q, k, v = (m(x)[0].view(6, 2, -1) for m in (layer.q, layer.k, layer.v))
    alpha = (F.logsigmoid(layer.decay(x)[0]) / 16).clamp(min=-0.05).exp().view(6, 2, K)
    S, outputs = torch.zeros(2, K, V, dtype=torch.float64), []
    for t in range(6):
        S = alpha[t, :, :, None] * S + k[t, :, :, None] * v[t, :, None]
        o = torch.einsum("hkv,hk->hv", S, q[t]) / K**0.5
        outputs.append(F.layer_norm(o, (V,)).flatten() * F.silu(layer.gate(x[0, t])))
    expected = layer.out(torch.stack(outputs))
    torch.testing.assert_close(layer(x)[0], expected)


def test_decays_start_at_a_memory_of_some_23_tokens():
    layer = make("gla")
    decay = layer.log_decay(torch.zeros(1, 1, 16, dtype=torch.float64)).exp()
    bias = layer.decay[1].bias.detach().zero_()
    assert (layer.log_decay(torch.zeros(1, 1, 16).double()).exp() - 0.5 ** (1 / 16)).abs().max() < 1e-12
    assert decay.shape == (1, 1, 4, 2) and bias.shape == (8,)


def test_shared_keys_and_values_are_repeated_ones():
    few, many = make("gla", heads=4, kv_heads=2, short_conv=2), make("gla", heads=4, short_conv=2)
    state = few.state_dict()
    for name, tensor in few.state_dict().items():
        if name.startswith(("k.", "v.", "decay.1.", "convs.k", "convs.v")):
            rows = tensor.unflatten(0, (2, -1)).repeat_interleave(2, 0)
            state[name] = rows.flatten(0, 1)
    many.load_state_dict(state)
    x = normal(2, 7, 16)
    torch.testing.assert_close(few(x), many(x))


@pytest.mark.parametrize("name", ["linear_attention", "retention"])
def test_rotary_tells_differences_of_positions(name):
    layer, x = make(name, heads=2, rotary=True, gate=None), normal(1, 5, 16)
    state = layer.initial_state(x[:, 0])
    later = state._replace(position_B=state.position_B + 100)
    torch.testing.assert_close(layer(x, state), layer(x, later))
    plain = make(name, heads=2, rotary=False, gate=None)
    plain.load_state_dict(layer.state_dict())
    assert (plain(x)[:, 0] - layer(x)[:, 0]).abs().max() < 1e-10  # a token sees itself without a turn
    assert (plain(x) - layer(x)).abs().max() > 1e-3


def test_retention_is_attention_with_a_mask_of_powers():
    layer, x = make("retention", heads=2, rotary=False), normal(2, 9, 16)
    q, k, v = (m(x).view(2, 9, 2, -1).transpose(1, 2) for m in (layer.q, layer.k, layer.v))
    lag = torch.arange(9)[:, None] - torch.arange(9)
    gamma = 1 - 2.0 ** -(5 + torch.arange(2.0, dtype=torch.float64))
    mask = torch.where(lag >= 0, gamma[:, None, None] ** lag.clamp(min=0), 0)
    o = ((q @ k.mT) * mask / 8**0.5) @ v
    y = F.rms_norm(o.transpose(1, 2), (16,), eps=1e-5).flatten(2) * F.silu(layer.gate(x))
    torch.testing.assert_close(layer(x), layer.out(y))


RETENTION = [p for p in list_fixtures({"gmm-mask-attention"}) if read_fixture(p).kind == "retention"]


@pytest.mark.parametrize("path", RETENTION, ids=lambda path: path.stem)
def test_retention_fixtures(path):
    fixture = read_fixture(path)
    q, k, v, state = (fixture.inputs[n].clone().requires_grad_() for n in ("q", "k", "v", "initial_state"))
    log_gamma = retention_log_decay(q.shape[1])
    assert_close(log_gamma.exp(), fixture.outputs["gamma"], name="gamma", rtol=1e-14)
    operands = [each.transpose(1, 2) for each in (q, k, v)]  # the files have heads first
    for form, size in (("loop", 1), ("parallel", 1), ("chunk", 1), ("chunk", 5), ("chunk", 8), ("chunk", 19)):
        options = {"scale": q.shape[-1] ** -0.5, "form": form, "chunk_size": size}
        fresh, _ = recurrence(*operands, log_gamma, **options)
        o, last = recurrence(*operands, log_gamma, state, **options)
        loss = (o.transpose(1, 2) * fixture.inputs["w"]).sum() + (last * fixture.inputs["wS"]).sum()
        found = {"o": o.transpose(1, 2), "o_no_state": fresh.transpose(1, 2), "final_state": last}
        for name, value in found.items():
            assert_close(value, fixture.outputs[name], name=f"{name}, {form} {size}", rtol=1e-10, atol=1e-12)
        gradients = torch.autograd.grad(loss, (q, k, v, state))
        for name, value in zip(("q", "k", "v", "initial_state"), gradients, strict=True):
            assert_close(value, fixture.grads[name], name=f"gradient of {name}, {form} {size}")


@pytest.mark.parametrize("form", ["loop", "parallel", "chunk"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_decay_of_e_to_the_minus_10000_is_a_reset(form, dtype):
    q, k = (normal(1, 40, 2, 4, seed=s).to(dtype) for s in (1, 2))
    v = normal(1, 40, 2, 6, seed=3).to(dtype)
    gate = -normal(1, 40, 2, 4, seed=4).abs().to(dtype)
    gate[:, [7, 21, 22]] = -1e4
    gate.requires_grad_()
    o, state = recurrence(q, k, v, gate, form=form, chunk_size=16)
    (gradient,) = torch.autograd.grad(o.sum() + state.sum(), gate)
    assert o.isfinite().all() and state.isfinite().all() and gradient.isfinite().all()
    segments = torch.tensor([0] * 7 + [1] * 14 + [2] + [3] * 18)[None]
    expected, last = recurrence(q, k, v, gate, form=form, chunk_size=16, segments_BL=segments)
    torch.testing.assert_close(o, expected)
    torch.testing.assert_close(state, last)


def test_memory_of_a_training_step_grows_with_the_length():
    layer = make_sequence_mixer(Spec("gla", {"heads": 2}), 16)

    def bytes_for(length: int) -> int:
        def step() -> None:
            layer.zero_grad()
            layer(torch.ones(1, length, 16)).sum().backward()

        return peak_memory(step)

    one, two, four = (bytes_for(length) for length in (256, 512, 1024))
    assert (four - two) / (two - one) == pytest.approx(2, rel=0.02)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("gla", {"heads": 3}, "3 heads do not divide the 8"),
        ("gla", {"kv_heads": 3}, "kv_heads must divide the 4 heads"),
        ("gla", {"clamp_min": 1.0}, "clamp_min must be at most 0"),
        ("gla", {"gate_logit_normalizer": 0}, "gate_logit_normalizer must be positive"),
        ("gla", {"rotary": True}, "one decay a head"),
        ("retention", {"heads": 16}, "rotary needs an even key width"),
        ("linear_attention", {"short_conv": -1}, "short_conv must not be negative"),
    ],
)
def test_refused(name, options, message):
    with pytest.raises(ConfigError, match=message):
        make(name, **options)
