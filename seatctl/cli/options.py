"""The options of every command; arguments and options that several have, as types for Typer; and what all are
made of.

Help must not import the driver, so the parsers of ids import it when they are called.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperOption

from seatctl.domain.documents import EventId, LockId, UserId
from seatctl.domain.rules import LARGEST_BATCH, MAX_SEATS
from seatctl.domain.states import JobType, LockStatus
from seatctl.domain.timespec import format_duration, parse_duration, parse_time
from seatctl.domain.words import format_number, shorten
from seatctl.mongo.target import DEFAULT_DATABASE, find_target

if TYPE_CHECKING:
    from seatctl.cli.invocation import Invocation

LIST_LIMIT, LARGEST_LIMIT = 100, 1_000_000_000
WINDOW = timedelta(hours=24)
JOB_COMMANDS = {
    "expire-locks": JobType.LOCK_EXPIRY,
    "expire-bookings": JobType.BOOKING_EXPIRY,
    "recover": JobType.RECOVERY,
}
COMPLETIONS, COMPLETION_PATIENCE_MS = 50, 500


# --- parsers ----------------------------------------------------------------------------------------


def parse_whole_number(text: str) -> int:
    if not re.fullmatch(r"[+-]?[0-9]{1,18}", text.strip()):
        raise ValueError(f"{shorten(text, 40)!r} is not a whole number")
    return int(text)


def parse_seats(text: str, refusal: str = "--seats is a number of seats, without a sign") -> int:
    if text.strip().startswith(("+", "-")):
        raise ValueError(refusal)
    return parse_whole_number(text)


def parse_total(text: str) -> int:
    """A number of seats in all: +50 would be read as 50 more, and is refused."""
    return parse_seats(text, "--seats takes the total, without a sign")


def between(smallest: int, largest: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        number = parse_whole_number(text)
        if not smallest <= number <= largest:
            raise ValueError(f"{number} is not a number from {smallest:,} to {largest:,}")
        return number

    return parse


def parse_id(text: str) -> object:
    from seatctl.mongo.ids import parse_document_id

    return parse_document_id(text)


def parse_user(text: str) -> UserId:
    from seatctl.mongo.ids import parse_user

    return parse_user(text)


def _parse_user_filter(text: str) -> UserId:
    """A filter that a script left empty must not come out as "nothing to show"."""
    if not text.strip():
        raise ValueError("it must not be empty")
    return parse_user(text)


def parse_job(text: str) -> JobType:
    """A job by its type or by its command."""
    known = {**{job.value.lower(): job for job in JobType}, **JOB_COMMANDS}
    if (job := known.get(text.strip().lower())) is None:
        raise ValueError(f"{shorten(text)!r} is not one of {', '.join([*JobType, *JOB_COMMANDS])}")
    return job


def parse_moment(text: str) -> datetime | timedelta:
    """As `parse_time`, with a hint for a duration that lacks its plus sign."""
    if re.fullmatch(r"(\d{1,9}[dhms])+", text.strip(), re.ASCII):
        raise ValueError(
            f"{shorten(text)!r} has no sign; write +{shorten(text.strip())} for a time in the future"
        )
    return parse_time(text)


# --- building blocks --------------------------------------------------------------------------------


def parser(parse: Callable[[str], Any]) -> Callable[[Any], Any]:
    """`parse` as the type of an argument or option: its ValueError becomes a usage error."""

    def convert(value: Any) -> Any:
        try:
            return parse(value) if isinstance(value, str) else value  # a default
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error

    return convert


def option(usage: str, parse: Callable[[str], Any], help: str) -> Any:  # noqa: A002 - Typer's word
    """An option as its help shows it: `--user USER`."""
    name, metavar = usage.split()
    return typer.Option(name, parser=parser(parse), metavar=metavar, help=help)


def flag(name: str, help: str) -> Any:  # noqa: A002 - Typer's word
    return typer.Option(name, help=help)


def choice(help: str) -> Any:  # noqa: A002 - Typer's word
    return typer.Option(case_sensitive=False, help=help)


def duration(help: str, default: timedelta | str | None = None) -> Any:  # noqa: A002 - Typer's word
    """An option that takes a duration. Its default is shown as people type it."""
    if default is not None:
        shown = format_duration(default) if isinstance(default, timedelta) else default
        help = f"{help}  [default: {shown}]"  # noqa: A001 - Typer's word
    return typer.Option(parser=parser(parse_duration), metavar="DURATION", help=help, show_default=False)


def key_of(what: str) -> Any:
    return option("--key KEY", str, f"Idempotency key: the same request again returns the same {what}.")


def any_id(help: str, metavar: str = "ID") -> Any:  # noqa: A002 - Typer's word
    return typer.Argument(metavar=metavar, parser=parser(parse_id), help=help)


def id_of(what: str, collection: str, status: str | None = None, kind: str | None = None) -> Any:
    """An argument that is the id of a document; a shell completes the newest with this status and kind."""
    return typer.Argument(
        metavar=f"{what.upper()}_ID",
        parser=parser(parse_id),
        help=f"The {what}'s id.",
        autocompletion=lambda ctx: _newest_ids(ctx, collection, status, kind),
    )


def _newest_ids(invocation: Invocation, collection: str, status: str | None, kind: str | None) -> list[str]:
    """None where the database does not answer at once: completion starts nothing and says nothing."""
    from seatctl.mongo import embedded
    from seatctl.mongo.client import connect
    from seatctl.mongo.store import Store
    from seatctl.services.lists import newest_ids

    try:
        target = find_target(invocation.uri, invocation.uri_file, invocation.database)
        if target.uri is None and not (embedded.exists() and embedded.answers(embedded.files())):
            return []
        uri = target.uri or embedded.files().uri
        store = Store.open(connect(uri, target.database, DEFAULT_DATABASE, COMPLETION_PATIENCE_MS))
        return newest_ids(store, collection, COMPLETIONS, status=status, kind=kind)
    except Exception:  # noqa: BLE001 - a shell that completes must never see an error
        return []


# --- what every command has ---------------------------------------------------------------------------


def common_option(
    *names: str,
    metavar: str | None = None,
    parse: Callable[[str], Any] = str,
    help: str,  # noqa: A002 - Typer's word
) -> TyperOption:
    """An option whose value becomes an attribute of the invocation; without a metavar it is a flag."""

    def keep(call: Any, option: Any, value: Any) -> None:
        setattr(call, option.name, parser(parse)(value))

    return TyperOption(
        param_decls=list(names),
        metavar=metavar,
        is_flag=metavar is None,
        default=False if metavar is None else None,
        help=help,
        expose_value=False,
        callback=keep,
    )


DATABASE_OPTIONS = ("--uri", "--uri-file", "--database")
COMMON_OPTIONS = (
    common_option("--uri", metavar="URI", help="MongoDB URI [env: SEATCTL_URI]."),
    common_option("--uri-file", metavar="FILE", help="Read the URI from a file [env: SEATCTL_URI_FILE]."),
    common_option("--database", metavar="NAME", help="Database name [env: SEATCTL_DATABASE]."),
    common_option("--json", help="Print one JSON document."),
    common_option("--quiet", "-q", help="Print only ids; jobs print nothing."),
    common_option("--verbose", "-v", help="Log each step on stderr."),
)
REASON = common_option("--reason", metavar="TEXT", help="Why, for the record (`seatctl history`).")


# --- what several commands have ---------------------------------------------------------------------

EventArgument = Annotated[EventId, id_of("event", "events")]
LockArgument = Annotated[LockId, id_of("lock", "seatLocks", LockStatus.ACTIVE)]
HOW_MANY = f"Number of seats, 1 to {format_number(MAX_SEATS)}."
Seats = Annotated[int, option("--seats N", parse_seats, HOW_MANY)]
TotalSeats = Annotated[int, option("--seats N", parse_total, HOW_MANY)]

PaymentRef = Annotated[str | None, option("--ref REF", str, "The payment provider's reference.")]

EventFilter = Annotated[EventId | None, option("--event ID", parse_id, "Only those of this event.")]
UserFilter = Annotated[UserId | None, option("--user USER", _parse_user_filter, "Only those of this user.")]
STATUS = choice("Only those with this status.")
DryRun = Annotated[bool, flag("--dry-run", "Report what would be done; change nothing.")]
AsOf = Annotated[
    Any,  # a datetime, a timedelta or None, but Typer knows no unions
    option("--as-of TIME", parse_moment, "Run as if it were this time: ISO 8601 (no zone = UTC) or +11m."),
]
EndedList = Annotated[bool, flag("--list", "Print a line of JSON for each lock or booking that was ended.")]
Force = Annotated[bool, flag("--force", "Allow an --as-of in the future without --dry-run.")]
BatchSize = Annotated[int, option("--batch-size N", between(1, LARGEST_BATCH), "Items in one transaction.")]
