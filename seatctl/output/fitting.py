"""Tables that fit the window: columns narrowed without breaking a word, else the rows as cards."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from seatctl.output.console import Part

ANY_WIDTH = 100_000
LABEL_AND_VALUE = 2
"""Columns of a table that would look the same as cards."""


def fit(screen: Console, part: Part, width: int) -> Part:
    """`part`, if it is a table no wider than `width` and with no word broken; where there is no room for
    that, its rows as cards."""
    from rich.measure import Measurement
    from rich.table import Table

    options = screen.options.update(max_width=ANY_WIDTH)
    if not isinstance(part, Table):
        return part
    excess = Measurement.get(screen, options, part).maximum - width
    if excess <= 0:
        return part
    least, widths = [], []
    for column in part.columns:
        sizes = [Measurement.get(screen, options, cell) for cell in (column.header, *column.cells)]
        widths.append(max(size.maximum for size in sizes))
        least.append(widths[-1] if column.no_wrap else max(size.minimum for size in sizes))
    if sum(widths) - excess < sum(least):
        return _cards(part) if len(part.columns) > LABEL_AND_VALUE else part
    # Rich itself narrows a column to less than its longest word.
    for column, columns in zip(part.columns, _narrow(widths, least, excess), strict=True):
        column.width = columns
    return part


def _narrow(widths: list[int], least: list[int], excess: int) -> list[int]:
    """`widths` with `excess` taken from the widest, none below its least."""
    narrowed = list(widths)
    for _ in range(excess):
        widest = max(range(len(narrowed)), key=lambda n: (narrowed[n] > least[n], narrowed[n]))
        narrowed[widest] -= 1
    return narrowed


def _cards(wide: Table) -> Table:
    """The same table with one field a line, so that no id needs to be cut."""
    from rich.table import Table

    cards = Table(box=wide.box, title=wide.title, title_justify="left", title_style="bold", show_header=False)
    cards.add_column(style="dim")
    cards.add_column(overflow="fold")
    for row in zip(*(column.cells for column in wide.columns), strict=True):
        for column, cell in zip(wide.columns, row, strict=True):
            cards.add_row(column.header, cell)
        cards.add_section()
    return cards
