"""Lists in every format. A list is printed as it is read, so that memory does not grow with its length.

A new list needs its columns in `tables.LISTS`, nothing else.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from seatctl.domain.words import count
from seatctl.output import console, formats, tables
from seatctl.output.deadlines import DEADLINES
from seatctl.output.formats import Format, value_of

if TYPE_CHECKING:
    from seatctl.domain.documents import StoredDocument

ROWS_AT_ONCE = 1_000
"""Rows of one table: a longer list comes as several, since a table needs the widths of all its cells."""
BAR = "filled"
"""The column of an event's bar, which has a legend."""
NOTHING_DONE = {"status": "SUCCESS", "details.recordsProcessed": 0, "details.seatsRestored": 0}
"""What a run has in these fields that found nothing to do."""


def fields_of(name: str, form: Format, columns: Sequence[str] | None) -> Sequence[str] | None:
    """The fields that a list needs in this format, None for all: documents of other programs may be large."""
    if form is Format.IDS:
        return ("_id",)
    if columns is None and form in (Format.JSON, Format.NDJSON):
        return None
    return columns or tables.columns_of(name)


class Shown(NamedTuple):
    """How many rows a table has, and the headings of the columns for which the window has no room."""

    rows: int = 0
    hidden: Sequence[str] = ()


def print_list(
    name: str,
    documents: Iterable[StoredDocument],
    form: Format,
    columns: Sequence[str] | None = None,
    clock: Callable[[], datetime] | None = None,
) -> Shown:
    """Print a list with its columns, or with these; as JSON with all fields, unless these are given. With the
    server's `clock` a table shows what is left until a deadline."""
    match form:
        case Format.TABLE:
            return _print_table(name, documents, columns, clock)
        case Format.JSON:
            formats.print_json_list(formats.only(documents, columns) if columns else documents)
        case Format.NDJSON:
            formats.print_json_lines(formats.only(documents, columns) if columns else documents)
        case Format.CSV:
            formats.print_csv(documents, columns or tables.columns_of(name))
        case Format.IDS:
            formats.print_ids(documents)
    return Shown()


def _print_table(
    name: str,
    documents: Iterable[StoredDocument],
    columns: Sequence[str] | None,
    clock: Callable[[], datetime] | None,
) -> Shown:
    chosen = None if columns is None else tables.chosen_columns(name, columns)
    rows, number = iter(documents), 0
    hidden: list[str] = []
    while some := list(islice(rows, ROWS_AT_ONCE)):
        now = clock() if clock and name in DEADLINES else None
        hidden += console.show(tables.list_of(name, some, chosen, now=now))
        number += len(some)
    if number and BAR in (chosen or tables.LISTS[name]) and BAR not in hidden and sys.stdout.isatty():
        console.show(tables.legend())
    return Shown(number, list(dict.fromkeys(hidden)))


def fold_idle_runs(runs: Iterable[StoredDocument]) -> Iterator[StoredDocument]:
    """The runs as a table shows them: several in a row that found nothing to do are one."""
    first: StoredDocument | None = None
    last: StoredDocument = {}
    idle = 0
    for run in runs:
        if all(value_of(run, field) == value for field, value in NOTHING_DONE.items()):
            first, last, idle = first or run, run, idle + 1
            continue
        if first is not None:
            yield _folded(first, last, idle)
        first, idle = None, 0
        yield run
    if first is not None:
        yield _folded(first, last, idle)


def _folded(first: StoredDocument, last: StoredDocument, runs: int) -> StoredDocument:
    """How many runs, from when to when, with the start of the first in the list."""
    if runs == 1:
        return first
    moments: list[Any] = [run.get("executedAt") for run in (first, last)]
    words = f"{count(runs, 'run')} with nothing to do"
    if all(isinstance(moment, datetime) for moment in moments):
        day = "%H:%M" if min(moments).date() == max(moments).date() else "%Y-%m-%d %H:%M"
        begin, end = f"{min(moments):{day}}", f"{max(moments):{day}}"
        words += f", {begin}" if begin == end else f", {begin}–{end}"  # noqa: RUF001 - as ranges are written
    return {"jobType": words, "executedAt": first.get("executedAt"), "status": first.get("status")}
