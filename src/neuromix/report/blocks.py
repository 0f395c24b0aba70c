"""What a page is made of: plain data that says what is shown, and nothing of how it looks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeAlias

# How much of the page's width a block takes; on a phone each takes all of it.
Span: TypeAlias = Literal["third", "half", "two-thirds", "full"]


@dataclass(frozen=True)
class Tile:
    """One figure that should be seen first."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Tiles:
    """The figures that should be seen first."""

    kind: ClassVar[str] = "tiles"
    tiles: Sequence[Tile]
    span: Span = "full"


@dataclass(frozen=True)
class Table:
    """Rows of cells; the first column names the row.

    Attributes:
        columns: heads of the columns, the first included.
        rows: one text a cell.
        caption: what the table shows.
        notes: small print below.
        folded: shown only when it is opened.
    """

    kind: ClassVar[str] = "table"
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    notes: Sequence[str] = ()
    folded: bool = False
    span: Span = "full"


@dataclass(frozen=True)
class Chart:
    """A plotly figure as plain data.

    Colours are the page's, named as in CSS: `var(--series-1)`; the page puts in those of its light or dark form.

    Attributes:
        title: what it shows.
        data: plotly traces.
        layout: what differs from the page's own layout.
        height: in CSS pixels.
        description: the same in words, for those who do not see it.
        note: how to read it.
    """

    kind: ClassVar[str] = "chart"
    title: str
    data: Sequence[Mapping[str, Any]]
    layout: Mapping[str, Any] = field(default_factory=dict)
    height: int = 300
    description: str = ""
    note: str = ""
    span: Span = "half"


@dataclass(frozen=True)
class Prose:
    """Paragraphs."""

    kind: ClassVar[str] = "prose"
    paragraphs: Sequence[str]
    span: Span = "full"


@dataclass(frozen=True)
class Code:
    """Lines to be read, or copied, as they are: a command, a formula."""

    kind: ClassVar[str] = "code"
    text: str
    span: Span = "full"


@dataclass(frozen=True)
class Facts:
    """Names and values."""

    kind: ClassVar[str] = "facts"
    items: Mapping[str, str]
    title: str = ""
    span: Span = "half"


Block: TypeAlias = Tiles | Table | Chart | Prose | Code | Facts


@dataclass(frozen=True)
class Section:
    """A heading and what belongs to it."""

    title: str
    blocks: Sequence[Block]
    intro: str = ""


@dataclass(frozen=True)
class Page:
    """A whole report."""

    title: str
    lead: str  # one paragraph in plain words
    sections: Sequence[Section]
    kicker: str = ""  # a few words above the title
    footer: str = ""
