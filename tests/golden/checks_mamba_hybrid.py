"""Checks of the hybrid's fixtures: the state-space dual form, one Mamba-2 mixer, a model, and where layers stand.

Shapes: B batch, L tokens, H heads, P width of a head, N state size, Q tokens of a chunk.
"""

from __future__ import annotations

import json

import torch
from torch import Tensor

import neuromix
from neuromix.core.model import Model
from neuromix.models.language.mamba_hybrid import layer_pattern
from neuromix.ops._recurrence_chunk import decay_between
from neuromix.ops.recurrence import FORMS, recurrence, recurrence_step
from tests.golden.compare import assert_close
from tests.golden.decoders import check_decoder
from tests.golden.fixtures import Fixture
from tests.golden.mixer_layers import check_layer


def check_ssd(fixture: Fixture) -> None:
    names = [name for name in ("X", "A", "B", "C", "initial_states") if name in fixture.inputs]
    inputs = {name: fixture.inputs[name].double().clone().requires_grad_() for name in names}
    length = inputs["X"].shape[1]
    sizes = {1, 3, 8, fixture.config["chunk"], length}
    for form, size in [*((form, 64) for form in FORMS), *(("chunk", size) for size in sorted(sizes))]:
        y, state = recurrence(*_operands(inputs), form=form, chunk_size=size)
        _compare_ssd(inputs, fixture, y, state, f"{form} {size}")
    C, B, X, A, state = _operands(inputs)
    outputs = []
    for t in range(length):
        y_BHP, state = recurrence_step(C[:, t], B[:, t], X[:, t], A[:, t], state)
        outputs.append(y_BHP)
    _compare_ssd(inputs, fixture, torch.stack(outputs, 1), state, "steps")
    _check_segsum(inputs["A"].detach(), fixture)


def _operands(inputs: dict[str, Tensor]) -> tuple[Tensor, ...]:
    X_BLHP, B_BLHN = inputs["X"], inputs["B"]
    if "initial_states" in inputs:
        start_BHNP = inputs["initial_states"].squeeze(1).mT
    else:
        start_BHNP = X_BLHP.new_zeros(len(X_BLHP), X_BLHP.shape[2], B_BLHN.shape[3], X_BLHP.shape[3])
    return inputs["C"], B_BLHN, X_BLHP, inputs["A"], start_BHNP


def _compare_ssd(
    inputs: dict[str, Tensor], fixture: Fixture, y: Tensor, state_BHNP: Tensor, where: str
) -> None:
    close = {"rtol": 1e-10, "atol": 1e-12}
    assert_close(y, fixture.outputs["Y"], name=f"Y, {where}", **close)
    assert_close(state_BHNP.mT, fixture.outputs["final_state"], name=f"state, {where}", **close)
    unknown = sorted(fixture.outputs.keys() - {"Y", "final_state", "segsum_A"})
    assert not unknown, f"no check for {unknown}"
    loss = (y * fixture.inputs["w"]).sum()
    if "wS" in fixture.inputs:
        loss = loss + (state_BHNP.mT * fixture.inputs["wS"]).sum()
    grads = torch.autograd.grad(loss, list(inputs.values()))
    for name, grad in zip(inputs, grads, strict=True):
        if name in fixture.grads:
            assert_close(grad, fixture.grads[name], name=f"gradient of {name}, {where}", **close)


def _check_segsum(A_BLH: Tensor, fixture: Fixture) -> None:
    """Ours are the decays, their exponentials; 0 where theirs are masked by -1e30."""
    if "segsum_A" in fixture.outputs:
        expected_BHQQ = fixture.outputs["segsum_A"]
        A_BHQ = A_BLH[:, : expected_BHQQ.shape[-1]].mT
        found = decay_between(A_BHQ, exclusive=False)
        assert_close(found, expected_BHQQ.exp(), name="exp(segsum)", rtol=1e-10, atol=1e-12)


def check_mamba2_layer(fixture: Fixture) -> None:
    check_layer(fixture, lambda state: {"conv_state": state.conv_BCW, "ssm_state": state.ssm_BHNP.mT})


def check_hybrid_lm(fixture: Fixture) -> None:
    model = neuromix.from_reference(fixture.slug, fixture.config, fixture.state, fixture.kind).double()
    assert isinstance(model, Model)
    check_decoder(model, fixture)


def check_patterns(fixture: Fixture) -> None:
    """`layers_attentionRatio_mlpRatio` -> the pattern."""
    patterns = json.loads(fixture.path.read_text())["patterns"]
    assert patterns
    for name, expected in patterns.items():
        layers, attention, mlp = name.split("_")
        assert layer_pattern(int(layers), float(attention), float(mlp)) == expected, name


CHECKS = {
    ("mamba-hybrid", "ssd"): check_ssd,
    ("mamba-hybrid", "mamba2_layer"): check_mamba2_layer,
    ("mamba-hybrid", "hybrid_lm"): check_hybrid_lm,
    ("mamba-hybrid", "patterns"): check_patterns,
}
