"""What was looked up by its id: there and readable, or an error that says what it is instead."""

from __future__ import annotations

from typing import TypeVar

from seatctl.domain.documents import Booking, Event, Flaw, SeatLock, Unreadable
from seatctl.errors import CountedByDay, DamagedDocument, NotFound
from seatctl.mongo.store import Store

T = TypeVar("T", Event, SeatLock, Booking)


def readable(found: T | Unreadable) -> T:
    """Raises DamagedDocument or CountedByDay for what a program must not change (invariant 11)."""
    if isinstance(found, Unreadable):
        raise (CountedByDay if found.flaw is Flaw.COUNTED_BY_DAY else DamagedDocument)(str(found))
    return found


def not_found(store: Store, kind: str, wanted: object) -> NotFound:
    """There is no such document; the message says what the id is the id of."""
    found = store.find_anywhere(wanted)
    hint = f"; that is the id of {'an' if found[0] == 'event' else 'a'} {found[0]}" if found else ""
    return NotFound(f"there is no {kind} {wanted}{hint}")
