"""The arguments and options of the commands, as types for Typer, and the parsers behind them.

Help must not import the driver, so the parsers of ids import it when they are called.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Annotated, Any, Literal

import typer

from seatctl.cli.invocation import Invocation
from seatctl.domain.documents import BookingId, EventId, LockId, UserId
from seatctl.domain.rules import LARGEST_BATCH, LOCK_TTL, MAX_SEATS, PAYMENT_TTL, SETTLE
from seatctl.domain.states import BookingStatus, JobStatus, JobType, LockStatus
from seatctl.domain.timespec import format_duration, parse_duration, parse_time, shorten
from seatctl.domain.words import format_number

OPERATE, INSPECT, JOBS = "Operate", "Inspect", "Jobs (for cron and systemd)"
CHECK, SET_UP = "Check and schedule", "Set up and try"
"""Headings in the list of commands."""

LIST_LIMIT, LARGEST_LIMIT = 100, 1_000_000_000
MAX_AGE, WINDOW = timedelta(minutes=3), timedelta(hours=24)
INTERVAL = timedelta(seconds=2)


# --- parsers ----------------------------------------------------------------------------------------


def _parser(parse: Callable[[str], Any]) -> Callable[[Any], Any]:
    """`parse` as the type of an argument or option: its ValueError becomes a usage error."""

    def convert(value: Any) -> Any:
        if not isinstance(value, str):
            return value  # a default
        try:
            return parse(value)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error

    return convert


def _whole_number(text: str) -> int:
    if not re.fullmatch(r"[+-]?[0-9]{1,18}", text.strip()):
        raise ValueError(f"{shorten(text, 40)!r} is not a whole number")
    return int(text)


def _between(smallest: int, largest: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        number = _whole_number(text)
        if not smallest <= number <= largest:
            raise ValueError(f"{number} is not a number from {smallest:,} to {largest:,}")
        return number

    return parse


def _event_id(text: str) -> EventId:
    from seatctl.mongo.ids import parse_event_id

    return parse_event_id(text)


def _lock_id(text: str) -> LockId:
    from seatctl.mongo.ids import parse_lock_id

    return parse_lock_id(text)


def _booking_id(text: str) -> BookingId:
    from seatctl.mongo.ids import parse_booking_id

    return parse_booking_id(text)


def _document_id(text: str) -> object:
    from seatctl.mongo.ids import parse_document_id

    return parse_document_id(text)


def _user(text: str) -> UserId:
    from seatctl.mongo.ids import parse_user

    return parse_user(text)


def _user_filter(text: str) -> UserId:
    """A filter that a script left empty must not come out as "nothing to show"."""
    if not text.strip():
        raise ValueError("it must not be empty")
    return _user(text)


# --- building blocks --------------------------------------------------------------------------------


def _option(*names: str, parse: Callable[[str], Any], metavar: str, help: str) -> Any:  # noqa: A002 - Typer's word
    return typer.Option(*names, parser=_parser(parse), metavar=metavar, help=help)


def _duration(help: str, default: timedelta | str | None = None) -> Any:  # noqa: A002 - Typer's word
    """An option that takes a duration. Its default is shown as people type it."""
    if default is not None:
        shown = format_duration(default) if isinstance(default, timedelta) else default
        help = f"{help}  [default: {shown}]"  # noqa: A001 - Typer's word
    return typer.Option(parser=_parser(parse_duration), metavar="DURATION", help=help, show_default=False)


def _status() -> Any:
    return typer.Option("--status", case_sensitive=False, help="Only with this status.")


def _flag(name: str, help: str) -> Any:  # noqa: A002 - Typer's word
    return typer.Option(name, help=help)


def _id(metavar: str, parse: Callable[[str], Any], collection: str, status: str | None = None) -> Any:
    what = metavar.removesuffix("_ID").lower()
    return typer.Argument(
        metavar=metavar,
        parser=_parser(parse),
        help=f"The {what}'s id.",
        autocompletion=_newest(collection, status),
    )


def _newest(collection: str, status: str | None) -> Callable[[Invocation], list[str]]:
    """Completes the newest ids; none where the database does not answer at once."""

    def complete(invocation: Invocation) -> list[str]:
        from seatctl.services.lookup import newest_ids

        try:
            store = invocation.glance()
            return newest_ids(store, collection, status, 50) if store else []
        except Exception:  # noqa: BLE001 - a shell that completes must never see an error
            return []

    return complete


# --- what is sold -----------------------------------------------------------------------------------

EventArgument = Annotated[EventId, _id("EVENT_ID", _event_id, "events")]
LockArgument = Annotated[LockId, _id("LOCK_ID", _lock_id, "seatLocks", LockStatus.ACTIVE)]
BookingArgument = Annotated[
    BookingId, _id("BOOKING_ID", _booking_id, "bookings", BookingStatus.PAYMENT_PENDING)
]
DocumentArgument = Annotated[Any, typer.Argument(metavar="ID", parser=_parser(_document_id), help="Any id.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The event's name.")]
Seats = Annotated[
    int,
    _option(
        "--seats",
        parse=_whole_number,
        metavar="N",
        help=f"Number of seats, 1 to {format_number(MAX_SEATS)}.",
    ),
]
Date = Annotated[
    Any,  # a datetime or a timedelta, but Typer knows no unions
    _option("--date", parse=parse_time, metavar="TIME", help="When the event takes place: ISO 8601 or +30d."),
]
Description = Annotated[str | None, typer.Option(metavar="TEXT", help="A longer text.")]
User = Annotated[UserId, _option("--user", parse=_user, metavar="USER", help="Who the seats are for.")]
Key = Annotated[
    str | None,
    typer.Option(metavar="KEY", help="Idempotency key: the same request again returns the same lock."),
]
LockTtl = Annotated[timedelta, _duration("How long the seats stay locked.", LOCK_TTL)]
PaymentTtl = Annotated[
    timedelta | None,
    _duration(
        "How long to wait for the payment.",
        f"{format_duration(PAYMENT_TTL)}, but not before the lock's own deadline",
    ),
]
Failed = Annotated[bool, _flag("--failed", "The payment failed: return the seats.")]

# --- lists ------------------------------------------------------------------------------------------

EventFilter = Annotated[
    EventId | None, _option("--event", parse=_event_id, metavar="ID", help="Only of this event.")
]
UserFilter = Annotated[
    UserId | None, _option("--user", parse=_user_filter, metavar="USER", help="Only of this user.")
]
LockStatusFilter = Annotated[LockStatus | None, _status()]
BookingStatusFilter = Annotated[BookingStatus | None, _status()]
JobStatusFilter = Annotated[JobStatus | None, _status()]
JobFilter = Annotated[
    JobType | None, typer.Option("--type", case_sensitive=False, help="Only runs of this job.")
]
Sort = Annotated[Literal["newest", "fullest"], typer.Option(case_sensitive=False, help="Sort order.")]
Limit = Annotated[
    int | None,
    _option(
        "--limit",
        parse=_between(0, LARGEST_LIMIT),
        metavar="N",
        help=f"Maximum number of rows (0 = all).  [default: {LIST_LIMIT} in a table, all with --json or -q]",
    ),
]
Since = Annotated[
    timedelta | None,
    _duration("Only runs started within this time.", "all; 24h with --summary"),
]
Summary = Annotated[bool, _flag("--summary", "Summarize the runs, one row for each job.")]
Interval = Annotated[timedelta, _duration("Time between updates.", INTERVAL)]

# --- jobs -------------------------------------------------------------------------------------------

DryRun = Annotated[bool, _flag("--dry-run", "Report what would be done; change nothing.")]
AsOf = Annotated[
    Any,  # a datetime, a timedelta or None
    _option("--as-of", parse=parse_time, metavar="TIME", help='Move "now" for this run: ISO 8601 or +11m.'),
]
Force = Annotated[bool, _flag("--force", "Allow an --as-of in the future without --dry-run.")]
BatchSize = Annotated[
    int,
    _option("--batch-size", parse=_between(1, LARGEST_BATCH), metavar="N", help="Items in one transaction."),
]
Wait = Annotated[timedelta | None, _duration("How long to wait for the database to come up.")]
Settle = Annotated[
    timedelta, _duration("How long a counter must show the same drift before it is raised.", SETTLE)
]

# --- checks and setup -------------------------------------------------------------------------------

MaxAge = Annotated[timedelta, _duration("Maximum age of an expiry job's last run.", MAX_AGE)]
Window = Annotated[timedelta, _duration("How far back to count runs.", WINDOW)]
Prometheus = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="Write metrics for node_exporter's textfile collector (- = stdout)."),
]
PerEvent = Annotated[bool, _flag("--per-event", "With --prometheus: also the seats of each event.")]
Retention = Annotated[
    timedelta | None,
    _duration("How long to keep job log entries.", "unchanged; 30d in a new database"),
]
Check = Annotated[bool, _flag("--check", "Only report what is missing or wrong; exit 5 if anything is.")]
ScheduleUser = Annotated[
    str | None, typer.Option("--user", metavar="USER", help="Who runs the jobs.  [default: you]")
]
Application = Annotated[
    str | None, typer.Option(metavar="UNIT", help="A unit that must start after recovery.")
]
Write = Annotated[
    str | None, typer.Option(metavar="DIRECTORY", help="Write the files there instead of printing them.")
]
