"""One violation of an invariant, and how locks, bookings and counters are judged. Reads nothing."""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from seatctl.domain.documents import Booking, Event, Kind, SeatLock, Unreadable
from seatctl.domain.faults import EXPLANATIONS, NEW_ID, Remedy
from seatctl.domain.states import HOLDING, LIVE, BookingStatus, Fault, LockStatus, fault_of_pair
from seatctl.domain.timespec import format_time
from seatctl.domain.words import count, shorten
from seatctl.mongo.aggregations import SharedKey
from seatctl.mongo.mongosh import literal


@dataclass(frozen=True, slots=True)
class Violation:
    """What is wrong, said in a sentence, and the documents or the index involved."""

    fault: Fault
    message: str
    event: object = None
    lock: object = None
    booking: object = None
    index: str | None = None
    repairable: bool = True
    """False: recovery repairs such faults, but not this one."""
    seats: int | None = None
    """The seats that locks hold, which is the smallest capacity that the event can have."""
    damage: Unreadable | None = None
    """The document that cannot be read."""
    locks: str = "seatLocks"
    """The collection of the locks, where a person may have to correct one."""
    ref: str | None = None
    """The payment's reference, where a command recorded it."""
    only: Remedy | None = None
    """The one remedy of this fault that helps here."""
    accepted: bool = False
    """Listed, but nobody has to act on it: an event counted per day on an adopted database, or an old pair of
    locks that hold nothing."""

    @property
    def topic(self) -> tuple[str, ...]:
        """What it is about, whatever the numbers in it are at the moment."""
        if self.fault is Fault.COLLATION:
            return (self.fault, self.message)
        return (self.fault, *map(repr, (self.event, self.lock, self.booking, self.index)))

    @property
    def subject(self) -> object:
        """The document, or the index, that is wrong."""
        return self.booking or self.lock or self.event or self.index

    @property
    def is_for_recovery(self) -> bool:
        return EXPLANATIONS[self.fault].repairable and self.repairable

    @property
    def remedies(self) -> list[Remedy]:
        """What a person can decide, and the commands that carry it out, with the ids that are known. What
        needs the id of a booking is left out where there is none."""
        about = EXPLANATIONS[self.fault]
        remedies = about.remedies[about.repairable and not self.is_for_recovery :]
        if self.only is not None:
            remedies = (self.only,)
        if self.damage is not None and self.damage.field == "_id":
            remedies = (NEW_ID,)
        filled = [Remedy(one.decision, tuple(map(self.fill, one.commands))) for one in remedies]
        possible = [one for one in filled if " BOOKING_ID" not in " ".join(one.commands)]
        return possible or filled

    def fill(self, command: str) -> str:
        """A command, or a sentence, with what is known in place of the names in capitals."""
        ids = {"EVENT_ID": self.event, "LOCK_ID": self.lock, "BOOKING_ID": self.booking}
        texts = {name: str(value) for name, value in ids.items() if value is not None}
        if self.seats is not None:
            texts["N"] = str(self.seats)
        if self.ref is not None:
            texts["REF"] = shlex.quote(self.ref)
        if self.index:
            texts["COLLECTION"], _, name = self.index.partition(".")
            texts["INDEX"] = json.dumps(name)
        if self.damage is not None:
            texts |= _damage(self.damage, self.locks)

        def known_or_as_it_is(name: re.Match[str]) -> str:
            return texts.get(name[0], name[0])

        return re.sub(r"\b[A-Z]+(?:_ID)?\b", known_or_as_it_is, command)

    @property
    def remedy(self) -> str:
        """What to do, in one line."""
        if self.accepted:
            return "nothing: seatctl leaves it alone"
        if self.is_for_recovery:
            return "seatctl recover"
        return "; ".join([*map(str, self.remedies), f"seatctl explain {self.fault}"])

    def as_document(self) -> dict[str, object]:
        ids = {"event": self.event, "lock": self.lock, "booking": self.booking, "index": self.index}
        return {
            "fault": self.fault.value,
            "invariant": EXPLANATIONS[self.fault].invariant,
            "message": self.message,
            **{name: value for name, value in ids.items() if value is not None},
            "remedy": self.remedy,
            **({"accepted": True} if self.accepted else {}),
        }


def first_of_each(found: Sequence[Violation]) -> list[tuple[Violation, int]]:
    """The first violation of each fault, and how many of it there are."""
    number = Counter(violation.fault for violation in found)
    first = {violation.fault: violation for violation in reversed(found)}
    return [(first[fault], number[fault]) for fault in number]


SUGGESTED = {"availableSeats": "0", "expiresAt": "new Date()", "paymentExpiresAt": "new Date()"}
"""By field, a value from which `recover` finds what is right."""


def _damage(found: Unreadable, locks: str) -> dict[str, str]:
    """What the line for mongosh has to say of a document that cannot be read."""
    collections = {Kind.EVENT: "events", Kind.LOCK: locks, Kind.BOOKING: "bookings"}
    return {
        "COLLECTION": collections[found.kind],
        "ID": literal(found.id),
        "FIELD": found.field,
        "FOUND": literal(found.value),
        "VALUE": SUGGESTED.get(found.field, "VALUE"),
    }


FAULT_OF_UNREADABLE = {
    Kind.EVENT: Fault.DAMAGED_EVENT,
    Kind.LOCK: Fault.DAMAGED_LOCK,
    Kind.BOOKING: Fault.DAMAGED_BOOKING,
}


def unreadable(found: Unreadable) -> Violation:
    """A document that no program can read."""
    ids = {found.kind.value: found.id}
    event = found.id if found.kind is Kind.EVENT else found.event
    return Violation(
        FAULT_OF_UNREADABLE[found.kind],
        str(found),
        event,
        lock=ids.get("lock"),
        booking=ids.get("booking"),
        damage=found,
    )


def counted_by_day(event: Unreadable) -> Violation:
    """An event that seatctl leaves alone."""
    return Violation(Fault.UNKNOWN_COUNTING, str(event), event.id)


def duplicate_key(pair: SharedKey) -> Violation:
    """Locks for one request: nothing to act on while no two of them hold seats."""
    message = (
        f"locks {' and '.join(map(str, pair.locks))} of event {pair.event} have the same user and key "
        f"{shorten(pair.key)!r} ({pair.holding} of them with seats); until that is corrected, the index "
        "one_lock_per_key cannot be created"
    )
    return Violation(Fault.DUPLICATE_KEY, message, pair.event, pair.locks[0], accepted=pair.holding < 2)


def far_deadline(found: SeatLock | Booking) -> Violation:
    """Seats that are held for more than a year."""
    if isinstance(found, SeatLock):
        what, lock, booking = f"lock {found.id}", found.id, None
    else:
        what, lock, booking = f"booking {found.id}", found.lock, found.id
    message = f"{what} holds its seats until {format_time(found.deadline)}, more than a year from now"
    return Violation(Fault.FAR_DEADLINE, message, found.event, lock, booking)


def judge_lock(lock: SeatLock, bookings: Sequence[Booking | Unreadable]) -> Iterator[Violation]:
    """What is wrong with a lock that holds seats, and with the bookings that name it."""
    several = [
        one for one in bookings if isinstance(one, Unreadable) or one.status is not BookingStatus.INITIATED
    ]
    if len(several) > 1:
        named = ", ".join(
            f"{one.id} ({'unreadable' if isinstance(one, Unreadable) else one.status})" for one in several
        )
        message = f"lock {lock.id} has {count(len(several), 'booking')}: {named}"
        yield Violation(Fault.SEVERAL_BOOKINGS, message, lock.event, lock.id)
    readable = [booking for booking in bookings if isinstance(booking, Booking)]
    yield from (unreadable(booking) for booking in bookings if isinstance(booking, Unreadable))
    paid = any(booking.status is BookingStatus.CONFIRMED for booking in readable)
    if lock.status is LockStatus.CONSUMED and not paid:
        message = f"lock {lock.id} is CONSUMED without a CONFIRMED booking; someone may have paid"
        yield Violation(Fault.CONSUMED_WITHOUT_BOOKING, message, lock.event, lock.id)
    kept = len(readable) < len(bookings) or any(booking.status in LIVE for booking in readable)
    for booking in readable:
        fault = fault_of_pair(lock.status, booking.status)
        if booking.status in LIVE and booking.event != lock.event:
            message = (
                f"booking {booking.id} names event {booking.event}, but its lock {lock.id} holds seats of "
                f"event {lock.event}"
            )
            yield Violation(Fault.OTHER_EVENT, message, booking.event, lock.id, booking.id)
        if fault is Fault.SEATS_NOT_RETURNED and kept:
            continue  # a person has to look at the other booking first
        if fault:
            yield of_pair(fault, booking, lock)


def judge_booking(booking: Booking, lock: SeatLock | Unreadable | None) -> Iterator[Violation]:
    """What is wrong with a live booking whose lock holds nothing. One that holds seats is judged with its
    bookings, by `judge_lock`."""
    if isinstance(lock, Unreadable):
        yield unreadable(lock)
        return
    status = None if lock is None else lock.status
    if status not in HOLDING and (fault := fault_of_pair(status, booking.status)):
        yield of_pair(fault, booking, lock)


def of_pair(fault: Fault, booking: Booking, lock: SeatLock | None) -> Violation:
    """A booking and its lock in states that do not fit together."""
    state = lock.status if lock else "missing"
    message = f"booking {booking.id} is {booking.status} but its lock {booking.lock} is {state}"
    return Violation(fault, message, booking.event, booking.lock, booking.id)


def orphan(document: SeatLock | Booking, bookings: Sequence[Booking | Unreadable] = ()) -> Violation:
    """A lock that holds seats, with its bookings, or a live booking, of an event that does not exist. What is
    perhaps paid, a person must look at."""
    if isinstance(document, SeatLock):
        paid = [
            one for one in bookings if isinstance(one, Unreadable) or one.status is BookingStatus.CONFIRMED
        ]
        waits = document.status is LockStatus.ACTIVE and not paid
        fault = Fault.ORPHAN_LOCK if waits else Fault.ORPHAN_SOLD
        what, lock, booking = f"lock {document.id}", document.id, None
    else:
        pending = document.status is BookingStatus.PAYMENT_PENDING
        fault = Fault.ORPHAN_BOOKING if pending else Fault.ORPHAN_SOLD
        what, lock, booking = f"booking {document.id}", document.lock, document.id
    message = f"{what} ({document.status}) belongs to event {document.event}, which does not exist"
    return Violation(fault, message, document.event, lock, booking)


def judge_counter(event: Event, held: int) -> Violation | None:
    """What is wrong with an event's counter when its locks hold so many seats (invariants 1 and 2)."""
    expected = event.total - held
    if expected < 0:
        message = f"event {event.id}: locks hold {held} of {event.total} seats, {-expected} too many"
        return Violation(Fault.OVERBOOKED, message, event.id, seats=held)
    if event.available == expected:
        return None
    message = (
        f"event {event.id}: {event.available} seats available, should be {expected} "
        f"({event.total} in all, {held} held)"
    )
    return Violation(Fault.COUNTER_DRIFT, message, event.id)


def judge_closed(event: Event) -> Violation | None:
    """What is wrong with a closed event: seats that came back wait for a job (invariant 14)."""
    if event.closed_at is None or event.available <= 0:
        return None
    available = f"{count(event.available, 'seat')} {'is' if event.available == 1 else 'are'} available"
    return Violation(Fault.CLOSED_WITH_SEATS, f"event {event.id} is closed, but {available}", event.id)


def counter_in_doubt(drift: Violation, reason: str) -> Violation:
    """A counter that is too low and must not be raised: it could sell seats again that are not free."""
    reason = reason.removeprefix(f"event {drift.event}: ")
    message = f"{drift.message}, but {reason}: raising it could sell those seats again"
    return replace(drift, fault=Fault.COUNTER_IN_DOUBT, message=message)
