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
            screen.print(_fit(screen, part))
    shown = captured.get()
    if not screen.is_terminal:
        shown = "".join(line.rstrip() + "\n" for line in shown.splitlines())
    sys.stdout.write(shown)


def _fit(screen: Console, part: Part) -> Part:
    """`part`, or, where it is a table that is too wide for the window, its rows as cards."""
    from rich.measure import Measurement
    from rich.table import Table

    if not isinstance(part, Table) or len(part.columns) < 3:
        return part
    needed = Measurement.get(screen, screen.options.update(max_width=ANY_WIDTH), part).minimum
    return part if needed <= screen.width else _cards(part)


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
