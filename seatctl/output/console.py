"""Where tables and lines are printed.

In a terminal a table has colour and fits the window. In a pipe or file it has its natural width, so
that no id is cut and no line wrapped. Nothing that is printed is read as markup: texts come from
anybody.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeAlias

from seatctl.domain.words import printable, wrapped
from seatctl.output.fitting import ANY_WIDTH, FlexibleTable, fit

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

    Part: TypeAlias = RenderableType | FlexibleTable
    """A table or a line."""
    Drawing: TypeAlias = RenderableType
    """What can stand on a live screen."""


LEAVE_SCREEN = "\x1b[?25h\x1b[?1049l"
"""Shows the cursor, and then what the terminal showed before. To do so twice changes nothing."""


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


def show(*parts: Part) -> list[str]:
    """Print tables and lines in order, outside a terminal without trailing spaces. Returns the headings of
    the columns for which the window has no room."""
    from rich.text import Text

    screen = console()
    hidden: list[str] = []
    with screen.capture() as captured:
        for part in parts:
            shown, left_out = fit(screen, part, screen.width)
            hidden += left_out
            if isinstance(shown, str | Text) and len(str(shown)) > screen.width:
                style = shown.style if isinstance(shown, Text) else ""
                shown = Text(wrapped(str(shown), screen.width), style)
            # What is longer still is a command, and left to the terminal to wrap, so that it can be copied.
            screen.print(shown, soft_wrap=isinstance(shown, str | Text))
    printed = captured.get()
    if not screen.is_terminal:
        printed = "".join(line.rstrip() + "\n" for line in printed.splitlines())
    sys.stdout.write(printed)
    return list(dict.fromkeys(hidden))


@contextmanager
def live_screen() -> Iterator[Live]:
    """The whole terminal, to be redrawn in place; at the end of its `with` it is left as it was."""
    from rich.live import Live

    # Not redirected: nothing prints meanwhile, and Rich's replacement of stdout has no encoding.
    live = Live(
        console=console(), screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
    )
    try:
        with live:
            yield live
    finally:
        # Ctrl-C in the middle of a redraw: Rich then keeps in a buffer what it writes to leave the screen.
        live.console.file.write(LEAVE_SCREEN)
        live.console.file.flush()


def full_screen(parts: Iterable[Drawing], last_line: str, *, stale: bool = False) -> Drawing:
    """Several parts, one below the other, and a line at the bottom of the screen. What is `stale` is dim."""
    from rich.console import Group
    from rich.layout import Layout
    from rich.styled import Styled
    from rich.text import Text

    screen = Layout()
    bottom = Text(
        printable(last_line), "bold reverse" if stale else "reverse", no_wrap=True, overflow="ellipsis"
    )
    screen.split_column(Layout(Styled(Group(*parts), "dim" if stale else "")), Layout(bottom, size=1))
    return screen
