"""The page is one file that shows everything and asks for nothing."""

from __future__ import annotations

import builtins
import csv
import html
import io
import json
import re
from typing import Any
from urllib.parse import unquote

import pytest

from neuromix.core.errors import MissingExtraError
from neuromix.report.blocks import (
    Block,
    Chart,
    Choice,
    Code,
    Facts,
    Fold,
    Legend,
    Mark,
    Notice,
    Page,
    Prose,
    Section,
    Table,
    Tile,
    Tiles,
)
from neuromix.report.page import cell_values, csv_url, json_script, render
from tests.report.plain import page


@pytest.fixture(scope="module")
def text() -> str:
    return render(page())


def without_plotly(text: str) -> str:
    from plotly.offline import get_plotlyjs

    assert text.count(get_plotlyjs()) == 1, "plotly's code is inside, once"
    return text.replace(get_plotlyjs(), "")


def test_nothing_is_fetched(text: str) -> None:
    own = without_plotly(text)
    assert "http" not in own.replace("http-equiv", "")
    assert not re.search(r"""src=|href=(?!"#|"data:text/csv)|@import|url\(""", own)
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', own)
    assert policy is not None
    assert "default-src 'none'" in policy[1]


def test_figures_are_shown(text: str) -> None:
    own = html.unescape(without_plotly(text)).replace("\u00a0", " ")
    for figure in (
        "98.4 %",
        "99.0 %",
        "268 k",
        "226 k",
        "15.0 M",
        "5.17 µJ",
        "2.18 µJ",
        "7.02 µJ",
        "14.4 %",
        "1 min 13 s",
    ):
        assert figure in own
    assert "4.6 pJ" in own
    assert "0.9 pJ" in own
    assert "1.4 times less energy" in own
    assert "neuromix demo --out '<folder>'" in own


def test_charts_are_plain_data_with_words_beside_them(text: str) -> None:
    figures = [
        json.loads(found) for found in re.findall(r'<script type="application/json">(.*?)</script>', text)
    ]
    assert len(figures) == 6
    assert all(figure["data"] for figure in figures)
    descriptions = re.findall(r'role="img" aria-label="([^"]+)"', text)
    assert len(descriptions) == len(figures)
    assert any("Spiking, fused 4 " in description for description in descriptions)


def test_colours_are_those_of_the_style_sheet(text: str) -> None:
    own = without_plotly(text)
    named = set(re.findall(r"var\((--[\w-]+)\)", own)) - {"--columns"}
    schemes = re.split(r"@media \(prefers-color-scheme: dark\)", own)
    assert len(schemes) == 2
    for scheme in schemes:
        assert named <= set(re.findall(r"(--[\w-]+): #", scheme))


def test_text_is_escaped() -> None:
    hostile = """<script>alert(1)</script>"'&quot; onclick='alert(1)' {{ 7 * 6 }}"""
    blocks: list[Block] = [
        Tiles([Tile(hostile, hostile, hostile)]),
        Notice(hostile, [hostile]),
        Prose([hostile]),
        Code(hostile),
        Facts({hostile: hostile}, title=hostile),
        Table(
            ["", hostile],
            [[hostile, hostile]],
            values=[[hostile, hostile]],
            caption=hostile,
            notes=[hostile],
            sortable=True,
            export=hostile,
        ),
        Table(["", hostile], [[hostile, hostile]], caption=hostile, folded=True),
        Chart(hostile, [{"type": "bar", "name": hostile}], note=hostile, description=hostile),
        Legend(hostile, [Mark(hostile, "var(--series-1)", "circle", "dot")]),
    ]
    nested = [Choice(hostile, {hostile: [Fold(hostile, blocks)]})]
    text = render(Page(hostile, hostile, [Section(hostile, nested, hostile)], hostile, hostile))
    assert hostile.split()[0] not in text
    figures = r'<script type="application/json">.*?</script>'
    for raw in ("<script>alert", "onclick='alert", " 42 "):
        assert raw not in re.sub(figures, "", without_plotly(text))
    assert html.unescape(text).count(hostile) > 30


def test_sortable_tables_hold_the_values_behind_their_cells() -> None:
    table = Table(
        ["", "size", "kind"],
        [["a", "12.3 k", "x"], ["b", "–", "y"]],
        values=[["a", 12_345.678, "x"], ["b", None, "y"]],
        sortable=True,
    )
    text = render(Page("Title", "Lead", [Section("Heading", [table])]))
    assert [json.loads(html.unescape(found)) for found in re.findall(r'data-value="([^"]*)"', text)] == [
        "a",
        12_345.678,
        "x",
        "b",
        None,
        "y",
    ]
    assert text.count('<button type="button">') == 3
    assert text.count('class="words"') == 4, "heads and cells of words: the first and the last column"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1,797", 1797.0),
        ("-0.5", -0.5),
        ("2e-6", 2e-6),
        ("–", None),
        ("", None),
        ("12.3 k", "12.3 k"),
        ("nan", "nan"),
        ("infinity", "infinity"),
        ("1_000", "1_000"),
        ("a", "a"),
    ],
)
def test_values_are_read_from_the_texts_where_none_are_given(text: str, value: object) -> None:
    assert cell_values(Table(["", ""], [["row", text]])) == [["row", value]]


def read_csv(table: Table) -> list[list[str]]:
    kind, _, content = csv_url(table).partition(",")
    assert kind == "data:text/csv;charset=utf-8"
    return list(csv.reader(io.StringIO(unquote(content))))


def test_csv_holds_all_digits() -> None:
    table = Table(
        ["model", "µJ, mean"],
        [["a,\nb", "0.123"], ['"q"', "–"]],
        values=[["a,\nb", 0.1234567890123456], ['"q"', float("nan")]],
        export="x.csv",
    )
    assert read_csv(table) == [
        ["model", "µJ, mean"],
        ["a,\nb", "0.1234567890123456"],
        ['"q"', ""],
    ]
    assert 'download="x.csv"' in render(Page("Title", "Lead", [Section("Heading", [table])]))


def test_csv_may_tell_more_than_the_table() -> None:
    table = Table([""], [["a"]], export="x.csv", sheet=[["model", "std"], ["a", 0.5]])
    assert read_csv(table) == [["model", "std"], ["a", "0.5"]]


@pytest.mark.parametrize("formula", ["=1+1", "+1", "-1+2", "@SUM(A1)", "\tx"])
def test_csv_is_no_program(formula: str) -> None:
    table = Table([formula], [[formula]], values=[[formula]], export="x.csv")
    assert read_csv(table) == [["'" + formula]] * 2
    assert read_csv(Table(["a"], [["−1"]], values=[[-1.5]], export="x.csv"))[1] == ["-1.5"], "numbers stay"


def test_one_option_of_a_choice_is_shown() -> None:
    options: dict[str, list[Block]] = {name: [Prose([f"text of {name}"])] for name in "abc"}
    inner = Choice("inner", {"x": [Choice("model", options)], "y": [Prose(["other"])]})
    text = render(Page("Title", "Lead", [Section("Heading", [inner])]))
    assert len(re.findall(r'class="option"[^>]*hidden', text)) == 3
    names = re.findall(r'type="radio" name="([^"]+)"', text)
    assert len(set(names)) == 2, "choices do not share their buttons"
    many = Choice("model", {str(number): [Prose(["text"])] for number in range(12)})
    assert render(Page("Title", "Lead", [Section("Heading", [many])])).count("<option ") == 12


def test_charts_inside_of_others_bring_plotly() -> None:
    chart = Chart("Chart", [{"type": "bar", "x": [1], "y": [1]}])
    nested = Choice("Model", {"a": [Fold("More", [chart])]})
    without_plotly(render(Page("Title", "Lead", [Section("Heading", [nested])])))


def _luminance(colour: str) -> float:
    """Relative luminance of WCAG 2."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(a: str, b: str) -> float:
    high, low = sorted((_luminance(a), _luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_contrast(text: str, scheme: int) -> None:
    part = re.split(r"@media \(prefers-color-scheme: dark\)", without_plotly(text))[scheme]
    colours = dict(re.findall(r"(--[\w-]+): (#[0-9a-f]{6});", part))
    for ground in ("--paper", "--card", "--well"):
        for words in ("--ink", "--muted"):
            assert _contrast(colours[words], colours[ground]) >= 4.5, (words, ground)
    for ground in ("--paper", "--card"):
        for number in range(1, 7):  # also of links, and of the marks of charts
            assert _contrast(colours[f"--series-{number}"], colours[ground]) >= 4.5, (number, ground)
        assert _contrast(colours["--edge"], colours[ground]) >= 3
        assert _contrast(colours["--warning"], colours[ground]) >= 3
    for ground in ("--well", "--heat"):  # numbers in a heat map
        assert _contrast(colours["--ink"], colours[ground]) >= 4.5


def test_page_without_charts_is_small() -> None:
    assert len(render(Page("Title", "Lead", [Section("Heading", [Prose(["Text"])])]))) < 20_000


def test_json_in_a_page_is_valid() -> None:
    written = str(json_script({"a": [1.5, float("nan"), float("inf")], "b": "</script>"}))
    assert "<" not in written
    assert json.loads(written) == {"a": [1.5, None, None], "b": "</script>"}


@pytest.mark.parametrize("missing", ["jinja2", "plotly"])
def test_missing_extra(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == missing:
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"neuromix\[report\]"):
        render(page())
