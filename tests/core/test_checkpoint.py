from __future__ import annotations

import errno
import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import neuromix
from neuromix.core import files
from neuromix.core.edits import apply_edit
from neuromix.core.errors import CheckpointError, NeuromixError, RunError

TINY = {"dims": (4, 4, 8, 8), "conv_depths": (1, 1, 1), "depths": (1, 1), "mixer.heads": 2, "num_classes": 3}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return neuromix.create_model("meta_spikeformer_nano", **TINY).eval()


@pytest.fixture
def saved(model, tmp_path):
    path = tmp_path / "net.safetensors"
    neuromix.save_checkpoint(model, path)
    return path


def test_edits_are_replayed(model, tmp_path):
    fused = apply_edit(model, "fuse")
    assert [edit.name for edit in fused.edits] == ["fuse"] and not model.edits
    neuromix.save_checkpoint(fused, tmp_path / "fused.safetensors")
    again = neuromix.load_checkpoint(tmp_path / "fused.safetensors")
    x = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(again(x), fused(x), rtol=0, atol=0)
        torch.testing.assert_close(again(x), model(x))


def test_authors_files_load_through_their_layout(model, tmp_path):
    theirs = model.layouts(model.config)["authors"].to_theirs(model.state_dict())
    torch.save({"model": theirs, "epoch": 3}, tmp_path / "released.pth")
    save_file(theirs, tmp_path / "released.safetensors")
    for name in ("released.pth", "released.safetensors"):
        again = neuromix.load_checkpoint(tmp_path / name, "meta_spikeformer_nano", **TINY)
        assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))
    with pytest.raises(CheckpointError, match="does not say which model"):
        neuromix.load_checkpoint(tmp_path / "released.pth")


def test_a_wider_time_takes_the_weights_of_a_narrow_one(model):
    longer = neuromix.rebuild(model, time_steps=6, distillation=True, fresh=("head.distill.*",))
    assert longer.config.time_steps == 6
    assert torch.equal(longer.head.classify.weight, model.head.classify.weight)
    with pytest.raises(CheckpointError, match=r"missing head\.distill\.weight"):
        neuromix.rebuild(model, distillation=True)


class Evil:
    def __reduce__(self):
        return (print, ("unpickled!",))


@pytest.mark.parametrize("damage", ["cut", "empty", "header", "text"])
def test_damaged_files_are_refused(saved, damage):
    content = saved.read_bytes()
    saved.write_bytes(
        {
            "cut": content[: len(content) // 2],
            "empty": b"",
            "header": b"\xff" * 8 + content[8:],
            "text": b"not a checkpoint at all",
        }[damage]
    )
    with pytest.raises(CheckpointError, match=r"net\.safetensors"):
        neuromix.load_checkpoint(saved)


def test_pickles_are_not_opened(tmp_path, capsys):
    torch.save({"model": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match="pickle"):
        neuromix.load_checkpoint(tmp_path / "evil.pth", "meta_spikeformer_nano")
    assert "unpickled" not in capsys.readouterr().out


def test_files_of_another_model_are_refused(saved, tmp_path):
    with pytest.raises(CheckpointError, match="holds meta_spikeformer_nano, not meta_spikeformer_15m"):
        neuromix.load_checkpoint(saved, "meta_spikeformer_15m")
    save_file({"layer.weight": torch.ones(2)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match=r"of another model; names left over as authors: layer\.weight"):
        neuromix.load_checkpoint(tmp_path / "other.safetensors", "meta_spikeformer_nano")
    with pytest.raises(CheckpointError, match="no weights file"):
        neuromix.load_checkpoint(tmp_path / "nothing.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 99}, "of format 99"),
        ({"format": "x"}, "of format x"),
        ({"model": "gone_net"}, "unknown model"),
        ({"config": {"dims": [1]}}, "needs 4 values"),
        ({"config": 3}, "malformed"),
        ({"edits": [["no_edit", {}]]}, "unknown edit"),
        ({"edits": 3}, "malformed"),
        (None, "malformed"),
    ],
)
def test_hostile_headers_are_refused(saved, change, message):
    with safe_open(saved, framework="pt") as file:
        header = json.loads(file.metadata()["neuromix"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    text = "{" if change is None else json.dumps({**header, **change})
    hostile = saved.with_name("hostile.safetensors")  # the tensors are views of the first file
    save_file(tensors, hostile, metadata={"neuromix": text})
    with pytest.raises(CheckpointError, match=message):
        neuromix.load_checkpoint(hostile)


def test_a_full_disk_leaves_the_old_file_whole(saved, model, monkeypatch):
    before = saved.read_bytes()

    def full(*_args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(RunError, match=r"cannot write .*net\.safetensors: No space left"):
        neuromix.save_checkpoint(model, saved)
    assert saved.read_bytes() == before and [p.name for p in saved.parent.iterdir()] == [saved.name]


def test_features_only_gives_a_described_pyramid():
    net = neuromix.create_model("meta_spikeformer_nano", features_only=True, out_indices=(1, 3))
    maps = net(torch.randn(2, 1, 16, 16))
    info = [net.feature_info()[level] for level in (1, 3)]
    assert [(16 // y.shape[-1], y.shape[2]) for y in maps] == [tuple(level) for level in info]
    with pytest.raises(NeuromixError, match="feature_levels"):
        neuromix.create_model("meta_spikeformer_nano", out_indices=(9,))
