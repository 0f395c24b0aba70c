"""Checks of the Mamba fixtures: the scan, one mixer, and a language model.

Shapes: B batch, L tokens, D channels, N state size, G groups.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

import neuromix
from neuromix.core.model import Model
from neuromix.ops.selective_scan import FORMS, selective_scan, selective_scan_step
from tests.golden.compare import assert_close
from tests.golden.decoders import check_decoder
from tests.golden.fixtures import Fixture
from tests.golden.mixer_layers import check_layer

Inputs = dict[str, Tensor]


def check_scan(fixture: Fixture) -> None:
    """Channels first, as the authors' function has them; D, z, delta_bias and a first state where they are there."""
    inputs = {
        name: _wide(t).requires_grad_() for name, t in fixture.inputs.items() if name not in ("w", "wS")
    }
    length = inputs["u"].shape[2]
    for form, size in [*((form, 64) for form in FORMS), *(("chunk", size) for size in (1, 4, 7, length))]:
        y_BDL, state_BDN = _scan(inputs, fixture, form, size)
        _compare(inputs, fixture, y_BDL, state_BDN, f"{form} {size}")
    y_BDL, state_BDN = _steps(inputs, fixture)
    _compare(inputs, fixture, y_BDL, state_BDN, "steps")


def _scan(inputs: Inputs, fixture: Fixture, form: str, size: int) -> tuple[Tensor, Tensor]:
    y_BLD, state_BDN = selective_scan(
        inputs["u"].mT,
        _delta(inputs, fixture).mT,
        inputs["A"],
        *(_matrix(inputs[name], inputs["A"]) for name in "BC"),
        inputs.get("initial_state"),
        form=form,
        chunk_size=size,
    )
    return _finish(y_BLD.mT, inputs), state_BDN


def _steps(inputs: Inputs, fixture: Fixture) -> tuple[Tensor, Tensor]:
    delta_BDL, A_DN = _delta(inputs, fixture), inputs["A"]
    B, C = (_matrix(inputs[name], A_DN) for name in "BC")
    state_BDN = inputs.get("initial_state")
    if state_BDN is None:
        state_BDN = A_DN.new_zeros(len(delta_BDL), *A_DN.shape)
    outputs = []
    for t, x_BD in enumerate(inputs["u"].unbind(2)):
        now = [matrix[None] if matrix.dim() == 2 else matrix[:, t] for matrix in (B, C)]
        y_BD, state_BDN = selective_scan_step(x_BD, delta_BDL[:, :, t], A_DN, *now, state_BDN)
        outputs.append(y_BD)
    return _finish(torch.stack(outputs, 2), inputs), state_BDN


def _delta(inputs: Inputs, fixture: Fixture) -> Tensor:
    delta_BDL = inputs["delta"]
    if "delta_bias" in inputs:
        delta_BDL = delta_BDL + inputs["delta_bias"][:, None]
    return F.softplus(delta_BDL) if fixture.config.get("delta_softplus", False) else delta_BDL


def _matrix(matrix: Tensor, A_DN: Tensor) -> Tensor:
    """[D, N], [B, N, L] or [B, G, N, L] as ours; with a complex A, real and imaginary parts take turns along L."""
    if matrix.dim() == 2:
        return matrix
    if A_DN.is_complex() and not matrix.is_complex():
        matrix = torch.view_as_complex(matrix.unflatten(-1, (-1, 2)).contiguous())
    return matrix.movedim(-1, 1)


def _finish(y_BDL: Tensor, inputs: Inputs) -> Tensor:
    if "D" in inputs:
        y_BDL = y_BDL + inputs["D"][:, None] * inputs["u"]
    return y_BDL * F.silu(inputs["z"]) if "z" in inputs else y_BDL


def _compare(inputs: Inputs, fixture: Fixture, y_BDL: Tensor, state_BDN: Tensor, where: str) -> None:
    found = {"y": y_BDL, "last_state": state_BDN}
    for name, expected in fixture.outputs.items():
        _close(found[name], expected, f"{name}, {where}")
    loss = (y_BDL * fixture.inputs["w"]).sum()
    if "wS" in fixture.inputs:
        weight = _wide(fixture.inputs["wS"])
        loss = loss + (_as_real(state_BDN) * _as_real(weight)).sum()
    grads = torch.autograd.grad(loss, [inputs[name] for name in fixture.grads])
    for (name, expected), grad in zip(fixture.grads.items(), grads, strict=True):
        _close(grad, expected, f"gradient of {name}, {where}")


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.complex128 if tensor.is_complex() else torch.float64).clone()


def _as_real(tensor: Tensor) -> Tensor:
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def _close(actual: Tensor, expected: Tensor, name: str) -> None:
    assert_close(_as_real(actual), _as_real(expected), name=name)


def check_mamba_layer(fixture: Fixture) -> None:
    check_layer(fixture, lambda state: {"conv_state": state.conv_BCW, "ssm_state": state.ssm_BCN})


def check_lm(fixture: Fixture) -> None:
    model = neuromix.from_reference(fixture.slug, fixture.config, fixture.state, fixture.kind).double()
    assert isinstance(model, Model)
    check_decoder(model, fixture)


CHECKS = {
    ("mamba", "scan"): check_scan,
    ("mamba", "layer"): check_mamba_layer,
    ("mamba", "lm"): check_lm,
}
