"""neuromix train and neuromix eval."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import tests.training.tiny  # noqa: F401 (registers the nets)
from neuromix.cli import main
from neuromix.training.run_folder import RunFolder
from tests.tasks.test_image_classification import image_folder

ROOT = Path(__file__).parents[2]
TRAIN = ["train", "--task", "digits", "--model", "tiny_test_net", "--set", "train.max_steps=2"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main(arguments)
    output = capsys.readouterr()
    return code, output.out, output.err


def test_train_and_eval_print_one_json_object(capsys, here):
    code, out, err = run(capsys, *TRAIN, "--out", "runs/a", "--json")
    result = json.loads(out)
    assert (code, err) == (0, "")
    assert result["run"] == "runs/a"
    assert 0 <= result["test"]["accuracy"] <= 1
    code, out, err = run(capsys, "eval", "runs/a", "--json")
    assert json.loads(out) == {"test": result["test"], "run": "runs/a"}
    code, out, err = run(capsys, "eval", "runs/a", "--split", "validation", "--json", "--batch-size", "50")
    assert json.loads(out) == {"validation": result["validation"], "run": "runs/a"}


def test_eval_counts_which_class_was_taken_for_which(capsys, here):
    run(capsys, *TRAIN, "--out", "a")
    result = json.loads(run(capsys, "eval", "a", "--confusion", "--json")[1])
    counts, accuracy = result["confusion"], result["test"]["accuracy"]
    assert result["classes"] == [str(digit) for digit in range(10)]
    assert sum(map(sum, counts)) == 500
    assert sum(counts[i][i] for i in range(10)) == round(500 * accuracy)
    rows = run(capsys, "eval", "a", "--confusion")[1].splitlines()
    last = next(line for line in rows if line.split()[:1] == ["9"])
    assert sum(map(int, last.split()[1:])) == sum(counts[9])


def test_train_and_eval_for_people(capsys, here):
    code, out, err = run(capsys, *TRAIN)
    assert (code, err) == (0, "")
    assert re.search(r"^test accuracy +0\.\d{4}$", out, re.MULTILINE)
    assert re.search(r"^run +runs/tiny_test_net-digits-1$", out, re.MULTILINE)
    code, out, err = run(capsys, "eval", "runs/tiny_test_net-digits-1")
    assert re.search(r"^test accuracy +0\.\d{4}$", out, re.MULTILINE)


def test_settings_reach_model_task_method_and_training(capsys, here):
    options = ["--epochs", "1", "--batch-size", "100", "--lr", "0.01", "--seed", "7", "--method", "bptt"]
    settings = ["width=4", "task.size=[6,6]", "train.clip_norm=null"]
    code, _, err = run(capsys, *TRAIN, "--out", "a", *options, *(f"--set={text}" for text in settings))
    assert (code, err) == (0, "")
    flat = RunFolder("a").recipe().flat()
    wanted = {"model.width": 4, "task.size": [6, 6], "train.clip_norm": None, "train.seed": 7}
    wanted |= {"train.epochs": 1, "train.batch_size": 100, "train.lr": 0.01, "train.max_steps": 2}
    assert {key: flat[key] for key in wanted} == wanted


def test_resume_knows_model_and_task(capsys, here):
    code, out, _ = run(capsys, *TRAIN, "--out", "a", "--json")
    (here / "a" / "metrics.json").unlink()
    assert run(capsys, "train", "--resume", "--out", "a", "--json") == (0, out, "")
    code, _, err = run(capsys, "train", "--resume", "--out", "a", "--epochs", "3")
    assert (code, err) == (
        2,
        "error: a run goes on only as it was begun; changed: train.epochs (was 30, now 3)\n",
    )


def test_an_image_folder_with_a_broken_image(capsys, here):
    data = image_folder(here / "data", images=12)
    (data / "class0" / "5.png").write_bytes(b"")
    arguments = ["train", "--task", "image-classification", "--data", "data", "--model", "tiny_test_net"]
    arguments += ["--out", "a", "--set", "train.max_steps=1", "--batch-size", "4"]
    code, _, err = run(capsys, *arguments)
    assert code == 2 and re.fullmatch(r"error: data/class0/5.png .*\n", err)
    code, out, err = run(capsys, *arguments, "--skip-broken", "--json")
    assert (code, err) == (0, "left out 1 broken image\n")
    assert json.loads(out)["run"] == "a"
    # The run's data may have moved.
    data.rename(here / "moved")
    code, _, err = run(capsys, "eval", "a")
    assert (code, err.splitlines()[-1][:7]) == (2, "error: ") and "data" in err
    assert run(capsys, "eval", "a", "--data", "moved", "--json")[0] == 0
    code, _, err = run(capsys, "eval", "a", "--data", "digits")
    assert (code, err) == (2, "error: the model has num_classes=2, the data need num_classes=10\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--nope"], "No such option: --nope"),
        (["train", "--epochs", "many"], "Invalid value for '--epochs'"),
        (["trian"], "No such command 'trian'"),
        (["eval"], "Missing argument"),
        (["train"], "a new run needs a task"),
        (["train", "--task", "digits"], "a new run needs a model"),
        (["train", "--resume"], "resume needs the folder of the run"),
        (["train", "--resume", "--out", "nowhere"], "nowhere holds no run"),
        ([*TRAIN, "--set", "width"], "expected key=value, got 'width'"),
        ([*TRAIN, "--set", "widht=3"], "did you mean width"),
        ([*TRAIN, "--set", "train.lrr=3"], "did you mean lr"),
        ([*TRAIN, "--set", "task.siz=3"], "did you mean size"),
        ([*TRAIN, "--set", "method.k=3"], "unknown key of method bptt 'k'"),
        ([*TRAIN, "--set", "model.width=3"], "unknown TinyConfig key 'model'"),
        ([*TRAIN, "--lr", "-1"], "lr must be positive, got -1.0"),
        (
            [*TRAIN, "--lr", "1", "--set", "train.lr=1"],
            "--lr and --set train.lr say the same thing; give one",
        ),
        ([*TRAIN, "--data", "nowhere"], "nowhere"),
        ([*TRAIN, "--device", "tpu"], "device must be one of"),
        (["eval", "nowhere"], "nowhere holds no run"),
        (["eval", "nowhere", "--set", "width=1"], "unknown setting 'width'; did you mean task.width?"),
    ],
    ids=str,
)
def test_mistakes_are_told_in_one_line(capsys, here, arguments, message):
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and err.count("\n") == 1
    assert message in err
    assert not list(here.iterdir())


def test_an_output_folder_that_holds_a_run(capsys, here):
    assert run(capsys, *TRAIN, "--out", "a")[0] == 0
    before = (here / "a" / "config.json").read_bytes()
    code, _, err = run(capsys, *TRAIN, "--out", "a", "--seed", "3")
    assert code == 2 and "a already holds a run; --resume goes on with it" in err
    assert (here / "a" / "config.json").read_bytes() == before
    assert run(capsys, *TRAIN, "--out", "a", "--seed", "3", "--overwrite")[0] == 0


def test_a_newer_config(capsys, here):
    (here / "a").mkdir()
    (here / "a" / "config.json").write_text('{"format": 2}')
    code, _, err = run(capsys, "train", "--resume", "--out", "a")
    assert code == 2 and "is of format 2 and this version of neuromix reads up to 1; update neuromix" in err
    assert run(capsys, "eval", "a")[0] == 2


@pytest.mark.parametrize("command", ["train", "eval"])
def test_help_is_quick_and_has_an_example(command):
    arguments = [sys.executable, "-X", "importtime", "-m", "neuromix", command, "--help"]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert f"  neuromix {command} " in done.stdout
    assert "torch" not in done.stderr


def test_ctrl_c_saves_and_says_how_to_go_on(here):
    command = [sys.executable, "-m", "neuromix", "train", "--task", "digits", "--model", "poolformer_nano"]
    process = subprocess.Popen(
        [*command, "--out", "a", "--epochs", "500"], stderr=subprocess.PIPE, text=True, cwd=here
    )
    while not (here / "a" / "metrics.jsonl").exists():  # it trains
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    told = r"stopped in epoch \d+; go on with: neuromix train --resume --out a"
    assert re.fullmatch(told, err.splitlines()[-1])
    assert (here / "a" / "last.safetensors").exists()


@pytest.mark.slow
def test_torchrun(here):
    """Two processes on the CPU; one of them prints."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m"]
    command += ["neuromix", "train", "--task", "digits", "--model", "poolformer_nano", "--out", "a", "--json"]
    done = subprocess.run(
        [*command, "--epochs", "1", "--set", "train.max_steps=3"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        cwd=here,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["run"] == "a"
    assert json.loads((here / "a" / "environment.json").read_text())["processes"] == 2
