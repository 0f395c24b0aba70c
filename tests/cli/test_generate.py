"""neuromix generate, and eval on another text."""

from __future__ import annotations

import json
import shlex

import pytest

from neuromix.cli import main

TEXT = "the cat sat on the mat and the rat sat too. "
TINY = """--set dim=16 --set layers=1 --set 'attention=["attention",{"heads":2,"rotary":8}]' --set train.max_steps=2"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run of characters and one of recall, whose text is gone."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEUROMIX_CACHE", str(folder / "cache"))
        file = folder / "text.txt"
        file.write_text(TEXT * 30)
        text = f"--task language-modelling --data {file} --set task.length=16 --set task.tokeniser=characters"
        recall = "--task induction-heads --set task.samples=32 --set task.held_out=8"
        for name, task in (("text", text), ("recall", recall)):
            assert (
                main(
                    shlex.split(f"train {task} --model transformer_nano {TINY} --out {folder / name} --json")
                )
                == 0
            )
        file.unlink()
        yield folder


def test_json_is_one_object(runs, run_json):
    found = run_json(f"generate {runs}/text --prompt 'the cat' --max-tokens 12 --seed 3")
    assert found["prompt"] == "the cat" and len(found["text"]) == len(found["tokens"]) == 12
    assert all(log <= 0 for log in found["log_probabilities"]) and found["tokens_per_second"] > 0
    assert set(found["text"]) <= {*TEXT, "\ufffd"} and found["seed"] == 3


def test_a_stream_prints_what_is_printed_at_once(runs, run):
    line = f"generate {runs}/text --prompt 'the cat' --max-tokens 30 --temperature 0.7 --top-k 9 --top-p 0.9"
    code, out, err = run(line)
    assert code == 0 and not err and out.startswith("the cat") and len(out) == 7 + 30 + 1
    assert run(f"{line} --stream")[1] == out
    assert run(f"{line} --seed 1")[1] != out


def test_temperature_0_has_no_chance(runs, run):
    line = f"generate {runs}/text --prompt t --max-tokens 9 --temperature 0"
    assert run(line)[1] == run(f"{line} --seed 5")[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--prompt ''", "the prompt is empty"),
        ("--prompt 'the dög'", "character 'ö' of the prompt, at position 5"),
        ("--prompt t --max-tokens 0", "max_tokens is 1 or more"),
        ("--prompt t --temperature -1", "temperature is 0 or more"),
        ("--prompt t --top-k 0", "top_k is 1 or more"),
        ("--prompt t --top-p 2", "top_p is above 0"),
        ("--prompt t --stream --json", "give one"),
        ("", "--prompt"),
    ],
)
def test_what_is_wrong_is_told_in_a_line(runs, run, options, message):
    code, out, err = run(f"generate {runs}/text {options}")
    assert code == 2 and not out and err.count("\n") == 1 and message in err


def test_runs_without_text_are_refused(runs, run):
    code, _, err = run(f"generate {runs}/recall --prompt x")
    assert code == 2 and "was trained on induction-heads" in err
    code, _, err = run(f"generate {runs}/none --prompt x")
    assert code == 2 and "holds no run" in err


def test_a_prompt_that_does_not_fit_is_told(runs, run, monkeypatch):
    from neuromix.models.language.transformer import TransformerConfig

    monkeypatch.setattr(TransformerConfig, "max_length", 10, raising=False)
    code, _, err = run(f"generate {runs}/text --prompt 'the cat' --max-tokens 9")
    assert code == 2 and "holds 10 tokens; at most 4 new tokens go with it" in err
    code, _, err = run(f"generate {runs}/text --prompt '{TEXT}' --max-tokens 9")
    assert code == 2 and "give a shorter one" in err


def test_another_text_is_scored(runs, run, run_json, tmp_path, monkeypatch):
    monkeypatch.setenv("NEUROMIX_CACHE", str(tmp_path / "cache"))
    (tmp_path / "other.txt").write_text("the rat sat on the cat" * 9 + "!")
    line = f"eval {runs}/text --data {tmp_path}/other.txt --set task.test=1 --set task.validation=0"
    code, out, err = run(f"{line} --json")
    scores = json.loads(out)["test"]
    assert code == 0 and "1 of 199 tokens" in err
    assert scores["bits_per_byte"] == pytest.approx(scores["bits_per_token"])
    assert set(scores) == {"perplexity", "bits_per_byte", "bits_per_token", "accuracy"}
    code, _, err = run(f"eval {runs}/text")
    assert code == 2 and "no text at" in err
