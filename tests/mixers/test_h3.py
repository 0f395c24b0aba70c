"""H3: its formula, its options, its forms over long rows. Forms over short ones: the contract of all mixers."""

from __future__ import annotations

import pytest
import torch

from neuromix.core.config import Spec
from neuromix.core.errors import ConfigError
from neuromix.layers.state_space import DiagonalSSM, ShiftSSM
from neuromix.mixers.sequence import make_sequence_mixer

CLOSE = {"rtol": 1e-10, "atol": 1e-10}


def make(dim: int = 6, **options):
    torch.manual_seed(0)
    return make_sequence_mixer(Spec("h3", {"d_state": 4, **options}), dim).double()


def normal(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("order", ["head_last", "head_first"])
def test_by_its_formula(order):
    layer, x = make(head_dim=2, output_order=order), normal(1, 9, 6)
    q, k, v = (m(x)[0] for m in (layer.q, layer.k, layer.v))

    def filtered(kernel, signal):
        return torch.stack([
            sum((kernel[..., j] * signal[t - j] for j in range(min(t + 1, kernel.shape[-1]))), torch.zeros(()))
            for t in range(9)
        ])  # fmt: skip

    k = filtered(layer.shift.kernel(9), k) + layer.shift_D * k
    kernel, o = layer.diagonal.kernel(9), torch.zeros(9, 6, dtype=torch.float64)
    for h in range(3):
        for a in range(2):
            for b in range(2):
                kv = k[:, 2 * h + a] * v[:, 2 * h + b]
                y = filtered(kernel[h], kv) + layer.D[h] * kv
                o[:, b * 3 + h if order == "head_last" else 2 * h + b] += y * q[:, 2 * h + a]
    torch.testing.assert_close(layer(x)[0], layer.out(o), **CLOSE)


@pytest.mark.parametrize("discretisation", ["bilinear", "zoh"])
def test_discretisation(discretisation):
    torch.manual_seed(0)
    ssm = DiagonalSSM(6, 3, copies=2, discretisation=discretisation).double()
    with torch.no_grad():
        ssm.inv_A_real += normal(2, 3)
    A = torch.complex(-ssm.inv_A_real.exp(), ssm.A_imag)[[0, 1, 0, 1, 0, 1]]
    z = ssm.log_dt.exp()[:, None] * A
    found = ssm.discrete()
    if discretisation == "zoh":
        expected = z.exp(), (z.exp() - 1) / A
    else:
        expected = (1 + z / 2) / (1 - z / 2), ssm.log_dt.exp()[:, None] / (1 - z / 2)
    torch.testing.assert_close(found.log_A.exp(), expected[0], **CLOSE)
    torch.testing.assert_close(found.B, expected[1], **CLOSE)
    assert (found.log_A.real < 0).all()


def test_shift_state_is_the_last_inputs():
    ssm, u = ShiftSSM(2, 5).double(), normal(1, 2, 3)
    state = ssm.advance(u)
    expected = torch.nn.functional.pad(u.flip(-1), (0, 2))
    torch.testing.assert_close(state, expected, **CLOSE)
    torch.testing.assert_close(ssm.kernel(9), ssm.C, **CLOSE)


@pytest.mark.parametrize(
    ("form", "size"), [("chunk", 1), ("chunk", 5), ("chunk", 8), ("chunk", 37), ("direct", 1)]
)
def test_forms_agree(form, size):
    layer, x = make(dim=4, d_state=16), normal(2, 37, 4)
    expected, state = layer(x[:, :6], return_state=True)
    outputs = [expected]
    for x_BD in x[:, 6:].unbind(1):
        y, state = layer.step(x_BD, state)
        outputs.append(y[:, None])
    layer.form, layer.chunk_size = form, size
    y, last = layer(x, return_state=True)
    torch.testing.assert_close(y, torch.cat(outputs, 1), **CLOSE)
    for one, other in zip(last, state, strict=True):
        torch.testing.assert_close(one, other, **CLOSE)


def test_long_rows_agree_in_float32():
    """A kernel of double precision powers: chunks and one transform drift apart by rounding alone."""
    layer, x = make(dim=4, d_state=16).float(), normal(1, 4096, 4).float()
    with torch.no_grad():
        whole = layer(x)
        layer.form, layer.chunk_size = "chunk", 512
        assert (layer(x) - whole).abs().max() < 1e-5 * whole.abs().max()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head_dim": 4}, "heads of 4 channels do not divide a width of 6"),
        ({"n_ssm": 4}, "n_ssm must divide the 6 heads"),
        ({"d_state": 1}, "d_state must be 2 or more"),
        ({"dt_min": 1.0}, "dt_min must not exceed dt_max"),
        ({"discretisation": "euler"}, "discretisation must be one of"),
    ],
)
def test_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        make(**options)
