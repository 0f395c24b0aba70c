"""HLOP and sequential training: stages, what moves and what does not, resuming, and what is kept."""

from __future__ import annotations

import json

import pytest
import torch

import neuromix
from neuromix import cli
from neuromix.core.errors import ConfigError, NeuromixError
from neuromix.layers.projected import projectable
from neuromix.methods.hlop import HLOPConfig, learning
from neuromix.training.api import evaluate_run, train
from neuromix.training.run_folder import RunFolder
from neuromix.training.snapshot import Snapshot
from tests.training.stopped import Stop, StopAfter
from tests.training.tiny import assert_same_weights

SMALL = {"hidden": (12, 12), "time_steps": 3}
QUICK = {"epochs": 1, "max_steps": 4, "batch_size": 128, "model_config": SMALL}


def run(out, method="hlop", model="hlop_mlp_nano", task="permuted-digits", **options):
    return train(model, task, out, method=method, **{**QUICK, **options})


def results(out):
    return RunFolder(out).results()["sequence"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("hlop") / "whole"
    return run(out, checkpoint_steps=1, momentum=0.5), out


def test_stages_matrix_and_result(whole):
    result, out = whole
    found = results(out)
    assert [len(row) for row in found["accuracy_matrix"]] == [1, 2, 3]
    assert found["scenario"] == "domain" and found["tasks"] == [f"permutation {i}" for i in range(3)]
    assert result.test["accuracy"] == pytest.approx(found["average_accuracy"], abs=1e-5)
    assert [record["stage"] for record in RunFolder(out).records()] == ["task 1", "task 2", "task 3"]
    model = result.model()
    assert not model.edits, "the result is a plain net"
    assert evaluate_run(out).scores == result.test


def test_lateral_weights_grow_and_fixed_rows_stay(whole):
    _, out = whole
    stages = [neuromix.load_checkpoint(out / f"stage-{i}.safetensors") for i in (1, 2, 3)]
    rows = [[stage.get_submodule(path).subspace for path in projectable(stage)] for stage in stages]
    assert [subspace.blocks for subspace in rows[0]] == [(19,), (4,), (4,)]
    assert [subspace.blocks for subspace in rows[2]] == [(25, 6), (5, 1), (5, 1)]
    for before, after in zip(rows[0], rows[2], strict=True):
        assert torch.equal(before.weight, after.weight[: len(before.weight)])


def test_later_tasks_train_matrices_alone(whole):
    _, out = whole
    first, last = (neuromix.load_checkpoint(out / f"stage-{i}.safetensors") for i in (1, 3))
    after = dict(last.named_parameters())
    for name, parameter in first.named_parameters():
        assert torch.equal(parameter, after[name]) == (parameter.dim() < 2), name
    # What a step changed lies outside the subspace of the first task.
    path = projectable(first)[0]
    change = after[f"{path}.weight"] - first.get_submodule(path).weight
    rows = first.get_submodule(path).subspace.weight
    q = torch.linalg.qr(rows.T).Q.T
    assert (change @ q.T).norm() < 0.2 * change.norm()  # by chance it were half


@pytest.mark.parametrize("steps", [6, pytest.param(9, marks=pytest.mark.slow)])
def test_resuming_restores_blocks_and_goes_on_alike(whole, tmp_path, steps):
    _, out = whole
    with pytest.raises(Stop):
        run(tmp_path / "a", checkpoint_steps=1, momentum=0.5, observer=StopAfter(steps))
    snapshot = Snapshot.load(tmp_path / "a" / "last.safetensors")
    assert snapshot.point.stage == steps // 4
    assert len(snapshot.state["methods"]["hlop"]["report"]["accuracy_matrix"]) == steps // 4
    train(out=tmp_path / "a", resume=True)
    for name in ("best", "last", "final", "stage-2", "stage-3"):
        assert_same_weights(tmp_path / "a" / f"{name}.safetensors", out / f"{name}.safetensors")
    assert results(tmp_path / "a") == results(out)
    assert RunFolder(tmp_path / "a").scores() == RunFolder(out).scores()


def test_a_sequence_of_one_task(tmp_path):
    for method in ("hlop", "sequential"):
        run(tmp_path / method, method, task_config={"tasks": 1})
        found = results(tmp_path / method)
        assert len(found["accuracy_matrix"]) == 1
        assert found["forgetting"] is None and found["backward_transfer"] is None
    # Nothing is projected yet: the two are the same.
    assert results(tmp_path / "hlop") == results(tmp_path / "sequential")


def test_sequential_starts_each_task_from_the_last(tmp_path):
    run(tmp_path / "s", "sequential", task="split-digits", task_config={"tasks": 2})
    assert [len(row) for row in results(tmp_path / "s")["task_agnostic"]["accuracy_matrix"]] == [1, 2]
    assert not (tmp_path / "s" / "final.safetensors").exists()


def test_norms_are_frozen_and_heads_free_on_split_classes(tmp_path):
    options = {"layers": (4, "A", 6, "A"), "time_steps": 2}
    out = tmp_path / "cnn"
    run(out, model="hlop_cnn_nano", task="split-digits", task_config={"tasks": 2}, model_config=options)
    first, last = (
        neuromix.load_checkpoint(out / "stage-1.safetensors"),
        neuromix.load_checkpoint(out / "last.safetensors"),
    )
    before, after = first.state_dict(), last.state_dict()
    frozen = [name for name in before if ".bn." in name or "threshold" in name]
    assert len(frozen) > 8
    for name in frozen:
        assert torch.equal(before[name], after[name]), name
    assert "head.classify.subspace.weight" not in after and "stages.1.0.conv.conv.subspace.weight" in after
    # The head of the first task is as it was; that of the second was learnt.
    same = (before["head.classify.weight"] == after["head.classify.weight"]).all(1)
    assert same.tolist() == [True] * 5 + [False] * 5


def test_replay_comes_after_each_task_but_the_first(tmp_path):
    run(tmp_path / "r", task_config={"tasks": 2}, method_config={"replay": 4, "replay_epochs": 1})
    records = RunFolder(tmp_path / "r").records()
    assert [record["stage"] for record in records] == ["task 1", "task 2", "replay after task 2"]
    assert [len(row) for row in results(tmp_path / "r")["accuracy_matrix"]] == [1, 2]
    assert records[-1]["step"] == 1  # 4 samples of 10 classes of 2 tasks are one batch
    before, after = (neuromix.load_checkpoint(tmp_path / "r" / f"stage-{i}.safetensors") for i in (2, 3))
    for path in projectable(before):
        one, other = before.get_submodule(path), after.get_submodule(path)
        assert torch.equal(one.subspace.weight, other.subspace.weight)
        assert not torch.equal(one.weight, other.weight)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"side": "input", "spiking_steps": 1000},
        {"feedback": "sign", "hebbian_input": "steps"},
        {"feedback": "random", "layers": ["layers.*"]},
    ],
)
def test_variants_run(tmp_path, options):
    run(tmp_path / "v", task_config={"tasks": 2}, method_config=options, max_steps=2)
    assert len(results(tmp_path / "v")["accuracy_matrix"]) == 2


def test_rows_stop_where_the_inputs_end(tmp_path):
    run(tmp_path / "m", method_config={"subspace": [50], "increments": [[10]]}, max_steps=1)
    last = neuromix.load_checkpoint(tmp_path / "m" / "last.safetensors")
    blocks = [last.get_submodule(path).subspace.blocks for path in projectable(last)]
    assert blocks == [(60, 4), (12, 0), (12, 0)]


def test_layers_learn_from_the_mean_over_time():
    model = neuromix.create_model("hlop_mlp_nano", hidden=(6, 6), time_steps=4)
    model = neuromix.core.edits.apply_edit(
        model, neuromix.core.config.Spec("projected", {"blocks": {"layers.1.linear": [2]}})
    )
    subspace = model.get_submodule("layers.1.linear").subspace
    before, seen = subspace.weight.clone(), []
    model.get_submodule("layers.0.neuron").register_forward_hook(lambda _, __, y: seen.append(y.detach()))
    with learning(model, 5, {"layers.1.linear": 0.05}, iterations=1):
        model(torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0)))
    (spikes_TBF,) = seen
    decay = model.layers[0].neuron.rate_response().decay
    weights = decay ** torch.arange(3, -1, -1.0)
    mean_BF = (weights[:, None, None] * spikes_TBF).sum(0) / weights.sum()
    response = mean_BF @ before.T
    step = 0.05 * 0.1 * (response.T @ (mean_BF - response @ before) / 5).clamp(-10, 10)
    torch.testing.assert_close(subspace.weight, before + step)


@pytest.mark.parametrize(
    ("method", "task", "options", "message"),
    [
        ("hlop", "digits", {}, "sequences are permuted-digits"),
        ("sequential", "digits", {}, "sequences are permuted-digits"),
        ("hlop", "permuted-digits", {"optimiser": "adamw"}, "needs train.optimiser=sgd"),
        ("hlop", "permuted-digits", {"weight_decay": 0.1}, "train.weight_decay=0"),
        ("hlop", "permuted-digits", {"method_config": {"layers": ["x*"]}}, "name none"),
        ("hlop,sequential", "permuted-digits", {}, "cannot be stacked"),
    ],
)
def test_bad_input(tmp_path, method, task, options, message):
    with pytest.raises(NeuromixError, match=message):
        run(tmp_path / "x", tuple(method.split(",")), task=task, **options)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"subspace": ()}, "must not be empty"),
        ({"subspace": (1.5,)}, "rows, or shares below 1"),
        ({"increments": ((),)}, "sizes for each task"),
        ({"hebbian_momentum": 1.0}, "must be in"),
        ({"replay": -1}, "0 or more samples"),
    ],
)
def test_config_is_checked(values, message):
    with pytest.raises(ConfigError, match=message):
        HLOPConfig(**values)


def test_published_sizes_are_those_of_the_nets():
    """Lateral weights and momentum of the first task of permuted MNIST: 605,440 numbers."""
    from neuromix.core import registry

    sizes = {
        "hlop-pmnist": ("hlop_mlp_800", 3),
        "hlop-cifar100": ("hlop_cnn_256", 3),
        "hlop-5datasets": ("hlop_resnet18_20", 20),
        "hlop-miniimagenet": ("hlop_resnet18_20_84", 20),
    }
    for name, (model, layers) in sizes.items():
        config = registry.find("method", name)[1]
        net = neuromix.create_model(model)
        paths = projectable(net)
        paths = paths if name == "hlop-pmnist" else paths[:-1]
        assert len(config.subspace) == len(paths) == layers
        assert all(len(each) in (1, layers) for each in config.increments)
        if name == "hlop-pmnist":
            inputs = [net.get_submodule(path).weight[0].numel() for path in paths]
            rows = map(int, config.subspace)
            assert 2 * sum(n * m for n, m in zip(inputs, rows, strict=True)) == 605_440


@pytest.mark.slow
def test_hlop_keeps_what_sequential_training_loses(tmp_path):
    kept = {}
    for method in ("hlop", "sequential"):
        train("hlop_mlp_nano", "permuted-digits", tmp_path / method, method=method, epochs=3)
        rows = json.loads((tmp_path / method / "results.json").read_text())["sequence"]["accuracy_matrix"]
        assert rows[0][0] > 0.9
        kept[method] = rows[2][0] - rows[0][0]
    assert kept["hlop"] > -0.03
    assert kept["sequential"] < kept["hlop"] - 0.10


def test_the_command_prints_the_matrix(tmp_path, capsys):
    arguments = [
        "train",
        "--model",
        "hlop_mlp_nano",
        "--method",
        "hlop",
        "--epochs",
        "1",
        "--set",
        "train.max_steps=2",
    ]
    arguments += ["--set", "hidden=[12,12]", "--set", "time_steps=3", "--task", "permuted-digits"]
    assert cli.main([*arguments, "--set", "task.tasks=2", "--out", str(tmp_path / "two")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:3] for line in lines if "after task" in line] == [
        ["after", "task", "1"],
        ["after", "task", "2"],
    ]
    assert any(line.startswith("forgetting") for line in lines)
    assert cli.main([*arguments, "--set", "task.tasks=1", "--out", str(tmp_path / "one")]) == 0
    assert "forgetting         undefined: nothing comes after one task" in capsys.readouterr().out
    assert cli.main(["train", "--resume", "--out", str(tmp_path / "two"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sequence"] == results(tmp_path / "two")
