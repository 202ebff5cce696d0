"""Where tables and lines are printed.

In a terminal a table has colour and fits the window. In a pipe or file it has its natural width, so
that no id is cut and no line wrapped. Nothing that is printed is read as markup: texts come from
anybody.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, TypeAlias

from seatctl.domain.timespec import printable

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live
    from rich.table import Table

    Part: TypeAlias = RenderableType
    """A table or a line."""

ANY_WIDTH = 100_000
LABEL_AND_VALUE = 2
"""Columns of a table that would look the same as cards."""


def console() -> Console:
    """stdout: with colour and the window's width in a terminal, as wide as needed elsewhere."""
    from rich.console import Console

    terminal = sys.stdout.isatty()
    return Console(
        width=None if terminal else ANY_WIDTH,
        color_system="auto" if terminal else None,
        highlight=False,
        markup=False,
        emoji=False,
    )


def show(*parts: Part) -> None:
    """Print tables and lines in order, outside a terminal without trailing spaces."""
    screen = console()
    with screen.capture() as captured:
        for part in parts:
            # A line is left to the terminal to wrap, so that a command in it can be copied.
            screen.print(fit(screen, part, screen.width), soft_wrap=isinstance(part, str))
    shown = captured.get()
    if not screen.is_terminal:
        shown = "".join(line.rstrip() + "\n" for line in shown.splitlines())
    sys.stdout.write(shown)


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


def live_screen() -> Live:
    """The whole terminal, to be redrawn in place; at the end of its `with` it is left as it was."""
    from rich.live import Live

    # Not redirected: nothing prints meanwhile, and Rich's replacement of stdout has no encoding.
    return Live(
        console=console(), screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
    )


def full_screen(parts: Iterable[Part], last_line: str) -> Part:
    """Several parts, one below the other, and a line at the bottom of the screen."""
    from rich.console import Group
    from rich.layout import Layout
    from rich.text import Text

    screen = Layout()
    bottom = Text(printable(last_line), "reverse", no_wrap=True, overflow="ellipsis")
    screen.split_column(Layout(Group(*parts)), Layout(bottom, size=1))
    return screen
