"""How series look: each has a colour, a marker and a dash, so that it is told from another without its colour too."""

from __future__ import annotations

from neuromix.report.blocks import Mark

COLOURS = 6  # series colours that the style sheet has; they stay apart for colour-blind readers too
# plotly's dashes -> the same as an SVG stroke-dasharray.
DASHES = {"solid": "none", "dot": "2.5 2.5", "dash": "7 4", "dashdot": "7 3 2 3"}
# plotly's markers -> the same as an SVG path around 0, about 14 wide.
SYMBOLS = {
    "circle": "M6,0A6,6 0 1 1 -6,0A6,6 0 1 1 6,0Z",
    "square": "M-5.5,-5.5H5.5V5.5H-5.5Z",
    "diamond": "M0,-7.5L7.5,0L0,7.5L-7.5,0Z",
    "triangle-up": "M0,-7L7,5.5H-7Z",
    "cross": "M-2.3,-6.8H2.3V-2.3H6.8V2.3H2.3V6.8H-2.3V2.3H-6.8V-2.3H-2.3Z",
    "x": "M0,-3.2L3.5,-6.7L6.7,-3.5L3.2,0L6.7,3.5L3.5,6.7L0,3.2L-3.5,6.7L-6.7,3.5L-3.2,0L-6.7,-3.5L-3.5,-6.7Z",
    "triangle-down": "M0,7L7,-5.5H-7Z",
    "star": "M0,-7.5L1.8,-2.4L7.1,-2.3L2.9,0.9L4.4,6.1L0,3L-4.4,6.1L-2.9,0.9L-7.1,-2.3L-1.8,-2.4Z",
    "hourglass": "M-6,-6.5H6L-6,6.5H6Z",
    "pentagon": "M0,-7L6.7,-2.2L4.1,5.7H-4.1L-6.7,-2.2Z",
    "bowtie": "M-6.5,-6V6L6.5,-6V6Z",
    "hexagon": "M-6,-3.5L0,-7L6,-3.5V3.5L0,7L-6,3.5Z",
}
FRONT = Mark("Pareto front", "var(--muted)", dash="dot")


def plain(text: str) -> str:
    """A text that plotly shows as it is: it reads `<b>`, `&amp;` and `%{x}` in its labels."""
    return text.translate({ord("&"): "&amp;", ord("<"): "&lt;", ord(">"): "&gt;", ord("%"): "&#37;"})


def colour(number: int) -> str:
    """The colour of the series `number`, counted from 0."""
    return f"var(--series-{number % COLOURS + 1})"


def mark(name: str, number: int) -> Mark:
    """How the series `number` looks: no two of the first twelve alike, in marker or in dash and colour."""
    symbols, dashes = list(SYMBOLS), list(DASHES)
    return Mark(name, colour(number), symbols[number % len(symbols)], dashes[number % len(dashes)])
