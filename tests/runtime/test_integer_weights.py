"""Weights of few bits and integer attention in the engine: integers stay integers, and answers the model's.

Shapes: B batch, C channels, H W image, O output channels.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from neuromix import create_model
from neuromix.core.edits import apply_edit
from neuromix.core.errors import UnsupportedError
from neuromix.core.model import Model
from neuromix.layers.integer_weights import IntegerWeights
from neuromix.runtime.lowering import lower
from neuromix.runtime.program_file import read_program, to_bytes
from neuromix.runtime.reference import run_reference
from tests.runtime.lowered import images, lively, tiny

SHAPE = (3, 8, 8)
NETS = {
    "qsd": ("qsd_transformer", {}),
    "other levels, other order": (
        "qsd_transformer",
        {"neuron.levels": 2, "mixer.attention_neuron": ["ie_lif", {"levels": 3}], "mixer.order": "qk"},
    ),
    "8 bits": ("qsd_transformer", {"weight_bits": 8}),
}


def lively_net(name: str, **overrides) -> Model:
    return lively(name, SHAPE, **tiny(name, **overrides)).double()


@pytest.mark.parametrize("name, overrides", NETS.values(), ids=NETS.keys())
def test_integers_of_the_model_are_those_of_the_program(name, overrides):
    model = lively_net(name, **overrides)
    program = lower(model, input_shape=SHAPE)
    convs = {node.name: node for node in program.nodes if node.op == "conv"}
    fused = apply_edit(model, ("fuse", {"factored": True}))
    layers = {path: m for path, m in fused.named_modules() if isinstance(m, IntegerWeights)}
    assert convs.keys() == layers.keys()
    for path, node in convs.items():
        assert node["weight"].dtype == torch.int8
        assert torch.equal(node["weight"].flatten(1), layers[path].integers().flatten(1)), path
    with torch.no_grad():
        expected_BK = model(images(SHAPE).double())
    actual_BK = run_reference(program, images(SHAPE), dtype=torch.float64, keep=()).output
    torch.testing.assert_close(actual_BK, expected_BK, rtol=1e-5, atol=1e-6)


def test_integer_attention_is_products_of_binary_steps():
    model = lively_net("qsd_transformer")
    program = lower(model, input_shape=SHAPE)
    attend = [node for node in program.nodes if node.op == "attend"]
    assert len(attend) == 2 * 4**3  # two layers, four levels of query, key and value
    for node in attend:
        assert all(program.edges[source].type.name == "binary" for source in node.inputs)


def test_layer_scales_fold_into_the_scale_of_integers():
    model = lively_net("qsd_transformer")
    program = lower(model, input_shape=SHAPE)
    name = "stages.3.blocks.0.channel_mixer.branch.project"
    node = next(node for node in program.nodes if node.name == name)
    fused = apply_edit(model, ("fuse", {"factored": True}))
    factor = model.stages[3].blocks[0].channel_mixer.scale.weight
    unit = 0.25  # of what the neuron before it sends
    torch.testing.assert_close(
        node["scale"].double(),
        fused.get_submodule(name).step.detach() * factor.detach() * unit,
        rtol=1e-6,
        atol=0,
    )


def test_edit_quantise_on_another_net_is_lowered_too():
    """Binary spikes, max-pooling, a classifier behind a map: the weights of all layers are integers."""
    values = tiny("spiking_vgg", in_channels=3, layers=(4, "M", 8), hidden=(16,), map_side=None)
    model = lively("spiking_vgg", SHAPE, **values, **{"activation.v_threshold": 0.1})
    model = apply_edit(model, "quantise").double()
    program = lower(model, input_shape=SHAPE)
    assert {node["weight"].dtype for node in program.nodes if node.op == "conv"} == {torch.int8}
    with torch.no_grad():
        expected_BK = model(images(SHAPE).double())
    actual_BK = run_reference(program, images(SHAPE), dtype=torch.float64, keep=()).output
    torch.testing.assert_close(actual_BK, expected_BK, rtol=1e-5, atol=1e-6)


def test_a_packed_net_lowers_like_a_quantised_one():
    model = lively_net("qsd_transformer")
    packed = apply_edit(model, "pack")
    assert to_bytes(lower(packed, input_shape=SHAPE)) == to_bytes(lower(model, input_shape=SHAPE))


def test_unlike_heights_take_float_weights():
    """A factor for each input channel cannot go into one scale a row."""

    class Plain(Model):
        stream_axis = 0

        def __init__(self, body: nn.Module) -> None:
            super().__init__(create_model("spiking_vgg").config)
            self.body = body

        def encode(self, *inputs):
            return inputs[0] if inputs[0].dim() == 5 else inputs[0].unsqueeze(0)

        def forward_steps(self, x):
            y = self.body(x.flatten(0, 1) * torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1))
            return y.mean((-2, -1)).unsqueeze(0)

        def readout(self, y):
            return y.mean(0)

    model = apply_edit(Plain(nn.Sequential(nn.Conv2d(3, 4, 3))).eval(), "quantise")
    program = lower(model, input_shape=SHAPE)
    (conv,) = (node for node in program.nodes if node.op == "conv")
    assert conv["weight"].dtype == torch.float32
    torch.testing.assert_close(run_reference(program, images(SHAPE)).output, model(images(SHAPE)))


def test_spiking_self_attention_is_lowered_as_the_other():
    for stem in ("sps", "scs"):
        model = lively_net("spikformer_v2", stem=stem)
        program = lower(model, input_shape=(3, 16, 16))
        assert sum(node.op == "attend" for node in program.nodes) == 2
        x_BCHW = images((3, 16, 16)).double()
        with torch.no_grad():
            expected_BK = model(x_BCHW)
        actual_BK = run_reference(program, x_BCHW, dtype=torch.float64, keep=()).output
        torch.testing.assert_close(actual_BK, expected_BK, rtol=1e-5, atol=1e-6)


def test_gates_of_integers_are_refused():
    model = lively_net("qsd_transformer", **{"mixer.form": 2})
    with pytest.raises(UnsupportedError, match="gates of integers have no form"):
        lower(model, input_shape=SHAPE)


def test_the_engine_gives_the_answers_of_the_model(tmp_path):
    session = pytest.importorskip("neuromix.runtime.session")
    if not session.has_engine():
        pytest.skip("the engine is not built")
    for name, shape in (("qsd_transformer", SHAPE), ("spikformer_v2", (3, 16, 16))):
        model = lively(name, shape, **tiny(name))
        program = lower(model, input_shape=shape)
        file = tmp_path / f"{name}.nmx"
        file.write_bytes(to_bytes(program))
        assert to_bytes(read_program(file)) == file.read_bytes()
        x_BCHW = images(shape)
        with torch.no_grad():
            expected_BK = model(x_BCHW)
        run = session.load(file).session().run
        actual_BK = torch.stack([torch.as_tensor(run(x_CHW.numpy())) for x_CHW in x_BCHW])
        torch.testing.assert_close(actual_BK, expected_BK, rtol=1e-4, atol=1e-5)
