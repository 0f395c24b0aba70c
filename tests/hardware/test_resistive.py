"""The chip of resistive memory: its cells, what goes wrong with them, what reading costs, and the command line.

Shapes: H outputs, N inputs.
"""

from __future__ import annotations

import json
import math

import pytest
import torch

import neuromix
from neuromix.cli import main
from neuromix.core import registry
from neuromix.core.config import Spec
from neuromix.core.errors import ConfigError, NeuromixError
from neuromix.core.observe import draws
from neuromix.hardware.resistive import CELL_SPREAD, Resistive, ResistiveLinear
from neuromix.measure.profile import profile

SMALL = {"liquid.hidden": 16, "in_channels": 8, "time_steps": 5, "num_classes": 3}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return neuromix.create_model("resistive_lsm_ntidigits", **SMALL).eval()


@pytest.fixture
def x_TBN():
    return (torch.rand(5, 4, 8, generator=generator(1)) < 0.5).float()


@pytest.fixture(scope="module")
def array():
    """An array of 300 times 300 random weights."""
    return torch.randn(300, 300, generator=generator(9), dtype=torch.float64) * 0.4


def test_the_registry_knows_it():
    device = registry.build("device", Spec("resistive", {"read_noise": 0.05}))
    assert device == Resistive(read_noise=0.05)
    with pytest.raises(NeuromixError, match="read_noise"):
        registry.build("device", Spec("resistive", {"read_nose": 0.05}))


def test_pairs_are_the_weights_in_positive_independent_cells(array):
    pairs = Resistive().pairs(array, generator())
    torch.testing.assert_close(pairs.weight(), array, rtol=1e-12, atol=1e-12)
    assert (pairs.plus >= 0).all() and (pairs.minus >= 0).all()
    for cells in (pairs.plus, pairs.minus):
        assert float(cells.mean()) == pytest.approx(20.0, rel=0.01)
        assert float(cells.std()) == pytest.approx(CELL_SPREAD, rel=0.01)
    correlation = torch.corrcoef(torch.stack([pairs.plus.flatten(), pairs.minus.flatten()]))[0, 1]
    assert abs(float(correlation)) < 0.02


def test_cells_near_nothing_stay_positive(array):
    pairs = Resistive(mean=1.0).pairs(array, generator())
    assert (pairs.plus >= 0).all() and (pairs.minus >= 0).all() and (pairs.minus == 0).any()
    torch.testing.assert_close(pairs.weight(), array, rtol=1e-9, atol=1e-12)


def test_stuck_cells_and_programming(array):
    device = Resistive(stuck_off=0.1, stuck_on=0.05, highest=33.0)
    plus = device.written(device.pairs(array, generator()), generator(1)).plus
    assert float((plus == 0).double().mean()) == pytest.approx(0.1, abs=0.005)
    assert float((plus == 33.0).double().mean()) == pytest.approx(0.05, abs=0.005)
    device = Resistive(programming=0.1)
    meant = device.pairs(array, generator())
    is_cell = meant.plus > 1  # not one that had to be raised to 0
    off = device.written(meant, generator(1)).plus[is_cell] / meant.plus[is_cell] - 1
    assert float(off.std()) == pytest.approx(0.1, rel=0.02)


def test_a_chip_with_nothing_wrong_gives_the_same_answers(model, x_TBN):
    device = Resistive().perturb(model)
    torch.testing.assert_close(device(x_TBN), model(x_TBN))
    assert isinstance(device.liquid.cell.recurrent, ResistiveLinear)
    assert not isinstance(model.liquid.cell.recurrent, ResistiveLinear)  # the model is left as it was
    assert device.head is not model.head and isinstance(device.head, torch.nn.Linear)


def test_every_chip_is_another_and_the_same_chip_is_the_same(model):
    def weight(chip):
        return Resistive(stuck_off=0.2, chip=chip).perturb(model).liquid.input.stem.weight

    assert torch.equal(weight(0), weight(0)) and not torch.equal(weight(0), weight(1))
    given = Resistive(stuck_off=0.2).perturb(model, generator(1)).liquid.input.stem.weight
    assert torch.equal(given, weight(1))


def test_read_noise_is_that_of_the_single_cells():
    """The one number that is drawn has the moments of a sum over cells, each off by its own noise."""
    layer = torch.nn.Linear(6, 1).double().requires_grad_(False)
    device = Resistive(read_noise=0.05)
    pairs = device.pairs(layer.weight, generator())
    x = torch.tensor([1.0, 0.0, 1.0, 2.0, 0.0, 1.0], dtype=torch.float64)
    drawn = ResistiveLinear(pairs, layer, 0.05)(x.expand(40_000, 6)).flatten()
    noise = torch.randn(2, 40_000, 6, generator=generator(3), dtype=torch.float64) * 0.05 + 1
    cells = pairs.const * ((pairs.plus * noise[0] - pairs.minus * noise[1]) @ x) + layer.bias
    assert float(drawn.mean()) == pytest.approx(float(cells.mean()), abs=4 * float(cells.std()) / 200)
    assert float(drawn.std()) == pytest.approx(float(cells.std()), rel=0.03)


def test_noise_differs_from_read_to_read_and_comes_from_the_generator(model, x_TBN):
    device = Resistive(read_noise=0.3).perturb(model)

    def run(seed):
        with draws(device, generator(seed)):
            return device.liquid(x_TBN)

    assert torch.equal(run(0), run(0)) and not torch.equal(run(0), run(1))
    same = x_TBN[:, :1].expand(-1, 4, -1)
    with draws(device, generator()):
        rates = device.features(same)
    assert not torch.equal(rates[0], rates[1])  # each sample has reads of its own


def test_recorded_noise_is_replayed(model):
    device = Resistive(read_noise=0.3).perturb(model)
    layer, x_BN = device.liquid.cell.recurrent, torch.ones(2, 16)
    recorded = torch.full((2, 16), 2.0)
    with draws(device, {"liquid.cell.recurrent.noise": [recorded]}):
        found = layer(x_BN)
    deviation = 0.3 * (x_BN.square() @ layer.power.T).sqrt()
    torch.testing.assert_close(found, x_BN @ layer.weight.T + 2.0 * deviation)


def test_layers_by_name(model):
    device = Resistive(layers=("head",)).perturb(model)
    assert isinstance(device.head, ResistiveLinear) and isinstance(
        device.liquid.cell.recurrent, torch.nn.Linear
    )
    with pytest.raises(ConfigError, match="no layer matches nothing in resistive_lsm_ntidigits"):
        Resistive(layers=("nothing",)).perturb(model)
    trained = neuromix.create_model("resistive_lsm_ntidigits", **SMALL, **{"liquid.trainable": True})
    with pytest.raises(ConfigError, match="no linear layer is frozen"):
        Resistive().perturb(trained)


def test_weights_that_are_all_zero():
    pairs = Resistive().pairs(torch.zeros(3, 4), generator())
    assert not pairs.weight().any() and math.isfinite(pairs.const)


def test_cost_counts_two_reads_a_weight(model, x_TBN):
    device = Resistive(volts=0.1, mean=10.0, nanoseconds=20.0)
    found = device.cost(profile(device.perturb(model), x_TBN))
    spikes = model.liquid(x_TBN)
    # Spikes of the inputs reach 16 neurons each, and those of step t the neurons of step t + 1.
    rows = float(x_TBN.sum() + spikes[:-1].sum()) / 4
    assert found["cell_reads"] == pytest.approx(2 * 16 * rows)
    assert found["array_nanojoules"] == pytest.approx(found["cell_reads"] * 0.01 * 10.0 * 20.0 * 1e-6)
    with pytest.raises(ConfigError, match="no layer of this profile is on the chip"):
        device.cost(profile(model, x_TBN))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"read_noise": -0.1}, "read_noise must be 0 or more"),
        ({"stuck_off": 1.0}, r"stuck_off must be in \[0, 1\)"),
        ({"stuck_off": 0.5, "stuck_on": 0.5}, "leave no cell"),
        ({"mean": 0.0}, "mean must be positive"),
    ],
)
def test_wrong_values(values, message):
    with pytest.raises(ConfigError, match=message):
        Resistive(**values)


@pytest.mark.slow
def test_eval_on_hardware(tmp_path, capsys, monkeypatch):
    from tests.methods.test_lsm import few_events

    pytest.importorskip("PIL.Image")
    monkeypatch.chdir(tmp_path)
    _, options = few_events(tmp_path)
    neuromix_train = pytest.importorskip("neuromix.training.api").train
    neuromix_train(out=tmp_path / "run", **options)

    def run(*arguments):
        capsys.readouterr()
        code = main(["eval", "run", *arguments])
        return code, *capsys.readouterr()

    plain = json.loads(run("--json")[1])["test"]
    assert json.loads(run("--json", "--hardware", "resistive")[1])["test"] == plain
    code, out, _ = run("--json", "--hardware", "resistive", "--set", "hardware.stuck_on=0.5")
    assert code == 0 and 0 <= json.loads(out)["test"]["accuracy"] <= 1
    for arguments, message in (
        (["--hardware", "resistve"], "did you mean resistive"),
        (["--set", "hardware.read_noise=0.1"], "needs a chip, such as --hardware resistive"),
        (["--hardware", "resistive", "--set", "hardware.noise=1"], "unknown Resistive key 'noise'"),
        (["--hardware", "resistive", "--early-exit", "auto"], "do not go together"),
    ):
        code, _, err = run(*arguments)
        assert code == 2 and message in err
