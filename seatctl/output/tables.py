"""The tables that people read. Built from stored documents of any shape: a missing field is an empty
cell, a strange one is shown as it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeAlias

from seatctl.domain.states import JobStatus, RefundStatus
from seatctl.domain.timespec import format_duration, format_time
from seatctl.domain.words import format_number
from seatctl.output.deadlines import with_time_left
from seatctl.output.fitting import FlexibleTable
from seatctl.output.formats import stdout_is_utf8, text, value_of, whole_number

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from seatctl.domain.documents import StoredDocument

STYLES = {
    "ACTIVE": "cyan",
    "CONSUMED": "green",
    "EXPIRED": "dim",
    "CANCELLED": "dim",
    "INITIATED": "dim",
    "PAYMENT_PENDING": "cyan",
    "CONFIRMED": "green",
    "FAILED": "red",
    "SUCCESS": "green",
    "WRONG": "red",
}
NUMBER = " #"
"""How the name of a column ends that holds numbers."""
RARE = frozenset({"error", "state", "kind", "why", "time left", "unaccounted #"})
"""Columns that say something only of few documents."""
NEVER_WRAPPED = frozenset({"id", "event", "lock", "booking", "status", "filled", "time left"})
SHORTENED = frozenset({"event", "of event", "user", "host", "error"})
"""Columns of a live table that lose their end where the window is too narrow: texts of any length."""
HELD = ("locked", "sold")
BAR, WIDE_BAR = 5, 12
"""Cells of a bar; with the short one a list of events fits 120 columns."""


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str | None = None) -> Table:
    """A table of plain values. Ids never wrap, and of other columns no word is ever broken."""
    from rich import box
    from rich.table import Table

    result = Table(box=box.ROUNDED, title=title, title_justify="left", title_style="bold")
    for column in columns:
        number = column.endswith(NUMBER)
        result.add_column(
            column.removesuffix(NUMBER),
            justify="right" if number else "left",
            no_wrap=column in NEVER_WRAPPED,
            overflow="fold",
        )
    for row in rows:
        result.add_row(*_cells(row, columns))
    return result


def _cells(row: Sequence[object], columns: Sequence[str]) -> list[Text]:
    """States in their colour, whole numbers in a column of numbers with separators."""
    from rich.text import Text

    cells = []
    for value, column in zip(row, columns, strict=True):
        whole = whole_number(value) if column.endswith(NUMBER) else None
        shown = text(value) if whole is None else format_number(whole)
        cells.append(value if isinstance(value, Text) else Text(shown, STYLES.get(shown, "")))
    return cells


def occupancy(event: Mapping[str, Any], width: int = BAR) -> Text:
    """How full an event is, as a bar of sold, locked and available seats with the percentage."""
    from rich.text import Text

    total, sold, locked = (whole_number(event.get(name)) or 0 for name in ("totalSeats", "sold", "locked"))
    if total < 1:
        return Text("?")
    if state_of_event(event) == "cancelled":  # a block has all its seats, and no buyer
        return Text("")
    solid, half, empty = _signs()
    # Rounded up: the first seat sold can be seen.
    sold_cells = min(width, math.ceil(width * sold / total))
    cells = min(width, max(sold_cells, math.ceil(width * (sold + locked) / total)))
    bar = Text().append(solid * sold_cells, "green")
    bar.append(half * (cells - sold_cells), "cyan")
    bar.append(empty * (width - cells), "dim")
    return bar.append(f" {round(100 * (sold + locked) / total):>3}%")


def _signs() -> tuple[str, str, str]:
    """For a sold, a locked and an available part of a bar."""
    return ("█", "▒", "·") if stdout_is_utf8() else ("#", "+", ".")


def legend() -> Text:
    from rich.text import Text

    sold, locked, available = _signs()
    parts = ((sold, "green"), " sold  ", (locked, "cyan"), " locked  ", (available, "dim"), " available")
    return Text.assemble(*parts)


def state_of_event(event: Mapping[str, Any]) -> str | None:
    """Why an event sells nothing; None where it does."""
    closed, cancelled = (isinstance(event.get(field), datetime) for field in ("closedAt", "cancelledAt"))
    return "cancelled" if cancelled else "closed" if closed else None


def unaccounted(event: Mapping[str, Any]) -> int | None:
    """Seats that are neither available nor held by a lock that can be read; None where there are none."""
    total, *known = (whole_number(event.get(name)) for name in ("totalSeats", "availableSeats", *HELD))
    rest = 0 if total is None else total - sum(number or 0 for number in known)
    return rest if rest > 0 else None


def _to_the_minute(moment: object) -> object:
    if not isinstance(moment, datetime):
        return moment
    return format_time(moment.replace(microsecond=0)).removesuffix("Z")[:-3] + "Z"


# --- documents ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Computed:
    """A cell that is computed from stored fields."""

    make: Callable[[Mapping[str, Any]], object]
    fields: tuple[str, ...]

    def __call__(self, document: Mapping[str, Any]) -> object:
        return self.make(document)


Field: TypeAlias = "str | Callable[[Mapping[str, Any]], object]"
"""What a cell shows of a document: a field, `details.duration` for one in another, or what is computed."""

SEATS_OF_REFUND = Computed(lambda refund: refund.get("seats") or "unknown", ("seats",))

LISTS: dict[str, dict[str, Field]] = {
    "events": {
        "id": "_id",
        "name": "name",
        "date": Computed(lambda event: _to_the_minute(event.get("eventDate")), ("eventDate",)),
        "state": Computed(state_of_event, ("closedAt", "cancelledAt")),
        "filled": Computed(occupancy, ("totalSeats", "sold", "locked", "cancelledAt")),
        "available #": "availableSeats",
        "locked #": "locked",
        "sold #": "sold",
        "unaccounted #": Computed(unaccounted, ("totalSeats", "availableSeats", "locked", "sold")),
        "total #": "totalSeats",
    },
    "seatLocks": {
        "id": "_id",
        "event": "eventId",
        "user": "userId",
        "seats #": "seats",
        "status": "status",
        "expires": "expiresAt",
        "time left": lambda lock: lock.get("timeLeft"),
        "kind": "kind",
        "key": "idempotencyKey",
    },
    "bookings": {
        "id": "_id",
        "event": "event",
        "user": "user",
        "lock": "seatLockId",
        "seats #": lambda booking: booking.get("seatsOfLock"),
        "status": "status",
        "pay by": "paymentExpiresAt",
        "time left": lambda booking: booking.get("timeLeft"),
    },
    "refunds": {
        "id": "_id",
        "booking": "bookingId",
        "event": "eventId",
        "user": "userId",
        "seats #": SEATS_OF_REFUND,
        "cause": "cause",
        "payment": "paymentRef",
        "status": "status",
        "due since": "dueAt",
    },
    "jobLogs": {
        "id": "_id",
        "job": "jobType",
        "started": "executedAt",
        "status": "status",
        "processed #": "details.recordsProcessed",
        "seats returned #": "details.seatsRestored",
        "ms #": "details.duration",
        "host": "host",
        "error": "error",
    },
    "history": {
        "when": "at",
        "ago": lambda entry: entry.get("ago"),
        "what": "what",
        "by": "by",
        "why": "reason",
    },
    "violations": {"fault": "fault", "problem": "message", "what to do": "remedy"},
}
"""The columns of each list in a table, by collection."""

MORE: dict[str, tuple[str, ...]] = {
    "events": ("description", "createdAt", "updatedAt"),
    "seatLocks": ("oldStatus", "endedBy", "createdAt", "updatedAt"),
    "bookings": ("paymentRef", "endedBy", "createdAt", "updatedAt"),
    "jobLogs": ("details.locksExpired", "details.bookingsExpired", "details.asOf", "details.seatsByEvent"),
    "history": ("event", "lock", "booking", "refund", "operation", "run"),
    "violations": ("invariant", "event", "lock", "booking", "index"),
}
"""Fields of each list that its table shows only if it is asked for them."""


EXPENDABLE: dict[str, tuple[str, ...]] = {
    "events": ("filled", "total", "date", "state"),
    "seatLocks": ("key", "expires", "event", "user", "kind"),
    "bookings": ("lock", "pay by", "event", "user"),
    "refunds": ("event", "cause", "booking", "due since", "user", "status"),
    "jobLogs": ("host", "ms", "processed", "seats returned"),
    "history": ("ago",),
}
"""Columns of a list that a narrow window does without, the least needed first. Its own id is never one."""


def columns_of(name: str) -> tuple[str, ...]:
    """The fields that a list can show, in order."""
    names: list[str] = []
    for field in LISTS[name].values():
        names += [field] if isinstance(field, str) else getattr(field, "fields", ())
    return tuple(dict.fromkeys([*names, *MORE.get(name, ())]))


def fields_by_heading(name: str) -> dict[str, str]:
    """The field that stands below each heading of a list, where it is one field."""
    fields = {heading: getattr(field, "fields", (field,)) for heading, field in LISTS[name].items()}
    return {
        heading.removesuffix(NUMBER): only[0]
        for heading, only in fields.items()
        if len(only) == 1 and isinstance(only[0], str)
    }


def chosen_columns(name: str, columns: Sequence[str]) -> dict[str, Field]:
    """These fields of a list as columns of a table, with the headings that they have in it."""
    headings = {field: heading for heading, field in LISTS[name].items() if isinstance(field, str)}
    return {headings.get(column, column): column for column in columns}


SUMMARY: dict[str, Field] = {
    "job": "jobType",
    "runs #": "runs",
    "success": lambda row: "" if row["successRate"] is None else f"{row['successRate']:.1%}",
    "processed #": "recordsProcessed",
    "seats returned #": "seatsRestored",
    "median #": lambda row: _milliseconds(row["medianDuration"]),
    "worst #": lambda row: _milliseconds(row["worstDuration"]),
}


def _milliseconds(number: int | None) -> str:
    return "" if number is None else f"{format_number(number)} ms"


OWED: dict[str, Field] = {
    "booking": "bookingId",
    "user": "userId",
    "seats #": SEATS_OF_REFUND,
    "payment": "paymentRef",
    "due since": "dueAt",
}
"""The refunds of one event."""
REPAIRS: dict[str, Field] = {
    "fault": "fault",
    "problem": "message",
    "outcome": lambda step: "; ".join(_outcome_and_remedy(step)),
}


def _outcome_and_remedy(step: Mapping[str, Any]) -> Iterator[str]:
    """What became of a violation, and where recovery leaves it to a person, what to do."""
    yield str(step["outcome"])
    if step["outcome"] == "needs a person":
        yield str(step["remedy"])


def list_table(
    documents: Iterable[StoredDocument], columns: Mapping[str, Field], title: str | None = None
) -> Table:
    """One document a line."""
    rows = ([value(document, field) for field in columns.values()] for document in documents)
    return table(tuple(columns), rows, title=title)


def list_of(
    name: str,
    documents: Iterable[StoredDocument],
    chosen: Mapping[str, Field] | None = None,
    *,
    now: datetime | None = None,
    title: str | None = None,
) -> FlexibleTable:
    """A list with its columns, or with those that are `chosen`. A column of RARE is there only if a document
    has it: without it a list fits 120 columns. `now`, by the server, is for what is left until deadlines."""
    shown = [with_time_left(name, document, now) for document in documents]
    columns = (
        dict(chosen)
        if chosen
        else {
            column: field
            for column, field in LISTS[name].items()
            if column not in RARE or any(value(document, field) for document in shown)
        }
    )
    if name == "refunds" and not chosen and all(refund.get("status") == RefundStatus.DUE for refund in shown):
        del columns["status"]
    expendable = EXPENDABLE.get(name, ())
    if name == "jobLogs" and all(run.get("status") == JobStatus.SUCCESS for run in shown):
        expendable = (*expendable[:-1], "status", expendable[-1])  # what they did says more
    return FlexibleTable(list_table(shown, columns, title), () if chosen else expendable)


def ago(moment: object, now: datetime) -> str:
    if not isinstance(moment, datetime):
        return ""
    return format_duration(now - moment) if moment <= now else f"in {format_duration(moment - now)}"


def value(document: StoredDocument, field: Field) -> object:
    """What a field shows of a document; None where it is missing."""
    return field(document) if callable(field) else value_of(document, field)


def document_table(document: StoredDocument, title: str) -> Table:
    """One document, one field a line, and of the lists in `details` one item a line."""
    rows: list[tuple[str, object]] = []
    for field, value in document.items():
        if field == "details" and isinstance(value, Mapping):
            for name, found in value.items():
                items = found if isinstance(found, list) and found else [found]
                rows += [(f"details.{name}", item) for item in items]
        else:
            rows.append((field, value))
    return table(("field", "value"), rows, title=title)


def checks_table(checks: Iterable[tuple[str, object, object]]) -> Table:
    rows = ((*check, "ok" if check[1] == check[2] else "WRONG") for check in checks)
    return table(("check", "expected", "actual", "result"), rows)


def live_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """A table without lines, one line a row: long texts lose their end where the window is too narrow."""
    from rich.table import Table
    from rich.text import Text

    result = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        # Rich narrows the columns that may wrap; their cells then end with an ellipsis.
        result.add_column(
            column.removesuffix(NUMBER),
            justify="right" if column.endswith(NUMBER) else "left",
            no_wrap=column not in SHORTENED,
        )
    for row in rows:
        cells = _cells(row, columns)
        for cell in cells:
            cell.no_wrap, cell.overflow = True, "ellipsis"
        result.add_row(*cells)
    if not result.rows:
        result.add_row(Text("none", "dim"))
    result.add_row()
    return result
