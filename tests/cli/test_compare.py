"""neuromix compare: what it takes, prints and writes; the jobs only pretend."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import sys

import pytest

from neuromix.cli import main
from neuromix.compare import api
from neuromix.compare.process import Outcome
from tests.compare.fake import ANALOG, TINY, FakePool, a_result

ARGUMENTS = ["compare", "--task", "digits", "--models", f"{TINY},{ANALOG}", "--out", "report"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def results(monkeypatch):
    """What the jobs find, by model: samples right with seed 0, to which the seed is added; or an Outcome."""
    found = {TINY: 60, ANALOG: 90}

    def result(job):
        right = found[job.model.name]
        return right if isinstance(right, Outcome) else a_result(right + job.seed)

    monkeypatch.setattr(api, "LocalPool", lambda out: FakePool(out, result))
    return found


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main(arguments)
    output = capsys.readouterr()
    return code, output.out, output.err


def test_it_prints_a_table_and_differences_and_writes_a_page(capsys, here, results):
    code, out, err = run(capsys, *ARGUMENTS)
    assert code == 0
    rows = {line.split()[0]: " ".join(line.split()) for line in out.splitlines() if "±" in line}
    assert rows[TINY].startswith(f"{TINY} 2 3/3 61.0 % ± 1.0 % 1.00 µJ")
    assert rows[ANALOG].startswith(f"{ANALOG} 1 3/3 91.0 % ± 1.0 % 1.00 µJ")
    assert re.search(
        rf"^{ANALOG} is better than {TINY}: accuracy differs by 0\.3000, p \S+ over seeds, p \S+ over samples$",
        out,
        re.MULTILINE,
    )
    assert out.endswith("page  report/index.html\n")
    lines = err.splitlines()
    assert lines[0] == f"{TINY}, seed 0: training"
    assert lines[1] == f"{TINY}, seed 0: test accuracy 0.6000 after 3 epochs"
    assert lines[-1] == "timing 6 runs, one after the other"
    assert ANALOG in (here / "report" / "index.html").read_text()
    code, _, err = run(capsys, *ARGUMENTS)
    assert (code, err) == (0, "6 of 6 runs are trained already\n")


def test_json_is_the_record(capsys, here, results):
    code, out, _ = run(
        capsys, *ARGUMENTS, "--json", "--seeds", "0,7", "--budget", "epochs=3", "--train", "lr=0.01"
    )
    record = json.loads(out)
    assert code == 0
    assert record == json.loads((here / "report" / "comparison.json").read_text())
    assert record["page"] == "index.html"
    assert [run["seed"] for run in record["models"][0]["runs"]] == [0, 7]
    assert record["models"][0]["rank"] == record["models"][1]["rank"] + 1
    assert shlex.split(record["command"]) == [
        *("neuromix", "compare", "--task", "digits", "--models", f"{TINY},{ANALOG}", "--budget", "epochs=3"),
        *("--seeds", "0,7", "--train", "lr=0.01", "--out", "report"),
    ]
    # What the record says can be pasted, and finds everything done.
    code, out, err = run(capsys, *shlex.split(record["command"])[1:], "--json")
    assert (code, err) == (0, "4 of 4 runs are trained already\n")
    assert json.loads(out) == record


def test_nothing_is_called_better_that_may_be_chance(capsys, here, results):
    results[TINY] = 89
    code, out, _ = run(capsys, *ARGUMENTS)
    assert code == 0
    assert f"{TINY} and {ANALOG} are not told apart: accuracy differs by 0.0100, p " in out
    code, out, _ = run(capsys, *ARGUMENTS[:-1], "one", "--seeds", "1")
    assert "not tested over seeds" in out


def test_settings_reach_models_task_and_training(capsys, here, results):
    options = [
        "--set",
        f"{TINY}.width=4",
        "--set",
        "task.label_smoothing=0.2",
        "--train",
        "ema=0.5",
        "--seeds",
        "1",
    ]
    code, out, _ = run(capsys, *ARGUMENTS, *options, "--json")
    record = json.loads(out)
    assert code == 0
    assert [model["config"] for model in record["models"]] == [{"width": 4}, {}]
    command = record["models"][0]["runs"][0]["command"]
    assert "--set width=4 --set task.label_smoothing=0.2 " in command
    job = json.loads((here / "report" / record["models"][0]["runs"][0]["folder"] / "job.json").read_text())
    assert job["recipe"]["task"][1]["label_smoothing"] == 0.2
    assert job["recipe"]["train"]["ema"] == 0.5
    assert "--set task.label_smoothing=0.2" in record["command"]


def test_a_failure_is_told_and_the_rest_counts(capsys, here, results):
    results[TINY] = Outcome("failed", "out of luck")
    code, out, err = run(capsys, *ARGUMENTS, "--seeds", "1")
    assert code == 0
    assert f"{TINY}, seed 0: failed: out of luck\n" in err
    assert " ".join(out.split("\n")[3].split()).startswith(f"{TINY} – 0/1 –")
    assert (here / "report" / "index.html").exists()


def test_all_failed(capsys, here, results):
    results[TINY] = results[ANALOG] = Outcome("failed", "out of luck")
    code, out, err = run(capsys, *ARGUMENTS, "--seeds", "1", "--json")
    assert code == 2
    assert err.endswith("error: every run failed\n")
    assert json.loads(out)["page"] is None
    assert not (here / "report" / "index.html").exists()


def test_over_the_energy_budget(capsys, here, results):
    code, out, _ = run(capsys, *ARGUMENTS, "--seeds", "2", "--budget", "joules-per-inference=5e-7")
    assert code == 0
    assert out.count(" over budget ") == 2


def test_without_the_extra_report(capsys, here, results, monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    code, out, err = run(capsys, *ARGUMENTS, "--seeds", "1")
    assert code == 0
    assert (
        'no page was written: the HTML report needs an extra that is not installed: pip install "neuromix[report]"'
        in err
    )
    assert out.endswith("record  report/comparison.json\n")
    assert json.loads((here / "report" / "comparison.json").read_text())["page"] is None


@pytest.mark.parametrize("options", [["--workers", "2"], ["--address", "auto"]])
def test_without_the_extra_sweep(capsys, here, monkeypatch, options):
    monkeypatch.setitem(sys.modules, "ray", None)
    code, out, err = run(capsys, *ARGUMENTS, *options)
    assert (code, out) == (2, "")
    assert err.endswith('needs an extra that is not installed: pip install "neuromix[sweep]"\n')
    assert not list(here.iterdir())


def test_ctrl_c(capsys, here, results, monkeypatch):
    class Stop(FakePool):
        def ended(self, seconds):
            os.kill(os.getpid(), signal.SIGINT)
            return super().ended(seconds)

    monkeypatch.setattr(api, "LocalPool", Stop)
    code, out, err = run(capsys, *ARGUMENTS)
    assert (code, out) == (130, "")
    assert err.endswith("stopped; the same command goes on where it was\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare"], "a comparison needs --task"),
        (["compare", "--task", "digits"], "a comparison needs --models A,B,..."),
        (["compare", "--task", "digits", "--models", ","], "at least one model"),
        (["compare", "--task", "digit", "--models", TINY], "unknown task 'digit'; did you mean digits"),
        (["compare", "--task", "digits", "--models", f"{TINY},{TINY}"], f"{TINY} comes twice"),
        (["compare", "--task", "digits", "--models", "poolfromer_nano"], "did you mean poolformer_nano"),
        (["compare", "--task", "digits", "--models", "tiny_text_net"], "is made for language"),
        ([*ARGUMENTS, "--data", "nowhere"], "nowhere"),
        ([*ARGUMENTS, "--budget", "epoch=3"], "unknown budget 'epoch'; did you mean epochs?"),
        ([*ARGUMENTS, "--budget", "epochs=3", "--budget", "minutes=3"], "give one of them"),
        ([*ARGUMENTS, "--seeds", "0"], "at least one seed"),
        ([*ARGUMENTS, "--workers", "0"], "workers is 1 or more, got 0"),
        ([*ARGUMENTS, "--train", "epochs=3"], "train.epochs is said by --budget epochs=N"),
        ([*ARGUMENTS, "--train", "lrr=3"], "unknown TrainConfig key 'lrr'; did you mean lr"),
        ([*ARGUMENTS, "--set", "width=3"], f"one of the models, or task, as in {TINY}.width"),
        ([*ARGUMENTS, "--set", f"{TINY}.widht=3"], "did you mean width"),
        ([*ARGUMENTS, "--set", f"{TINY}.in_channels=3"], f"{TINY} cannot be trained on these data"),
        ([*ARGUMENTS, "--set", "task.siz=3"], "did you mean size"),
    ],
    ids=str,
)
def test_mistakes_are_told_in_one_line(capsys, here, arguments, message):
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and err.count("\n") == 1
    assert message in err
    assert not list(here.iterdir())


def test_an_output_folder_that_cannot_be_used(capsys, here, results):
    (here / "report").touch()
    code, _, err = run(capsys, *ARGUMENTS)
    assert (code, err) == (2, f"error: {here}/report is a file; a comparison needs a folder\n")
    (here / "report").unlink()
    assert run(capsys, *ARGUMENTS, "--seeds", "1")[0] == 0
    code, _, err = run(capsys, *ARGUMENTS, "--seeds", "1", "--train", "lr=0.1")
    assert (
        code == 2 and "train.lr (was 0.005, now 0.1); --overwrite replaces it, or give another --out" in err
    )
    assert run(capsys, *ARGUMENTS, "--seeds", "1", "--train", "lr=0.1", "--overwrite")[0] == 0
