from __future__ import annotations

import pytest
import torch
from torch import nn

import neuromix
from neuromix.core.edits import apply_edit
from neuromix.core.errors import CheckpointError, ConfigError, ShapeError
from neuromix.core.model import call
from neuromix.layers.delay import Delay, DiscreteDelay

SIZES = {
    "dcls_shd": 214_016,
    "dcls_ssc_2l_1k": 705_536,
    "dcls_ssc_2l_2k": 1_409_024,
    "dcls_ssc_3l_1k": 1_230_848,
    "dcls_ssc_3l_2k": 2_458_624,
}


def small(**options):
    torch.manual_seed(0)
    values = {"in_channels": 6, "hidden": (8, 7), "num_classes": 3, "max_delay": 5, "dropout": 0.3}
    return neuromix.create_model("dcls", **{**values, **options})


def x_TBN(steps=10, batch=3, channels=6):
    return torch.randint(0, 3, (steps, batch, channels), generator=torch.Generator().manual_seed(0)).float()


def after_some_training(model):
    """Statistics as they may be after some steps."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.normal_(module.bias, 0.2, 0.3)
    return model


@pytest.mark.parametrize("name", SIZES)
def test_parameters_of_the_paper(name):
    with torch.device("meta"):
        assert neuromix.create_model(name).num_parameters() == SIZES[name]


def test_the_output_grows_by_half_a_kernel_a_layer():
    model = small().eval()
    assert model.forward_steps(x_TBN()).shape == (10 + 3 * 2, 3, 3)
    assert small(tail=0).eval().forward_steps(x_TBN()).shape == (10, 3, 3)


def test_readouts():
    v = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(0))
    expected = {"softmax-sum": v.softmax(2).sum(0), "mean": v.mean(0), "max": v.max(0).values}
    for readout, value in expected.items():
        torch.testing.assert_close(small(readout=readout).readout(v), value)


def test_evaluation_changes_nothing_that_is_stored():
    model = small().eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model(x_TBN())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_late_steps_come_from_a_session_at_the_end():
    model = after_some_training(small()).double().eval()
    x = x_TBN().double()
    session = neuromix.stream(model).session()
    assert session.drain() is None
    with torch.no_grad():
        steps = [session.step(x_t) for x_t in x]
        late = session.drain()
        torch.testing.assert_close(torch.cat([torch.stack(steps), late]), model.forward_steps(x))
        session.select(torch.tensor([2]))
        torch.testing.assert_close(session.drain(), late[:, 2:])
        session.reset()
        assert session.drain() is None
        torch.testing.assert_close(session.step(x[0]), steps[0])


def test_discretised_and_fused_nets_give_the_same_and_come_back_from_a_file(tmp_path):
    model = after_some_training(small(bias=True, synapses=2)).eval()
    fused = apply_edit(apply_edit(model, "fuse"), "discretise")
    assert not any(isinstance(module, Delay | nn.BatchNorm1d) for module in fused.modules())
    assert sum(isinstance(module, DiscreteDelay) for module in fused.modules()) == 3
    neuromix.save_checkpoint(fused, tmp_path / "net.safetensors")
    again = neuromix.load_checkpoint(tmp_path / "net.safetensors").eval()
    with torch.no_grad():
        torch.testing.assert_close(fused(x_TBN()), model(x_TBN()), rtol=1e-4, atol=1e-5)
        assert torch.equal(again(x_TBN()), fused(x_TBN()))
    assert {spec.name for spec in again.edits} == {"fuse", "discretise"}
    with pytest.raises(ConfigError, match="no delays"):
        apply_edit(fused, "discretise")


def test_one_sample_and_one_step():
    model = small().eval()
    assert model(x_TBN(1, 1)).shape == (1, 3)


def test_learnt_leaks_and_other_neurons():
    model = small(neuron=["plif", {"tau": 1.5, "decay_input": False}])
    call(model, model.example(2)).sum().backward()
    assert model.blocks[0].neuron.decay.grad is not None
    assert model.head.membrane.config.tau == 1.5


def test_positions_are_learnt_faster_and_do_not_decay():
    rules = small().parameter_rules()
    assert rules["*.position"]["weight_decay"] == 0 and rules["*.position"]["lr_scale"] > 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_delay": 4}, "odd"),
        ({"hidden": ()}, "one layer"),
        ({"dropout": 1.0}, "dropout"),
        ({"width": -1.0}, "width"),
        ({"tail": -1}, "tail"),
        ({"bump": "square"}, "bump"),
    ],
)
def test_bad_values(values, message):
    with pytest.raises(ConfigError, match=message):
        small(**values)


def test_bad_inputs():
    for wrong in (x_TBN(channels=5), x_TBN()[0], x_TBN().long(), x_TBN(0)):
        with pytest.raises(ShapeError, match=r"expected a floating-point tensor \[T, B, 6\]"):
            small().eval()(wrong)


def test_weights_of_something_else_are_refused():
    with pytest.raises(ConfigError, match=r"model\.0\.P"):
        neuromix.from_reference("dcls-delays", {}, {"conv.weight": torch.zeros(1)})
    with pytest.raises(ConfigError, match="stateful_synapse"):
        neuromix.from_reference("dcls-delays", {"stateful_synapse": True}, {})
    state = small().layouts(small().config)["authors"].to_theirs(small().state_dict())
    with pytest.raises(CheckpointError):
        neuromix.from_reference(
            "dcls-delays", {"max_delay": 5}, {**state, "model.8.SIG": torch.zeros(1, 3, 7, 2)}
        )


def test_authors_names_there_and_back():
    model = small().eval()
    theirs = model.layouts(model.config)["authors"].to_theirs(model.state_dict())
    assert {"model.0.P", "model.1.running_mean", "model.4.SIG", "model.8.weight"} <= theirs.keys()
    again = neuromix.from_reference("dcls-delays", {"max_delay": 5}, theirs)
    torch.testing.assert_close(again(x_TBN()), model(x_TBN()))
