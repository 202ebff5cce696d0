"""Tables that fit the window. No id and no time is ever broken: what has no room is said in fewer words,
then left out, and in the end the rows are cards."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Column as TableColumn
    from rich.table import Table

    Cell = RenderableType

ANY_WIDTH = 100_000
LABEL_AND_VALUE = 2
"""Columns of a table that would look the same as cards."""
BORDERS = 7
"""Cells that cards take beside their texts."""
SECONDS = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d):\d\dZ")


@dataclass(frozen=True)
class FlexibleTable:
    """A table with the headings of the columns that it can do without, the least needed first."""

    table: Table
    expendable: Sequence[str] = ()


@dataclass(frozen=True)
class Column:
    """One column: its cells, how wide they are, and how narrow they can be without a word broken."""

    origin: TableColumn
    heading: str
    cells: Sequence[Cell]
    width: int
    least: int


def fit(screen: Console, part: Cell | FlexibleTable, width: int) -> tuple[Cell, Sequence[str]]:
    """`part`, and if it is a table that is wider than `width`, a narrower one: without empty columns, then
    with times to the minute, then without expendable columns, whose headings are the second result.
    Where that is not enough, all of it as cards."""
    from rich.measure import Measurement
    from rich.table import Table

    table, expendable = (part.table, part.expendable) if isinstance(part, FlexibleTable) else (part, ())
    if not isinstance(table, Table):
        return table, ()
    natural = Measurement.get(screen, screen.options.update(max_width=ANY_WIDTH), table).maximum
    if natural <= width:
        return table, ()
    columns = _columns(screen, table)
    frame = natural - sum(column.width for column in columns)

    def room(shown: Sequence[Column]) -> int:
        """For the texts of these columns: borders take the same of each."""
        return width - math.ceil(frame * len(shown) / len(columns))

    def fits(shown: Sequence[Column]) -> bool:
        return sum(column.least for column in shown) <= room(shown)

    filled = [column for column in columns if any(str(cell) for cell in column.cells)] or columns
    short = [_to_the_minute(column) for column in filled]
    for candidates in (filled, short):
        if fits(candidates):
            return _narrowed(table, candidates, room(candidates)), ()
    kept = _without_expendable(short, expendable, fits)
    if fits(kept):
        shown = {column.heading for column in kept}
        hidden = [column.heading for column in short if column.heading not in shown]
        whole = [column for column in filled if column.heading in shown]
        return _narrowed(table, whole if fits(whole) else kept, room(kept)), hidden  # the seconds, again
    if len(columns) > LABEL_AND_VALUE:
        return _cards(table, filled, width), ()
    return table, ()


def _columns(screen: Console, table: Table) -> list[Column]:
    from rich.measure import Measurement

    options = screen.options.update(max_width=ANY_WIDTH)
    found = []
    for column in table.columns:
        cells = list(column.cells)
        sizes = [Measurement.get(screen, options, cell) for cell in (column.header, *cells)]
        width = max(size.maximum for size in sizes)
        least = width if column.no_wrap else max(size.minimum for size in sizes)
        found.append(Column(column, str(column.header), cells, width, least))
    return found


def _to_the_minute(column: Column) -> Column:
    """The same column, if it is one of times, without their seconds."""
    texts = [str(cell) for cell in column.cells]
    if not any(texts) or not all(SECONDS.fullmatch(text) for text in texts if text):
        return column
    short = [SECONDS.sub(r"\1Z", text) for text in texts]
    width = max(map(len, (column.heading, *short)))
    return replace(column, cells=short, width=width, least=width)


def _without_expendable(
    columns: Sequence[Column], expendable: Sequence[str], fits: Callable[[Sequence[Column]], bool]
) -> list[Column]:
    """The columns without as many of the expendable ones as it takes."""
    hidden: list[str] = []

    def kept() -> list[Column]:
        return [column for column in columns if column.heading not in hidden]

    for heading in expendable:
        if fits(kept()):
            break
        hidden.append(heading)
    if fits(kept()):  # a wide column was left out last: a narrow one may have room again
        for heading in hidden[::-1]:
            hidden.remove(heading)
            if not fits(kept()):
                hidden.append(heading)
    return kept()


def _narrowed(table: Table, columns: Sequence[Column], room: int) -> Table:
    """A table of these columns, of which the widest are narrowed until it fits, none below its least: Rich
    itself narrows a column to less than its longest word."""
    widths = [column.width for column in columns]
    for _ in range(sum(widths) - room):
        widest = max(range(len(widths)), key=lambda n: (widths[n] > columns[n].least, widths[n]))
        widths[widest] -= 1
    table.columns = [
        replace(column.origin, width=width, _cells=list(column.cells))
        for column, width in zip(columns, widths, strict=True)
    ]
    return table


def _cards(wide: Table, columns: Sequence[Column], width: int) -> Table:
    """The rows with one field a line and without empty fields, so that no id needs to be cut; without lines
    around them where those have no room."""
    from rich.table import Table

    labels = max(len(column.heading) for column in columns)
    least = labels + max(column.least for column in columns)
    has_lines = not least + 1 <= width < least + BORDERS
    box = wide.box if has_lines else None
    cards = Table(box=box, title=wide.title, title_justify="left", title_style="bold", show_header=False)
    cards.padding = (0, 1) if has_lines else (0, 1, 0, 0)
    cards.pad_edge = has_lines
    cards.add_column(style="dim")
    cards.add_column(overflow="fold")
    for row in zip(*(column.cells for column in columns), strict=True):
        for column, cell in zip(columns, row, strict=True):
            if str(cell):
                cards.add_row(column.heading, cell)
        if has_lines:
            cards.add_section()
        else:
            cards.add_row()
    return cards
