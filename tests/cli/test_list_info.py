"""neuromix list and info."""

from __future__ import annotations

import pytest

import neuromix
from neuromix.cli import info
from neuromix.cli import list as list_command
from neuromix.core import registry


def test_list(run, run_json):
    models = {model["name"]: model for model in run_json("list")["models"]}
    assert list(models) == neuromix.list_models()
    assert models["meta_spikeformer_15m"] == {
        "name": "meta_spikeformer_15m",
        "family": "spiking",
        "tasks": ["image-classification", "event-classification"],
        "year": 2024,
        "parameters": 15_112_208,
    }
    code, out, _ = run("list")
    assert code == 0
    assert all(name in out for name in models)


def test_list_filters(run, run_json):
    spiking = [model["name"] for model in run_json("list --family spiking")["models"]]
    assert spiking == neuromix.list_models(family="spiking")
    images = [model["name"] for model in run_json("list --task image-classification")["models"]]
    assert images == neuromix.list_models(task="image-classification")
    code, out, err = run("list --task image-clasification")
    assert (code, out) == (2, "")
    assert err.startswith("error: unknown task 'image-clasification'; did you mean image-classification")
    assert err.count("\n") == 1
    assert run("list --family spikes")[2].startswith("error: unknown family 'spikes'")


PUBLISHED = sorted(name for entry in registry.entries("model").values() for name in entry.published)


@pytest.mark.parametrize("name", PUBLISHED)
def test_info_gives_the_published_number_of_parameters(run_json, name):
    about = run_json(f"info {name}")
    assert about["parameters"] == about["published"]["parameters"]
    entry, config = registry.find("model", name)
    assert entry.config.from_dict(about["config"]) == config
    assert about["provenance"] == entry.provenance
    assert about["paper"]["year"] == entry.paper.year


def test_info_with_settings(run, run_json):
    about = run_json("info poolformer_s12 --set num_classes=10 --set drop_path=0.2")
    assert about["parameters"] == 11_407_306
    assert (about["config"]["num_classes"], about["config"]["drop_path"]) == (10, 0.2)
    code, out, _ = run("info meta_spikeformer_15m")
    assert code == 0
    assert "15,112,208" in out and "Spike-driven Transformer V2" in out and "time_steps" in out


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("info poolfromer_s12", "unknown model 'poolfromer_s12'; did you mean poolformer_s"),
        ("info poolformer_s12 --set depth=1", "did you mean depths"),
        ("info poolformer_s12 --set depths", "expected key=value, got 'depths'"),
        ("info meta_spikeformer_nano --set time_steps=0", "time_steps must be positive, got 0"),
    ],
)
def test_bad_input_is_one_line(run, line, error):
    code, out, err = run(line)
    *_, last = err.splitlines()
    assert (code, out) == (2, "")
    assert last.startswith("error: ")
    assert error in last


@pytest.mark.parametrize("module", [list_command, info], ids=["list", "info"])
def test_the_examples_of_the_help_work(run, module):
    name = module.__name__.rpartition(".")[2]
    examples = [
        line.strip() for line in module.command.__doc__.splitlines() if line.strip().startswith("neuromix ")
    ]
    assert examples
    code, out, _ = run(f"{name} --help")
    assert code == 0
    for example in examples:
        assert example in out
        assert run(example.removeprefix("neuromix "))[0] == 0
