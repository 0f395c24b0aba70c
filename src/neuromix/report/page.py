"""render: a Page as one HTML text that needs nothing else - style, charts and plotly's code are inside."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from importlib import resources
from typing import Any

from neuromix.core.errors import MissingExtraError
from neuromix.report.blocks import Block, Chart, Page

_TEMPLATE = "page.html.jinja"


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
    environment.filters["json_script"] = json_script
    has_charts = any(isinstance(block, Chart) for section in page.sections for block in section.blocks)
    return environment.get_template(_TEMPLATE).render(
        page=page,
        figure=figure,
        style=_text("style.css"),
        script=_text("charts.js"),
        plotly=get_plotlyjs() if has_charts else "",
    )


def figure(block: Block) -> Mapping[str, Any]:
    """What the page's script draws of a chart."""
    assert isinstance(block, Chart)
    return {"data": block.data, "layout": block.layout}


def json_script(value: Any) -> Any:
    """JSON that may stand inside a script element: no `<`, no NaN."""
    from markupsafe import Markup

    text = json.dumps(_finite(value), allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c"))


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
