"""The tables that people read. Built from stored documents of any shape: a missing field is an empty
cell, a strange one is shown as it is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from seatctl.domain.timespec import format_duration, printable
from seatctl.domain.words import count, format_number
from seatctl.output.formats import stdout_is_utf8, text, whole_number

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from seatctl.domain.documents import StoredDocument
    from seatctl.output.console import Part

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
NEVER_WRAPPED = frozenset({"id", "event", "lock", "booking", "status", "filled"})
BAR_WIDTH = 12


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str | None = None) -> Table:
    """A table of plain values. Ids, states and numbers never wrap."""
    from rich import box
    from rich.table import Table

    result = Table(box=box.ROUNDED, title=title, title_justify="left", title_style="bold")
    for column in columns:
        number = column.endswith(NUMBER)
        result.add_column(
            column.removesuffix(NUMBER),
            justify="right" if number else "left",
            no_wrap=number or column in NEVER_WRAPPED,
            overflow="fold",
        )
    for row in rows:
        cells = zip(row, columns, strict=True)
        result.add_row(*(styled(value, number=column.endswith(NUMBER)) for value, column in cells))
    return result


def styled(value: object, *, number: bool = False) -> Text:
    """A value as a cell: states in their colour, numbers of a column of numbers with separators."""
    from rich.text import Text

    if isinstance(value, Text):
        return value
    whole = whole_number(value) if number else None
    shown = text(value) if whole is None else format_number(whole)
    return Text(shown, STYLES.get(shown, ""))


def events_table(events: Iterable[StoredDocument], title: str | None = None) -> Table:
    """Events with the `locked` and `sold` seats that services/lookup.py adds."""
    columns = ("id", "name", "date", "filled", "available #", "locked #", "sold #", "total #")
    rows = (
        (
            event["_id"],
            event.get("name"),
            event.get("eventDate"),
            occupancy(event),
            *(event.get(field) for field in ("availableSeats", "locked", "sold", "totalSeats")),
        )
        for event in events
    )
    return table(columns, rows, title=title)


def occupancy(event: StoredDocument) -> Text:
    """How full an event is, as a bar of sold, locked and available seats with the percentage."""
    from rich.text import Text

    total, sold, locked = (whole_number(event.get(name)) or 0 for name in ("totalSeats", "sold", "locked"))
    if total < 1:
        return Text("?")
    solid, half, empty = "█▒·" if stdout_is_utf8() else "#+."
    # Rounded up: the first seat sold can be seen.
    sold_cells = min(BAR_WIDTH, math.ceil(BAR_WIDTH * sold / total))
    cells = min(BAR_WIDTH, max(sold_cells, math.ceil(BAR_WIDTH * (sold + locked) / total)))
    bar = Text().append(solid * sold_cells, "green")
    bar.append(half * (cells - sold_cells), "cyan")
    bar.append(empty * (BAR_WIDTH - cells), "dim")
    return bar.append(f" {round(100 * (sold + locked) / total):>3}%")


def locks_table(locks: Iterable[StoredDocument], title: str | None = None) -> Table:
    columns = ("id", "event", "user", "seats #", "status", "expires", "key")
    fields = ("eventId", "userId", "seats", "status", "expiresAt", "idempotencyKey")
    rows = ((lock["_id"], *(lock.get(field) for field in fields)) for lock in locks)
    return table(columns, rows, title=title)


def bookings_table(bookings: Iterable[StoredDocument], title: str | None = None) -> Table:
    columns = ("id", "event", "user", "lock", "status", "pay by")
    fields = ("event", "user", "seatLockId", "status", "paymentExpiresAt")
    rows = ((booking["_id"], *(booking.get(field) for field in fields)) for booking in bookings)
    return table(columns, rows, title=title)


def job_runs_table(runs: Iterable[StoredDocument], title: str | None = None) -> Table:
    columns = ("id", "job", "started", "status", "processed #", "seats returned #", "ms #", "host", "error")
    rows = (
        (
            run["_id"],
            *(run.get(field) for field in ("jobType", "executedAt", "status")),
            *(detail(run, name) for name in ("recordsProcessed", "seatsRestored", "duration")),
            *(run.get(field) for field in ("host", "error")),
        )
        for run in runs
    )
    return table(columns, rows, title=title)


def detail(run: StoredDocument, name: str) -> object:
    """A value from the `details` of a job run, None where there is none."""
    details = run.get("details")
    return details.get(name) if isinstance(details, Mapping) else None


TABLES = {
    "events": events_table,
    "seatLocks": locks_table,
    "bookings": bookings_table,
    "jobLogs": job_runs_table,
}
"""By collection."""


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


def violations_table(documents: Iterable[StoredDocument], last: str = "what to do") -> Table:
    """Violations, with the remedy or, where `recover` dealt with them, the outcome."""
    return table(
        ("fault", "problem", last),
        ((item["fault"], item["message"], item.get("outcome") or item.get("remedy")) for item in documents),
    )


def checks_table(checks: Iterable[tuple[str, object, object]]) -> Table:
    """What was checked, the expected and the actual value."""
    return table(
        ("check", "expected", "actual", "result"),
        (
            (what, expected, actual, "ok" if expected == actual else "WRONG")
            for what, expected, actual in checks
        ),
    )


def summary_table(rows: Iterable[StoredDocument]) -> Table:
    """`jobs --summary`: one line a job."""
    columns = ("job", "runs #", "success", "processed #", "seats returned #", "median ms #", "worst ms #")
    fields = ("recordsProcessed", "seatsRestored", "medianDuration", "worstDuration")
    return table(
        columns,
        (
            (row["jobType"], row["runs"], _percent(row["successRate"]), *(row[field] for field in fields))
            for row in rows
        ),
    )


def _percent(rate: object) -> str:
    return f"{100 * rate:.1f}%" if isinstance(rate, int | float) else ""


def health_parts(state: Mapping[str, Any]) -> list[Part]:
    """`Health.as_document()` for people: the verdict, the jobs, backlog and inventory, what is wrong."""
    return [
        "healthy" if state["healthy"] else "NOT healthy",
        _job_health_table(state["jobs"]),
        _inventory_table(state["backlog"], state["inventory"]),
        *(printable(f"problem: {problem}") for problem in state["problems"]),
        *(printable(f"warning: {warning}") for warning in state["warnings"]),
    ]


def _job_health_table(jobs: Mapping[str, Mapping[str, Any]]) -> Table:
    columns = ["job", "runs #", "outcomes", "last run", "last outcome"]
    rows = [
        [
            job,
            facts["runs"],
            ", ".join(f"{status} {format_number(runs)}" for status, runs in facts["statuses"].items()),
            facts["lastRun"],
            facts["lastStatus"] or "never ran",
        ]
        for job, facts in jobs.items()
    ]
    # Where every last run succeeded this column would say nothing, and the table fits 80 columns.
    if any(facts["lastSuccess"] != facts["lastRun"] for facts in jobs.values()):
        columns.append("last success")
        for row, facts in zip(rows, jobs.values(), strict=True):
            row.append(facts["lastSuccess"])
    return table(columns, rows)


def _inventory_table(backlog: Mapping[str, Any], inventory: Mapping[str, Any]) -> Table:
    facts = [
        ("overdue locks", _overdue(backlog["overdueLocks"], backlog["oldestLockSeconds"])),
        ("overdue bookings", _overdue(backlog["overdueBookings"], backlog["oldestBookingSeconds"])),
        ("events", inventory["events"]),
        ("total seats", inventory["totalSeats"]),
        ("available", inventory["availableSeats"]),
        ("locked", inventory["lockedSeats"]),
        ("sold", inventory["soldSeats"]),
        ("inconsistent events", _ids(inventory["inconsistentEvents"], inventory["inconsistentEventsCount"])),
    ]
    return table(("what", "now #"), facts)


def _overdue(number: int, oldest: int) -> str:
    if not number:
        return "none"
    return f"{format_number(number)}, the oldest for {format_duration(timedelta(seconds=oldest))}"


def _ids(ids: Sequence[object], total: int) -> object:
    """One id a line: side by side a narrow window would cut them."""
    from rich.text import Text

    if not ids:
        return "none"
    lines = [text(item) for item in ids]
    if total > len(ids):
        lines.append(f"and {count(total - len(ids), 'other')}")
    return Text("\n".join(lines))
