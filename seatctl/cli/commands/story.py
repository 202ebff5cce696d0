"""Commands that tell what happened, what to do about it, and one that does it: history, explain, relock."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seatctl.cli.invocation import Invocation, command
from seatctl.cli.listing import ListCall, list_command
from seatctl.cli.options import CHECK, INSPECT, OPERATE, DryRun, id_of, option, parse_id, parse_seats, parser
from seatctl.domain.documents import BookingId
from seatctl.domain.requests import ListRequest
from seatctl.domain.states import Fault
from seatctl.domain.words import count
from seatctl.errors import Misconfigured, Unreachable
from seatctl.output import console, formats, tables
from seatctl.output.formats import Format

if TYPE_CHECKING:
    from seatctl.domain.documents import StoredDocument
    from seatctl.mongo.store import Store

commands, checks, repairs = typer.Typer(), typer.Typer(), typer.Typer()


@list_command(commands, "history", "history", panel=INSPECT, example="seatctl history BOOKING_ID")
def history(
    call: ListCall,
    document_id: Annotated[
        Any,
        typer.Argument(
            metavar="[ID]", parser=parser(parse_id), help="Any id.  [default: what was done last, of all]"
        ),
    ] = None,
) -> None:
    """Tell what happened to a document, by whom and why.

    In order, with the runs of the jobs. Without an id: what operators and jobs did last, newest first.
    `--format ids` prints the records of it: operations and runs."""
    from seatctl.services import history as story

    form = call.form

    def read(store: Store, request: ListRequest) -> Iterator[StoredDocument]:
        now = store.now()
        for entry in story.listed(store, document_id, request, now):
            document = entry.as_document()
            if form is Format.TABLE:
                yield {**document, "ago": tables.ago(entry.at, now)}
            elif form is not Format.IDS:
                yield document
            elif record := document.get("operation") or document.get("run"):
                yield {"_id": record}

    call.show(read)


@command(checks, "explain", panel=CHECK, example="seatctl explain consumed_without_booking")
def explain(
    call: Invocation,
    fault: Annotated[
        Fault, typer.Argument(metavar="FAULT", help="As `verify` names it.", case_sensitive=False)
    ],
) -> None:
    """Explain a fault: its meaning, its cause, and the way out.

    With the ids of what `verify` finds now, if the database can be reached; -q prints those alone."""
    from seatctl.services.explanations import explain as explained

    try:
        explanation = explained(call.store(writes=False), fault)
    except (Misconfigured, Unreachable) as error:
        call.note(f"without the ids of a database: {error}")
        explanation = explained(None, fault)
    if call.json:
        formats.print_json(explanation.as_document())
    elif call.quiet:
        formats.print_ids({"_id": each} for each in explanation.ids)
    else:
        console.show(*explanation.lines)


@command(repairs, "relock", panel=OPERATE, changes=True, example="seatctl relock BOOKING_ID")
def relock(
    call: Invocation,
    booking_id: Annotated[BookingId, id_of("booking", "bookings")],
    seats: Annotated[
        int | None, option("--seats N", parse_seats, "How many seats it had, where its lock is gone.")
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Give a booking a lock of its own, with its seats.

    For a booking whose lock is missing, is shared with another booking, or holds seats of another event
    (`seatctl explain confirmed_without_lock`, `several_bookings`, `other_event`)."""
    from seatctl.services.relocking import relock

    result = relock(call.store(writes=False), booking_id, seats, dry_run=dry_run)
    booking, lock, left = result.booking, result.lock, result.left
    if lock is None:
        sentence = f"Booking {booking.id} is {booking.status} and needs no lock."
    elif not result.changed:
        sentence = f"Booking {booking.id} has lock {lock.id} of its own already, which is {lock.status}."
    else:
        has = "would have" if dry_run else "has"
        sentence = (
            f"Booking {booking.id} {has} lock {lock.id} with {count(lock.seats, 'seat')}, {lock.status}."
        )
        if left is not None:
            sentence += f" `seatctl show {left.id}` shows the lock that it left, which is {left.status}."
    call.tell(booking.stored, sentence, quiet=booking.id)
