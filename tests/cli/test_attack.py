"""neuromix attack: figures for people and as JSON, and mistakes in one line."""

from __future__ import annotations

import json

import pytest

from neuromix.training.api import train

NET = {"blocks": (1,), "widths": (4,), "time_steps": 2}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two steps of training on digits and on binary frames of events; and an analog net."""
    folder = tmp_path_factory.mktemp("runs")
    quick = {"epochs": 1, "max_steps": 2, "threads": 1}
    train("pdsg_resnet", "digits", folder / "a", model_config=NET, **quick)
    frames = {"representation": ["count", {"frames": 2, "most": 1}], "size": 8}
    train("pdsg_resnet", "digits-dvs", folder / "b", model_config=NET, task_config=frames, **quick)
    train("poolformer_nano", "digits", folder / "analog", **quick)
    return folder


@pytest.fixture
def here(runs, tmp_path, monkeypatch):
    """A working folder in which these are runs/NAME."""
    (tmp_path / "runs").symlink_to(runs)
    monkeypatch.chdir(tmp_path)
    return tmp_path


COUNTS = "--set task.representation.most=null"  # event frames as they are before they are made binary
FAST = "--attack pgd --eps 16/255 --set steps=2 --samples 30"


def test_figures_for_people(run, here):
    code, out, err = run(f"attack runs/a {FAST}")
    assert (code, err) == (0, "")
    lines = [line.split("  ")[0] for line in out.splitlines()]
    assert lines[:5] == ["attack", "samples", "attacked", "accuracy", "accuracy under attack"]
    assert "pgd, surrogate pdsg, coding direct" in out


def test_figures_as_json(run_json, here):
    found = run_json(f"attack runs/a {FAST}")
    assert (found["run"], found["split"], found["seed"]) == ("runs/a", "test", 0)
    assert (found["attack"], found["eps"], found["steps"]) == ("pgd", 16 / 255, 2)
    assert found["samples"] == 30 and found["successes"] <= found["attacked"] <= 30
    assert found["scores"]["accuracy"] == pytest.approx(found["adversarial_accuracy"], abs=1e-6)
    assert run_json(f"attack runs/a {FAST}") == found
    assert run_json(f"attack runs/a {FAST} --seed 3") != found


def test_figures_into_a_file(run, here):
    code, out, err = run("attack runs/b --attack sda --samples 6 --set iterations=2 --json deep/sda.json")
    assert (code, err) == (0, "written: deep/sda.json\n") and "sda" in out
    found = json.loads((here / "deep" / "sda.json").read_text(encoding="utf-8"))
    assert (found["attack"], found["coding"], found["iterations"]) == ("sda", "binary", 2)


def test_counts_are_attacked_as_they_are_or_made_binary(run_json, here):
    assert run_json(f"attack runs/b {COUNTS} --attack fgsm --eps 2 --samples 10")["coding"] == "integer"
    line = f"attack runs/b {COUNTS} --attack sda --samples 4 --coding binary --set iterations=1"
    assert run_json(line)["coding"] == "binary"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("attack runs/none", "runs/none holds no run"),
        ("attack runs/a --attack fgms", "unknown attack 'fgms'; did you mean fgsm"),
        ("attack runs/a --attack pgd --eps 8", "eps is above 0 and at most 1 for values in [0, 1], got 8"),
        ("attack runs/a --eps -0.1", "eps must be positive"),
        ("attack runs/a --eps 8/0", "--eps is a number such as 0.03 or 8/255, got '8/0'"),
        ("attack runs/a --attack sda --eps 0.1", "unknown SDA key 'eps'"),
        ("attack runs/a --set step_size=1", "did you mean step"),
        ("attack runs/a --surrogate pdgs", "unknown surrogate 'pdgs'; did you mean pdsg"),
        ("attack runs/a --coding rate", "unknown coding 'rate'"),
        ("attack runs/a --attack sda", "sda flips pixels that are 0 or 1"),
        (f"attack runs/b {COUNTS} --attack sda --samples 5", "take the coding binary"),
        ("attack runs/analog --attack fgsm", "has no spiking neuron whose surrogate could be swapped"),
        ("attack runs/a --samples 0", "Invalid value for '--samples'"),
        ("attack runs/a out.json", "out.json is where --json would write"),
        ("attack runs/a --data nowhere", "nowhere"),
    ],
)
def test_mistakes_are_told_in_one_line(run, here, line, message):
    code, out, err = run(line)
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and message in err and err.count("\n") == 1
    assert [path.name for path in here.iterdir()] == ["runs"]


def test_an_analog_net_is_attacked_with_its_own_gradient(run, here):
    assert run("attack runs/analog --attack fgsm --surrogate keep --samples 20")[0] == 0


def test_a_surrogate_without_gradient_is_no_robustness(run, here, monkeypatch):
    from neuromix.neurons.surrogate import Rectangle

    monkeypatch.setattr(Rectangle, "validate", lambda self: None)
    monkeypatch.setattr(Rectangle, "derivative", lambda self, u: 0 * u)
    monkeypatch.setattr(Rectangle, "fused", lambda self: None)
    code, out, err = run("attack runs/a --attack fgsm --surrogate rectangle")
    assert (code, out) == (2, "") and "the gradient of the input is zero everywhere" in err
