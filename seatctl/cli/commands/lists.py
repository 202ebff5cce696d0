"""Commands that show what is stored: events, locks, bookings, refunds, jobs, show, watch,
history."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from seatctl.cli.command import command
from seatctl.cli.invocation import Invocation
from seatctl.cli.list_command import ListCall, list_command
from seatctl.cli.options import (
    JOB_COMMANDS,
    STATUS,
    WINDOW,
    EventFilter,
    UserFilter,
    any_id,
    choice,
    duration,
    flag,
    parse_job,
    parser,
)
from seatctl.domain.states import BookingStatus, JobStatus, JobType, LockStatus, RefundStatus
from seatctl.domain.validation import ListRequest
from seatctl.errors import Usage
from seatctl.output import console, formats, tables
from seatctl.output.formats import Format
from seatctl.output.lists import fold_idle_runs

if TYPE_CHECKING:
    from seatctl.domain.documents import StoredDocument
    from seatctl.mongo.store import Store

INTERVAL = timedelta(seconds=2)

SortByDeadline = Annotated[
    Literal["newest", "oldest", "deadline"], choice("Sort order; deadline: earliest first.")
]


@list_command("events", "events", example="seatctl events --sort fullest --limit 10")
def events(
    call: ListCall,
    sort: Annotated[Literal["newest", "oldest", "fullest", "date"], choice("Sort order.")] = "newest",
) -> None:
    """List events, newest first, with their seats.

    The bar in the column "filled": █ sold, ▒ locked, · available (without Unicode: # + .).
    A column "unaccounted" shows seats that are none of these; `seatctl verify` says why."""
    from seatctl.services import lists

    call.show(lambda store, request: lists.events(store, lists.Order(sort), request))


@list_command("locks", "seatLocks", example="seatctl locks --event EVENT_ID --status active")
def locks(
    call: ListCall,
    event: EventFilter = None,
    status: Annotated[LockStatus | None, STATUS] = None,
    user: UserFilter = None,
    overdue: Annotated[bool, flag("--overdue", "Only overdue ACTIVE locks.")] = False,
    sort: SortByDeadline = "newest",
) -> None:
    """List locks, newest first."""
    from seatctl.services import lists

    _check_overdue(status, LockStatus.ACTIVE, overdue)
    order = lists.Order(sort)
    call.show(lambda store, request: lists.locks(store, event, status, user, request, order, overdue=overdue))


@list_command("bookings", "bookings", example="seatctl bookings --overdue --format csv")
def bookings(
    call: ListCall,
    event: EventFilter = None,
    status: Annotated[BookingStatus | None, STATUS] = None,
    user: UserFilter = None,
    overdue: Annotated[bool, flag("--overdue", "Only overdue PAYMENT_PENDING bookings.")] = False,
    sort: SortByDeadline = "newest",
) -> None:
    """List bookings, newest first."""
    from seatctl.services import lists

    _check_overdue(status, BookingStatus.PAYMENT_PENDING, overdue)
    order = lists.Order(sort)
    call.show(
        lambda store, request: lists.bookings(store, event, status, user, request, order, overdue=overdue),
        extend=lists.with_seats_of_locks,
    )


def _check_overdue(status: str | None, open_status: str, overdue: bool) -> None:
    if overdue and status not in (None, open_status):
        what = "locks" if open_status == LockStatus.ACTIVE else "bookings"
        raise Usage(f"only {open_status} {what} can be overdue; leave out --status or --overdue")


@list_command("refunds", "refunds", example="seatctl refunds --event EVENT_ID --format csv")
def refunds(
    call: ListCall,
    event: EventFilter = None,
    status: Annotated[Literal["due", "done", "withdrawn", "all"], STATUS] = "due",
    sort: Annotated[Literal["oldest", "newest"], choice("Sort order.")] = "oldest",
) -> None:
    """List refunds that are due, oldest first."""
    from seatctl.services import lists

    wanted = None if status == "all" else RefundStatus(status.upper())
    order = lists.Order(sort)
    call.show(lambda store, request: lists.refunds(store, event, wanted, request, order))


@list_command("jobs", "jobLogs", example="seatctl jobs --type expire-locks --status failed")
def jobs(
    call: ListCall,
    job: Annotated[
        JobType | None,
        typer.Option(
            "--type",
            metavar="JOB",
            parser=parser(parse_job),
            help="Only runs of this job: LOCK_EXPIRY or expire-locks.",
            autocompletion=lambda: list(JOB_COMMANDS),
        ),
    ] = None,
    status: Annotated[JobStatus | None, STATUS] = None,
    sort: Annotated[Literal["newest", "oldest"], choice("Sort order.")] = "newest",
    every: Annotated[bool, flag("--all", "In a table, show every run that found nothing to do.")] = False,
    summary: Annotated[
        bool, flag("--summary", "Summarize the runs of the last 24 hours, or --since: one row per job.")
    ] = False,
) -> None:
    """List job runs, newest first.

    A table folds consecutive runs that found nothing to do into one line."""
    from seatctl.services import lists

    if not summary:
        order, fold = lists.Order(sort), None if every else fold_idle_runs
        call.show(lambda store, request: lists.job_runs(store, job, status, request, order), fold)
        return
    given = (status, call.limit, call.until, call.columns)
    form = call.output_format
    if any(value is not None for value in given) or form not in (Format.TABLE, Format.JSON, Format.IDS):
        raise Usage("--summary counts all runs of a job; combine it only with --type and --since")
    totals = lists.summarize(call.store(writes=False), [job] if job else list(JobType), call.since or WINDOW)
    if form is Format.JSON:
        formats.print_json(totals)
    elif form is Format.TABLE:
        console.show(tables.list_table(totals, tables.SUMMARY))


@command("show", example="seatctl show LOCK_ID")
def show(
    call: Invocation,
    document_id: Annotated[Any, any_id("Any id.")],
) -> None:
    """Show any document by its id, with related documents."""
    from seatctl.services import lists

    store = call.store(writes=False)
    shown = lists.show(store, document_id)
    if call.json:
        formats.print_json(shown.as_document())
    elif call.quiet:
        formats.print_ids([shown.document])
    else:
        now, related = store.now(), dict(shown.related)
        if bookings := related.get("bookings"):
            related["bookings"] = list(lists.with_seats_of_locks(store, iter(bookings)))
        tables_below = [
            tables.list_of(name, documents, now=now, title=name)
            for name, documents in related.items()
            if documents
        ]
        story = f"`seatctl history {document_id}` shows what happened to it."
        console.show(tables.document_table(shown.document, shown.kind), *tables_below, story)


@command(
    "watch",
    ignores=("--json", "--quiet", "--verbose"),
    example="seatctl watch --interval 5s",
)
def watch(
    call: Invocation, interval: Annotated[timedelta, duration("Time between updates.", INTERVAL)] = INTERVAL
) -> None:
    """Show a live dashboard.

    Ctrl-C quits, with exit code 0."""
    dumb = os.environ.get("TERM") in ("dumb", "unknown")
    if dumb or not sys.stdout.isatty():
        raise Usage("watch needs a terminal; in a script, repeat `seatctl events --json`")
    from seatctl.ops.watch import watch

    watch(call.store(writes=False), interval)


@list_command("history", "history", example="seatctl history BOOKING_ID")
def history(
    call: ListCall,
    document_id: Annotated[Any, any_id("Any id.  [default: latest changes of all]", "[ID]")] = None,
) -> None:
    """Show what happened to a document, who did it, and why.

    Lists changes in order, including job runs. Without an id: the latest changes by operators and
    jobs, newest first. `--format ids` prints the ids of the records: operations and job runs."""
    from seatctl.services import history as entries

    form = call.output_format

    def read(store: Store, request: ListRequest) -> Iterator[StoredDocument]:
        now = store.now()
        for entry in entries.listed(store, document_id, request, now):
            document = entry.as_document()
            if form is Format.TABLE:
                yield {**document, "ago": tables.ago(entry.at, now)}
            elif form is not Format.IDS:
                yield document
            elif record := document.get("operation") or document.get("run"):
                yield {"_id": record}

    call.show(read)
