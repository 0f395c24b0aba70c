"""neuromix profile: what it is of, what it is measured on, and what it prints."""

from __future__ import annotations

import json
import sys
import textwrap

import pytest
import torch

import neuromix
from neuromix.cli import profile
from neuromix.measure import energy_models
from neuromix.training.recipe import Request, new_recipe
from neuromix.training.run_folder import RunFolder

# A smaller one yet.
TINY = {"dims": (4, 4, 8, 8), "conv_depths": (1, 1, 1), "depths": (1, 1), "mlp_ratio": 2, "time_steps": 2}
SET = "--set dims=[4,4,8,8] --set conv_depths=[1,1,1] --set depths=[1,1] --set mlp_ratio=2"


@pytest.fixture(scope="module")
def a_run(tmp_path_factory):
    """The folder of a run on the digits, as training leaves it."""
    path = tmp_path_factory.mktemp("runs") / "a"
    recipe, _ = new_recipe(Request("meta_spikeformer_nano", "digits", model_config=TINY))
    torch.manual_seed(0)
    folder = RunFolder.create(path, recipe, {})
    folder.save("best.safetensors", neuromix.create_model("meta_spikeformer_nano", **TINY))
    return path


NETS = '''
import torch
from torch import nn

print("this goes to standard error")
number = 3

class Net(nn.Module):
    def __init__(self, channels=1):
        super().__init__()
        self.conv = nn.Conv2d(channels, 4, 3)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        print("and this")
        return self.head(self.conv(x).mean((-2, -1)))

class Steps(Net):
    """Takes all time steps at once."""
    def forward(self, x_TB):
        return torch.stack([super(Steps, self).forward(x) for x in x_TB]).sum(0)

class Broken(Net):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(5, 2)

class Demanding(nn.Module):
    def __init__(self, width, depth):
        super().__init__()

def wide(channels=3):
    return Net(channels)

def nothing():
    return None

def failing():
    raise ValueError("no such\\nweights")

made = Net()
class shelf:
    net = Net()
'''


FAILS = NETS.splitlines().index('    raise ValueError("no such\\nweights")') + 1


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A current folder whose modules may be imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    for name, module in list(sys.modules.items()):  # only ours: others must not be imported a second time
        if str(tmp_path) in str(getattr(module, "__file__", "")):
            del sys.modules[name]


@pytest.fixture
def nets(here, tmp_path):
    """A current folder with modules that may be imported."""
    (tmp_path / "nets_of_mine.py").write_text(NETS)
    (tmp_path / "broken_module.py").write_text("import nets_of_mine\n\nraise RuntimeError('a\\nreason')\n")
    (tmp_path / "needs_more.py").write_text("import no_such_package.part\n")
    (tmp_path / "no_syntax.py").write_text("def (\n")
    (tmp_path / "leaves.py").write_text("import sys\nsys.exit(7)\n")


# What is profiled ---------------------------------------------------------------------------------------------------


def test_a_model_by_name(run_json):
    seen = run_json(f"profile meta_spikeformer_nano {SET} --batch 2 --time-steps 2")
    assert seen["model"] == "meta_spikeformer_nano"
    assert seen["macs_dense"] == sum(layer["macs_dense"] for layer in seen["layers"])
    assert 0 <= seen["firing_rate"] <= 1
    assert seen["counting"]["additions"] == "counted"
    assert seen["input"] == {
        "random": True, "source": "random", "seed": 0, "shapes": {"image": [2, 1, 8, 8]}
    }  # fmt: skip
    assert seen["neurons"] and not seen["not_counted"]
    assert seen["published"] == {}
    assert seen["latency"] is seen["throughput"] is seen["memory"] is None


def test_it_is_the_same_each_time(run_json):
    line = f"profile meta_spikeformer_nano {SET} --input 1,16,16 --counting paper"
    once = run_json(line)
    assert run_json(line) == once
    assert run_json(f"{line} --seed 1")["operations"] != once["operations"]


def test_a_run_is_measured_on_its_test_samples(run, run_json, a_run):
    seen = run_json(f"profile {a_run}")
    assert seen["input"] == {
        "random": False, "source": "digits", "seed": 0, "shapes": {"image": [16, 1, 8, 8]}
    }  # fmt: skip
    _, _, err = run(f"profile {a_run} --batch 3 --layers 0")
    assert err == "input: test samples of digits, image [3, 1, 8, 8]\n"
    recipe = RunFolder(a_run).recipe()
    task = neuromix.core.registry.build("task", recipe.task)
    data = task.data("test")
    generator = torch.Generator()
    batch = task.collate([data.sample(i * len(data) // 3, generator) for i in range(3)])
    net = neuromix.load_checkpoint(a_run / "best.safetensors")
    expected = neuromix.profile(net, batch)
    assert run_json(f"profile {a_run} --batch 3")["firing_rate"] == expected.firing_rate


def test_a_run_on_random_input_where_it_is_asked_for_or_has_no_data(run_json, run, a_run, tmp_path):
    asked = run_json(f"profile {a_run} --input 1,8,8")
    assert asked["input"]["random"] and asked["batch_size"] == 1
    (tmp_path / "best.safetensors").write_bytes((a_run / "best.safetensors").read_bytes())
    without = run_json(f"profile {tmp_path}")
    by_file = run_json(f"profile {tmp_path / 'best.safetensors'}")
    assert without == by_file
    _, _, err = run(f"profile {tmp_path} --layers 0")
    assert "no test samples of the run" in err and "untrained" not in err
    longer = run_json(f"profile {tmp_path} --time-steps 4")
    # All but the static stem, a convolution of 3*3 weights a channel on 8x8 places, runs twice as often.
    stem = 9 * TINY["dims"][0] // 2 * 64
    assert longer["macs_dense"] - stem == 2 * (without["macs_dense"] - stem)


@pytest.mark.parametrize("target", ["made", "Net", "shelf.net"])
def test_a_network_of_the_user(nets, run, run_json, target):
    seen = run_json(f"profile nets_of_mine:{target} --input 1,5,6 --batch 2")
    assert seen["model"] == "Net"
    assert seen["macs_dense"] == 4 * 9 * 3 * 4 + 8
    assert [layer["path"] for layer in seen["layers"]] == ["conv", "head"]
    assert seen["input"]["shapes"] == {"input": [2, 1, 5, 6]}
    assert seen["published"] == {}


def test_a_function_that_makes_one(nets, run_json):
    assert run_json("profile nets_of_mine:wide --input 3,5,6")["macs_dense"] == 3 * 4 * 9 * 3 * 4 + 8


def test_what_it_prints_stays_off_standard_output(nets, run):
    code, out, err = run("profile nets_of_mine:Net --input 1,5,6 --json --latency")
    assert code == 0 and json.loads(out)["latency"]["runs"] > 0
    assert "and this" in err and "weights: as nets_of_mine:Net has them" in err


def test_a_network_with_time_steps(nets, run_json):
    once = run_json("profile nets_of_mine:Net --input 1,5,6 --batch 2")
    seen = run_json("profile nets_of_mine:Steps --input 1,5,6 --time-steps 3 --batch 2 --latency")
    assert seen["input"]["shapes"] == {"input": [3, 2, 1, 5, 6]}
    assert (seen["batch_size"], seen["macs_dense"]) == (2, 3 * once["macs_dense"])
    assert (seen["latency"]["batch_size"], seen["throughput"]["batch_size"]) == (1, 2)


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("nets_of_mine:Net", "plain torch.nn.Module, which does not say what it takes: give the shape"),
        ("nets_of_mine:Net --input 1,x", "--input gives whole numbers with commas"),
        ("nets_of_mine:Net --input 0,3,3", "--input gives whole numbers with commas"),
        ("nets_of_mine:Net --input 1,5,6 --set a=1", "--set changes the config of a registered model"),
        ("nets_of_mine:Nett --input 1,5,6", "nets_of_mine has no attribute 'Nett'; did you mean Net?"),
        ("nets_of_mine:shelf.nett --input 1", "has no attribute 'nett'; did you mean net?"),
        ("nets_of_mine:number --input 1", "nets_of_mine:number is a int, which is no network"),
        ("nets_of_mine:nothing --input 1", "nets_of_mine:nothing gives a NoneType, which is no network"),
        ("nets_of_mine:Demanding --input 1", "nets_of_mine:Demanding needs width, depth; name a class or"),
        ("nets_of_mine:failing --input 1", f"ValueError: no such weights (nets_of_mine.py, line {FAILS})"),
        ("no_nets_of_mine:Net --input 1", "no module no_nets_of_mine in "),
        ("nets_of_mine.inner:Net --input 1", "no module nets_of_mine.inner in "),
        ("broken_module:Net --input 1", "failed: RuntimeError: a reason (broken_module.py, line 3)"),
        ("needs_more:Net --input 1", "importing needs_more failed: ModuleNotFoundError: No module named"),
        ("no_syntax:Net --input 1", "importing no_syntax failed: SyntaxError"),
        ("leaves:Net --input 1", "importing leaves failed: SystemExit: 7"),
        ("nets_of_mine:Broken --input 1,5,6", "failed in head (Linear): RuntimeError"),
        ("nets_of_mine:Net --input 2,5,6", "failed in conv (Conv2d): RuntimeError"),
    ],
)
def test_a_network_of_the_user_that_cannot_be_profiled(nets, run, line, error):
    code, out, err = run(f"profile {line}")
    *_, last = err.splitlines()
    assert (code, out) == (2, "")
    assert last.startswith("error: ") and error in last


# What it prints -----------------------------------------------------------------------------------------------------


def test_tables(run):
    code, out, err = run("profile poolformer_nano --set depths=[1,1,1]")
    assert code == 0
    assert "stages.0" in out and "45nm_dram" in out and "exact: additions counted" in out
    assert "input: random" in err and "untrained" in err


def test_layers_are_sorted_and_cut(run, run_json):
    layers = run_json(f"profile meta_spikeformer_nano {SET}")["layers"]
    code, out, _ = run(f"profile meta_spikeformer_nano {SET} --sort macs_dense --layers 4")
    assert code == 0
    largest = sorted(layers, key=lambda layer: layer["macs_dense"], reverse=True)
    places = [out.index(f" {layer['path']} ") for layer in largest[:4]]
    assert places == sorted(places)
    assert f"and {len(layers) - 4} more" in out
    assert "Weights" in run("profile poolformer_nano --sort footprint --layers 1")[1]


def test_two_energy_models_or_more(run_json, run, tmp_path):
    every = run_json("profile poolformer_nano")
    assert list(every["energy_models"]) == list(energy_models())
    assert len(every["energy"]) > 2 and "loihi" not in every["energy"]
    assert all(model["source"] for model in every["energy_models"].values())
    for line, names in {
        "--energy 45nm_sram": ["45nm_sram", "45nm"],
        "--energy 45nm": ["45nm", [*energy_models()][1]],
        "--energy loihi --energy 45nm_dram": ["loihi", "45nm_dram"],
    }.items():
        assert list(run_json(f"profile poolformer_nano {line}")["energy_models"]) == names
    device = tmp_path / "device.toml"
    device.write_text('source = "measured"\n[picojoules]\nmac = 2.0\nac = 1.0\n')
    seen = run_json(f"profile poolformer_nano --energy {device}")
    assert seen["energy"]["device"] == pytest.approx(
        1e-9 * (2 * seen["operations"].get("mac32", 0) + seen["operations"].get("ac32", 0))
    )
    assert seen["energy"]["45nm"] == every["energy"]["45nm"]
    out = run(f"profile poolformer_nano --energy {device} --layers 2")[1]
    assert "Energy, device" in out and "45nm" in out


def test_published_figures_stand_beside_ours(run, run_json):
    line = "profile poolformer_s12 --input 3,32,32"
    seen = run_json(line)["published"]
    assert seen["parameters"] == {
        "published": 11_915_176, "counted": 11_915_176, "difference": 0.0, "note": ""
    }  # fmt: skip
    assert seen["gmacs"]["published"] == 1.8
    assert seen["gmacs"]["difference"] == pytest.approx(1.812267 / 1.8 - 1, abs=1e-6)
    assert seen["top1"]["counted"] is None and seen["top1"]["note"]
    out = run(f"{line} --layers 0")[1]
    assert "11,915,176" in out and "+0.68 %" in out


def test_latency(nets, run, run_json, a_run):
    seen = run_json(f"profile {a_run} --latency --threads 1 --batch 4")
    assert seen["latency"].keys() == {
        "median", "low", "high", "batch_size", "threads", "warm_up", "runs"
    }  # fmt: skip
    assert (seen["latency"]["batch_size"], seen["throughput"]["batch_size"]) == (1, 4)
    assert seen["latency"]["threads"] == 1
    assert seen["throughput"]["samples_per_second"] == pytest.approx(4 / seen["throughput"]["median"])
    memory = seen["memory"]
    assert memory["batch_size"] == 4 and not memory["training_failed"]
    assert memory["training"] > memory["forward"] > 0
    out = run("profile nets_of_mine:Net --input 1,5,6 --latency")[1]
    assert "10th to 90th percentile" in out and "peak memory, training" in out


def test_a_network_that_cannot_be_trained_has_no_training_memory(nets, run_json, tmp_path):
    (tmp_path / "frozen_net.py").write_text("from torch import nn\n\nnet = nn.Flatten()\n")
    memory = run_json("profile frozen_net:net --input 2,3 --latency")["memory"]
    assert memory["training"] is None and "nothing in it is trained" in memory["training_failed"]


def test_page(run, tmp_path, a_run):
    page = tmp_path / "a page.html"
    code, out, err = run(f"profile {a_run} --html '{page}' --json --sort energy")
    assert code == 0 and f"page: {page}" in err
    json.loads(out)
    text = page.read_text()
    assert f"neuromix profile {a_run} --sort energy --html &#39;{page}&#39; --json" in text
    assert "meta_spikeformer_nano" in text and "test samples of digits" in text


def test_not_counted_is_said(nets, run, tmp_path):
    (tmp_path / "odd_net.py").write_text(
        textwrap.dedent("""
            import torch
            from torch import nn

            class Net(nn.Linear):
                def forward(self, x):
                    y = super().forward(x)
                    return torch.cdist(y, y)

            net = Net(3, 3)
        """)
    )
    code, out, err = run("profile odd_net:net --input 3 --json")
    assert code == 0 and "warning: not counted: aten._cdist_forward (1 calls)" in err
    assert json.loads(out)["not_counted"] == {"aten._cdist_forward": 1}


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("meta_spikeformer_nano --time-steps 0", "--time-steps"),
        ("poolformer_nano --time-steps 2", "unknown MetaFormerConfig key 'time_steps'"),
        ("nosuch", "unknown model 'nosuch'"),
        ("runs/nosuch", "no run folder or weights file at runs/nosuch"),
        ("poolformer_nano --counting papers", "unknown counting rule 'papers'; did you mean paper?"),
        ("poolformer_nano --input 3,x,8", "--input gives whole numbers with commas"),
        ("poolformer_nano --input 8,8", "--input gives whole numbers with commas"),
        ("poolformer_nano --input 1,-8,8", "--input gives whole numbers with commas"),
        ("meta_spikeformer_nano --input 1,7,8", "multiples of 4"),
        ("meta_spikeformer_nano --input 2,8,8", "got torch.float32"),
        ("poolformer_nano --batch 0", "--batch"),
        ("poolformer_nano --threads 0", "--threads"),
        ("poolformer_nano --sort energies", "unknown column 'energies'; did you mean energy"),
        ("poolformer_nano --energy 46nm", "unknown energy model '46nm'; did you mean 45nm?"),
        ("poolformer_nano --energy no.toml", "cannot read the energy model no.toml"),
        ("poolformer_nano --html /dev/null/page.html", "/dev/null"),
    ],
)
def test_bad_input_is_one_line(run, line, error):
    code, out, err = run(f"profile {line}")
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


def test_the_examples_of_the_help_work(here, run, a_run, tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "a").symlink_to(a_run)
    (tmp_path / "my_nets.py").write_text(NETS.replace("channels=1", "channels=3"))
    examples = [
        line.strip() for line in profile.command.__doc__.splitlines() if line.strip().startswith("neuromix ")
    ]
    assert examples
    code, out, _ = run("profile --help")
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
        ("profile poolformer_s12 --input 3,224,224 --latency --html poolformer.html", 1.8123),
    ],
)
def test_large_models(run_json, line, gmacs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_json(line)["macs_dense"] / 1e9 == pytest.approx(gmacs, rel=0.005)
