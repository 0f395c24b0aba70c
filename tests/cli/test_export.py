"""neuromix export and neuromix run."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch

from neuromix.cli import export, main
from neuromix.core import registry
from neuromix.core.checkpoint import load_checkpoint
from neuromix.runtime.program_file import read_program
from neuromix.training.run_folder import RunFolder

TINY = (
    "--set dims=[4,4,8,8] --set conv_depths=[1,1,1] --set depths=[1,1] --set strides=[1,2,2,1,1] --set stem_kernel=3 "
    "--set mlp_ratio=2 --set mixer.heads=2 --set time_steps=2 --set neuron.v_threshold=0.5"
)


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    """Runs a command line in an empty folder; gives exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)

    def run(line):
        capsys.readouterr()
        code = main(shlex.split(line))
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a short run of a tiny network on the digits."""
    folder = tmp_path_factory.mktemp("runs") / "a"
    line = f"train --task digits --model meta_spikeformer {TINY} --set train.max_steps=20 --out {folder}"
    assert main(shlex.split(line)) == 0
    return folder


@pytest.fixture(scope="module")
def digits():
    """Eight test images [B, 1, 8, 8]."""
    task = registry.build("task", "digits")
    samples = [task.data("test").sample(index, torch.Generator()) for index in range(8)]
    return torch.stack([sample["image"] for sample in samples])


def test_a_run_becomes_a_file_of_the_same_accuracy(run, trained, digits):
    code, out, err = run(f"export {trained} --to nmx -o net.nmx --json")
    assert (code, err) == (0, "")
    about = json.loads(out)
    program = read_program("net.nmx")
    assert program.classes == tuple("0123456789")
    assert about["nodes"] == len(program.nodes) == sum(about["operations"].values())
    assert about["input"] == [1, 8, 8]
    assert about["time_steps"] == 2
    assert about["int8_layers"] == 0
    accuracy = about["accuracy"]
    assert accuracy["samples"] == len(registry.build("task", "digits").data("test"))
    assert abs(accuracy["difference"]) <= 0.004
    assert accuracy["model"] == json.loads((trained / "metrics.json").read_text())["test"]["accuracy"]


@pytest.mark.parametrize("quantize", ["", "--quantize int8"])
def test_a_run_on_frames_of_events(run, quantize):
    tiny = """--set 'layers=[4,"A",8,"A"]' --set map_side=4 --set train.max_steps=1"""
    task = "--task digits-dvs --set task.size=16 --set task.representation.frames=3"
    assert run(f"train {task} --model spiking_vgg_nano {tiny} --out events --json")[0] == 0
    code, out, _ = run(f"export events --to nmx {quantize} -o net.nmx --json")
    made = json.loads(out)
    assert code == 0 and made["input"] == [2, 16, 16] and made["time_steps"] == 3
    if not quantize:
        assert made["accuracy"]["difference"] == 0


def test_int8(run, trained):
    code, out, err = run(f"export {trained} --quantize int8 -o net8.nmx --json --samples 100")
    assert (code, err) == (0, "")
    about = json.loads(out)
    assert about["int8_layers"] > 20
    assert about["accuracy"]["samples"] == 100
    assert about["accuracy"]["difference"] == about["accuracy"]["program"] - about["accuracy"]["model"]
    assert sum(node.op == "conv" and "scale" in node.keys for node in read_program("net8.nmx").nodes) > 20


def test_export_for_people(run, trained):
    code, out, err = run(f"export {trained}")
    assert (code, err) == (0, "")
    assert "accuracy, difference  +0.0" in out or "accuracy, difference  -0.0" in out
    assert read_program("meta_spikeformer.nmx")


def test_a_model_by_name_has_random_weights(run):
    code, out, err = run(
        "export meta_spikeformer_nano --seed 3 --set time_steps=2 --input 1,16,8 -o a.nmx --json"
    )
    assert code == 0
    assert err == "weights: untrained\n"
    about = json.loads(out)
    assert (about["input"], about["time_steps"], about["accuracy"]) == ([1, 16, 8], 2, None)
    run("export meta_spikeformer_nano --seed 3 --set time_steps=2 --input 1,16,8 -o b.nmx")
    assert Path("a.nmx").read_bytes() == Path("b.nmx").read_bytes()
    code, _, err = run(f"export meta_spikeformer {TINY} --quantize int8 -o c.nmx")
    assert code == 0
    assert "on random noise" in err


def test_a_run_whose_data_are_gone(run, trained, tmp_path):
    config = json.loads((trained / "config.json").read_text())
    moved = tmp_path / "moved"
    moved.mkdir()
    config["task"] = ["image-classification", {"data": str(tmp_path / "gone")}]
    (moved / "config.json").write_text(json.dumps(config))
    weights = RunFolder(trained).weights
    (moved / weights.name).write_bytes(weights.read_bytes())
    code, out, err = run("export moved --input 1,8,8 -o net.nmx --json")
    assert code == 0
    assert err.startswith("no class names and no accuracy, as the data of the run cannot be read:")
    assert err.count("\n") == 1
    assert json.loads(out)["accuracy"] is None
    code, out, _ = run("export moved --data digits -o net.nmx --json")
    assert json.loads(out)["accuracy"]["samples"] > 100


def test_a_format_is_one_entry(run, monkeypatch):
    def to_text(request: export.Request) -> dict[str, object]:
        request.path.write_text(request.model.name)
        return {"file": str(request.path), "accuracy": None}

    monkeypatch.setattr(export, "FORMATS", {**export.FORMATS, "txt": to_text})
    code, out, _ = run("export meta_spikeformer_nano --to txt")
    assert code == 0
    assert "meta_spikeformer_nano.txt" in out


WRONG_EXPORTS = [
    ("export nothing", "unknown model 'nothing'"),
    ("export runs/nothing", "no run folder or weights file at runs/nothing"),
    ("export meta_spikeformer_nano --to onxx", "unknown format 'onxx'; did you mean onnx?"),
    ("export meta_spikeformer_nano --quantize int4", "unknown quantization 'int4'; did you mean int8?"),
    ("export meta_spikeformer_nano --input 8,8", "--input gives C,H,W as whole numbers"),
    ("export meta_spikeformer_nano --input 1,x,8", "--input gives C,H,W as whole numbers"),
    ("export meta_spikeformer_nano --input 3,8,8", "expected a floating-point tensor [B, 1, H, W]"),
    ("export meta_spikeformer_nano --input 1,0,8", "C, H, W, got [1, 0, 8]"),
    ("export meta_spikeformer_nano --data digits", "--data is for a run"),
    ("export meta_spikeformer_nano --set colour=1", "unknown MetaSpikeFormerConfig key 'colour'"),
    ("export meta_spikeformer_nano -o .", "cannot write ."),
    ("export poolformer_nano", "poolformer_nano has no spike time to step along"),
    (
        "export spiking_vgg --set activation=relu --set map_side=2",
        "spiking_vgg has no spike time to step along",
    ),
    ("export .", "has no best.safetensors"),
    ("export meta_spikeformer_nano --samples 0", "greater than or equal to 1"),
]


@pytest.mark.parametrize("line, message", WRONG_EXPORTS, ids=[line[7:60] for line, _ in WRONG_EXPORTS])
def test_mistakes_of_export(run, tmp_path, line, message):
    code, out, err = run(line)
    *notes, last = err.splitlines()
    assert (code, out) == (2, "")
    assert last.startswith("error: ") and message in last
    assert notes in ([], ["weights: untrained"])
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def engine():
    return pytest.importorskip("neuromix._runtime")


@pytest.fixture
def net(engine, run, trained):
    """An exported file in the working folder."""
    assert run(f"export {trained} -o net.nmx")[0] == 0


def test_run_gives_the_model_s_answers(run, net, trained, digits):
    model = load_checkpoint(RunFolder(trained).weights).eval()
    with torch.no_grad():
        expected = model(digits).numpy()
    np.save("x.npy", digits.numpy())
    code, out, err = run("run net.nmx --input x.npy --output y.npy --threads 2 --json")
    assert (code, err) == (0, "")
    y = np.load("y.npy")
    assert y.dtype == np.float32
    assert (
        np.isclose(y, expected, rtol=1e-4, atol=1e-5).all(1).mean() >= 0.5
    )  # a spike at the threshold may move
    about = json.loads(out)
    assert about["samples"] == 8
    assert about["predictions"] == y.argmax(1).tolist()
    assert about["classes"] == [str(number) for number in about["predictions"]]
    assert about["output"] == "y.npy"
    np.save("one.npy", digits[0].numpy())
    assert run("run net.nmx --input one.npy --output one_y.npy")[0] == 0
    assert np.array_equal(np.load("one_y.npy"), y[0])


def test_run_takes_frames_and_steps(run, net, digits):
    np.save("x.npy", digits[:2].numpy())
    np.save("frames.npy", np.repeat(digits[:2, None].numpy(), 5, axis=1))
    run("run net.nmx --input x.npy --output y.npy --time-steps 5")
    run("run net.nmx --input frames.npy --frames --output z.npy")
    assert np.array_equal(np.load("y.npy"), np.load("z.npy"))
    np.save("frames.npy", np.load("frames.npy")[0])
    run("run net.nmx --input frames.npy --frames --output z.npy")
    assert np.array_equal(np.load("y.npy")[0], np.load("z.npy"))


def test_run_for_people_with_a_report(run, net, digits):
    np.save("x.npy", digits.numpy().astype(np.float64))
    code, out, err = run("run net.nmx --input x.npy --report")
    assert (code, err) == (0, "")
    assert "largest output" in out
    assert "stages.0.downsample.stem" in out
    report = json.loads(run("run net.nmx --input x.npy --report --json")[1])["report"]
    assert len(report) == len(read_program("net.nmx").nodes)


def test_mistakes_of_run(run, net, digits, tmp_path):
    x = digits.numpy()
    np.save("x.npy", x)
    np.save("wide.npy", np.zeros((1, 1, 8, 9)))
    np.save("frames.npy", np.zeros((2, 3, 1, 8, 8)))
    np.save("empty.npy", np.zeros((0, 1, 8, 8)))
    np.save("nan.npy", np.full((1, 8, 8), np.nan))
    np.save("text.npy", np.full((1, 8, 8), "a"))
    np.save("objects.npy", np.full((1, 8, 8), None), allow_pickle=True)
    np.savez("two.npz", x, x)
    (tmp_path / "bad.npy").write_bytes(b"\x93NUMPY")
    (tmp_path / "bad.nmx").write_bytes((tmp_path / "net.nmx").read_bytes()[:-7])
    before = {file.name for file in tmp_path.iterdir()}
    wrong = {
        "run gone.nmx --input x.npy": "no file at gone.nmx",
        "run bad.nmx --input x.npy": "bad.nmx",
        "run x.npy --input x.npy": "x.npy",
        "run net.nmx --input gone.npy": "no input file at gone.npy",
        "run net.nmx --input wide.npy": "wide.npy is [1, 1, 8, 9]; expected [1,8,8] or [B,1,8,8]",
        "run net.nmx --input frames.npy": "--frames takes one frame a time step",
        "run net.nmx --input x.npy --frames --time-steps 2": "--time-steps is for inputs without --frames",
        "run net.nmx --input wide.npy --frames": "expected [T,1,8,8] or [B,T,1,8,8]",
        "run net.nmx --input empty.npy": "is [0, 1, 8, 8]",
        "run net.nmx --input nan.npy": "not finite",
        "run net.nmx --input text.npy": "real numbers",
        "run net.nmx --input objects.npy": "damaged or not a .npy file of numbers",
        "run net.nmx --input two.npz": "one array of real numbers",
        "run net.nmx --input bad.npy": "damaged or not a .npy file of numbers",
        "run net.nmx --input x.npy --output .": "cannot write .",
        "run net.nmx --input x.npy --time-steps 0": "greater than or equal to 1",
        "run net.nmx --input x.npy --threads 0": "greater than or equal to 1",
        "run net.nmx": "Missing option",
    }
    for line, message in wrong.items():
        code, out, err = run(line)
        assert (code, out) == (2, ""), line
        assert err.startswith("error: ") and err.count("\n") == 1, line
        assert message in err, line
    assert {file.name for file in tmp_path.iterdir()} == before


def test_help_has_an_example(run):
    for name in ("export", "run"):
        code, out, _ = run(f"{name} --help")
        assert code == 0
        assert f"neuromix {name}" in out.split("Example")[1]
