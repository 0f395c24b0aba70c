"""Series are told apart without their colours."""

from __future__ import annotations

import html

import pytest

from neuromix.report.marks import DASHES, SYMBOLS, mark, plain


def test_twelve_series_look_different_without_colour() -> None:
    looks = [mark("", number) for number in range(12)]
    assert len({look.symbol for look in looks}) == 12
    assert len({(look.colour, look.dash) for look in looks}) == 12


def test_plotly_knows_the_markers_and_dashes() -> None:
    graph_objects = pytest.importorskip("plotly.graph_objects")
    for symbol in SYMBOLS:
        graph_objects.scatter.Marker(symbol=symbol)
    for dash in DASHES:
        graph_objects.scatter.Line(dash=dash)


def test_plain_text_is_what_is_read() -> None:
    text = "<b>&amp; %{x|%Y} 5 % > 4"
    shown = plain(text)
    assert not set("<>%") & set(shown)
    assert html.unescape(shown) == text
