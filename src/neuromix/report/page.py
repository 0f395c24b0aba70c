"""render: a Page as one HTML text that needs nothing else - style, charts and plotly's code are inside."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any
from urllib.parse import quote

from neuromix.core.errors import MissingExtraError
from neuromix.report.blocks import Chart, Page, Table, Value, every
from neuromix.report.marks import DASHES, SYMBOLS
from neuromix.report.numbers import NOTHING

_TEMPLATE = "page.html.jinja"
_NUMBER = re.compile(r"[+-]?[\d,]*\.?\d+(e[+-]?\d+)?", re.IGNORECASE | re.ASCII)
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a text that starts so is run by spreadsheets


def require_extra() -> None:
    """Refuses early, before anything is trained, where pages cannot be made.

    Raises:
        MissingExtraError: jinja2 or plotly is not installed.
    """
    try:
        import jinja2  # noqa: F401
        import plotly.offline  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("the HTML report", "report") from error


def render(page: Page) -> str:
    """The page as HTML, about 5 MB with plotly's code in it; it asks the network for nothing.

    Raises:
        MissingExtraError: jinja2 or plotly is not installed.
    """
    require_extra()
    import jinja2
    from plotly.offline import get_plotlyjs

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("neuromix.report", "template"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"json_script": json_script, "json": json.dumps}
    environment.globals |= {
        "figure": figure,
        "cell_values": cell_values,
        "word_columns": word_columns,
        "csv_url": csv_url,
        "symbols": SYMBOLS,
        "dashes": DASHES,
    }
    blocks = [block for section in page.sections for block in every(section.blocks)]
    scripts = [_text("tables.js"), _text("choices.js")]
    if any(isinstance(block, Chart) for block in blocks):
        scripts += [get_plotlyjs(), _text("charts.js")]
    return environment.get_template(_TEMPLATE).render(page=page, style=_text("style.css"), scripts=scripts)


def figure(chart: Chart) -> Mapping[str, Any]:
    """What the page's script draws of a chart."""
    return {"data": chart.data, "layout": chart.layout}


def cell_values(table: Table) -> list[list[Value]]:
    """What stands behind each cell: its value, or what its text says."""
    if table.values:
        return [[_finite(value) for value in row] for row in table.values]
    return [[_read(text) for text in row] for row in table.rows]


def word_columns(table: Table) -> set[int]:
    """Which columns hold words, by the values given for them, and not numbers: they are set to the left."""
    return {column for row in table.values for column, value in enumerate(row) if isinstance(value, str)}


def csv_url(table: Table) -> str:
    """A `data:` address that holds a table as CSV, with all digits; unknown values are empty.

    An apostrophe is put before a text that a spreadsheet would run as a formula.
    """
    lines: Sequence[Sequence[Value]] = table.sheet or [list(table.columns), *cell_values(table)]
    file = io.StringIO()
    csv.writer(file).writerows([_inert(_finite(value)) for value in line] for line in lines)
    return "data:text/csv;charset=utf-8," + quote(file.getvalue())


def json_script(value: Any) -> Any:
    """JSON that may stand inside a script element: no `<`, no NaN."""
    from markupsafe import Markup

    text = json.dumps(_finite(value), allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c"))


def _read(text: str) -> Value:
    """The number that a text is: "1,797"; None of one that says nothing; the text of any other."""
    if text in ("", NOTHING):
        return None
    return float(text.replace(",", "")) if _NUMBER.fullmatch(text) else text


def _inert(value: Value) -> Value:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _text(name: str) -> str:
    return resources.files("neuromix.report").joinpath("template", name).read_text(encoding="utf-8")
