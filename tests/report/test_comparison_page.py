"""The page of a comparison says what the record says, and nothing that may be so by chance."""

from __future__ import annotations

import copy
import csv
import html
import io
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

import pytest

from neuromix.report import comparison_words as words
from neuromix.report.blocks import Block, Chart, Choice, Code, Legend, Notice, Page, Table, Tiles, every
from neuromix.report.comparison_charts import pareto_front
from neuromix.report.comparison_page import comparison_page
from neuromix.report.comparison_tables import differences_table, models_table
from neuromix.report.contestants import LATENCY, PARAMETERS, contestants, energies_of
from neuromix.report.page import csv_url, render
from tests.report.records import CLASSES, NAMES, record

Record = dict[str, Any]


def blocks(page: Page) -> Iterator[Block]:
    for section in page.sections:
        yield from every(section.blocks)


def charts(page: Page) -> list[Chart]:
    return [block for block in blocks(page) if isinstance(block, Chart)]


def titles(page: Page) -> list[str]:
    return [section.title for section in page.sections]


def told(page: Page) -> str:
    """All words of a page, as they are read."""
    text = re.sub(r"<(script|style)\b.*?</\1>", "", render(page), flags=re.DOTALL)
    return html.unescape(re.sub(r"<[^>]+>", "\n", text)).replace("\u00a0", " ")


# Sizes


@pytest.mark.parametrize("models", [1, 2, 5, 12])
@pytest.mark.parametrize("seeds", [1, 3])
def test_any_number_of_models_and_seeds(models: int, seeds: int) -> None:
    page = comparison_page(record(models, seeds))
    text = told(page)
    for name in NAMES[:models]:
        assert name in text
    assert f"{models} {'model' if models == 1 else 'models'}, {seeds} seed" in text
    inside = next(b for b in blocks(page) if isinstance(b, Choice) and b.label == "Model")
    assert list(inside.options) == list(NAMES[:models])
    assert ("What accuracy costs" in titles(page)) == (models > 1)


@pytest.mark.parametrize("failures", [1, 4, 6])
def test_failed_runs_are_told_with_their_error(failures: int) -> None:
    made = record(2, 3, failures)
    page = comparison_page(made)
    notice = next(b for b in blocks(page) if isinstance(b, Notice))
    assert notice.title == f"{failures} {'run' if failures == 1 else 'runs'} failed"
    assert f"{NAMES[1]}, seed 2: ShapeError: the model takes 3 channels, the data have 1" in notice.paragraphs
    assert f"{failures} {'run' if failures == 1 else 'runs'} failed." in page.lead
    assert f"{6 - failures} of 6" in told(page)
    assert ("No run gave a score." in page.lead) == (failures == 6)


def test_a_model_without_runs_is_in_the_table_and_in_no_chart() -> None:
    made = record(3, 2, 0)
    for run in made["models"][1]["runs"]:
        run.update({key: None for key in run if key not in ("seed", "folder", "command")}, status="failed")
    made["models"][1].update(summary={}, rank=None)
    made["differences"] = [pair for pair in made["differences"] if NAMES[1] not in (pair["a"], pair["b"])]
    page = comparison_page(made)
    table = models_table(made)
    assert set(dict(zip(table.columns, table.rows[-1], strict=True)).values()) >= {NAMES[1], "–"}
    for chart in charts(page):
        assert NAMES[1] not in {trace.get("legendgroup") for trace in chart.data}
    # The third model looks like the third, although the second is not there.
    legend = next(b for b in blocks(page) if isinstance(b, Legend))
    assert [mark.symbol for mark in legend.marks] == ["circle", "diamond", ""]


UNKNOWN = (
    "firing_rate",
    "latency",
    "throughput",
    "peak_memory",
    "macs_dense",
    "synaptic_operations",
    "parameters",
    "train_seconds",
    "curve",
    "layers",
    "neurons",
    "confusion",
    "raster",
    "energy",
)


@pytest.mark.parametrize("gone", UNKNOWN)
def test_a_record_may_lack_anything(gone: str) -> None:
    made = record(2, 2)
    for model in made["models"]:
        for run in model["runs"]:
            run[gone] = None
        for key, figure in model["summary"].items():
            if key.startswith(gone):
                figure.update(mean=None, std=None, low=None, high=None, n=0)
    assert NAMES[0] in told(comparison_page(made))


def test_a_record_may_lack_almost_everything() -> None:
    made = record(2, 2, energy_models=(), environment={}, command="", class_names=[], differences=[])
    for model in made["models"]:
        for run in model["runs"]:
            for key in UNKNOWN:
                run.pop(key)
        model["summary"] = {"accuracy": model["summary"]["accuracy"]}
        del model["family"], model["config"]
    text = told(comparison_page(made))
    assert NAMES[1] in text
    assert "The record says nothing of its layers" in text


def test_the_record_is_left_as_it_was() -> None:
    made = record(3, 2, 1)
    before = copy.deepcopy(made)
    render(comparison_page(made))
    assert made == before


# Words


def ranked(made: Record, *ranks: int | None) -> Record:
    for model, rank in zip(made["models"], ranks, strict=True):
        model["rank"] = rank
    return made


def certain(made: Record, *certain_pairs: tuple[int, int]) -> Record:
    """Of the differences these count, with the first model as the better one."""
    wanted = {frozenset((NAMES[a], NAMES[b])): NAMES[a] for a, b in certain_pairs}
    for pair in made["differences"]:
        better = wanted.get(frozenset((pair["a"], pair["b"])))
        pair["significant"] = better is not None
        if better is not None:
            sign = (1 if better == pair["a"] else -1) * (1 if made["higher_is_better"] else -1)
            pair["difference"] = sign * abs(pair["difference"])
    return made


@pytest.mark.parametrize("score", ["accuracy", "mse"])
def test_the_lead_names_a_winner_that_beats_all(score: str) -> None:
    made = certain(ranked(record(3, 3, score=score), 3, 1, 2), (1, 0), (1, 2), (2, 0))
    lead = words.lead(made)
    assert f"{NAMES[1]} is ahead" in lead
    assert "noise" not in lead


def test_the_lead_names_no_winner_where_a_difference_is_uncertain() -> None:
    lead = words.lead(certain(ranked(record(3, 3), 2, 1, 2), (1, 0), (2, 0)))
    assert "ahead" not in lead
    assert f"none is better than {NAMES[1]}" in lead


@pytest.mark.parametrize(("models", "who"), [(2, "both"), (3, "all 3"), (12, "all 12")])
def test_the_lead_names_no_winner_inside_the_noise(models: int, who: str) -> None:
    made = certain(ranked(record(models, 3), *[1] * models))
    lead = words.lead(made)
    assert f"{who} share the first place" in lead
    assert "inside the noise" in lead
    assert "ahead" not in lead


def test_one_seed_tells_nothing_about_chance() -> None:
    lead = words.lead(record(3, 1))
    assert "From one seed nothing can be said" in lead
    assert "least energy" not in lead


def test_the_budget_limits_what_the_lead_claims() -> None:
    made = record(3, 3, budget={"epochs": 20, "joules_per_inference": 2e-6})
    made["models"][0]["over_budget"] = True
    certain(ranked(made, None, 1, 2), (1, 2))
    page = comparison_page(made)
    assert f"{NAMES[1]} is ahead of those within the energy budget" in page.lead
    notice = next(b for b in blocks(page) if isinstance(b, Notice))
    assert notice.title == "Over the energy budget"
    assert notice.paragraphs == [f"{NAMES[0]}: more than 2.00\u00a0µJ an inference. Shown, and not ranked."]
    assert models_table(made).rows[-1][:2] == [NAMES[0], "–"]


def set_energy(made: Record, name: str, *values: list[float]) -> None:
    """The energies of the runs of each model."""
    for model, energies in zip(made["models"], values, strict=True):
        for run, value in zip(model["runs"], energies, strict=True):
            run["energy"][name] = value
        model["summary"][f"energy {name}"].update(mean=sum(energies) / len(energies))


def test_least_is_only_called_so_where_all_runs_need_less() -> None:
    made = record(2, 2, energy_models=("45nm",))
    set_energy(made, "45nm", [1.0, 3.0], [2.9, 4.0])
    assert "least energy" not in words.lead(made)
    least = words.least_of(contestants(made), energies_of(made)[0])
    assert least is not None
    assert [one.name for one in least.unsure] == [NAMES[1]]
    assert f"{NAMES[0]}; not told apart: {NAMES[1]}" in told(comparison_page(made))
    set_energy(made, "45nm", [1.0, 3.0], [3.1, 4.9])
    claim = "needs the least energy by 45nm: 2.00\u00a0mJ an inference, 2.0 times less than the next"
    assert f"{NAMES[0]} {claim}, {NAMES[1]}." in words.lead(made)


def test_energy_models_that_disagree_are_told() -> None:
    made = record(2, 2, energy_models=("a", "b", "c"))
    for name, values in (("a", ([1.0, 2.0], [3.0, 4.0])), ("b", ([3.0, 4.0], [1.0, 2.0]))):
        set_energy(made, name, *values)
    set_energy(made, "c", [1.0, 2.0], [1.5, 4.0])
    disagree = f"depends on the energy model: {NAMES[0]} by a; {NAMES[1]} by b."
    assert disagree in words.lead(made)
    set_energy(made, "b", [1.0, 2.0], [3.0, 4.0])
    assert f"{NAMES[0]} needs the least energy by a and b: 1.50\u00a0mJ an inference by a" in words.lead(made)
    set_energy(made, "c", [1.0, 2.0], [3.0, 4.0])
    assert f"{NAMES[0]} needs the least energy by every energy model: 1.50" in words.lead(made)


def test_ranges_of_a_single_run() -> None:
    (model,) = contestants(record(1, 1))
    assert model.range(energies_of(record(1, 1))[0]) is None, "one seed has no spread"
    low, high = model.range(LATENCY) or (0.0, 0.0)
    assert 0 < low < high, "a latency has"
    parameters = model.figure(PARAMETERS).mean
    assert model.range(PARAMETERS) == (parameters, parameters)


def test_verdicts() -> None:
    pair = {"a": "x", "b": "y", "difference": -0.012, "low": -0.02, "high": -0.004, "significant": True}
    turned = words.in_favour(pair, {"higher_is_better": True})
    assert (turned["a"], turned["b"], turned["difference"]) == ("y", "x", 0.012)
    assert (turned["low"], turned["high"]) == (0.004, 0.02)
    assert words.in_favour(pair, {"higher_is_better": False}) == pair
    assert words.verdict(turned) == "better than"
    assert words.verdict({**pair, "significant": False}) == "inside the noise of"
    no_spread = words.in_favour({**pair, "low": None, "high": None}, {"higher_is_better": True})
    assert (no_spread["low"], no_spread["high"]) == (None, None)


def test_what_was_not_counted_is_a_warning() -> None:
    made = record(2, 2)
    for run in made["models"][1]["runs"]:
        run["not_counted"] = {"aten::fft": 1, "aten::sort": 3}
    notice = next(b for b in blocks(comparison_page(made)) if isinstance(b, Notice))
    assert notice.title == "Not everything was counted"
    assert notice.paragraphs[1] == f"{NAMES[1]}: aten::fft (1 call), aten::sort (3 calls)"


# Figures


def of_csv(table: Table) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(unquote(csv_url(table).partition(",")[2]))))


def test_the_table_has_every_figure_and_its_csv_every_digit() -> None:
    made = record(3, 3)
    table = models_table(made)
    rows = {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}
    exported = {row["model"]: row for row in of_csv(table)}
    for model in made["models"]:
        shown, saved, summary = rows[model["name"]], exported[model["name"]], model["summary"]
        accuracy = summary["accuracy"]
        assert shown["Accuracy"] == f"{100 * accuracy['mean']:.1f} ± {100 * accuracy['std']:.1f}\u00a0% (3)"
        assert float(saved["accuracy mean"]) == accuracy["mean"]
        assert float(saved["accuracy std"]) == accuracy["std"]
        assert float(saved["energy 45nm mean (mJ)"]) == summary["energy 45nm"]["mean"]
        assert float(saved["latency mean (s)"]) == summary["latency"]["mean"]
        assert float(saved["peak_memory mean (bytes)"]) == summary["peak_memory"]["mean"]
        assert json.loads(saved["config"]) == model["config"]
        assert re.fullmatch(r"[\d.,]+\u00a0m?s \([\d.,]+–[\d.,]+\)", shown["Latency"])
        for name in ("Energy, 45nm", "Energy, 7nm", "Parameters", "Dense MACs", "Training time", "Rank"):
            assert shown[name] != "–"
    assert table.sortable
    column = list(table.columns).index("Latency")
    assert [row[column] for row in table.values] == [
        one["summary"]["latency"]["mean"] for one in sorted(made["models"], key=lambda m: m["rank"])
    ]


def test_differences_are_oriented_and_exported_with_all_digits() -> None:
    made = record(3, 3)
    table = differences_table(made)
    assert all(row[3].startswith("+") for row in table.rows)
    assert {row[1] for row in table.rows} == {"better than", "inside the noise of"}
    given = sorted(abs(pair["difference"]) for pair in made["differences"])
    assert sorted(float(row["difference"]) for row in of_csv(table)) == given


@pytest.mark.parametrize(("models", "folded"), [(6, False), (7, True)])
def test_many_pairs_are_folded(models: int, folded: bool) -> None:
    assert differences_table(record(models, 2)).folded == folded


def test_front_is_what_no_model_beats() -> None:
    marks = [(1.0, 0.5), (2.0, 0.4), (3.0, 0.9), (3.0, 0.8), (4.0, 0.9)]
    assert pareto_front(marks, higher_is_better=True) == [
        (1.0, 0.4),
        (1.0, 0.5),
        (3.0, 0.9),
        (4.0, 0.9),
    ]
    assert pareto_front(marks, higher_is_better=False) == [
        (1.0, 0.9),
        (1.0, 0.5),
        (2.0, 0.4),
        (4.0, 0.4),
    ]
    assert pareto_front([(1.0, 0.5)], higher_is_better=True) == [(1.0, 0.5)] * 3


def test_costs_are_drawn_with_their_spread() -> None:
    made = record(4, 3)
    page = comparison_page(made)
    costs = next(b for b in blocks(page) if isinstance(b, Choice) and b.label == "Cost")
    assert list(costs.options) == ["Energy, 45nm", "Energy, 7nm", "Latency", "Peak memory", "Parameters"]
    (chart,) = costs.options["Energy, 45nm"]
    assert isinstance(chart, Chart)
    trace = chart.data[1]
    assert trace["y"] == [made["models"][0]["summary"]["accuracy"]["mean"]]
    assert trace["error_y"]["array"] == [made["models"][0]["summary"]["accuracy"]["std"]]
    assert "latency" in trace["customdata"][0]


def test_curves_are_means_up_to_the_last_common_epoch() -> None:
    made = record(1, 2, epochs=3)
    first, second = (run["curve"] for run in made["models"][0]["runs"])
    first.update(epoch=[1, 2, 3], score=[0.1, 0.3, 0.5], loss=[3, None, 1])
    second.update(epoch=[1, 2], score=[0.3, 0.5], loss=[1, 1])
    score, loss = (chart for chart in charts(comparison_page(made)) if "epoch" in json.dumps(chart.layout))
    band, line = score.data
    assert (line["x"], line["y"]) == ([1, 2], [0.2, 0.4])
    assert band["y"] == [0.1, 0.3, 0.5, 0.3]
    assert loss.data[-1]["y"] == [2.0, None]


def test_layers_are_means_over_seeds() -> None:
    made = record(1, 2)
    path = made["models"][0]["runs"][0]["layers"][0]["path"]
    energies = [run["layers"][0]["energy"]["45nm"] for run in made["models"][0]["runs"]]
    chart = next(
        chart for chart in charts(comparison_page(made)) if chart.title == "Energy, 45nm of each layer"
    )
    ratio = chart.data[0]["x"][0] / (sum(energies) / 2)
    assert path.endswith(chart.data[0]["y"][0].rpartition(".")[2])
    assert round(ratio) in (1000, 1_000_000), "µJ or nJ of mJ"


def test_many_layers_become_one_bar() -> None:
    made = record(1, 1)
    layer = made["models"][0]["runs"][0]["layers"][0]
    layers = [{**layer, "path": f"blocks.{n}.conv", "macs_dense": float(n)} for n in range(100)]
    made["models"][0]["runs"][0]["layers"] = layers
    chart = next(c for c in charts(comparison_page(made)) if c.title == "Dense MACs of each layer")
    bars = [(label, x) for trace in chart.data for label, x in zip(trace["y"], trace["x"], strict=True)]
    assert len(bars) == 31
    assert bars[-1][0] == "70 smaller layers"
    assert sum(x for _, x in bars) == pytest.approx(sum(range(100)))


def test_layers_of_the_same_short_name_keep_apart() -> None:
    made = record(1, 1)
    layer = made["models"][0]["runs"][0]["layers"][0]
    paths = ["stages.0.conv", "blocks.0.conv", "0.conv", "head"]
    made["models"][0]["runs"][0]["layers"] = [{**layer, "path": path} for path in paths]
    chart = next(c for c in charts(comparison_page(made)) if c.title == "Dense MACs of each layer")
    assert sorted(label for trace in chart.data for label in trace["y"]) == sorted(paths)


def test_confusions_are_summed() -> None:
    made = record(1, 3)
    found = [run["confusion"] for run in made["models"][0]["runs"]]
    chart = next(c for c in charts(comparison_page(made)) if c.title == "Confusion matrix")
    assert chart.data[0]["customdata"][3][3] == sum(counts[3][3] for counts in found)
    assert chart.data[0]["x"] == CLASSES
    assert "Sum over 3 runs" in chart.note


def test_what_a_model_does_not_have_is_not_shown() -> None:
    made = record(2, 2)  # the second has no neurons
    inside = next(b for b in blocks(comparison_page(made)) if isinstance(b, Choice) and b.label == "Model")
    shown = {
        name: [b.title for b in every(option) if isinstance(b, Chart)]
        for name, option in inside.options.items()
    }
    assert "Spikes of one sample" in shown[NAMES[0]]
    assert "Spikes of one sample" not in shown[NAMES[1]]
    assert "Firing rate of each neuron layer" not in shown[NAMES[1]]
    assert "Confusion matrix" in shown[NAMES[1]]


def test_the_page_tells_how_to_make_it_again() -> None:
    made = record(2, 2)
    page = comparison_page(made)
    commands = "\n".join(block.text for block in blocks(page) if isinstance(block, Code))
    assert made["command"] in commands
    for model in made["models"]:
        for run in model["runs"]:
            assert run["command"] in commands
    text = told(page)
    for value in made["environment"].values():
        assert value in text
    assert "Arithmetic alone. pJ: mac32 4.6, ac32 0.9. A paper on 45nm, 2014" in text


# Text from elsewhere

HOSTILE = "<img src=x onerror=alert(1)>\"'</script><script>alert(2)</script>{{7*6}}%{x}\n`$(rm -rf)`"


def hostile(made: Any) -> Any:
    """The record with every text in it that a user or an error can set replaced."""
    keep = {"status", "score", "significant"}
    if isinstance(made, Mapping):
        return {key: value if key in keep else hostile(value) for key, value in made.items()}
    if isinstance(made, list):
        return [hostile(value) for value in made]
    return f"{made} {HOSTILE}" if isinstance(made, str) else made


def test_hostile_texts_are_only_texts() -> None:
    made = record(3, 2, 1)
    made["models"][0]["runs"][0]["not_counted"] = {HOSTILE: 2}
    made["models"][0]["over_budget"] = True
    made["budget"] = {"epochs": 2, "joules_per_inference": 1e-9}
    made = hostile(made)
    text = render(comparison_page(made))
    assert "<img src=x" not in text
    assert "<script>alert(2)" not in text
    assert "{{7*6}}" in html.unescape(text), "and they are not lost"
    for figure in re.findall(r'<script type="application/json">(.*?)</script>', text, flags=re.DOTALL):
        for label in labels(json.loads(figure)):
            assert "<img" not in label
            assert "%{x}\n" not in label


def labels(value: Any, key: str = "") -> Iterator[str]:
    """All that plotly may show of a figure."""
    if isinstance(value, str) and key != "legendgroup":
        yield value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from labels(item, name)
    elif isinstance(value, list):
        for item in value:
            yield from labels(item, key)


def test_a_name_adds_no_line_to_the_commands() -> None:
    made = record(1, 1)
    made["models"][0]["name"] = "a\nrm -rf /"
    codes = [block.text for block in blocks(comparison_page(made)) if isinstance(block, Code)]
    assert not any(line.startswith("rm") for code in codes for line in code.splitlines())


def test_tiles_tell_the_best_and_the_cheapest() -> None:
    made = record(4, 3)
    tiles = {
        tile.label: tile for b in blocks(comparison_page(made)) if isinstance(b, Tiles) for tile in b.tiles
    }
    assert set(tiles) == {
        "Best accuracy",
        "Least energy, 45nm",
        "Shortest latency",
        "Smallest peak memory",
        "Fewest parameters",
        "Runs finished",
    }
    means = {model["name"]: model["summary"]["parameters"]["mean"] for model in made["models"]}
    assert tiles["Fewest parameters"].note.startswith(min(means, key=lambda name: means[name]))
    assert tiles["Runs finished"].value == "12 of 12"
