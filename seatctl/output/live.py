"""A screen that is redrawn in place, and tables that are made for one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from seatctl.domain.timespec import printable
from seatctl.output.console import console
from seatctl.output.tables import NUMBER, styled

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

    from seatctl.output.console import Part

SHORTENED = frozenset({"event", "of event", "user", "host", "error"})
"""Columns whose texts may be of any length. They lose their end where the window is too narrow."""


class LiveScreen:
    """The whole terminal, for as long as `live_screen` lasts."""

    def __init__(self, live: Live) -> None:
        self._live = live

    @property
    def size(self) -> tuple[int, int]:
        """How many columns and lines the window has now."""
        return self._live.console.width, self._live.console.height

    def draw(self, part: Part) -> None:
        """Replace what is on the screen."""
        self._live.update(part, refresh=True)


@contextmanager
def live_screen() -> Iterator[LiveScreen]:
    """Take over the terminal, and leave it as it was."""
    from rich.live import Live

    # Not redirected: nothing prints meanwhile, and Rich's replacement of stdout has no encoding.
    with Live(
        console=console(), screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
    ) as live:
        yield LiveScreen(live)


def full_screen(parts: Iterable[Part], last_line: str) -> Part:
    """Several parts, one below the other, and a line at the bottom of the screen."""
    from rich.console import Group
    from rich.layout import Layout
    from rich.text import Text

    screen = Layout()
    bottom = Text(printable(last_line), "reverse", no_wrap=True, overflow="ellipsis")
    screen.split_column(Layout(Group(*parts)), Layout(bottom, size=1))
    return screen


def glance_table(min_widths: Mapping[str, int], rows: Iterable[Sequence[object]], width: int) -> Table:
    """A table without lines, one line a row, for a window that is `width` wide.

    `min_widths` names each column with the narrowest window that shows it: an id is left out where it
    has no room, never cut. Long texts are.
    """
    from rich.table import Table
    from rich.text import Text

    shown = [(index, name) for index, (name, least) in enumerate(min_widths.items()) if width >= least]
    result = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for _, name in shown:
        # Rich narrows the columns that may wrap; their cells then end with an ellipsis.
        result.add_column(
            name.removesuffix(NUMBER),
            justify="right" if name.endswith(NUMBER) else "left",
            no_wrap=name not in SHORTENED,
        )
    for row in rows:
        cells = [styled(row[index], number=name.endswith(NUMBER)) for index, name in shown]
        for cell in cells:
            cell.no_wrap, cell.overflow = True, "ellipsis"
        result.add_row(*cells)
    if not result.rows:
        result.add_row(Text("none", "dim"))
    result.add_row()
    return result
