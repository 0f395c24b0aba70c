"""The options of Mamba's and Mamba-2's mixers: every one keeps to the contract, and does what it says.

Shapes: B batch, L tokens, D width.
"""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from neuromix.core.config import Spec
from neuromix.core.errors import ConfigError, NeuromixError
from neuromix.core.state import map_state, state_bytes
from neuromix.layers.gated_norm import GatedGroupRMSNorm
from neuromix.layers.time_step import initial_step_bias
from neuromix.measure.memory import peak_memory
from neuromix.mixers.sequence import Tokens, make_sequence_mixer
from tests.contracts import test_sequence_mixers as contract

DIM = contract.DIM
SMALL = {"mamba": {"d_state": 4}, "mamba2": {"d_state": 4, "headdim": 4, "ngroups": 2}}
OPTIONS = [
    ("mamba", {"bias": True, "conv_bias": False}),
    ("mamba", {"d_conv": 2, "expand": 1, "dt_rank": 5}),
    ("mamba", {"expand": 1.5, "dt_init": "constant", "dt_scale": 0.5}),
    ("mamba", {"selective": False}),
    ("mamba2", {"d_ssm": 16, "bias": True}),
    ("mamba2", {"D_has_hdim": True, "norm_before_gate": True, "conv_init": 0.5}),
    ("mamba2", {"rmsnorm": False, "dt_limit": (0.02, 0.05), "conv_bias": False}),
    ("mamba2", {"dt_limit": (0.02, None), "ngroups": 1}),
    ("mamba2", {"learnable_init_states": True, "d_conv": 2, "ngroups": 4}),
]


def build(name, **options):
    torch.manual_seed(0)
    mixer = make_sequence_mixer(Spec(name, {**SMALL[name], **options}), DIM).double()
    for parameter in mixer.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return mixer


@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_every_option_keeps_to_the_contract(name, options):
    mixer = build(name, **options)
    contract.test_all_forms_are_the_steps(mixer)
    contract.test_segments_equal_the_whole(build(name, **options))
    contract.test_a_padded_batch_gives_what_each_gives_alone(build(name, **options))
    contract.test_packed_sequences_do_not_meet(build(name, **options))
    contract.test_a_carried_state_belongs_to_the_first_segment(build(name, **options))


@settings(deadline=None, max_examples=15)
@given(
    name=st.sampled_from(["mamba", "mamba2"]),
    lengths=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    pads=st.lists(st.integers(0, 3), min_size=5, max_size=5),
)
def test_padding_anywhere_between_packed_sequences(name, lengths, pads):
    """Padding in front of, between and behind sequences of one row changes nothing, a learnt first state included."""
    mixer = build(name, **({"learnable_init_states": True} if name == "mamba2" else {}))
    parts = [torch.randn(1, n, DIM, dtype=torch.float64) for n in lengths]
    rows, mask, ids = [], [], []
    for i, (part, pad) in enumerate(zip(parts, pads, strict=False)):
        rows += [torch.full((1, pad, DIM), 1e2, dtype=torch.float64), part]
        mask += [False] * pad + [True] * part.shape[1]
        ids += [i + 5] * (pad + part.shape[1])
    tokens = Tokens(torch.tensor([mask]), torch.tensor([ids]))
    with torch.no_grad():
        y_BLD = mixer(torch.cat(rows, 1), tokens=tokens)
        apart = torch.cat([mixer(part) for part in parts], 1)
    torch.testing.assert_close(y_BLD[tokens.mask_BL][None], apart, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", SMALL)
def test_padding_that_leaks_a_bias_would_show(name):
    """The convolution's bias makes padded places non-zero: they are zeroed behind it too."""
    mixer = build(name)
    mixer.conv.conv.bias.data.fill_(3.0)
    x_BLD, mask_BL = torch.randn(1, 6, DIM, dtype=torch.float64), torch.ones(1, 6, dtype=torch.bool)
    padded = torch.cat([torch.zeros(1, 4, DIM, dtype=torch.float64), x_BLD], 1)
    with torch.no_grad():
        y_BLD = mixer(padded, tokens=Tokens(F.pad(mask_BL, (4, 0))))[:, 4:]
        torch.testing.assert_close(y_BLD, mixer(x_BLD), rtol=1e-10, atol=1e-10)
        assert (mixer(padded)[:, 4:] - mixer(x_BLD)).abs().max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_steps_take_the_same_memory_however_many(name):
    """The peak of 4096 steps is that of 64."""
    mixer = build(name).requires_grad_(False)
    x_BD = torch.randn(1, DIM, dtype=torch.float64)

    def run(steps):
        state = mixer.initial_state(x_BD)
        for _ in range(steps):
            _, state = mixer.step(x_BD, state)
        return state

    few, many = (peak_memory(lambda steps=steps: run(steps)) for steps in (64, 4096))
    assert many <= few
    assert state_bytes(run(64)) == state_bytes(run(1))


@pytest.mark.parametrize("name", SMALL)
def test_half_precision_keeps_its_state_in_float32(name):
    mixer = build(name).half()
    y, state = mixer(torch.randn(1, 5, DIM, dtype=torch.float16), return_state=True)
    assert y.dtype == torch.float16 and y.isfinite().all()
    assert state[1].dtype == torch.float32 and state[0].dtype == torch.float16
    _, later = mixer.step(torch.randn(1, DIM, dtype=torch.float16), state)
    assert later[1].dtype == torch.float32


def test_step_widths_start_within_their_range():
    widths = F.softplus(initial_step_bias(4000, 1e-3, 0.1, 1e-4))
    assert widths.min() > 0.99e-3 and widths.max() < 0.101
    assert math.log(1e-3) < widths.log().mean() < math.log(0.1)
    assert widths.log().std() == pytest.approx(math.log(100) / math.sqrt(12), rel=0.05)
    assert F.softplus(initial_step_bias(10, 1e-6, 1e-6, 1e-4)).allclose(torch.tensor(1e-4))


def test_how_mamba_starts():
    torch.manual_seed(0)
    mixer = make_sequence_mixer(Spec("mamba", {"bias": True}), 64)
    assert mixer.dt_rank == 4 and mixer.D.eq(1).all() and mixer.in_proj.bias.eq(0).all()
    torch.testing.assert_close(mixer.A_log.exp()[5], torch.arange(1.0, 17))
    assert 0.45 < mixer.dt_proj.weight.abs().max() <= 0.5
    assert F.softplus(mixer.dt_proj.bias).max() < 0.101


def test_how_mamba2_starts():
    torch.manual_seed(0)
    options = {"headdim": 4, "conv_init": 0.25, "A_init_range": (2, 3)}
    mixer = make_sequence_mixer(Spec("mamba2", options), 64)
    assert mixer.A_log.exp().min() >= 2 and mixer.A_log.exp().max() <= 3 + 1e-5
    assert 0.2 < mixer.conv.conv.weight.abs().max() <= 0.25


def test_step_widths_are_clamped():
    """A limit of one value makes the decay that of the value, whatever the tokens say."""
    mixer = build("mamba2", dt_limit=(0.5, 0.5))
    x_BD = torch.randn(1, DIM, dtype=torch.float64)
    start = map_state(torch.ones_like, mixer.initial_state(x_BD))
    other = start._replace(ssm_BHNP=2 * start.ssm_BHNP)
    with torch.no_grad():
        gained = mixer.step(x_BD, other)[1].ssm_BHNP - mixer.step(x_BD, start)[1].ssm_BHNP
        expected = (-0.5 * mixer.A_log.exp()).exp()[None, :, None, None].expand_as(gained)
    torch.testing.assert_close(gained, expected)


def test_gated_norm_of_groups():
    norm = GatedGroupRMSNorm(6, 2, eps=0.0).double()
    x, z = torch.randn(3, 6, dtype=torch.float64), torch.randn(3, 6, dtype=torch.float64)
    y = norm(x, z).unflatten(-1, (2, 3))
    torch.testing.assert_close(y.square().mean(-1), torch.ones(3, 2, dtype=torch.float64))
    norm.norm_before_gate = True
    y = (norm(x, z) / F.silu(z)).unflatten(-1, (2, 3))
    torch.testing.assert_close(y.square().mean(-1), torch.ones(3, 2, dtype=torch.float64))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mamba", {"d_state": 0}, "d_state must be positive, got 0"),
        ("mamba", {"expand": 0.01}, "expand 0.01 leaves no channel of 16"),
        ("mamba", {"dt_rank": 0}, "dt_rank must be positive, got 0"),
        ("mamba", {"dt_min": 0.2}, "dt_min must not exceed dt_max"),
        ("mamba", {"dt_init": "zeros"}, "dt_init must be one of 'random', 'constant'"),
        ("mamba", {"form": "fast"}, "has no form 'fast'; known: auto, loop"),
        ("mamba2", {"headdim": 5}, "heads of 5 channels do not divide 32 channels"),
        ("mamba2", {"ngroups": 3}, "3 groups do not divide 8 heads"),
        ("mamba2", {"d_ssm": 40}, "d_ssm must be 1 to the 32 inner channels, got 40"),
        ("mamba2", {"dt_limit": (1.0, 0.5)}, "dt_limit must not fall"),
        ("mamba2", {"d_stat": 4}, "d_state"),
    ],
)
def test_bad_options_are_refused(name, options, message):
    with pytest.raises(NeuromixError, match=message) as caught:
        make_sequence_mixer(Spec(name, {**SMALL[name], **options}), DIM)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, ConfigError) or "d_stat" in options
