"""The page is one file that shows everything and asks for nothing."""

from __future__ import annotations

import builtins
import html
import json
import re
from typing import Any

import pytest

from neuromix.core.errors import MissingExtraError
from neuromix.report.blocks import Chart, Code, Page, Prose, Section, Table
from neuromix.report.page import json_script, render
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
    assert not re.search(r"""(src|href)=|@import|url\(""", own)
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
    named = set(re.findall(r"var\((--[\w-]+)\)", own))
    schemes = re.split(r"@media \(prefers-color-scheme: dark\)", own)
    assert len(schemes) == 2
    for scheme in schemes:
        assert named <= set(re.findall(r"(--[\w-]+): #", scheme))


def test_text_is_escaped() -> None:
    hostile = "<script>alert(1)</script>"
    blocks = [
        Prose([hostile]),
        Code(hostile),
        Table(["", hostile], [[hostile, hostile]], caption=hostile, folded=True),
        Chart(hostile, [{"type": "bar", "name": hostile}], note=hostile, description=hostile),
    ]
    text = render(Page(hostile, hostile, [Section(hostile, blocks)], footer=hostile))
    assert "alert(1)" in text
    assert hostile not in text


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
