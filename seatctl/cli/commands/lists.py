"""Commands that show what is stored: events, locks, bookings, refunds, jobs, show, watch."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from seatctl.cli.invocation import Invocation, command
from seatctl.cli.options import (
    INSPECT,
    LIST_LIMIT,
    STATUS,
    WINDOW,
    EventFilter,
    Limit,
    UserFilter,
    duration,
    flag,
    parse_id,
    parser,
)
from seatctl.domain.states import BookingStatus, JobStatus, JobType, LockStatus, RefundStatus
from seatctl.domain.words import count
from seatctl.errors import Usage
from seatctl.output import console, formats, tables

if TYPE_CHECKING:
    from seatctl.domain.documents import StoredDocument

INTERVAL = timedelta(seconds=2)

commands = typer.Typer()


@command(commands, "events", panel=INSPECT, example="seatctl events --sort fullest --limit 10")
def events(
    call: Invocation,
    sort: Annotated[
        Literal["newest", "fullest"], typer.Option(case_sensitive=False, help="Sort order.")
    ] = "newest",
    limit: Limit = None,
) -> None:
    """List events, newest first, with their seats.

    The bar in the column "filled": █ sold, ▒ locked, · available (without Unicode: # + .)."""
    from seatctl.services import lookup

    rows = _rows(call, limit)
    _print_list(call, "events", lookup.events(call.store(), lookup.EventOrder(sort), rows), rows)


@command(commands, "locks", panel=INSPECT, example="seatctl locks --event EVENT_ID --status active")
def locks(
    call: Invocation,
    event: EventFilter = None,
    status: Annotated[LockStatus | None, STATUS] = None,
    user: UserFilter = None,
    limit: Limit = None,
) -> None:
    """List locks, newest first."""
    from seatctl.services import lookup

    rows = _rows(call, limit)
    _print_list(call, "seatLocks", lookup.locks(call.store(), event, status, user, rows), rows)


@command(commands, "bookings", panel=INSPECT, example="seatctl bookings --status payment_pending --json")
def bookings(
    call: Invocation,
    event: EventFilter = None,
    status: Annotated[BookingStatus | None, STATUS] = None,
    user: UserFilter = None,
    limit: Limit = None,
) -> None:
    """List bookings, newest first."""
    from seatctl.services import lookup

    rows = _rows(call, limit)
    _print_list(call, "bookings", lookup.bookings(call.store(), event, status, user, rows), rows)


@command(commands, "refunds", panel=INSPECT, example="seatctl refunds --event EVENT_ID --status all")
def refunds(
    call: Invocation,
    event: EventFilter = None,
    status: Annotated[
        Literal["due", "done", "withdrawn", "all"],
        typer.Option("--status", case_sensitive=False, help="Only with this status."),
    ] = "due",
    limit: Limit = None,
) -> None:
    """List what has to be paid back, newest first."""
    from seatctl.services import lookup

    rows, wanted = _rows(call, limit), None if status == "all" else RefundStatus(status.upper())
    _print_list(call, "refunds", lookup.refunds(call.store(), event, wanted, rows), rows)


@command(commands, "jobs", panel=INSPECT, example="seatctl jobs --type lock_expiry --status failed")
def jobs(
    call: Invocation,
    job: Annotated[
        JobType | None, typer.Option("--type", case_sensitive=False, help="Only runs of this job.")
    ] = None,
    status: Annotated[JobStatus | None, STATUS] = None,
    limit: Limit = None,
    summary: Annotated[bool, flag("--summary", "Summarize the runs, one row for each job.")] = False,
    since: Annotated[
        timedelta | None, duration("Only runs started within this time.", "all; 24h with --summary")
    ] = None,
) -> None:
    """List job runs, newest first."""
    from seatctl.services import lookup

    if not summary:
        rows = _rows(call, limit)
        _print_list(call, "jobLogs", lookup.job_runs(call.store(), job, status, since, rows), rows)
        return
    if status is not None or limit is not None:
        raise Usage("--summary counts all runs of a job; combine it only with --type and --since")
    totals = lookup.summarize(call.store(), [job] if job else list(JobType), since or WINDOW)
    if call.json:
        formats.print_json(totals)
    elif not call.quiet:
        console.show(tables.list_table(totals, tables.SUMMARY))


@command(commands, "show", panel=INSPECT, example="seatctl show LOCK_ID")
def show(
    call: Invocation,
    document_id: Annotated[Any, typer.Argument(metavar="ID", parser=parser(parse_id), help="Any id.")],
) -> None:
    """Show any document by its id, with related documents."""
    from seatctl.services import lookup

    shown = lookup.show(call.store(), document_id)
    if call.json:
        formats.print_json(shown.as_document())
    elif call.quiet:
        formats.print_ids([shown.document])
    else:
        related = [
            tables.list_table(documents, tables.LISTS[name], name)
            for name, documents in shown.related.items()
            if documents
        ]
        story = f"`seatctl history {document_id}` tells what happened to it."
        console.show(tables.document_table(shown.document, shown.kind), *related, story)


@command(commands, "watch", panel=INSPECT, example="seatctl watch --interval 5s")
def watch(
    call: Invocation,
    interval: Annotated[timedelta, duration("Time between updates.", INTERVAL)] = INTERVAL,
) -> None:
    """Show a live dashboard.

    Ctrl-C ends it, with exit code 0."""
    dumb = os.environ.get("TERM") in ("dumb", "unknown")
    if call.json or call.quiet or dumb or not sys.stdout.isatty():
        raise Usage("watch needs a terminal to draw on; a script can repeat `seatctl events --json`")
    from seatctl.ops.watch import watch

    watch(call.store(), interval)


def _rows(call: Invocation, limit: int | None) -> int:
    """How many rows to list, 0 for all: a program cannot see that a list is not complete."""
    if limit is None:
        return 0 if call.json or call.quiet else LIST_LIMIT
    return limit


def _print_list(call: Invocation, collection: str, documents: Iterator[StoredDocument], rows: int) -> None:
    if call.json:
        formats.print_json_list(documents)
    elif call.quiet:
        formats.print_ids(documents)
    elif listed := list(documents):
        console.show(tables.list_of(collection, listed))
        if len(listed) == rows:
            call.note(f"{count(rows, 'row')} shown; --limit 0 shows all")
    else:
        call.note("nothing to show")
