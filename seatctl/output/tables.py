"""How results look: tables for people, JSON and ids for programs. The only module that knows Rich.

In a terminal a table fits the window and has colour; in a pipe or file it has its natural width,
so that no id is ever cut and no line wrapped. Values may come from anybody: control characters are
shown as escapes, and nothing is read as markup.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from seatctl.domain.model import Document, whole, whole_number
from seatctl.domain.timespec import format_duration, format_time, printable

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live
    from rich.progress import ProgressColumn
    from rich.table import Table

STYLES = {
    "ACTIVE": "cyan",
    "CONSUMED": "green",
    "EXPIRED": "dim",
    "PAYMENT_PENDING": "cyan",
    "CONFIRMED": "green",
    "FAILED": "red",
    "SUCCESS": "green",
}
BAR_WIDTH = 12
ANY_WIDTH = 100_000
CUT = ("event", "of event", "user", "host", "error")
"""Columns of a live screen whose texts may be as long as they like."""


def plain(value: Any) -> Any:
    """A stored value as JSON can carry it: ids as hex strings, times as ISO 8601 with `Z`, and whole
    numbers whole (the old mongo shell stores 2 as 2.0)."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, datetime):
        return format_time(value)
    if isinstance(value, float):
        return whole(value) if math.isfinite(value) else None
    if value is None or isinstance(value, str | bool | int | float):
        return value
    return str(value)


def print_json(value: Any) -> None:
    """Exactly one JSON document on stdout."""
    print(_json(value))


def print_json_list(documents: Iterable[Document]) -> None:
    """A list as one JSON document, printed as it is read: memory does not grow with its length."""
    before = "["
    for document in documents:
        print(before, _json(document), sep="", end="")
        before = ", "
    print("[]" if before == "[" else "]")


def _json(value: Any) -> str:
    return json.dumps(plain(value), ensure_ascii=not _utf8(), indent=2 if sys.stdout.isatty() else None)


def _utf8() -> bool:
    return (sys.stdout.encoding or "").lower().startswith("utf")


def print_ids(documents: Iterable[Document]) -> None:
    for document in documents:
        print(text(document["_id"]))


def text(value: Any) -> str:
    """A value in one line of a table or message."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        return format_time(value.replace(microsecond=0))
    shown = plain(value)
    if isinstance(shown, dict | list):
        shown = json.dumps(shown, ensure_ascii=False)
    return printable(str(shown))


def console() -> Console:
    """stdout: with colour and the window's width in a terminal, as wide as needed elsewhere."""
    from rich.console import Console

    if sys.stdout.isatty():
        return Console(highlight=False, markup=False, emoji=False)
    return Console(
        file=sys.stdout, width=ANY_WIDTH, color_system=None, highlight=False, markup=False, emoji=False
    )


def show(*parts: RenderableType) -> None:
    """Print tables and lines in order; a line's trailing space is nobody's data."""
    screen = console()
    with screen.capture() as captured:
        for part in parts:
            screen.print(_fitting(screen, part))
    shown = captured.get()
    if not screen.is_terminal:
        shown = "".join(line.rstrip() + "\n" for line in shown.splitlines())
    sys.stdout.write(shown)


@contextmanager
def live() -> Iterator[tuple[Live, Callable[[], tuple[int, int]]]]:
    """A screen of its own that is redrawn on demand, and how many columns and lines it has now."""
    from rich.live import Live

    screen = console()
    # Not redirected: nothing prints meanwhile, and the stand-in knows no encoding.
    with Live(
        console=screen, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
    ) as result:
        yield result, lambda: (screen.width, screen.height)


def full_screen(parts: Iterable[RenderableType], last_line: str) -> RenderableType:
    """Several parts, one below the other, and a line at the bottom of the screen."""
    from rich.console import Group
    from rich.layout import Layout
    from rich.text import Text

    screen = Layout()
    bottom = Text(printable(last_line), "reverse", no_wrap=True, overflow="ellipsis")
    screen.split_column(Layout(Group(*parts)), Layout(bottom, size=1))
    return screen


class Progress:
    """How far a long job is, as a bar on stderr. Appears with the second batch, and only in a
    terminal: short jobs and pipes see nothing of it."""

    def __init__(self, what: str, count: Callable[[], int]) -> None:
        self._what, self._count = what, count
        self._done = 0
        self._bar: Any = None

    def advance(self, items: int) -> None:
        """Another batch of so many items is done."""
        if self._done and self._bar is None:
            self._start()
        self._done += items
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done)

    def _start(self) -> None:
        from rich import progress
        from rich.console import Console

        self._bar = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            _speed_column(),
            progress.TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._bar.add_task(self._what, total=self._done + self._count())
        self._bar.start()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()


def _speed_column() -> ProgressColumn:
    from rich.progress import ProgressColumn, Task
    from rich.text import Text

    class Speed(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:,.0f}/s" if task.speed else "")

    return Speed()


def _fitting(screen: Console, part: RenderableType) -> RenderableType:
    """`part`, or, of a table too wide for the window, the same one field a line: no id is ever cut."""
    from rich.measure import Measurement
    from rich.table import Table

    if not isinstance(part, Table) or len(part.columns) < 3:
        return part
    if Measurement.get(screen, screen.options.update(max_width=ANY_WIDTH), part).minimum <= screen.width:
        return part
    tall = Table(box=part.box, title=part.title, title_justify="left", title_style="bold", show_header=False)
    tall.add_column(style="dim")
    tall.add_column(overflow="fold")
    for row in zip(*(column.cells for column in part.columns), strict=True):
        for column, cell in zip(part.columns, row, strict=True):
            tall.add_row(column.header, cell)
        tall.add_section()
    return tall


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str | None = None) -> Table:
    """A table of plain values. Columns named `… #` are numbers; ids and times never wrap."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    result = Table(box=box.ROUNDED, title=title, title_justify="left", title_style="bold")
    for column in columns:
        number = column.endswith(" #")
        result.add_column(
            column.removesuffix(" #"),
            justify="right" if number else "left",
            no_wrap=number or column in ("id", "event", "lock", "booking", "status", "filled"),
            overflow="fold",
        )
    for row in rows:
        cells = [
            cell if isinstance(cell, Text) else Text(text(cell), STYLES.get(str(cell), "")) for cell in row
        ]
        result.add_row(*cells)
    return result


def glance_table(columns: Mapping[str, int], rows: Iterable[Sequence[Any]], width: int) -> Table:
    """A table without lines for a window of that width: of the columns those that are worth their
    place there, by the least width beside each, a row a line, long texts cut. Where an id has no place
    it is left out; cut it is no id."""
    from rich.table import Table
    from rich.text import Text

    shown = [(number, name) for number, (name, least) in enumerate(columns.items()) if width >= least]
    result = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for _, name in shown:
        right = name.endswith(" #")
        # What may be cut: Rich takes from these columns first.
        result.add_column(
            name.removesuffix(" #"), justify="right" if right else "left", no_wrap=name not in CUT
        )
    for row in rows:
        cells = [row[number] for number, _ in shown]
        result.add_row(
            *(
                cell
                if isinstance(cell, Text)
                else Text(text(cell), STYLES.get(str(cell), ""), no_wrap=True, overflow="ellipsis")
                for cell in cells
            )
        )
    if not result.rows:
        result.add_row(Text("none", "dim"))
    result.add_row()
    return result


def events_table(events: Iterable[Document], title: str | None = None) -> Table:
    """Events with `locked` and `sold` seats as `booking.list_events` adds them."""
    return table(
        ("id", "name", "date", "filled", "available #", "locked #", "sold #", "total #"),
        (
            (
                event["_id"],
                event.get("name"),
                event.get("eventDate"),
                bar(event),
                event.get("availableSeats"),
                event.get("locked"),
                event.get("sold"),
                event.get("totalSeats"),
            )
            for event in events
        ),
        title=title,
    )


def bar(event: Document) -> Any:
    """How full an event is: sold, locked, available."""
    from rich.text import Text

    total, sold, locked = (whole_number(event.get(name)) or 0 for name in ("totalSeats", "sold", "locked"))
    if total < 1:
        return Text("?")
    solid, half, empty = "█▒·" if _utf8() else "#+."
    sold_cells = min(BAR_WIDTH, math.ceil(BAR_WIDTH * sold / total))
    cells = min(BAR_WIDTH, max(sold_cells, math.ceil(BAR_WIDTH * (sold + locked) / total)))
    bar = Text(solid * sold_cells, "green")
    bar.append(half * (cells - sold_cells), "cyan")
    bar.append(empty * (BAR_WIDTH - cells), "dim")
    return bar.append(f" {round(100 * (sold + locked) / total):>3}%", "")


def locks_table(locks: Iterable[Document], title: str | None = None) -> Table:
    return table(
        ("id", "event", "user", "seats #", "status", "expires", "key"),
        (
            (
                lock["_id"],
                lock.get("eventId"),
                lock.get("userId"),
                lock.get("seats"),
                lock.get("status"),
                lock.get("expiresAt"),
                lock.get("idempotencyKey"),
            )
            for lock in locks
        ),
        title=title,
    )


def bookings_table(bookings: Iterable[Document], title: str | None = None) -> Table:
    return table(
        ("id", "event", "user", "lock", "status", "pay by"),
        (
            (
                booking["_id"],
                booking.get("event"),
                booking.get("user"),
                booking.get("seatLockId"),
                booking.get("status"),
                booking.get("paymentExpiresAt"),
            )
            for booking in bookings
        ),
        title=title,
    )


def jobs_table(runs: Iterable[Document], title: str | None = None) -> Table:
    return table(
        ("id", "job", "at", "status", "processed #", "seats back #", "ms #", "host", "error"),
        (
            (
                run["_id"],
                run.get("jobType"),
                run.get("executedAt"),
                run.get("status"),
                detail(run, "recordsProcessed"),
                detail(run, "seatsRestored"),
                detail(run, "duration"),
                run.get("host"),
                run.get("error"),
            )
            for run in runs
        ),
        title=title,
    )


def detail(run: Document, name: str) -> Any:
    details = run.get("details")
    return details.get(name) if isinstance(details, dict) else None


TABLES = {
    "events": events_table,
    "seatLocks": locks_table,
    "bookings": bookings_table,
    "jobLogs": jobs_table,
}


def document_table(document: Document, title: str) -> Table:
    """One document, a field a line; what a job found stands one item a line."""
    rows: list[tuple[str, Any]] = []
    for field, value in document.items():
        if field == "details" and isinstance(value, dict):
            for name, detail in value.items():
                items = detail if isinstance(detail, list) and detail else [detail]
                rows += [(f"details.{name}", item) for item in items]
        else:
            rows.append((field, value))
    return table(("field", "value"), rows, title=title)


def findings_table(findings: Iterable[Document], last: str = "what to do") -> Table:
    """What is wrong: from `verify` with the remedy, from `recover` with the outcome."""
    return table(
        ("fault", "what", last),
        ((item["fault"], item["message"], item.get("outcome") or item.get("remedy")) for item in findings),
    )


def checks_table(checks: Iterable[tuple[str, Any, Any]]) -> Table:
    """Numbers beside the numbers that were promised."""
    rows = ((what, wanted, found, "ok" if wanted == found else "WRONG") for what, wanted, found in checks)
    return table(("check", "promised", "found", "verdict"), rows)


def health_tables(state: Document) -> list[RenderableType]:
    """`health` as a tired person can read it: the verdict, the jobs, the backlog, the inventory."""
    jobs = [
        (
            job,
            facts["runs"],
            " ".join(f"{status} {count}" for status, count in facts["statuses"].items()),
            facts["lastRun"],
            facts["lastStatus"] or "never ran",
            facts["lastSuccess"],
        )
        for job, facts in state["jobs"].items()
    ]
    backlog, inventory = state["backlog"], state["inventory"]
    facts = [
        ("overdue locks", _overdue(backlog["overdueLocks"], backlog["oldestLockSeconds"])),
        ("overdue bookings", _overdue(backlog["overdueBookings"], backlog["oldestBookingSeconds"])),
        ("events", inventory["events"]),
        ("seats in all", inventory["totalSeats"]),
        ("available", inventory["availableSeats"]),
        ("locked", inventory["lockedSeats"]),
        ("sold", inventory["soldSeats"]),
        ("inconsistent events", ", ".join(map(text, inventory["inconsistentEvents"])) or "none"),
    ]
    return [
        "healthy" if state["healthy"] else "NOT healthy",
        table(("job", "runs #", "outcomes", "last run", "last outcome", "last success"), jobs),
        table(("what", "now #"), facts),
        *(printable(f"problem: {problem}") for problem in state["problems"]),
        *(printable(f"warning: {warning}") for warning in state["warnings"]),
    ]


def _overdue(count: int, oldest: int) -> str:
    return f"{count:,}, the oldest for {format_duration(timedelta(seconds=oldest))}" if count else "none"


def summary_table(rows: Iterable[Document]) -> Table:
    """`jobs --summary`."""
    return table(
        ("job", "runs #", "success", "processed #", "seats back #", "median ms #", "worst ms #"),
        (
            (
                row["jobType"],
                row["runs"],
                f"{100 * row['successRate']:.1f}%" if row["runs"] else "",
                row["recordsProcessed"],
                row["seatsRestored"],
                row["medianDuration"],
                row["worstDuration"],
            )
            for row in rows
        ),
    )
