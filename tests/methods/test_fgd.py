"""Fine-grained distillation: the similarity of tokens, what is recorded, and the method in a run.

Shapes: T spike time, B batch, h heads, N tokens, K channels of a head, C channels, H W image.
"""

from __future__ import annotations

import math

import pytest
import torch
from lightning_fabric import Fabric
from torch.nn import functional as F

import neuromix
from neuromix.core.batch import Batch
from neuromix.core.config import Spec
from neuromix.core.errors import CheckpointError, ConfigError
from neuromix.core.model import call
from neuromix.core.observe import Tap
from neuromix.methods.fgd import (
    Features,
    Recorder,
    attention_features,
    fgd_loss,
    information_entropy,
    similarity,
)
from neuromix.training.config import TrainConfig
from neuromix.training.method import Stack
from neuromix.training.run import Run
from neuromix.training.task import Task
from tests.runtime.lowered import lively, tiny

STUDENT = "qsd_transformer"
LABEL = torch.tensor([0, 2, 1])


def features(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Features(*(torch.randn(*shape, generator=generator, dtype=torch.float64) for _ in range(3)))


def test_similarity_knows_no_scale_and_no_rotation():
    x = features(2, 3, 5, 4).query
    gram = similarity(x)
    torch.testing.assert_close(gram.square().sum((-2, -1)), torch.ones(2, 3, dtype=torch.float64))
    rotation, _ = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64))
    torch.testing.assert_close(similarity(7 * x @ rotation), gram)
    wider = torch.cat([x, torch.zeros_like(x)], -1)
    torch.testing.assert_close(similarity(wider), gram, msg="the width of a head need not agree")


def test_nothing_that_fires_gives_no_gradient_and_no_nan():
    silent = [Features(*(torch.zeros(2, 2, 5, 3, requires_grad=True) for _ in range(3)))]
    loss = fgd_loss(silent, [features(2, 2, 5, 4)])
    assert loss.item() == pytest.approx(3.0)  # the norm of each of the teacher's
    loss.backward()
    assert all(not x.grad.any() for x in silent[0])
    same = [Features(*(x.requires_grad_() for x in features(2, 2, 5, 3)))]
    loss = fgd_loss(same, same)
    loss.backward()
    assert loss == 0 and all(x.grad.isfinite().all() for x in same[0])


def test_layers_are_averaged_and_heads_where_they_differ():
    one, other, teacher = features(2, 2, 5, 4), features(2, 2, 5, 4, seed=1), features(2, 2, 5, 3, seed=2)
    both = fgd_loss([one, other], [teacher, teacher])
    torch.testing.assert_close(both, (fgd_loss([one], [teacher]) + fgd_loss([other], [teacher])) / 2)
    wide = features(2, 6, 5, 3)
    difference = similarity(one.query).mean(1) - similarity(wide.query).mean(1)
    mean = torch.stack(
        [
            (similarity(a).mean(1) - similarity(b).mean(1)).square().sum((-2, -1)).sqrt().mean()
            for a, b in zip(one, wide, strict=True)
        ]
    ).sum()
    assert difference.any()
    torch.testing.assert_close(fgd_loss([one], [wide]), mean)


def test_what_does_not_match_is_told():
    with pytest.raises(ConfigError, match="the student has 1, the teacher 2"):
        fgd_loss([features(1, 1, 4, 2)], [features(1, 1, 4, 2)] * 2)
    with pytest.raises(ConfigError, match="the student has 0, the teacher 0"):
        fgd_loss([], [])
    with pytest.raises(ConfigError, match=r"of the student has 4, its partner in the teacher 9"):
        fgd_loss([features(1, 1, 4, 2)], [features(1, 1, 9, 2)])


def test_entropy_of_a_histogram():
    assert information_entropy(torch.tensor([0.0, 0.0, 1.0, 1.0])) == pytest.approx(1.0)
    assert information_entropy(torch.tensor([0.0, 1.0, 2.0, 3.0])) == pytest.approx(2.0)
    assert information_entropy(torch.zeros(5)) == 0.0
    quarter = torch.tensor([1.0, 0.0, 0.0, 0.0])
    assert information_entropy(quarter) == pytest.approx(2 - 0.75 * math.log2(3))


def student(**overrides):
    return lively(STUDENT, (3, 8, 8), **tiny(STUDENT, **overrides)).double()


def batch():
    image = torch.randn(3, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return Batch({"image": image, "label": LABEL})


def test_layers_are_recorded_in_order_and_spikes_averaged_over_time():
    model = student()
    frames = torch.randn(2, 3, 3, 8, 8, dtype=torch.float64)
    with Recorder(model) as recorder:
        model(frames)
        layers = recorder.layers()
        assert recorder.layers() == []
        model(frames)
        model(frames[:, :2])  # a new run forgets the last
        assert [layer.query.shape for layer in recorder.layers()] == [(2, 2, 4, 4)] * 2
    queries = []
    for path in ("stages.3.blocks.0", "stages.4.blocks.0"):
        neuron = model.get_submodule(f"{path}.mixer.branch.neurons.q")
        neuron.register_forward_hook(lambda _, __, y: queries.append(y.mean(0)))
    model(frames)
    for layer, query in zip(layers, queries, strict=True):
        torch.testing.assert_close(layer.query, query.unflatten(1, (2, 4)).flatten(3).transpose(2, 3))
    assert not any(m._stores for m in model.modules() if isinstance(m, Tap))


def test_attention_of_an_analog_net_is_recorded():
    teacher = neuromix.create_model("caformer_nano", dims=(8, 8, 48), in_channels=3)
    layers = attention_features(teacher, Batch({"image": torch.randn(2, 3, 8, 8)}))
    heads = teacher.stages[2].blocks[0].mixer.branch.heads
    assert [layer.key.shape for layer in layers] == [(2, heads, 4, 48 // heads)] * 2


class Classify(Task):
    def loss(self, output, batch):
        return {"cross_entropy": F.cross_entropy(output, batch.tensor("label"))}


def make_run(model, method, **train):
    run = Run(
        TrainConfig(batch_size=3, **train),
        Fabric(accelerator="cpu", devices=1),
        Stack([Spec.of(one) for one in method]),
        Classify(None),
        model,
    )
    run.net, run.optimiser = run.fabric.setup(model, torch.optim.SGD(model.parameters(), lr=0.1))
    return run


@pytest.fixture
def teacher_file(tmp_path):
    neuromix.save_checkpoint(student(weight_bits=None, layer_scale=0.9), tmp_path / "teacher.safetensors")
    return str(tmp_path / "teacher.safetensors")


@pytest.mark.parametrize(
    ("method", "train"),
    [
        ([], {}),
        ([], {"accumulate": 3}),
        (["bptt"], {}),
        ([("bptt", {"checkpoint": True})], {"accumulate": 3}),
    ],
    ids=["alone", "in parts", "bptt", "rebuilt segments, in parts"],
)
def test_it_adds_the_distance_to_the_teacher(method, train, teacher_file):
    model = student().eval()  # so that parts of a batch see the same batch-norms
    run = make_run(model, [("fgd", {"teacher": teacher_file, "weight": 0.5}), *method], **train)
    teacher = neuromix.load_checkpoint(teacher_file).double().eval()
    fgd = next(iter(run.method))
    fgd.teacher.double()
    expected = 0.5 * fgd_loss(attention_features(model, batch()), attention_features(teacher, batch()))
    for one in run.method:
        one.before_step(run)
    parts = run.compute_gradients(batch())
    for one in run.method:
        one.after_backward(run)
    total = sum(share * losses["fgd"] for share, losses in parts)
    torch.testing.assert_close(total.detach(), expected.detach())
    assert parts[0][1].keys() == {"cross_entropy", "fgd"}
    assert all(p.grad is None and not p.requires_grad for p in fgd.teacher.parameters())
    query = model.stages[3].blocks[0].mixer.branch.projections["q"].reduce
    assert query.weight.grad.any()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_with_sltt_each_step_is_compared(teacher_file):
    model = student()
    run = make_run(model, [("fgd", {"teacher": teacher_file}), "sltt"])
    fgd = next(iter(run.method))
    fgd.teacher.double()
    fgd.before_step(run)
    run.compute_gradients(batch())
    fgd.after_backward(run)
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_a_teacher_is_needed_and_must_be_there(tmp_path):
    with pytest.raises(ConfigError, match=r"fgd needs a teacher: --set method\.teacher=RUN"):
        Stack([Spec("fgd")])
    with pytest.raises(CheckpointError, match="no weights file at"):
        Stack([Spec("fgd", {"teacher": str(tmp_path / "none.safetensors")})])
    with pytest.raises(ConfigError, match="weight must be positive, got 0"):
        Stack([Spec("fgd", {"teacher": "x", "weight": 0})])


@pytest.mark.slow
def test_distance_on_held_out_data_falls_and_entropy_does_not(tmp_path):
    from neuromix.training.api import train

    teacher = train("caformer_nano", "digits", tmp_path / "teacher", epochs=4, threads=1)
    config = {"teacher": str(teacher.run)}
    runs = {
        name: train(
            "qsd_transformer_nano", "digits", tmp_path / name, method="fgd", method_config=config, epochs=4,
            max_steps=steps, threads=1,
        )
        for name, steps in (("start", 30), ("end", None))
    }  # fmt: skip
    test = neuromix.core.registry.build("task", "digits")
    samples = [test.data("test").sample(i, torch.Generator()) for i in range(200)]
    held_out, of_teacher = test.collate(samples), teacher.model().eval()
    seen = {}
    for name, run in runs.items():
        layers = attention_features(run.model().eval(), held_out)
        with torch.no_grad():
            distance = float(fgd_loss(layers, attention_features(of_teacher, held_out)))
        entropy = sum(information_entropy(x) for layer in layers for x in layer) / (3 * len(layers))
        seen[name] = (distance, entropy)
    print(seen)
    assert seen["start"][1] > 0, "something fires"
    assert seen["end"][0] < seen["start"][0]
    assert seen["end"][1] >= seen["start"][1]
    assert call(of_teacher, held_out).argmax(1).eq(held_out["label"]).float().mean() > 0.8
