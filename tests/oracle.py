"""The invariants of the specification (section 3), judged in its own words.

The one oracle of all tests: it reads documents, with the standard library alone, and knows nothing of
the program under test. `violations` and `sold_twice` look at a database; `broken` looks at documents.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pymongo.database import Database

Document = dict[str, Any]
Id = Any

HOLDING = ("ACTIVE", "CONSUMED")
ENDED = ("EXPIRED", "CANCELLED")
LIVE = ("PAYMENT_PENDING", "CONFIRMED")
DEMANDED = {
    "PAYMENT_PENDING": (4, ("ACTIVE",)),
    "CONFIRMED": (5, ("CONSUMED",)),
    "FAILED": (5, ENDED),
    "EXPIRED": (5, ENDED),
    "CANCELLED": (5, ENDED),
}
"""By the state of a booking: the invariant that says in which states its lock may be. An INITIATED
booking demands nothing. Which of the two ended states a lock is in is no matter of seats."""


@dataclass(frozen=True)
class Broken:
    """A broken invariant, by its number: what is wrong, and the ids of the documents that disagree."""

    invariant: int
    what: str
    ids: frozenset[Id]

    def __str__(self) -> str:
        return f"{self.invariant}: {self.what}"


def violations(database: Database) -> list[str]:
    """Each broken one of the invariants 1, 2, 4, 5 and 14, as "<number>: <what is wrong>"."""
    return [str(found) for found in broken(*documents_of(database))]


def sold_twice(database: Database) -> int:
    """Seats that are available although a lock holds them, in all events."""
    with database.client.start_session(snapshot=True) as session:  # buyers may be at work
        events, locks = (list(database[name].find(session=session)) for name in ("events", "seatLocks"))
    held = held_seats(locks)
    return sum(max(0, event["availableSeats"] + held[event["_id"]] - event["totalSeats"]) for event in events)


def documents_of(database: Database) -> tuple[list[Document], list[Document], list[Document]]:
    """All events, locks and bookings."""
    return list(database.events.find()), list(database.seatLocks.find()), list(database.bookings.find())


def broken(
    events: Iterable[Document], locks: Iterable[Document], bookings: Iterable[Document]
) -> list[Broken]:
    """Invariants 1, 2, 4, 5 and 14, document by document."""
    event_of = {event["_id"]: event for event in events}
    lock_of = {lock["_id"]: lock for lock in locks}
    bookings_of: dict[Id, list[Document]] = defaultdict(list)
    for booking in bookings:
        bookings_of[booking["seatLockId"]].append(booking)
    found = _counters(event_of, lock_of)
    for lock_id in dict.fromkeys([*lock_of, *bookings_of]):
        found += _pairs(lock_id, lock_of.get(lock_id), bookings_of.get(lock_id, []))
    return found + _orphans(event_of, lock_of, bookings_of)


def held_seats(locks: Iterable[Document]) -> Counter[Id]:
    """By event, the seats that its locks hold."""
    held: Counter[Id] = Counter()
    for lock in locks:
        if lock["status"] in HOLDING:
            held[lock["eventId"]] += lock["seats"]
    return held


def _counters(events: Mapping[Id, Document], locks: Mapping[Id, Document]) -> list[Broken]:
    held, found = held_seats(locks.values()), []
    for event_id, event in events.items():
        available, total = event["availableSeats"], event["totalSeats"]
        who = f"({event.get('name')})"
        if available + held[event_id] != total:
            what = f"{available} available + {held[event_id]} held is not {total} {who}"
            found.append(Broken(1, what, frozenset({event_id})))
        if not 0 <= available <= total:
            found.append(Broken(2, f"{available} available of {total} {who}", frozenset({event_id})))
        if isinstance(event.get("closedAt"), datetime) and available > 0:
            found.append(Broken(14, f"{available} available, but closed {who}", frozenset({event_id})))
    return found


def _pairs(lock_id: Id, lock: Document | None, bookings: list[Document]) -> list[Broken]:
    """A lock, if there is one, and all bookings that name it."""
    state = lock["status"] if lock else "missing"
    states = [booking["status"] for booking in bookings]
    what = f"lock {state}, bookings {states} (lock of {lock.get('userId') if lock else lock_id})"
    found = []
    for booking in bookings:
        if booking["status"] not in DEMANDED:
            continue
        invariant, demanded = DEMANDED[booking["status"]]
        # What is gone holds nothing.
        if (state if lock else "EXPIRED") not in demanded:
            found.append(Broken(invariant, what, frozenset({booking["_id"], lock_id})))
    if lock and state == "CONSUMED" and states.count("CONFIRMED") != 1:
        found.append(Broken(5, f"consumed and not paid once: {what}", frozenset({lock_id})))
    # A booking that was INITIATED by another program may stand beside the one that counts.
    if lock and len([one for one in states if one != "INITIATED"]) > 1:
        found.append(Broken(5, f"several bookings: {what}", frozenset({lock_id})))
    return found


def _orphans(
    events: Mapping[Id, Document], locks: Mapping[Id, Document], bookings: Mapping[Id, list[Document]]
) -> list[Broken]:
    """Seats that no event has cannot add up, and a booking is of the event whose seats its lock holds."""
    found = []
    for lock_id, lock in locks.items():
        if lock["status"] in HOLDING and lock["eventId"] not in events:
            found.append(Broken(1, f"lock {lock_id} of no event", frozenset({lock_id})))
    for booking in (booking for several in bookings.values() for booking in several):
        if booking["status"] not in LIVE:
            continue
        lock = locks.get(booking["seatLockId"])
        if booking["event"] not in events:
            what = f"booking {booking['_id']} of no event"
            found.append(Broken(1, what, frozenset({booking["_id"]})))
        elif lock and lock["status"] in HOLDING and lock["eventId"] in events.keys() - {booking["event"]}:
            what = f"booking {booking['_id']} is of another event than its lock"
            found.append(Broken(5, what, frozenset({booking["_id"]})))
    return found
