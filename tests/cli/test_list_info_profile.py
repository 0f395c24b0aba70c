"""neuromix list, info and profile."""

from __future__ import annotations

import json
import shlex

import pytest

import neuromix
from neuromix.cli import info, main, profile
from neuromix.cli import list as list_command
from neuromix.core import registry


@pytest.fixture
def run(capsys):
    """Runs a command line; gives exit code, standard output and standard error."""

    def run(line):
        capsys.readouterr()
        code = main(shlex.split(line))
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture
def run_json(run):
    def run_json(line):
        code, out, err = run(f"{line} --json")
        assert code == 0, err
        return json.loads(out)

    return run_json


def test_list(run, run_json):
    models = {model["name"]: model for model in run_json("list")["models"]}
    assert list(models) == neuromix.list_models()
    assert models["meta_spikeformer_15m"] == {
        "name": "meta_spikeformer_15m",
        "family": "spiking",
        "tasks": ["image-classification"],
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
    assert err == "error: unknown task 'image-clasification'; did you mean image-classification?\n"
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


def test_profile_json(run_json):
    seen = run_json("profile meta_spikeformer_nano --batch 2 --time-steps 2")
    assert seen["model"] == "meta_spikeformer_nano"
    assert seen["macs_dense"] == sum(layer["macs_dense"] for layer in seen["layers"])
    assert seen["energy"].keys() == {"45nm"}
    assert 0 <= seen["firing_rate"] <= 1
    assert seen["counting"]["additions"] == "counted"
    assert seen["input"] == {"random": True, "seed": 0, "shapes": {"image": [2, 1, 8, 8]}}
    assert seen["neurons"] and not seen["not_counted"]


def test_profile_is_the_same_each_time(run_json):
    line = "profile meta_spikeformer_nano --input 1,16,16 --counting paper"
    once = run_json(line)
    assert run_json(line) == once
    assert run_json(f"{line} --seed 1")["operations"] != once["operations"]


def test_profile_table(run):
    code, out, err = run("profile poolformer_nano --set depths=[1,1,1]")
    assert code == 0
    assert "stages.0" in out and "energy, 45nm" in out and "exact: additions counted" in out
    assert "input: random" in err and "untrained" in err


def test_profile_of_a_checkpoint_and_a_run(run_json, run, tmp_path):
    model = neuromix.create_model("meta_spikeformer_nano", time_steps=1)
    folder = tmp_path / "a"
    neuromix.save_checkpoint(model, folder / "best.safetensors")
    by_file, by_run = (
        run_json(f"profile {path} --input 1,8,8") for path in (folder / "best.safetensors", folder)
    )
    assert by_file == by_run
    assert "untrained" not in run(f"profile {folder} --json")[2]
    longer = run_json(f"profile {folder} --input 1,8,8 --time-steps 4")
    # All but the static stem, a convolution of 3*3*1*8 weights on 8x8 places, runs four times.
    assert longer["macs_dense"] == 4 * by_run["macs_dense"] - 3 * 9 * 8 * 64


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("info poolfromer_s12", "unknown model 'poolfromer_s12'; did you mean poolformer_s"),
        ("info poolformer_s12 --set depth=1", "did you mean depths"),
        ("info poolformer_s12 --set depths", "expected key=value, got 'depths'"),
        ("info meta_spikeformer_nano --set time_steps=0", "time_steps must be positive, got 0"),
        ("profile meta_spikeformer_nano --time-steps 0", "time_steps must be positive, got 0"),
        ("profile poolformer_nano --time-steps 2", "unknown MetaFormerConfig key 'time_steps'"),
        ("profile nosuch", "unknown model 'nosuch'"),
        ("profile runs/nosuch", "no run folder or weights file at runs/nosuch"),
        ("profile poolformer_nano --counting papers", "unknown counting rule 'papers'; did you mean paper?"),
        ("profile poolformer_nano --input 3,x,8", "--input gives whole numbers with commas"),
        ("profile poolformer_nano --input 8,8", "--input gives whole numbers with commas"),
        ("profile poolformer_nano --input 1,-8,8", "--input gives whole numbers with commas"),
        ("profile meta_spikeformer_nano --input 1,7,8", "multiples of 4"),
        ("profile meta_spikeformer_nano --input 2,8,8", "got torch.float32"),
        ("profile poolformer_nano --batch 0", "--batch"),
    ],
)
def test_bad_input_is_one_line(run, line, error):
    code, out, err = run(line)
    *_, last = err.splitlines()
    assert (code, out) == (2, "")
    assert last.startswith("error: ")
    assert error in last


def test_damaged_checkpoint(run, tmp_path):
    file = tmp_path / "a.safetensors"
    file.write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{}")
    code, _, err = run(f"profile {file}")
    assert code == 2
    assert "is damaged" in err.splitlines()[-1]
    (tmp_path / "empty").mkdir()
    assert run(f"profile {tmp_path / 'empty'}")[0] == 2


@pytest.mark.parametrize("module", [list_command, info, profile], ids=["list", "info", "profile"])
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
        if "224" not in example:  # the large ones are tests of their own
            assert run(example.removeprefix("neuromix "))[0] == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "gmacs"),
    [
        ("profile meta_spikeformer_15m --input 3,224,224 --time-steps 1", 6.473),
        ("profile poolformer_s12 --input 3,224,224", 1.8123),
    ],
)
def test_published_macs(run_json, line, gmacs):
    assert run_json(line)["macs_dense"] / 1e9 == pytest.approx(gmacs, rel=0.005)
