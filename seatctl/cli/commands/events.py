"""Commands on events: create-event."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from seatctl.cli.invocation import Invocation, command
from seatctl.cli.options import OPERATE, Seats, option, parse_moment
from seatctl.domain.timespec import format_time
from seatctl.domain.words import count

commands = typer.Typer()


@command(
    commands,
    "create-event",
    panel=OPERATE,
    changes=True,
    example='seatctl create-event "Spring gala" --seats 100 --date 2027-05-01T19:30Z',
)
def create_event(
    call: Invocation,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The event's name.")],
    seats: Seats,
    date: Annotated[
        Any,  # a datetime or a timedelta, but Typer knows no unions
        option("--date TIME", parse_moment, "When the event takes place: ISO 8601 (no zone = UTC) or +30d."),
    ],
    description: Annotated[str | None, option("--description TEXT", str, "A longer text.")] = None,
) -> None:
    """Create an event with all its seats available."""
    from seatctl.services import events

    store = call.store(create=True)
    if call.target.uri is None and not store.exists():
        store.init()
    request = events.CreateEventRequest(name=name, seats=seats, date=date, description=description)
    result = events.create_event(store, request)
    if store.settings.adopted:
        call.note(
            "the other program may need fields of an event that seatctl does not write, such as a price"
        )
    when = format_time(result.date)
    if result.is_past:
        call.note(f"warning: the date of this event is past: {when}")
    sentence = f"Created event {result.id} with {count(seats, 'seat')} on {when}."
    call.tell(result.event, sentence, quiet=result.id)
