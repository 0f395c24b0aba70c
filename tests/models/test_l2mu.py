"""L2MU: sizes, windows sample by sample, its matrices, one step as an ONNX file, and what a profile says.

Shapes: T steps, B batch, N channels.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import expm

import neuromix
from neuromix.core.errors import ConfigError, ShapeError, UnsupportedError
from neuromix.core.state import state_bytes
from neuromix.exchange.onnx import export_onnx
from neuromix.measure import profile
from neuromix.models.series.l2mu import NEURON
from neuromix.ops.legendre import legendre_delay

CUBA = {
    "neuron": ["cuba_lif", {**NEURON.options, "learnable": ["decay", "v_threshold", "synapse_decay"]}],
    "synapse_decay": (0.5, 0.3, 0.4, 0.2),
}
KINDS = {"leaky": {}, "synaptic": CUBA, "encoder": {"encoder": 7}}


def small(**options):
    torch.manual_seed(0)
    values = {"in_channels": 3, "hidden": 12, "memories": 5, "order": 3, "theta": 8.0, "num_classes": 3}
    model = neuromix.create_model("l2mu", **{**values, **options}).eval()
    torch.nn.init.normal_(model.cell.e_m.weight, std=0.3)
    return model


def windows(length=20, batch=2, seed=1):
    return 3 * torch.randn(batch, length, 3, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("name", "trainable", "everything"),
    [("l2mu_braille_27", 484_875, 484_895), ("l2mu_braille_7", 119_035, 119_091)],
)
def test_parameters(name, trainable, everything):
    with torch.device("meta"):
        net = neuromix.create_model(name)
    assert net.num_parameters() == trainable
    assert net.num_parameters(trainable_only=False) == everything


@pytest.mark.parametrize("kind", KINDS)
def test_sample_by_sample(kind):
    model, x_BTN = small(**KINDS[kind]).double(), windows().double()
    session, sizes = neuromix.stream(model).session(), []
    with torch.no_grad():
        whole = model.forward_steps(model.encode(x_BTN))
        stepped = []
        for x_BN in x_BTN.unbind(1):
            stepped.append(session.step(x_BN))
            sizes.append(state_bytes(session.state))
    assert torch.equal(torch.stack(stepped), whole) and whole.sum() > 0
    assert torch.equal(model(x_BTN), whole.sum(0))
    assert len(set(sizes)) == 1


def test_the_matrix_as_released_and_as_it_should_be():
    A, B = legendre_delay(3, 8.0)
    whole = np.zeros((4, 4))
    whole[:3, :3], whole[:3, 3] = A, B
    held = expm(whole)
    right, released = small(transpose_A=False).cell, small().cell
    np.testing.assert_allclose(right.A.weight, held[:3, :3], atol=1e-6)
    np.testing.assert_allclose(released.A.weight, held[:3, :3].T, atol=1e-6)
    for cell in (right, released):
        np.testing.assert_allclose(cell.B.weight[:, 0], held[:3, 3], atol=1e-6)
        assert not cell.A.weight.requires_grad
    assert not torch.equal(small(transpose_A=False)(windows()), small()(windows()))


@pytest.mark.parametrize("kind", KINDS)
def test_all_that_is_learnt_has_a_gradient(kind):
    model = small(**KINDS[kind]).train()
    torch.nn.functional.cross_entropy(model(windows()), torch.tensor([0, 2])).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    assert model.cell.spikes_m.v_threshold.grad != 0


@pytest.mark.parametrize("kind", KINDS)
def test_one_step_as_an_onnx_file(kind, tmp_path):
    import onnxruntime

    model = small(**KINDS[kind])
    made = export_onnx(model, tmp_path / "step.onnx", step=True)
    assert made.input_shape == (3,)
    graph = onnxruntime.InferenceSession(tmp_path / "step.onnx")
    session, fired = neuromix.stream(model).session(), 0.0
    state = {slot.name: np.full((2, *slot.shape), slot.initial, np.float32) for slot in made.states}
    for x_BN in windows(40).unbind(1):
        with torch.no_grad():
            expected = session.step(x_BN).numpy()
        actual, *after = graph.run(None, {"series": x_BN.numpy(), **state})
        np.testing.assert_array_equal(actual, expected)
        fired += expected.sum()
        state = {slot.name: value for slot, value in zip(made.states, after, strict=True)}
    assert fired > 0
    with pytest.raises(UnsupportedError, match="takes series"):
        export_onnx(model, tmp_path / "whole.onnx")


def test_a_profile_as_neurobench_has_it():
    model, x = small(), windows(20, batch=4)
    found = profile(model, x)
    assert found.footprint == 4 * model.num_parameters(trainable_only=False)
    assert found.activation_sparsity == pytest.approx(1 - found.firing_rate)
    assert {row.path for row in found.neurons} == {f"cell.spikes_{p}" for p in ("u", "m", "h", "output")}
    # Real samples enter two layers; all else is fed with spikes.
    real = {row.path for row in found.layers if row.input == "real"}
    assert real == {"cell.e_x", "cell.w_x"}
    assert found.effective_macs == 20 * 3 * (5 + 12)
    assert 0 < found.effective_acs < found.synaptic_operations_dense
    spikes = profile(model, (x > 2).float())
    assert spikes.effective_macs == 0
    assert not found.not_counted


def test_bad_input():
    for wrong in (windows()[..., :2], windows()[0], windows().long(), windows(0)):
        with pytest.raises(ShapeError, match=r"expected a floating-point tensor \[B, L, 3\]"):
            small()(wrong)
    for values, match in (
        ({"decay": (0.5,)}, "decay needs 4 values"),
        ({"encoder": 0}, "encoder"),
        ({"theta": 0.0}, "theta"),
    ):
        with pytest.raises(ConfigError, match=match):
            small(**values)
    with pytest.raises(ConfigError, match="the weights have no"):
        neuromix.from_reference("l2mu", {}, {"x": torch.zeros(1)})


@pytest.mark.parametrize("kind", ["leaky", "synaptic"])
def test_weights_of_the_authors(kind):
    model = small(**KINDS[kind])
    theirs = model.layouts(model.config)["authors"].to_theirs(model.state_dict())
    names = {"leaky": "Leaky", "synaptic": "Synaptic"}
    state = {f"model.{key}": value for key, value in theirs.items()}
    again = neuromix.from_reference("l2mu", {"neuron": names[kind], "theta": 8}, state)
    assert torch.equal(again(windows()), model(windows()))
    with pytest.raises(ConfigError, match="Leaky or Synaptic"):
        neuromix.from_reference("l2mu", {"neuron": "RLeaky"}, state)
