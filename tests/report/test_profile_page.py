"""The page of a profile shows every figure, says what is missing, and asks for nothing."""

from __future__ import annotations

import csv
import html
import io
import re
from urllib.parse import unquote

import pytest
import torch
from torch import nn

import neuromix
from neuromix.core.errors import UnknownNameError
from neuromix.measure import energy_models, profile
from neuromix.measure.published import PublishedFigure
from neuromix.measure.running import Running
from neuromix.measure.timing import Latency
from neuromix.report import numbers
from neuromix.report.blocks import Chart, Notice, Table, every
from neuromix.report.page import render
from neuromix.report.profile_page import MOST_BARS, Profiled, profile_page
from neuromix.report.profile_words import layer_columns, left_out, published_row, short_names, sorted_layers

TINY = {"dims": (4, 4, 8, 8), "conv_depths": (1, 1, 1), "depths": (1, 1), "mlp_ratio": 2, "time_steps": 2}
RUNNING = Running(
    latency=Latency(0.0125, 0.0119, 0.0131, 30, 5, 1, 1),
    batch=Latency(0.05, 0.04, 0.06, 5, 1, 1, 8),
    forward_memory=1_230_000,
    training_memory=None,
    training_failed="ValueError: <no> gradient",
    memory_batch_size=4,
)


@pytest.fixture(scope="module")
def given() -> Profiled:
    torch.manual_seed(0)
    net = neuromix.create_model("meta_spikeformer_nano", **TINY)
    return Profiled(
        profile=profile(net, torch.rand(2, 1, 8, 8)),
        notes=["input: random", "weights: untrained"],
        published={
            "gmacs": PublishedFigure(1.8, 1.812267),
            "top1_t4": PublishedFigure(74.1, None, "a score"),
            "mj_t1": PublishedFigure(4.0, 3.0),
        },
        running=RUNNING,
        energies=energy_models(),
        command="neuromix profile <a model>",
        environment={"torch": "2.13.0"},
    )


def blocks_of(given: Profiled) -> list:
    return [block for section in profile_page(given).sections for block in every(section.blocks)]


def without_plotly(text: str) -> str:
    from plotly.offline import get_plotlyjs

    return text.replace(get_plotlyjs(), "")


def test_the_page_is_complete_and_asks_for_nothing(given):
    text = without_plotly(render(profile_page(given)))
    assert not re.search(r"""(src|href)="(?!#|data:)|@import|url\(""", text)
    seen = html.unescape(text).replace("\u00a0", " ")
    figures = given.profile
    for shown in (
        "What meta_spikeformer_nano costs",
        "Input: random. Weights: untrained.",
        f"{figures.parameters:,}",
        numbers.percent(figures.firing_rate).replace("\u00a0", " "),
        "12.5 ms",
        "11.9 ms to 13.1 ms",
        "160 samples a second, 8 at a time",
        "1.23 MB",
        "ValueError: <no> gradient",
        "+0.68 %",
        "-25.00 %",
        "neuromix profile <a model>",
        "2.13.0",
        "linear chain",
        *(layer.path for layer in figures.layers),
        *(neuron.path for neuron in figures.neurons),
        *figures.energy_models,
        *(model.source for model in figures.energy_models.values()),
    ):
        assert shown in seen, shown
    assert "<no>" not in text and "<a model>" not in text


def test_what_was_not_counted_comes_first(given):
    class Odd(nn.Module):
        def forward(self, x):
            return torch.cdist(x, x)

    assert not any(isinstance(block, Notice) for block in blocks_of(given))
    odd = Profiled(profile=profile(Odd(), torch.rand(2, 4)), notes=["input: random"])
    first, *_ = profile_page(odd).sections[0].blocks
    assert isinstance(first, Notice)
    assert "aten._cdist_forward (1 calls)" in first.paragraphs[0]
    assert "Not everything was counted" in render(profile_page(odd))


def test_the_table_of_layers_sorts_and_exports_all_figures(given):
    table = next(
        block for block in blocks_of(given) if isinstance(block, Table) and block.caption == "All layers"
    )
    assert table.sortable and len(table.rows) == len(given.profile.layers)
    text = without_plotly(render(profile_page(given)))
    urls = re.findall(r'href="data:text/csv;charset=utf-8,([^"]*)"', html.unescape(text))
    files = [list(csv.DictReader(io.StringIO(unquote(url)))) for url in urls]
    (layers,) = [file for file in files if "macs_dense" in file[0]]
    for line, layer in zip(layers, given.profile.layers, strict=True):
        assert line["path"] == layer.path
        assert int(line["macs_dense"]) == layer.macs_dense
        assert float(line["effective_acs"]) == layer.effective_acs
        for model, energy in layer.energy.items():
            assert float(line[f"energy_{model}"]) == energy


def test_bars_are_those_that_cost_most(given):
    net = nn.Sequential(*(nn.Linear(width, width + 1) for width in range(1, MOST_BARS + 6)))
    seen = profile(net, torch.rand(1, 1))
    charts = [block for block in blocks_of(Profiled(profile=seen, notes=["x"])) if isinstance(block, Chart)]
    by_title = {chart.title: chart for chart in charts}
    assert by_title.keys() == {"Operations by layer", *(f"Energy by layer, {model}" for model in seen.energy)}
    for chart in charts:
        assert list(chart.data[0]["y"]) == [str(i) for i in range(5, MOST_BARS + 5)]
    left = sum(width * (width + 1) for width in range(1, 6)) / seen.macs_dense
    assert by_title["Operations by layer"].note.endswith(f"the other 5 have {numbers.percent(left)}.")
    three = profile(nn.Sequential(*(nn.Linear(2, 2) for _ in range(3))), torch.rand(1, 2))
    for chart in blocks_of(Profiled(profile=three, notes=["x"])):
        if isinstance(chart, Chart):
            assert list(chart.data[0]["y"]) == ["0", "1", "2"] and not chart.note


@pytest.mark.parametrize("by", ["path", "macs_dense", "firing_rate", "energy", "footprint", None])
def test_sorted_layers(given, by):
    layers = sorted_layers(given.profile, by)
    assert sorted(layer.path for layer in layers) == sorted(layer.path for layer in given.profile.layers)
    if by is None:
        assert layers == list(given.profile.layers)
        return
    column = layer_columns(next(iter(given.profile.energy)))[by]
    values = [column.value(layer) for layer in layers]
    known = [value for value in values if value is not None]
    assert values[: len(known)] == sorted(known, reverse=column.is_number)


def test_an_unknown_column_is_refused(given):
    with pytest.raises(UnknownNameError, match="unknown column 'mac'"):
        sorted_layers(given.profile, "mac")


def test_what_energies_leave_out_in_words(given):
    seen = given.profile
    words = {name: left_out(report, seen.traffic) for name, report in seen.energy_models.items()}
    assert words["45nm"] == "data movement, control"
    assert words["45nm_dram"] == words["45nm_sram"] == "control"
    assert words["loihi"].startswith("no price for mac32")
    some = neuromix.measure.EnergyModel(
        source="x", picojoules={"mac": 1, "ac": 1, "weight_load": 1, "input_load": 1}
    )
    torch.manual_seed(0)
    net = neuromix.create_model("meta_spikeformer_nano", **TINY)
    partly = profile(net, torch.rand(1, 1, 8, 8), energies={"some": some})
    assert left_out(partly.energy_models["some"], partly.traffic) == (
        "output store, state load, state store, control"
    )


def test_published_figures_in_words():
    assert published_row("parameters", PublishedFigure(1234567, 1234567)) == [
        "parameters", "1,234,567", "1,234,567", "+0.00 %", ""
    ]  # fmt: skip
    assert published_row("top1_t4", PublishedFigure(74.1, None, "a score")) == [
        "top-1, % at T = 4", "74.1", numbers.NOTHING, numbers.NOTHING, "a score"
    ]  # fmt: skip
    assert published_row("gmacs", PublishedFigure(1.0, 0.99))[3] == "-1.00 %"
    assert published_row("new_figure", PublishedFigure(3, None))[0] == "new figure"


def test_names_on_axes_are_short_and_differ():
    assert short_names(["stages.0.blocks.1.mixer.branch.expand", "head", "a.b", ""]) == [
        "s.0.b.1.mixer.branch.expand", "head", "a.b", "(the model itself)"
    ]  # fmt: skip
    alike = ["alpha.a.b.c", "apple.a.b.c"]
    assert short_names(alike) == alike
    assert short_names([]) == []


def test_a_model_without_products(given):
    page = profile_page(Profiled(profile=profile(nn.ReLU(), torch.rand(2, 4)), notes=["input: random"]))
    assert "What ReLU costs" in render(page)
