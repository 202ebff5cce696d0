"""What cannot be read is not free (invariant 11): judged from two pictures of a database, before and after
one command or job, whatever the documents in it hold.

Knows section 3 of the specification and nothing of the program under test. What other programs did
between two steps is theirs; `unsafe` says what the step itself must not have done.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from bson import ObjectId
from oracle import DEMANDED, ENDED, HOLDING, LIVE, Document, Id, documents_of

if TYPE_CHECKING:
    from pymongo.database import Database

LOCK_STATES = (*HOLDING, *ENDED)
BOOKING_STATES = (*DEMANDED, "INITIATED")
CANCELLED_WITH_ITS_EVENT = (("ACTIVE", "EXPIRED"), ("CONSUMED", "CANCELLED"))

Truth = Mapping[Id, tuple[Id, int]]
"""By lock, the event and the seats that it stood for when it could last be read."""


@dataclass(frozen=True)
class Step:
    """A command or job: its time (a moved one for a sweep as of another time), and what it alone may do."""

    at: datetime
    pays: Id = None
    fails: Id = None
    releases: Id = None
    cancels: Id = None
    """A booking, or a lock."""
    sells: Id = None
    """A booking of which seats are sold after all, or a sold lock that a booking is recorded for."""
    recovers: bool = False
    resizes: Id = None
    """An event; so for the next three."""
    reopens: Id = None
    cancels_event: Id = None


@dataclass(frozen=True)
class Picture:
    """All documents at one moment."""

    events: dict[Id, Document]
    locks: dict[Id, Document]
    bookings: dict[Id, Document]
    deleting: bool = False
    """Whether a TTL index deletes documents."""
    truth: Truth = field(default_factory=dict)

    @classmethod
    def of(cls, database: Database, truth: Truth, *, deleting: bool) -> Picture:
        events, locks, bookings = ({one["_id"]: one for one in some} for some in documents_of(database))
        return cls(events, locks, bookings, deleting, truth)

    def is_readable(self) -> bool:
        """Whether every document can be read."""
        return (
            not self.deleting
            and all(map(event_is_readable, self.events.values()))
            and all(map(lock_is_readable, self.locks.values()))
            and all(map(booking_is_readable, self.bookings.values()))
        )


# --- reading -----------------------------------------------------------------------------------------


def is_whole(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value // 1


def is_by_day(event: Document) -> bool:
    return event.get("eventType") == "multi-day" or bool(event.get("dailySeats"))


def event_is_readable(event: Document) -> bool:
    total, available = event.get("totalSeats"), event.get("availableSeats")
    return not is_by_day(event) and is_whole(total) and total >= 1 and is_whole(available)


def seats_can_be_counted(lock: Document) -> bool:
    """Whether anybody can say how many seats of which event a lock holds, if any."""
    seats = lock.get("seats")
    return (
        lock.get("status") in LOCK_STATES
        and isinstance(lock.get("eventId"), ObjectId)
        and (is_whole(seats) and seats >= 1)
    )


def lock_is_readable(lock: Document) -> bool:
    return (
        isinstance(lock["_id"], ObjectId)
        and seats_can_be_counted(lock)
        and (lock["status"] != "ACTIVE" or isinstance(lock.get("expiresAt"), datetime))
    )


def booking_is_readable(booking: Document) -> bool:
    return (
        booking.get("status") in BOOKING_STATES
        and isinstance(booking.get("event"), ObjectId)
        and isinstance(booking.get("seatLockId"), ObjectId)
        and (booking["status"] != "PAYMENT_PENDING" or isinstance(booking.get("paymentExpiresAt"), datetime))
    )


def may_hold(lock: Document) -> bool:
    """Unless it is known to be over, a lock may hold its seats."""
    return lock.get("status") not in ENDED


def may_be_live(booking: Document) -> bool:
    return booking.get("status") in LIVE or booking.get("status") not in BOOKING_STATES


def ids_in(value: Any) -> set[ObjectId]:
    """The ids that a reference names, by whatever form."""
    values = value if isinstance(value, list) else [value]
    return {
        ObjectId(one)
        for one in values
        if isinstance(one, ObjectId) or (isinstance(one, str) and ObjectId.is_valid(one))
    }


def names(booking: Document, lock_id: Id) -> bool:
    return lock_id in ids_in(booking.get("seatLockId"))


def protectors(picture: Picture, lock_id: Id) -> list[Document]:
    return [one for one in picture.bookings.values() if may_be_live(one) and names(one, lock_id)]


# --- which events must be left alone -----------------------------------------------------------------


def illegible(picture: Picture, overdue_at: datetime) -> set[Id]:
    """The events of which no counter may be raised, and no booking ended before its deadline. A pending
    booking that is overdue is no reason: it ends in the same step, and its lock is looked for."""
    live = [
        booking
        for booking in picture.bookings.values()
        if booking.get("status") in LIVE and not is_overdue(booking, overdue_at)
    ]
    if picture.deleting or (live and not picture.locks):
        return set(picture.events)
    found = {event_id for event_id, event in picture.events.items() if not event_is_readable(event)}
    for lock in picture.locks.values():
        if may_hold(lock) and not seats_can_be_counted(lock):
            found |= ids_in(lock.get("eventId"))
    for booking in live:
        if not ids_in(booking.get("seatLockId")) & picture.locks.keys():
            found |= ids_in(booking.get("event"))
    return found


def is_overdue(booking: Document, at: datetime) -> bool:
    """Of a booking that can be read."""
    waits = booking_is_readable(booking) and booking["status"] == "PAYMENT_PENDING"
    return waits and booking["paymentExpiresAt"] < at


# --- seats that are not free -------------------------------------------------------------------------


def taken_seats(picture: Picture, *, lost: bool) -> Counter[Id]:
    """By event, the seats of locks that hold or may hold them, and of locks that somebody deleted under a
    live booking; with `lost` also those of locks that ended although a live booking names them, and of
    locks that name no event any more."""
    taken: Counter[Id] = Counter()
    for lock_id in {**picture.locks, **picture.truth}:
        lock = picture.locks.get(lock_id)
        event_id, seats = picture.truth.get(lock_id, (None, 0))
        if lock is not None and lock_is_readable(lock):
            event_id, seats = lock["eventId"], lock["seats"]
        live = any(one.get("status") in LIVE for one in protectors(picture, lock_id))
        if lock is None:
            counts = live
        elif may_hold(lock):
            counts = lost or bool(ids_in(lock.get("eventId")))
        else:
            counts = lost and live
        if counts:
            taken[event_id] += seats
    return taken


def for_sale_twice(picture: Picture) -> Counter[Id]:
    """By event, the available seats that are not free: beyond what its locks leave of it."""
    taken = taken_seats(picture, lost=False)
    return _positive(
        {
            event_id: event["availableSeats"] - max(0, event["totalSeats"] - taken[event_id])
            for event_id, event in picture.events.items()
            if event_is_readable(event)
        }
    )


def promised_twice(picture: Picture) -> Counter[Id]:
    """By event, by how much available and taken seats together are more than there are."""
    taken = taken_seats(picture, lost=True)
    return _positive(
        {
            event_id: event["availableSeats"] + taken[event_id] - event["totalSeats"]
            for event_id, event in picture.events.items()
            if event_is_readable(event)
        }
    )


def _positive(numbers: Mapping[Id, Any]) -> Counter[Id]:
    return Counter({key: number for key, number in numbers.items() if number > 0})


# --- judging a step ----------------------------------------------------------------------------------


def unsafe(before: Picture, after: Picture, step: Step) -> list[str]:
    """What the step must not have done."""
    left_alone = illegible(before, step.at)
    return [
        *_counters(before, after, step, left_alone),
        *_locks(before, after, step),
        *_bookings(before, after, step, left_alone),
    ]


def _counters(before: Picture, after: Picture, step: Step, left_alone: set[Id]) -> Iterator[str]:
    yield from (f"9: {gone} was deleted" for gone in before.events.keys() - after.events.keys())
    for event_id, old in before.events.items():
        new = after.events[event_id]
        if not event_is_readable(old):
            if new != old:
                yield f"11: event {event_id}, which cannot be read, was changed: {old} → {new}"
            continue
        if new["totalSeats"] != old["totalSeats"] and step.resizes != event_id:
            yield f"the capacity of event {event_id} was changed"
        if event_id in left_alone and new["availableSeats"] > old["availableSeats"]:
            change = f"{old['availableSeats']} → {new['availableSeats']}"
            yield f"11: the counter of event {event_id} was raised: {change}"
    for measure in (for_sale_twice, promised_twice):
        old_seats, new_seats = measure(before), measure(after)
        for event_id in new_seats:
            if event_id in before.events and new_seats[event_id] > old_seats[event_id]:
                what = measure.__name__.replace("_", " ")
                yield f"1: event {event_id}: seats {what}: {old_seats[event_id]} → {new_seats[event_id]}"


def _locks(before: Picture, after: Picture, step: Step) -> Iterator[str]:
    yield from (f"9: {gone} was deleted" for gone in before.locks.keys() - after.locks.keys())
    for lock_id, old in before.locks.items():
        new = after.locks[lock_id]
        if not lock_is_readable(old):
            if new != old:
                yield f"11: lock {lock_id}, which cannot be read, was changed: {old} → {new}"
            continue
        event = before.events.get(old["eventId"])
        change = (old["status"], new["status"])
        if event is not None and is_by_day(event) and new != old:
            yield f"11: lock {lock_id} of an event counted per day was changed: {change}"
        elif change[0] == change[1]:
            continue
        elif reason := _against_change(before, after, step, lock_id, change):
            bookings = [one.get("status") for one in before.bookings.values() if names(one, lock_id)]
            yield f"lock {lock_id} went {change} under bookings {bookings}: {reason}"


def _against_change(
    before: Picture, after: Picture, step: Step, lock_id: Id, change: tuple[str, str]
) -> str | None:
    """Why a lock must not have made this change of its state, or None."""
    lock = before.locks[lock_id]
    cancels = step.cancels in {
        lock_id,
        *(one["_id"] for one in before.bookings.values() if names(one, lock_id)),
    }
    if lock.get("kind") == "BLOCK" and lock["eventId"] in (step.resizes, step.reopens, step.cancels_event):
        return None if change == ("ACTIVE", "EXPIRED") else "final"
    if lock["eventId"] == step.cancels_event:
        return None if change in CANCELLED_WITH_ITS_EVENT and not protectors(after, lock_id) else "final"
    paid = any(one["status"] == "CONFIRMED" for one in protectors(after, lock_id) if booking_is_readable(one))
    match change:
        case ("ACTIVE", "CONSUMED"):
            return None if paid else "5: without a payment"
        case (("EXPIRED" | "CANCELLED"), "CONSUMED"):
            return None if paid and step.recovers else "final"
        case ("ACTIVE", "EXPIRED"):
            if protectors(after, lock_id):
                return "4: a booking protects it"
            ended = any(names(one, lock_id) for one in after.bookings.values() if not may_be_live(one))
            orphan = step.recovers and lock["eventId"] not in before.events
            if lock["expiresAt"] < step.at or step.releases == lock_id or ended or orphan:
                return None
            return "6: before its deadline"
        case ("CONSUMED", "CANCELLED"):
            if not cancels:
                return "final"
            return "5: a booking keeps it" if protectors(after, lock_id) else None
    return "final"


def _bookings(before: Picture, after: Picture, step: Step, left_alone: set[Id]) -> Iterator[str]:
    yield from (f"9: {gone} was deleted" for gone in before.bookings.keys() - after.bookings.keys())
    for booking_id, old in before.bookings.items():
        new = after.bookings[booking_id]
        if not booking_is_readable(old):
            if new != old:
                yield f"11: booking {booking_id}, which cannot be read, was changed: {old} → {new}"
            continue
        change = (old["status"], new["status"])
        if change[0] != change[1] and (reason := _against_booking(before, step, old, change, left_alone)):
            lock = before.locks.get(old["seatLockId"])
            yield f"booking {booking_id} went {change} with lock {lock}: {reason}"


def _against_booking(
    before: Picture, step: Step, booking: Document, change: tuple[str, str], left_alone: set[Id]
) -> str | None:
    """Why a booking must not have made this change of its state, or None."""
    lock = before.locks.get(booking["seatLockId"], {})
    sells = step.sells == booking["seatLockId"]
    if step.cancels_event == booking["event"]:
        return None if change[0] in LIVE and change[1] == "CANCELLED" else "final"
    match change:
        case ("PAYMENT_PENDING" | "INITIATED", "CONFIRMED") if sells and lock.get("status") == "CONSUMED":
            return None
        case ("PAYMENT_PENDING", "CONFIRMED"):
            in_time = booking["paymentExpiresAt"] > step.at
            paid = (sells or step.pays == booking["_id"]) and in_time and lock.get("status") == "ACTIVE"
            return None if paid else "7: too late, without seats, or by nobody's payment"
        case ("PAYMENT_PENDING" | "CONFIRMED", "CANCELLED"):
            return None if step.cancels in (booking["_id"], booking["seatLockId"]) else "nobody cancelled it"
        case ("PAYMENT_PENDING", "FAILED"):
            return None if step.fails == booking["_id"] else "its payment did not fail"
        case ("PAYMENT_PENDING", "EXPIRED"):
            if booking["paymentExpiresAt"] < step.at:
                return None
            of_no_event = booking["event"] not in before.events or (
                lock and lock.get("eventId") not in before.events
            )
            if not step.recovers or not (of_no_event or lock.get("status") in ENDED):
                return "6: before its deadline"
            if before.deleting or booking["event"] in left_alone:
                return "11: before its deadline, of an event that is to be left alone"
            return None
    return "final"
