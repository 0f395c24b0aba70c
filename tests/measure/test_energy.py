"""Tables of prices: those of the library, those of a user, what they leave out and what they cannot price."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import neuromix.measure
from neuromix.core import registry
from neuromix.core.errors import ConfigError, UnknownNameError
from neuromix.measure import (
    CountingRule,
    EnergyModel,
    energy_model,
    energy_models,
    load_energy_model,
    profile,
    register_energy_model,
)
from neuromix.measure.operations import ACCESSES, ARITHMETIC, TRAFFIC, TRANSFERS, label
from tests.docs.pages import ROOT, blocks

SPIKES = torch.tensor([[1.0, 0, 1, 0]])
REAL = torch.tensor([[0.5, -1, 2, 0]])
FILES = sorted((Path(neuromix.measure.__file__).parent / "energy_tables").glob("*.toml"))


def test_energy_is_counts_times_table():
    table = EnergyModel("a chip", {"mac32": 2.0, "ac32": 0.5})
    assert table.millijoules({("mac", 32): 3e9, ("ac", 32): 4e9}) == pytest.approx(6.0 + 2.0)
    assert energy_models()["45nm"].millijoules({("mac", 32): 1e9, ("ac", 32): 1e9}) == pytest.approx(5.5)
    seen = profile(nn.Linear(4, 2), REAL, energies={"chip": table})
    assert seen.energy == {"chip": pytest.approx(8 * 2e-9)}


def test_arithmetic_must_have_a_price():
    table = EnergyModel("a chip", {"mac32": 2.0, "ac32": 0.5})
    with pytest.raises(ConfigError, match="no price for shift8, mac16; it has mac32, ac32"):
        table.millijoules({("shift", 8): 1, ("mac", 16): 2, ("ac", 32): 1})
    with pytest.raises(ConfigError, match="no price for xnor1"):
        table.millijoules({("xnor", 1): 1})
    assert table.millijoules({("shift", 8): 0}) == 0


def test_traffic_without_a_price_is_left_out_by_name():
    counts = {("ac", 32): 1e9, ("weight_read", 32): 2e9, ("state_read", 32): 3e9}
    table = EnergyModel("a chip", {"ac32": 1.0, "state_read32": 2.0})
    assert table.millijoules(counts) == pytest.approx(1.0 + 6.0)
    assert table.left_out(counts) == ("weight_read32",)


def test_a_price_at_any_word_length_and_a_table_with_a_word_length():
    anywhere = EnergyModel("a chip", {"ac": 2.0, "ac8": 1.0})
    assert [anywhere.price(("ac", bits)) for bits in (8, 16, 32)] == [1.0, 2.0, 2.0]
    int8 = EnergyModel("a chip", {"ac8": 1.0}, bits=8)
    assert int8.price(("ac", 32)) == 1.0
    assert EnergyModel("a chip", {"ac8": 1.0}).price(("ac", 32)) is None


# The tables of the library.


def test_tables_of_the_library():
    found = energy_models()
    assert next(iter(found)) == "45nm"
    assert {path.stem for path in FILES} <= found.keys()
    assert found["45nm"].picojoules == {"mac32": 4.6, "ac32": 0.9, "mac16": 1.5, "ac16": 0.4}
    # Horowitz: 8-bit multiplication and 32-bit addition; halves of 64-bit words of a 1 MB and a 32 KB cache; DRAM.
    assert found["45nm_int8"].picojoules["mac8"] == pytest.approx(0.2 + 0.1)
    assert found["45nm_sram"].picojoules["weight_read32"] == 100 / 2
    assert found["45nm_sram"].picojoules["sum_read32"] == 20 / 2
    assert found["45nm_dram"].picojoules["weight_load32"] == 1300 / 2
    assert found["loihi"].picojoules == {"ac": 23.6}
    assert found["truenorth"].picojoules == {"ac": 26.0}
    assert found["odin"].picojoules == {"ac": 12.7}
    assert found["tianjic"].picojoules["ac"] == pytest.approx(1000 / 649, abs=5e-3)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_each_has_the_form_of_a_users_file(path):
    table = load_energy_model(path)
    assert table == energy_models()[path.stem]
    assert table.source and table.process and table.notes


def test_one_memory_view_a_table():
    kinds = {
        name: {key.rstrip("0123456789") for key in table.picojoules}
        for name, table in energy_models().items()
    }
    assert kinds["45nm_sram"] == {"mac", "ac", *ACCESSES}
    assert kinds["45nm_dram"] == {"mac", "ac", *TRANSFERS}


def test_chips_price_spikes_alone():
    spiking, real = profile(nn.Linear(4, 2), SPIKES), profile(nn.Linear(4, 2), REAL)
    assert spiking.energy["loihi"] == pytest.approx(2 * 2 * 23.6e-9)
    assert spiking.energy_models["loihi"].not_priced is None
    assert "loihi" not in real.energy
    assert real.energy_models["loihi"].not_priced == "no price for mac32; it has ac"
    assert len(real.energy) >= 2
    for seen in (spiking, real):
        assert list(seen.energy_models) == list(energy_models())
        priced = {name for name, about in seen.energy_models.items() if about.not_priced is None}
        assert seen.energy.keys() == priced
        assert set(seen.energy_models["45nm"].left_out) == seen.traffic.keys()
        assert all(about.source for about in seen.energy_models.values())


def test_the_int8_table_stands_beside_the_floats():
    seen = profile(nn.Linear(4, 2), REAL)
    assert seen.energy_models["45nm_int8"].bits == 8
    assert seen.energy["45nm_int8"] == pytest.approx(8 * 0.3e-9)
    as_int8 = profile(nn.Linear(4, 2), REAL, CountingRule(bits=8))
    assert as_int8.operations == {"mac8": 8}
    assert as_int8.energy["45nm_int8"] == seen.energy["45nm_int8"]
    assert as_int8.energy_models["45nm"].not_priced == "no price for mac8; it has mac32, ac32, mac16, ac16"


def test_a_registered_table_is_found(monkeypatch):
    monkeypatch.setitem(registry._entries, "energy model", {})

    @register_energy_model("a_chip")
    @dataclass(frozen=True)
    class Chip(EnergyModel):
        source: str = "measured"

    assert energy_models()["a_chip"] == energy_model("a_chip") == Chip()
    assert next(iter(energy_models())) == "45nm"


# A user's file.

OPERATIONS = st.builds(
    lambda kind, bits: kind if bits is None else label((kind, bits)),
    st.sampled_from(ARITHMETIC + TRAFFIC),
    st.none() | st.integers(1, 64),
)


@given(st.dictionaries(OPERATIONS, st.floats(0, 1e6), min_size=1), st.none() | st.integers(1, 64))
def test_any_table_of_known_operations_is_read(tmp_path_factory, prices, bits):
    file = tmp_path_factory.mktemp("chip") / "chip.toml"
    lines = ['source = "measured"', *([f"bits = {bits}"] if bits else []), "[picojoules]"]
    file.write_text("\n".join([*lines, *(f"{name} = {price!r}" for name, price in prices.items())]))
    assert load_energy_model(file) == EnergyModel("measured", prices, bits=bits)


def test_a_users_file(tmp_path):
    file = tmp_path / "chip.toml"
    file.write_text('source = "measured"\n[picojoules]\nmac8 = 1\nac8 = 0.5\nweight_read8 = 2.0\n')
    seen = profile(nn.Linear(4, 2), SPIKES, CountingRule(bits=8), energies=["45nm_int8", str(file)])
    assert seen.energy == {"45nm_int8": pytest.approx(4 * 0.1e-9), "chip": pytest.approx(4 * 2.5e-9)}
    assert seen.energy_models["chip"].source == "measured"
    assert "weight_read8" not in seen.energy_models["chip"].left_out
    assert "sum_read8" in seen.energy_models["chip"].left_out
    assert energy_model(file) == energy_model(str(file)) == load_energy_model(file)


def test_the_example_of_the_documentation(tmp_path):
    (example,) = blocks(ROOT / "docs" / "measuring.md", "toml")
    file = tmp_path / "chip.toml"
    file.write_text(example, encoding="utf-8")
    table = load_energy_model(file)
    assert (table.bits, table.picojoules["mac8"]) == (8, 0.35)
    assert profile(nn.Linear(4, 2), REAL, energies=[file]).energy["chip"] == pytest.approx(
        8 * (0.35 + 1.9) * 1e-9
    )


GOOD = 'source = "a"\n'


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("source = ", "is no TOML: Invalid value"),
        (
            GOOD + "picojoule = 1\n",
            "unknown key 'picojoule'; known: source, picojoules, process, bits, notes",
        ),
        (GOOD + "[picojoules]\nmacs32 = 1\n", "'macs32', which is no operation; known: mac, ac, shift"),
        (GOOD + "[picojoules]\nmac032 = 1\n", "'mac032', which is no operation"),
        (GOOD + "[picojoules]\nmac32 = -1\n", "mac32 must not be negative, got -1"),
        (GOOD + "[picojoules]\nmac32 = nan\n", "mac32 must be a number, got nan"),
        (GOOD + "[picojoules]\nmac32 = inf\n", "mac32 must be a number, got inf"),
        (GOOD + '[picojoules]\nmac32 = "4"\n', "mac32 must be a number, got '4'"),
        (GOOD + "[picojoules]\nmac32 = true\n", "mac32 must be a number, got True"),
        (GOOD + "[picojoules.mac]\nbits = 1\n", "mac must be a number"),
        (GOOD + "picojoules = 3\n", "picojoules must be"),
        (GOOD + "bits = 0\n[picojoules]\nmac8 = 1\n", "bits must be positive, got 0"),
        (GOOD + "bits = 8.0\n[picojoules]\nmac8 = 1\n", "bits must be"),
        (GOOD, "needs a value for picojoules"),
        (GOOD + "[picojoules]\n", "needs a value for picojoules"),
        ("[picojoules]\nmac32 = 1\n", "needs a value for source"),
        ("source = 3\n[picojoules]\nmac32 = 1\n", "source must be str, got 3"),
    ],
)
def test_a_wrong_file_is_refused_by_its_name(tmp_path, text, error):
    file = tmp_path / "chip.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as raised:
        energy_model(file)
    assert error in str(raised.value)
    assert str(file) in str(raised.value) and "\n" not in str(raised.value)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read the energy model .*none\.toml: No such file"):
        energy_model(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="cannot read the energy model"):
        load_energy_model(tmp_path)
    binary = tmp_path / "chip.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="is no TOML"):
        energy_model(binary)


def test_unknown_names():
    with pytest.raises(UnknownNameError, match="unknown energy model 'lohi'; did you mean loihi"):
        energy_model("lohi")
    with pytest.raises(UnknownNameError, match="unknown energy model"):
        profile(nn.Linear(4, 2), REAL, energies=["45nm", "nosuch"])


def test_two_tables_of_one_name(tmp_path):
    file = tmp_path / "45nm.toml"
    file.write_text(GOOD + "[picojoules]\nmac32 = 1\n")
    with pytest.raises(ConfigError, match="two energy models go by the name '45nm'"):
        profile(nn.Linear(4, 2), REAL, energies=["45nm", file])


def test_prices_are_checked_when_a_table_is_made():
    for price in (-1.0, math.nan, "1"):
        with pytest.raises(ConfigError, match="mac32 must"):
            EnergyModel("a chip", {"mac32": price})
