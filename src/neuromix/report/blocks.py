"""What a page is made of: plain data that says what is shown, and nothing of how it looks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeAlias

# How much of the page's width a block takes; on a phone each takes all of it.
Span: TypeAlias = Literal["third", "half", "two-thirds", "full"]
# What stands behind a cell of a table; None is unknown.
Value: TypeAlias = str | float | None


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
        sortable: a click on a heading, or Enter on it, sorts the rows by it; unknown values come last.
        values: what stands behind each cell of `rows`, to sort by and to export. Without them it is the number that
            the text is ("1,797"), or the text; "12.3 k" is a text, so such cells need their values.
        export: name of a CSV file that a button saves; none without.
        sheet: lines of that file, its heads first, where it tells more than `columns` and `values` do.
    """

    kind: ClassVar[str] = "table"
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    notes: Sequence[str] = ()
    folded: bool = False
    sortable: bool = False
    values: Sequence[Sequence[Value]] = ()
    export: str = ""
    sheet: Sequence[Sequence[Value]] = ()
    span: Span = "full"


@dataclass(frozen=True)
class Chart:
    """A plotly figure as plain data.

    Colours are the page's, named as in CSS: `var(--series-1)`; the page puts in those of its light or dark form.
    Texts of others go through `marks.plain`, for plotly reads some of HTML.

    Attributes:
        title: what it shows.
        data: plotly traces; a Legend shows and hides those whose `legendgroup` is its entry.
        layout: what differs from the page's own layout.
        height: in CSS pixels.
        square: on a phone no higher than it is wide.
        description: the same in words, for those who do not see it.
        note: how to read it.
    """

    kind: ClassVar[str] = "chart"
    title: str
    data: Sequence[Mapping[str, Any]]
    layout: Mapping[str, Any] = field(default_factory=dict)
    height: int = 300
    square: bool = False
    description: str = ""
    note: str = ""
    span: Span = "half"


@dataclass(frozen=True)
class Mark:
    """How one entry of a legend is drawn.

    Attributes:
        name: also the `legendgroup` of its traces.
        colour: as in Chart.
        symbol: plotly's name of a marker; no marker without.
        dash: plotly's name of a line's dash; no line without.
    """

    name: str
    colour: str
    symbol: str = ""
    dash: str = ""


@dataclass(frozen=True)
class Legend:
    """A box to tick for each entry, which shows or hides its marks in all charts of the page."""

    kind: ClassVar[str] = "legend"
    label: str
    marks: Sequence[Mark]
    span: Span = "full"


@dataclass(frozen=True)
class Choice:
    """Alternatives of which the reader sees one, chosen by its name."""

    kind: ClassVar[str] = "choice"
    label: str  # what is chosen: "Model"
    options: Mapping[str, Sequence[Block]]
    span: Span = "full"


@dataclass(frozen=True)
class Fold:
    """Blocks that are shown only when they are opened."""

    kind: ClassVar[str] = "fold"
    title: str
    blocks: Sequence[Block]
    span: Span = "full"


@dataclass(frozen=True)
class Notice:
    """What must not be overlooked."""

    kind: ClassVar[str] = "notice"
    title: str
    paragraphs: Sequence[str]
    span: Span = "full"


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


Block: TypeAlias = Tiles | Table | Chart | Legend | Choice | Fold | Notice | Prose | Code | Facts


def every(blocks: Sequence[Block]) -> Iterator[Block]:
    """The blocks and all that are inside them."""
    for block in blocks:
        yield block
        if isinstance(block, Fold):
            yield from every(block.blocks)
        elif isinstance(block, Choice):
            for option in block.options.values():
                yield from every(option)


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
