"""Tables on standard output."""

from __future__ import annotations

from collections.abc import Collection

# Where output goes to a file or another program, lines are as long as their content.
_UNBOUNDED = 10_000


class Table:
    """Columns with a heading, in the width of the terminal.

    Args:
        columns: the headings.
        numbers: those headings whose cells are figures; they stand at the right.
    """

    def __init__(self, *columns: str, numbers: Collection[str] = ()) -> None:
        from rich import box
        from rich.table import Table as RichTable

        self._table = RichTable(box=box.SIMPLE_HEAD, pad_edge=False)
        for heading in columns:
            is_number = heading in numbers
            self._table.add_column(
                heading, justify="right" if is_number else "left", no_wrap=is_number, overflow="fold"
            )

    def add(self, *cells: str) -> None:
        """Adds a row."""
        from rich.text import Text

        self._table.add_row(*map(Text, cells))

    def print(self) -> None:
        """Prints the table."""
        from rich.console import Console

        console = Console()
        if not console.is_terminal:
            console = Console(width=_UNBOUNDED)
        console.print(self._table)
