"""Blocks that set any number of models side by side."""

from __future__ import annotations

from dataclasses import replace

from neuromix.report import comparison
from tests.report.plain import ANALOG, SPIKING


def test_figures_have_a_column_a_model() -> None:
    table = comparison.figures([SPIKING, ANALOG, SPIKING])
    assert list(table.columns) == ["", "Spiking", "Analog", "Spiking"]
    assert all(len(row) == 4 for row in table.rows)
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["Model"] == ["spiking_net", "analog_net", "spiking_net"]
    assert rows["Mean firing rate"][1] == "–"


def test_names_are_not_said_twice() -> None:
    table = comparison.figures([replace(ANALOG, role=ANALOG.model)])
    assert "Model" not in [row[0] for row in table.rows]


def test_energy_has_a_bar_a_rule_where_rules_differ() -> None:
    chart = comparison.energy([SPIKING, ANALOG])
    assert chart.data[0]["y"] == ["Spiking, exact", "Spiking, fused", "Spiking, paper", "Analog"]
    totals = chart.data[-1]["x"]
    assert [round(total, 6) for total in totals] == [5.17, 4.0, 2.18, 7.02]


def test_layers_are_grouped_by_stage() -> None:
    chart = comparison.firing_rates(SPIKING)
    assert [trace["name"] for trace in chart.data] == ["stage 0", "stage 1", "head"]
    assert chart.data[0]["y"] == ["0.0.mixer.neuron"]
