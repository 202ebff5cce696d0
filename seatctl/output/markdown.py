"""A text in Markdown: formatted in a terminal, as it is in a pipe or file."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from seatctl.output.console import console
from seatctl.output.fitting import fit

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

LONGEST_LINE = 100
"""Columns; longer lines of text are hard to read."""


def show_markdown(text: str) -> None:
    """Print the text. Code is never wrapped or cut, so that it can be copied from a terminal."""
    if not sys.stdout.isatty():
        sys.stdout.write(text)
        return
    from rich.markdown import CodeBlock, Markdown, TableElement
    from rich.table import Table
    from rich.text import Text
    from rich.theme import Theme

    class Code(CodeBlock):
        """Plain: a theme for code has a background of its own, which suits only half of all terminals."""

        def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
            yield Text(str(self.text).rstrip(), "cyan", no_wrap=True, overflow="ignore")

    class Rows(TableElement):
        """No wider than the window, and no word broken: a name in two halves cannot be searched for."""

        def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
            for part in super().__rich_console__(console, options):
                yield fit(console, part, options.max_width)[0] if isinstance(part, Table) else part

    guide = Markdown(text, hyperlinks=False)
    elements = {"fence": Code, "code_block": Code, "table_open": Rows}
    guide.elements = {**Markdown.elements, **elements}  # type: ignore[misc]
    screen = console()
    screen.push_theme(Theme({"markdown.code": "bold cyan"}))  # Rich's own is on black
    screen.print(guide, width=min(screen.width, LONGEST_LINE), crop=False)
