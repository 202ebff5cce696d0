"""Commands on events: create-event, edit-event, resize, block, unblock, close, reopen, cancel-event."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from seatctl.cli.command import command
from seatctl.cli.invocation import Invocation
from seatctl.cli.options import (
    LIST_LIMIT,
    BatchSize,
    DryRun,
    EventArgument,
    Seats,
    TotalSeats,
    id_of,
    key_of,
    option,
    parse_moment,
)
from seatctl.domain.documents import EventId, LockId
from seatctl.domain.rules import BATCH
from seatctl.domain.states import BLOCK, LockStatus
from seatctl.domain.timespec import format_time
from seatctl.domain.words import count, format_number, not_raised
from seatctl.errors import ItemsLeft
from seatctl.output import console, tables

if TYPE_CHECKING:
    from seatctl.services.event_cancellation import CancelEventResult

PAST = "warning: the date of this event is past: {}"

Date = Annotated[
    Any,  # a datetime, a timedelta or None, but Typer knows no unions
    option("--date TIME", parse_moment, "When the event takes place: ISO 8601 (no zone = UTC) or +30d."),
]
Description = Annotated[str | None, option("--description TEXT", str, "A longer description.")]


@command(
    "create-event",
    takes_reason=True,
    example='seatctl create-event "Spring gala" --seats 100 --date 2027-05-01T19:30Z',
)
def create_event(
    call: Invocation,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The event's name.")],
    seats: Seats,
    date: Date,
    description: Description = None,
    key: Annotated[str | None, key_of("event")] = None,
) -> None:
    """Create an event with all seats available."""
    from seatctl.services import events

    store = call.store(create=True)
    is_new = not store.exists()
    if is_new and call.target.uri is None:
        store.init()
    request = events.CreateEventRequest(name, seats, date, description, key)
    result = events.create_event(store, request)
    when = format_time(result.date)
    if not result.created:
        sentence = f"This key already created event {result.id} on {when} (unchanged)."
        call.tell(result.event, sentence, quiet=result.id)
        return
    if is_new and call.target.uri is not None:
        call.note(f"database {store.name} was new and has no indexes or validators yet: run `seatctl init`")
    if store.settings.adopted:
        call.note(
            "the other program may need fields of an event that seatctl does not write, such as a price"
        )
    if result.is_past:
        call.note(PAST.format(when))
    sentence = f"Created event {result.id} with {count(seats, 'seat')} on {when}."
    call.tell(result.event, sentence, quiet=result.id)


@command(
    "edit-event",
    takes_reason=True,
    example='seatctl edit-event EVENT_ID --date 2027-05-08T19:30Z --reason "the hall is taken"',
)
def edit_event(
    call: Invocation,
    event: EventArgument,
    name: Annotated[str | None, option("--name NAME", str, "A new name.")] = None,
    date: Date = None,
    description: Description = None,
) -> None:
    """Change the name, date or description of an event."""
    from seatctl.services import events

    result = events.edit_event(call.store(), events.EditEventRequest(event, name, date, description))
    if result.past is not None:
        call.note(PAST.format(format_time(result.past)))
    words = {"eventDate": "date"}
    changed = " and ".join(words.get(field, field) for field in result.changed)
    sentence = (
        f"Changed the {changed} of event {event}."
        if changed
        else f"Event {event} already has these values (unchanged)."
    )
    call.tell(result.event, sentence, quiet=event)


@command("resize", example='seatctl resize EVENT_ID --seats 150 --reason "balcony opened"', takes_reason=True)
def resize(call: Invocation, event: EventArgument, seats: TotalSeats, dry_run: DryRun = False) -> None:
    """Set the number of seats of an event.

    The number cannot be smaller than the seats that are held; the error names the smallest possible one."""
    from seatctl.services import resizing

    result = resizing.resize(call.store(), resizing.ResizeRequest(event, seats, dry_run))
    free = f"{format_number(result.free)} {'off sale, it is closed' if result.closed else 'available'}"
    if not result.changed:
        sentence = f"Event {event} has {count(seats, 'seat')} already, {free}."
    else:
        has = "would have" if dry_run else "has"
        sentence = (
            f"Event {event} {has} {count(seats, 'seat')} instead of {format_number(result.before)}, {free}."
        )
        if result.returned:
            sentence += (
                f" {count(result.returned, 'overdue seat')} {_was(result.returned, dry_run)} returned first."
            )
    call.tell(result.event, sentence, quiet=event)


@command("block", example='seatctl block EVENT_ID --seats 4 --reason "for the press"', takes_reason=True)
def block(
    call: Invocation,
    event: EventArgument,
    seats: Seats,
    key: Annotated[str | None, key_of("block")] = None,
    dry_run: DryRun = False,
) -> None:
    """Take seats off sale without a deadline, for house seats.

    `unblock` returns them."""
    from seatctl.services import blocks

    result = blocks.block(call.store(), blocks.BlockRequest(event, seats, key, dry_run))
    held = result.lock
    if not result.created:
        sentence = f"This key already blocked {count(held.seats, 'seat')}; the block is {held.status}."
    else:
        assert result.available is not None
        left = f"{format_number(result.available)} left"
        sentence = f"{'Would block' if dry_run else 'Blocked'} {count(held.seats, 'seat')}; {left}."
    is_planned = dry_run and result.created
    sentence += "" if is_planned else f" Block {held.id}."
    call.tell(held.stored, sentence, quiet=held.id, planned=is_planned)


@command("unblock", example="seatctl unblock BLOCK_ID", takes_reason=True)
def unblock(
    call: Invocation, lock_id: Annotated[LockId, id_of("block", "seatLocks", LockStatus.ACTIVE, BLOCK)]
) -> None:
    """Return the seats of a block."""
    from seatctl.services import blocks

    result = blocks.unblock(call.store(), lock_id)
    held = result.lock
    if not result.changed:
        sentence = f"Block {held.id} is already {held.status}."
    elif result.closed:
        sentence = f"Block {held.id} is {held.status}; its event is closed and keeps the seats off sale."
    else:
        seats = count(held.seats, "seat") if result.doubt is None else "no seats"
        sentence = f"Block {held.id} is {held.status}; {seats} returned.{not_raised(result.doubt)}"
    call.tell(held.stored, sentence, quiet=held.id)


@command("close", example='seatctl close EVENT_ID --reason "the band is ill"', takes_reason=True)
def close(call: Invocation, event: EventArgument, dry_run: DryRun = False) -> None:
    """Stop sales of an event.

    All available seats go into a block, so that other programs sell nothing either; seats that come back
    later are added to the block by the next job run. Buyers keep their seats. `reopen` restarts sales."""
    from seatctl.services import closing

    result = closing.close(call.store(), event, dry_run=dry_run)
    if not result.changed:
        sentence = f"Event {event} is already closed."
    else:
        closed = "would be closed" if dry_run else "is closed"
        seats = f"{count(result.seats, 'seat')} {_was(result.seats, dry_run)}"
        sentence = f"Event {event} {closed}; {seats} taken off sale."
    call.tell(result.event, sentence, quiet=event)


@command("reopen", example="seatctl reopen EVENT_ID", takes_reason=True)
def reopen(call: Invocation, event: EventArgument, dry_run: DryRun = False) -> None:
    """Restart sales of a closed event."""
    from seatctl.services import closing

    result = closing.reopen(call.store(), event, dry_run=dry_run)
    if not result.changed:
        sentence = f"Event {event} is already open."
    else:
        opened = "would be open" if dry_run else "is open"
        seats = f"{count(result.seats, 'seat')} {_was(result.seats, dry_run)}"
        sentence = f"Event {event} {opened} again; {seats} put on sale."
    call.tell(result.event, sentence, quiet=event)


@command(
    "cancel-event",
    takes_reason=True,
    example='seatctl cancel-event EVENT_ID --confirm Gala --reason "the hall is flooded"',
)
def cancel_event(
    call: Invocation,
    event: EventArgument,
    confirm: Annotated[str, option("--confirm NAME", str, "The event's name, as a safety check.")],
    dry_run: DryRun = False,
    batch_size: BatchSize = BATCH,
) -> None:
    """Cancel an event with all its bookings and locks.

    Sales stop at once and for good. Paid bookings leave refunds, which `seatctl refunds --event` lists. If
    interrupted, run the same command again to continue."""
    from seatctl.services import event_cancellation as cancellation

    store = call.store()
    request = cancellation.CancelEventRequest(event, confirm, dry_run, batch_size)
    done = cancellation.cancel_event(store, request, call.progress())
    if done.owed and not (call.json or call.quiet):
        title = "refunds that would be due" if dry_run else "refunds due"
        console.show(tables.list_table(done.owed[:LIST_LIMIT], tables.OWED, title))
    # Below the table, which may be longer than the screen.
    call.tell(done.as_document(), _cancelled(event, done, dry_run), quiet=event)
    if len(done.owed) > LIST_LIMIT:
        lists_all = "" if dry_run else f"; `seatctl refunds --event {event} --format csv` lists all"
        call.note(f"{LIST_LIMIT} of {format_number(done.due)} refunds shown{lists_all}")
    if done.error is not None:
        raise ItemsLeft(done.error)


def _cancelled(event: EventId, done: CancelEventResult, dry_run: bool) -> str:
    """`Event … is cancelled; 1 booking and 3 locks were ended; refunds: 1 new, 1 increased, 2 due in all.`"""
    if done.already and not (done.bookings or done.locks):
        refunds = count(done.due, "refund")
        return f"Event {event} is already cancelled; nothing was left to end, {refunds} due."
    were = "would be" if dry_run else "were"
    ended = f"{count(done.bookings, 'booking')} and {count(done.locks, 'lock')} {were} ended"
    refunds = f"refunds: {format_number(done.refunds - done.increased)} new"
    if done.increased:
        refunds += f", {format_number(done.increased)} increased"
    refunds += f", {format_number(done.due)} due in all"
    state = "would be" if dry_run and not done.already else "is"
    return f"Event {event} {state} cancelled; {ended}; {refunds}."


def _was(number: int, dry_run: bool) -> str:
    return "would be" if dry_run else "was" if number == 1 else "were"
