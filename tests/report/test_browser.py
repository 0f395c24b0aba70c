"""The pages in a real browser: they work, with the mouse and without it, and ask the network for nothing."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("selenium", reason="selenium is not installed")
pytest.importorskip("plotly", reason="plotly is not installed")
from selenium.webdriver import ActionChains
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

from neuromix.report.blocks import Page, Section
from neuromix.report.comparison_page import comparison_page
from neuromix.report.comparison_tables import models_table
from neuromix.report.page import render
from tests.report.browser import DESKTOP, PHONE, Browser
from tests.report.plain import page as demo_page
from tests.report.records import NAMES, record

HOSTILE = (
    "<b>bold</b> &lt;i&gt;",
    "<a href=\"javascript:document.title='x'\">link</a>%{x}",
    "</script><img src=x onerror=\"document.title='x'\">",
)


def with_unknown() -> dict[str, Any]:
    """Six models, one of which has no latency."""
    made = record(6, 3, 1)
    made["models"][2]["summary"]["latency"].update(mean=None, std=None, n=0)
    return made


def hostile() -> dict[str, Any]:
    made = record(3, 2, names=HOSTILE)
    made["class_names"] = [f"{HOSTILE[0]} {number}" for number in range(10)]
    for model in made["models"]:
        for run in model["runs"]:
            for layer in run["layers"]:
                layer["path"] = f"{HOSTILE[1]}.{layer['path']}"
            for train in (run["raster"] or {"trains": []})["trains"]:
                train["name"] = HOSTILE[0]
    return made


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    pages = {
        "demo": demo_page(),
        "one": comparison_page(record(1, 1)),
        "six": comparison_page(with_unknown()),
        "twelve": comparison_page(record(12, 2, 3)),
        "table": Page("Table", "Lead", [Section(name, [models_table(with_unknown())]) for name in "abcd"]),
        "hostile": comparison_page(hostile()),
    }
    folder = tmp_path_factory.mktemp("pages")
    for name, page in pages.items():
        (folder / f"{name}.html").write_text(render(page), encoding="utf-8")
    return {name: folder / f"{name}.html" for name in pages}


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


@pytest.fixture
def six(chromium: Browser, files: dict[str, Path]) -> Iterator[Browser]:
    """The page of six models; whatever a test does to it, it does without a complaint."""
    yield from opened(chromium, files["six"])


@pytest.fixture
def table(chromium: Browser, files: dict[str, Path]) -> Iterator[Browser]:
    """The table of the same models alone, which is there at once."""
    yield from opened(chromium, files["table"])


def opened(browser: Browser, path: Path) -> Iterator[Browser]:
    browser.open(path)
    yield browser
    assert browser.logs() == []
    assert browser.requests() == [path.as_uri()]


@pytest.mark.parametrize("name", ["demo", "one", "six", "twelve", "hostile"])
def test_a_page_loads_alone_and_fits_every_width(
    name: str, chromium: Browser, files: dict[str, Path]
) -> None:
    chromium.open(files[name])
    assert chromium.requests() == [files[name].as_uri()]
    shown = chromium.js(
        "return [...document.querySelectorAll('.chart')].filter((chart) => chart.clientWidth > 0)"
        ".map((chart) => chart.querySelectorAll('.trace, .hm').length)"
    )
    assert len(shown) >= 4
    assert all(shown), "every chart has marks"
    assert chromium.has_room()
    chromium.resize(PHONE)
    chromium.until("return document.documentElement.clientWidth <= 360")
    chromium.until(
        "return [...document.querySelectorAll('.chart .main-svg')]"
        ".every((svg) => svg.getBoundingClientRect().right <= 360)"
    )
    for fold in chromium.all("details"):
        chromium.js("arguments[0].open = true", fold)
    assert chromium.has_room()
    assert chromium.js("return document.title") != "x"
    assert chromium.logs() == []


# Tables


def column(browser: Browser, heading: str) -> list[Any]:
    """The values of a column of the first table, from top to bottom."""
    values = browser.js(
        """
        const table = document.querySelector("table.sortable");
        const at = [...table.tHead.rows[0].cells].findIndex((cell) => cell.textContent === arguments[0]);
        return [...table.tBodies[0].rows].map((row) => row.cells[at].dataset.value);
        """,
        heading,
    )
    return [json.loads(value) for value in values]


def heading(browser: Browser, text: str) -> Any:
    return next(one for one in browser.all("table.sortable thead button") if one.text.startswith(text))


def test_a_click_sorts_numbers_as_numbers(table: Browser) -> None:
    before = column(table, "Parameters")
    assert before != sorted(before)
    heading(table, "Parameters").click()
    assert column(table, "Parameters") == sorted(before)
    at = [one.text.split()[0] for one in table.all("table.sortable thead button")].index("Parameters")
    shown = [row.find_elements("css selector", "td")[at - 1].text for row in table.all("tbody tr")[:6]]
    assert {text[-1] for text in shown} == {"k", "M"}, "in units that texts would sort wrongly"
    heading(table, "Parameters").click()
    assert column(table, "Parameters") == sorted(before, reverse=True)
    sorted_by = table.js("return [...document.querySelectorAll('[aria-sort]')].map((th) => th.ariaSort)")
    assert sorted_by == ["descending"]


def test_keys_sort_and_leave_the_unknown_last(table: Browser) -> None:
    known = sorted(value for value in column(table, "Latency") if value is not None)
    button = heading(table, "Latency")
    table.js("arguments[0].focus()", button)
    for key, expected in ((Keys.ENTER, known), (Keys.SPACE, known[::-1])):
        table.driver.switch_to.active_element.send_keys(key)
        assert column(table, "Latency") == [*expected, None]


def test_names_sort_as_words(table: Browser) -> None:
    heading(table, "Model").click()
    assert column(table, "Model") == sorted(NAMES[:6])


def test_the_saved_file_has_the_raw_numbers(table: Browser) -> None:
    table.one("a[download='comparison.csv']").click()
    path = table.downloads / "comparison.csv"
    for _ in range(200):
        if path.exists() and path.stat().st_size:
            break
        table.driver.execute_async_script("setTimeout(arguments[0], 20)")
    rows = {row["model"]: row for row in csv.DictReader(path.open(encoding="utf-8", newline=""))}
    for model in with_unknown()["models"]:
        row, summary = rows[model["name"]], model["summary"]
        assert float(row["accuracy mean"]) == summary["accuracy"]["mean"]
        assert float(row["energy 7nm std (mJ)"]) == summary["energy 7nm"]["std"]
        assert row["latency mean (s)"] == str(summary["latency"]["mean"] or "")


# Charts

SHOWN = """
return [...document.querySelectorAll(".chart")].filter((chart) => chart.clientWidth > 0 && chart.data)
  .filter((chart) => chart.data.some((trace) => trace.legendgroup === arguments[0]))
  .map((chart) => chart.data.filter((trace) => trace.legendgroup === arguments[0] && trace.visible).length);
"""


def test_ticks_of_the_legend_show_and_hide_a_model_in_all_charts(six: Browser) -> None:
    name = NAMES[1]
    drawn = "return document.querySelectorAll('.chart .scatterlayer .trace').length"
    shown, marks = six.js(SHOWN, name), six.js(drawn)
    assert len(shown) == 3
    assert all(shown)
    boxes = six.all(f".legend input[value='{name}']")
    assert len(boxes) == 2
    boxes[0].click()
    six.until(f"return (() => {{{SHOWN}}})(...arguments).every((number) => number === 0)", name)
    assert not any(box.is_selected() for box in boxes), "both legends agree"
    assert six.js(drawn) == marks - sum(shown), "nothing of it is left"
    six.js("arguments[0].focus()", boxes[1])
    six.driver.switch_to.active_element.send_keys(Keys.SPACE)
    six.until("return arguments[0].checked", boxes[0])
    assert six.js(SHOWN, name) == shown
    none, every = (six.one(f".legend button[data-all='{value}']") for value in ("", "1"))
    none.click()
    assert six.js("return document.querySelectorAll('.legend input:checked').length") == 0
    assert six.js(SHOWN, NAMES[0]) == [0, 0, 0]
    every.click()
    assert six.js(SHOWN, name) == shown


def test_a_mark_tells_its_figures_under_the_mouse(six: Browser) -> None:
    text = six.hover(six.one(".scatterlayer .trace .points path"), NAMES[0])
    assert text.startswith(NAMES[0])
    for word in ("accuracy", "energy, 45nm", "latency", "peak memory", "parameters"):
        assert word in text


def test_names_stand_beside_marks_where_there_is_room(six: Browser) -> None:
    names = "return document.querySelectorAll('.chart .textpoint').length"
    assert six.js(names) >= 4
    six.resize(PHONE)
    six.until(f"{names} === 0")
    six.resize(DESKTOP)
    six.until(f"{names} >= 4")


SHOWN_TITLES = """
return [...document.querySelectorAll(".chart")].filter((chart) => chart.clientWidth > 0)
  .map((chart) => chart.closest("figure").querySelector("h3").textContent)
"""
LAYERS = """
const chart = [...document.querySelectorAll(".chart")].find((one) => one.clientWidth > 0 &&
  one.closest("figure").querySelector("h3").textContent.includes("of each layer"));
return chart.querySelector(".main-svg") && chart.data.flatMap((trace) => [...trace.x]);
"""


def test_a_choice_shows_another_cost(six: Browser) -> None:
    assert "Accuracy against energy, 45nm" in six.js(SHOWN_TITLES)
    six.one("input[name='choice-1']").send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    six.until_drawn()
    titles = six.js(SHOWN_TITLES)
    assert "Accuracy against latency" in titles
    assert "Accuracy against energy, 45nm" not in titles


def test_a_choice_shows_the_layers_of_another_model(six: Browser) -> None:
    before = six.js(LAYERS)
    assert "Spikes of one sample" in six.js(SHOWN_TITLES)
    picker = next(
        one for one in six.all(".picker") if one.find_element("css selector", "legend").text == "Model"
    )
    pill = picker.find_elements("css selector", "label")[1]
    six.js("arguments[0].scrollIntoView({ block: 'center' })", pill)
    pill.click()
    six.until_drawn()
    after = six.js(LAYERS)
    assert len(after) == len(before)
    assert after != before
    assert "Spikes of one sample" not in six.js(SHOWN_TITLES), "the second has no neurons"


def test_many_models_are_chosen_from_a_list(chromium: Browser, files: dict[str, Path]) -> None:
    chromium.open(files["twelve"])
    before = chromium.js(LAYERS)
    Select(chromium.one("select")).select_by_visible_text(NAMES[11])
    chromium.until_drawn()
    assert chromium.js(LAYERS) != before


# Light, dark, keys, motion, no scripts

COLOURS = """
const text = document.querySelector(".chart .xtick text");
return [getComputedStyle(document.body).backgroundColor, getComputedStyle(text).fill];
"""


def test_the_page_follows_the_colour_scheme(six: Browser) -> None:
    light = six.js(COLOURS)
    six.media(prefers_color_scheme="dark")
    six.until(f"return (() => {{{COLOURS}}})().every((colour, at) => colour !== arguments[0][at])", light)
    six.media()
    six.until(f"return (() => {{{COLOURS}}})().every((colour, at) => colour === arguments[0][at])", light)


FOCUSABLE = """
return [...document.querySelectorAll("a[href], button, input, select, summary, [tabindex='0']")]
  .filter((one) => one.getClientRects().length && !(one.type === "radio" && !one.checked)).length;
"""
FOCUSED = """
const one = document.activeElement, seen = one.closest(".pill") ?? one, style = getComputedStyle(seen);
window.tabbed = (window.tabbed ?? new Set()).add(one);
const outlined = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2;
return [one === document.body, outlined, window.tabbed.size];
"""


def test_everything_is_reached_with_the_tab_key(six: Browser) -> None:
    expected = six.js(FOCUSABLE)
    assert expected > 40
    six.one("body").send_keys(Keys.TAB)
    assert six.js("return document.activeElement.className") == "skip"
    assert six.js("return document.activeElement.getBoundingClientRect().top >= 0"), "seen when it is used"
    for _ in range(expected + 5):
        at_end, visible, reached = six.js(FOCUSED)
        if at_end:
            break
        assert visible, "the focus is seen: " + six.js(
            "return document.activeElement.outerHTML.slice(0, 200)"
        )
        ActionChains(six.driver).send_keys(Keys.TAB).perform()
    assert reached in (expected, expected + 1)  # the body, at the end


def test_the_skip_link_skips(table: Browser) -> None:
    table.one("body").send_keys(Keys.TAB)
    table.driver.switch_to.active_element.send_keys(Keys.ENTER)
    table.until("return document.activeElement.id === 'content'")
    ActionChains(table.driver).send_keys(Keys.TAB).perform()
    assert table.js("return document.getElementById('content').contains(document.activeElement)")


def test_motion_is_only_for_those_who_like_it(table: Browser) -> None:
    behaviour = "return getComputedStyle(document.documentElement).scrollBehavior"
    table.media(prefers_reduced_motion="no-preference")
    assert table.js(behaviour) == "smooth"
    table.media(prefers_reduced_motion="reduce")
    assert table.js(behaviour) == "auto"


def test_every_control_and_chart_has_a_name(six: Browser) -> None:
    nodes = six.cdp("Accessibility.getFullAXTree")["nodes"]
    roles = ("button", "checkbox", "combobox", "image", "img", "link", "radio", "DisclosureTriangle")
    named = [
        (node["role"]["value"], node.get("name", {}).get("value", "").strip())
        for node in nodes
        if node.get("role", {}).get("value") in roles and not node.get("ignored")
    ]
    assert {role for role, _ in named} >= {"button", "checkbox", "link", "radio"}
    assert all(name for _, name in named), named


def test_without_scripts_the_figures_are_there(chromium: Browser, files: dict[str, Path]) -> None:
    chromium.open(files["six"], scripts=False)
    try:
        assert chromium.one("noscript p").is_displayed()
        assert chromium.one("table.sortable").is_displayed()
        assert not any(one.is_displayed() for one in chromium.all(".scripted"))
        assert all(one.is_displayed() for one in chromium.all(".choice > .option"))
    finally:
        chromium.cdp("Emulation.setScriptExecutionDisabled", value=False)


# Names that are more than names


def test_hostile_names_are_shown_as_they_are(chromium: Browser, files: dict[str, Path]) -> None:
    chromium.open(files["hostile"])
    for name in HOSTILE:
        assert name in chromium.js("return document.querySelector('.legend').textContent")
    texts = chromium.js(
        "return [...document.querySelectorAll('.chart text')].map((text) => text.textContent)"
    )
    assert HOSTILE[0] in texts, "beside its mark"
    assert any("<a href=" in text and "%{x}" in text for text in texts), "at a bar"
    assert chromium.js("return document.querySelectorAll('.chart a, main img').length") == 0
    told = chromium.hover(chromium.one(".scatterlayer .trace .points path"), "accuracy")
    assert told.startswith(HOSTILE[0])
    told = chromium.hover(chromium.one(".barlayer .point path"), "link")
    assert "<a href=" in told
    assert "%{x}" in told
    assert chromium.js("return document.title") != "x"
    assert chromium.logs() == []
