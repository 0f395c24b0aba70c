"""What every registered model must obey, on its `tiny` net."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

import neuromix
from neuromix.core import registry
from neuromix.core.batch import Ragged
from neuromix.core.checkpoint import build_model
from neuromix.core.config import field_types
from neuromix.core.errors import ConfigError, ShapeError
from neuromix.core.model import arguments, call
from tests.catalogue import own_entries

MODELS = own_entries("model")


@pytest.fixture(params=MODELS.values(), ids=MODELS.keys())
def entry(request):
    return request.param


@pytest.fixture
def model(entry):
    torch.manual_seed(0)
    return build_model(entry.name, entry.config.from_dict(entry.tiny))


def example(model, batch_size=2, seed=1):
    return model.example(batch_size, torch.Generator().manual_seed(seed))


def tensors(output) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]


def assert_same(actual, expected, **tolerance):
    for one, other in zip(tensors(actual), tensors(expected), strict=True):
        torch.testing.assert_close(one, other, **tolerance)


def test_tiny_is_tiny(entry, model):
    assert entry.tiny, "a model says what its tiny net is"
    assert model.num_parameters(trainable_only=False) < 60_000


def test_forward_and_backward_are_finite(model):
    output = call(model.train(), example(model))
    assert all(tensor.isfinite().all() for tensor in tensors(output))
    if model.differentiable and model.trainable:
        sum(
            (tensor * torch.linspace(-1, 1, tensor.numel()).view_as(tensor)).sum()
            for tensor in tensors(output)
        ).backward()
        trained = [p for p in model.parameters() if p.requires_grad]
        assert all(p.grad is None or p.grad.isfinite().all() for p in trained)
        assert sum(p.grad is not None for p in trained) >= len(trained) - len(unused(model))


def unused(model):
    """Parameters that the authors' nets have but do not use."""
    return getattr(model, "unused_parameters", ())


def in_double(field):
    if isinstance(field, Ragged):
        return Ragged(in_double(field.values), field.offsets, field.extras)
    return field.double() if field.is_floating_point() else field


def test_samples_do_not_meet_in_eval(model):
    model = model.double().eval()
    batch = example(model, 3)
    batch = type(batch)({name: in_double(value) for name, value in batch.items()})
    with torch.no_grad():
        together, alone = call(model, batch), call(model, batch.select([1]))
    if isinstance(together, Ragged):
        torch.testing.assert_close(together.select([1]).values, alone.values)
        return
    for whole, part in zip(tensors(together), tensors(alone), strict=True):
        batch_axis = next(
            axis for axis, size in enumerate(whole.shape) if size == 3 and part.shape[axis] == 1
        )
        torch.testing.assert_close(whole.select(batch_axis, 1), part.select(batch_axis, 0))


def test_config_goes_through_json(model):
    config = model.config
    again = type(config).from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config


def test_checkpoint_brings_the_model_back(model, tmp_path):
    batch = example(model)
    with torch.no_grad():
        expected = call(model.eval(), batch)
    neuromix.save_checkpoint(model, tmp_path / "net.safetensors")
    again = neuromix.load_checkpoint(tmp_path / "net.safetensors")
    assert type(again) is type(model) and again.config == model.config and again.name == model.name
    with torch.no_grad():
        assert_same(call(again.eval(), batch), expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", sorted({n for e in MODELS.values() for n in e.published}))
def test_published_parameter_count(name):
    entry, config = registry.find("model", name)
    published = entry.published[name]
    with torch.device("meta"):
        net = entry.build(config)
    everything = published.get("scope") == "all"
    assert net.num_parameters(trainable_only=not everything) == published["parameters"]
    if "parameters_m" in published:
        assert published["parameters"] / 1e6 == pytest.approx(published["parameters_m"], rel=0.005, abs=0.06)


def test_every_variant_is_a_valid_config(entry):
    for name, values in entry.variants.items():
        assert entry.config.from_dict(values) == registry.find("model", name)[1]


def test_layouts_are_invertible(model):
    state = model.state_dict()
    for who, layout in model.layouts(model.config).items():
        theirs = layout.to_theirs(state)
        assert not layout.unexplained(theirs), who
        back = layout.to_ours(theirs)
        assert back.keys() == state.keys(), who
        assert_same(back, {name: state[name] for name in back}, rtol=0, atol=0)


def test_steps_equal_the_whole(model):
    if model.stream_axis is None:
        pytest.skip("cannot be stepped")
    model = model.double().eval()
    batch = example(model)
    inputs = [in_double(batch[field.name]) for field in model.inputs if field.name in batch]
    steps = getattr(model.config, "time_steps", 1) if model.stream_axis == 0 else None
    net = neuromix.stream(model)
    with torch.no_grad():
        whole = model(*inputs)
        x = model.encode(*inputs)
        x = x.expand(steps, *x.shape[1:]) if model.stream_axis == 0 and x.shape[0] == 1 else x
        every = model.forward_steps(x)
        segments, state = [], None
        for piece in (
            x.narrow(model.stream_axis, 0, 1),
            x.narrow(model.stream_axis, 1, x.shape[model.stream_axis] - 1),
        ):
            y, state = net.prefill(piece, state)
            segments.append(y)
        session = net.session()
        answers = [session.step(x_t) for x_t in x.unbind(model.stream_axis)]
        # A model that looks ahead has none at first.
        stepped = torch.stack([y for y in answers if y is not None], model.stream_axis)
        late = session.drain()
        if late is not None:
            segments.append(net.drain(x.select(model.stream_axis, 0), state))
            stepped = torch.cat([stepped, late], model.stream_axis)
    assert_same(torch.cat(segments, model.stream_axis), every)
    assert_same(stepped, every)
    assert_same(model.readout(stepped), whole)


def test_compiles(entry, model):
    if entry.no_compile:
        pytest.skip(entry.no_compile)
    batch = example(model)
    torch._dynamo.reset()
    compiled = torch.compile(model.eval(), backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        assert_same(call_like(compiled, model, batch), call(model, batch), rtol=1e-4, atol=1e-5)


def call_like(compiled, model, batch):
    return compiled(*arguments(model, batch))


def test_feature_pyramid_is_as_described(entry, model):
    info = model.feature_info()
    if not info:
        pytest.skip("has no pyramid")
    net = build_model(
        entry.name, entry.config.from_dict({**entry.tiny, "feature_levels": tuple(range(len(info)))})
    )
    batch = example(net)
    with torch.no_grad():
        maps = call(net.eval(), batch)
    side = batch["image"].shape[-1]
    assert [tuple(level) for level in info] == [(side // y.shape[-1], y.shape[-3]) for y in maps]


def test_wrong_inputs_are_refused(model):
    if [field.name for field in model.inputs] != ["image"]:
        pytest.skip("does not take an image")
    image = example(model)["image"]
    for wrong in (image[:, :0], torch.cat([image, image], 1), image[0], image.long(), image[..., :0]):
        with pytest.raises(ShapeError, match="expected"):
            model(wrong)


def test_unknown_config_keys_are_refused(entry):
    with pytest.raises(neuromix.NeuromixError, match=r"did you mean num_classes|known"):
        entry.config.from_dict({"num_clases": 3})
    for name, hint in field_types(entry.config).items():
        if hint is int:
            with pytest.raises(ConfigError):
                entry.config.from_dict({name: "many"})
