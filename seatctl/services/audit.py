"""What is wrong in a database: the one piece of code behind `verify`, `health` and `recover`.

Reads only, with server-side aggregation; whoever repairs a finding looks again before writing.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from seatctl.domain.model import (
    HOLDING,
    LIVE,
    BookingStatus,
    Document,
    Id,
    LockStatus,
    counter_flaw,
    describe,
    is_key,
    seats_of,
    states_of,
    whole,
    whole_number,
)
from seatctl.mongo.store import ReadLost, ids_in, is_object_id, lock_in, lock_of_key
from seatctl.services.seats import attempts

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from seatctl.mongo.store import Session, Store


CHUNK = 1_000
LOOKS = 3
"""So many more where there are no snapshots."""
VOTES, TRIES = 7, 40
"""So many looks decide on a counter that moves; so often is it tried to look while nobody writes."""
READERS = 3
"""Threads that fetch from the server, which works on several reads at once."""


class Fault(StrEnum):
    """Each way in which documents can break a promise."""

    COUNTER_DRIFT = "counter_drift"
    COUNTER_IN_DOUBT = "counter_in_doubt"
    OVERBOOKED = "overbooked"
    UNSETTLED_LOCK = "unsettled_lock"
    LOST_LOCK = "lost_lock"
    SEATS_NOT_RETURNED = "seats_not_returned"
    BOOKING_WITHOUT_SEATS = "booking_without_seats"
    CONFIRMED_WITHOUT_LOCK = "confirmed_without_lock"
    CONSUMED_WITHOUT_BOOKING = "consumed_without_booking"
    SEVERAL_BOOKINGS = "several_bookings"
    OTHER_EVENT = "other_event"
    ORPHAN_LOCK = "orphan_lock"
    ORPHAN_BOOKING = "orphan_booking"
    ORPHAN_SOLD = "orphan_sold"
    DAMAGED_LOCK = "damaged_lock"
    DAMAGED_BOOKING = "damaged_booking"
    DAMAGED_EVENT = "damaged_event"
    TTL_INDEX = "ttl_index"


INVARIANT = {
    Fault.COUNTER_DRIFT: 1,
    Fault.COUNTER_IN_DOUBT: 1,
    Fault.OVERBOOKED: 2,
    Fault.UNSETTLED_LOCK: 5,
    Fault.LOST_LOCK: 5,
    Fault.SEATS_NOT_RETURNED: 5,
    Fault.BOOKING_WITHOUT_SEATS: 4,
    Fault.CONFIRMED_WITHOUT_LOCK: 5,
    Fault.CONSUMED_WITHOUT_BOOKING: 5,
    Fault.SEVERAL_BOOKINGS: 5,
    Fault.OTHER_EVENT: 5,
    Fault.ORPHAN_LOCK: 1,
    Fault.ORPHAN_BOOKING: 1,
    Fault.ORPHAN_SOLD: 1,
    Fault.DAMAGED_LOCK: 1,
    Fault.DAMAGED_BOOKING: 5,
    Fault.DAMAGED_EVENT: 2,
    Fault.TTL_INDEX: 9,
}
"""The invariant of spec section 3 that each fault breaks."""

REPAIRABLE = frozenset(
    {
        Fault.COUNTER_DRIFT,
        Fault.UNSETTLED_LOCK,
        Fault.LOST_LOCK,
        Fault.SEATS_NOT_RETURNED,
        Fault.BOOKING_WITHOUT_SEATS,
        Fault.ORPHAN_LOCK,
        Fault.ORPHAN_BOOKING,
    }
)
"""What `recover` mends. For the rest a person must decide: money or somebody's data is at stake."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One violation: what, said in a sentence, and the ids of the documents involved, or the index."""

    fault: Fault
    message: str
    event: Id = None
    lock: Id = None
    booking: Id = None
    index: str | None = None
    hopeless: bool = False
    """Recovery could mend such a thing, but not this one."""

    @property
    def remedy(self) -> str:
        """The command that repairs it, or the one that shows a person what to decide on."""
        if self.fault in REPAIRABLE and not self.hopeless:
            return "seatctl recover"
        if self.index:
            return "seatctl init --check"
        return f"seatctl show {self.booking or self.lock or self.event}"

    def as_document(self) -> Document:
        ids = {"event": self.event, "lock": self.lock, "booking": self.booking, "index": self.index}
        return {
            "fault": self.fault.value,
            "invariant": INVARIANT[self.fault],
            "message": self.message,
            **{name: value for name, value in ids.items() if value is not None},
            "remedy": self.remedy,
        }


def find_all(store: Store) -> list[Finding]:
    """Every violation in the whole database.

    A server without snapshots is read while others write, so there each finding must be seen every
    time in several looks, half-done commands being over in milliseconds.
    """
    found = list(once(chain.from_iterable(look(store))))
    if not store.transactions:
        moving = set()
        for _ in range(LOOKS if found else 0):
            again = {_topic(finding): finding for part in look(store) for finding in part}
            found = [finding for finding in found if _topic(finding) in again]
            moving |= {_topic(finding) for finding in found if again[_topic(finding)] != finding}
        found = [each for each in found if _topic(each) not in moving or not _is_noise(store, each)]
    return [*found, *indexes(store)]


def _is_noise(store: Store, finding: Finding) -> bool:
    """Whether a drift that is another at each look is that of commands in flight, one after the other: of
    the looks in which nobody wrote the event, most then find its counter right. Where there are too few
    of those it stays a finding: better a false alarm than a proof that is none."""
    if finding.fault is not Fault.COUNTER_DRIFT:
        return False
    right: list[bool] = []
    for _ in islice(attempts(), TRIES):
        event = store.event(finding.event)
        held = store.held_by_event(event_id=finding.event).get(finding.event, (0, 0))
        if event is not None and event == store.event(finding.event):
            right.append(check_counter(event, held) is None)
        if len(right) == VOTES:
            return sum(right) > VOTES / 2
    return False


def _topic(finding: Finding) -> tuple[str, ...]:
    """What a finding is about, whatever the numbers in it are at the moment."""
    about = finding.event, finding.lock, finding.booking, finding.index
    return finding.fault, *map(repr, about)


def once(findings: Iterable[Finding], but: Iterable[Finding] = ()) -> Iterator[Finding]:
    """Each finding once, and none that is among `but`: one document can be damaged in several ways."""
    named = set(map(_topic, but))
    for finding in findings:
        if (topic := _topic(finding)) not in named:
            named.add(topic)
            yield finding


@contextmanager
def _threads(number: int) -> Iterator[Executor]:
    """Threads that are not waited for once something went wrong: a read from a hung server takes minutes."""
    from concurrent.futures import ThreadPoolExecutor

    pool = ThreadPoolExecutor(number)
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


def look(store: Store) -> tuple[list[Finding], list[Finding]]:
    """What is wrong with the pairs and with the counters, each seen at one point in time if the
    server has snapshots; both are looked for at once, since they read different things."""
    if not store.transactions:
        return list(pairs(store)), list(counters(store))

    def seen(where: Callable[[Store, Session], Iterator[Finding]]) -> list[Finding]:
        for _ in attempts():
            try:
                with store.snapshot() as session:
                    return list(where(store, session))
            except ReadLost:
                continue
        raise AssertionError

    with _threads(1) as beside:
        counting = beside.submit(seen, counters)
        return seen(pairs), counting.result()


def pairs(store: Store, session: Session = None) -> Iterator[Finding]:
    """Locks and bookings that disagree, that belong to no event, or that are damaged."""
    doubtful = _doubtful(store, session)
    judged: set[Id] = set()  # a lock and a booking of different events are in doubt each by itself
    while chunk := set(islice(doubtful, CHUNK)):
        yield from _judge(store, sorted(chunk - judged), session)
        judged |= chunk
    yield from _orphans(store, session)
    yield from map(_damaged_lock, store.damaged_locks(session))
    yield from map(_damaged_booking, store.damaged_bookings(session))


def _damaged_lock(lock: Document) -> Finding:
    message = f"lock {lock['_id']}: {_flaw(lock)}"
    return Finding(Fault.DAMAGED_LOCK, message, lock.get("eventId"), lock["_id"])


def _damaged_booking(booking: Document) -> Finding:
    message = f"booking {booking['_id']}: {_booking_flaw(booking)}"
    return Finding(Fault.DAMAGED_BOOKING, message, booking=booking["_id"])


def _doubtful(store: Store, session: Session) -> Iterator[Id]:
    """Locks whose state may not agree with their bookings', seen from the ids alone.

    Walks along the ids of each state together, in their order: memory stays constant. They are read
    at slightly different times, so what looks wrong may be a change that came in between.
    """
    yield from store.locks_of_odd_events(session)
    yield from store.booked_twice(session)
    active, pending = LockStatus.ACTIVE, BookingStatus.PAYMENT_PENDING
    ended = chain.from_iterable(store.booking_keys(status) for status in BookingStatus if status not in LIVE)
    unbooked = _Traces()
    with _threads(READERS) as readers:
        sold, paid = readers.submit(store.sold_digests), readers.submit(store.paid_digests)
        for locks, bookings in _in_step(readers, store.lock_keys(active), store.booking_keys(pending)):
            yield from _locks_of(_repeated(locks, bookings) | (set(bookings) - set(locks)))
            unbooked.add(set(locks) - set(bookings))
        # A sold lock has a paid booking besides, and of two bookings of one lock nobody is unaware.
        for portion in _read_ahead(readers, ended):
            yield from _locks_of(unbooked.perhaps_in(portion))
        unequal = _unequal(sold.result(), paid.result())
        consumed = store.lock_keys(LockStatus.CONSUMED, unequal)
        confirmed = store.booking_keys(BookingStatus.CONFIRMED, unequal)
        for locks, bookings in _in_step(readers, consumed, confirmed):
            yield from _locks_of(_repeated(locks, bookings) | (set(locks) ^ set(bookings)))


def _unequal(some: dict[Id, int] | None, others: dict[Id, int] | None) -> list[Id] | None:
    """The events that have not the same digest on both sides; None where there are no digests."""
    if some is None or others is None:
        return None
    return [event for event in some.keys() | others.keys() if some.get(event) != others.get(event)]


def _locks_of(keys: Iterable[bytes]) -> Iterator[Id]:
    return map(lock_of_key, keys)


class _Traces:
    """Remembers locks in constant memory: may take a lock for one of them, but never misses one."""

    SIZE = 1 << 24

    def __init__(self) -> None:
        self._traces = bytearray(self.SIZE)

    def add(self, keys: Iterable[bytes]) -> None:
        for key in keys:
            self._traces[hash(lock_in(key)) % self.SIZE] = True

    def perhaps_in(self, keys: Iterable[bytes]) -> Iterator[bytes]:
        """Those of these keys, be they of another event, whose lock may have been added."""
        return (key for key in keys if self._traces[hash(lock_in(key)) % self.SIZE])


def _read_ahead(readers: Executor, portions: Iterator[list[bytes]]) -> Iterator[list[bytes]]:
    """The same portions, the next one being read while one is looked at."""
    coming = readers.submit(next, portions, None)
    while (portion := coming.result()) is not None:
        coming = readers.submit(next, portions, None)
        yield portion


def _in_step(readers: Executor, *streams: Iterator[list[bytes]]) -> Iterator[list[list[bytes]]]:
    """Cut ascending streams of keys at the same keys: equal ones come in the same part."""
    coming = [_read_ahead(readers, stream) for stream in streams]
    ahead: list[list[bytes]] = [[] for _ in streams]
    running = set(range(len(streams)))
    while running:
        slowest = min(running, key=lambda number: ahead[number][-1:])
        portion = next(coming[slowest], None)
        if portion is None:
            running.remove(slowest)
        ahead[slowest] += portion or []
        # What comes next in any stream is not below this.
        bound = min((ahead[number][-1:] for number in running), default=None)
        ends = [len(keys) if bound is None else bisect_left(keys, bound[0]) if bound else 0 for keys in ahead]
        yield [keys[:end] for keys, end in zip(ahead, ends, strict=True)]
        ahead = [keys[end:] for keys, end in zip(ahead, ends, strict=True)]


def _repeated(*parts: list[bytes]) -> set[bytes]:
    """Keys that stand more than once in the same part."""
    return {
        key
        for keys in parts
        if len(set(keys)) < len(keys)
        for key, times in Counter(keys).items()
        if times > 1
    }


def _booking_flaw(booking: Document) -> str:
    if booking.get("status") not in list(BookingStatus):
        return f"status is {describe(booking.get('status'))}"
    if not is_object_id(booking.get("seatLockId")):
        return f"seatLockId is {describe(booking.get('seatLockId'))}, not an id"
    if not is_object_id(booking["_id"]):
        return "its _id is not an ObjectId"
    return f"paymentExpiresAt is {describe(booking.get('paymentExpiresAt'))}, not a date"


def _flaw(lock: Document) -> str:
    if lock.get("status") not in list(LockStatus):
        return f"status is {describe(lock.get('status'))}"
    if seats_of(lock) is None:
        return f"seats is {describe(lock.get('seats'))}, not a positive whole number"
    if not is_object_id(lock["_id"]):
        return "its _id is not an ObjectId"
    return f"expiresAt is {describe(lock.get('expiresAt'))}, not a date"


def _judge(store: Store, lock_ids: list[Id], session: Session) -> Iterator[Finding]:
    """What is wrong with each of these locks and its bookings, if anything is."""
    locks = store.locks_by_id(lock_ids, session)
    bookings: dict[Id, list[Document]] = defaultdict(list)
    kept: set[Id] = set()
    for booking in store.bookings_of_locks(lock_ids, session):
        if is_object_id(booking["seatLockId"]):
            bookings[booking["seatLockId"]].append(booking)
        elif _is_alive(booking):
            yield _damaged_booking(booking)
        kept.update(ids_in(booking["seatLockId"]) if _is_alive(booking) else ())
    for lock_id in lock_ids:
        lock = locks.get(lock_id)
        for finding in _judge_lock(lock_id, lock, bookings[lock_id], kept=lock_id in kept):
            lost = lock if finding.fault is Fault.LOST_LOCK else None
            yield replace(finding, hopeless=True) if lost and _is_oversold(store, lost, session) else finding
    yield from _other_events(store, locks, chain.from_iterable(bookings.values()), session)


def _is_oversold(store: Store, lock: Document, session: Session) -> bool:
    """Whether this lock's event no longer has the seats that the lock gave back."""
    event_id = lock.get("eventId")
    event = store.event(event_id, session)
    if event is None or counter_flaw(event):
        return True
    held, unreadable = store.held_by_event(session, event_id).get(event_id, (0, 0))
    return bool(unreadable) or expected_seats(event, held) < (seats_of(lock) or 0)


def _judge_lock(
    lock_id: Id, lock: Document | None, bookings: list[Document], *, kept: bool
) -> Iterator[Finding]:
    """What is wrong with one lock (None: there is none) and its bookings; whether a live one, be it a
    damaged one, keeps it."""
    status = lock.get("status") if lock else None
    if len(bookings) > 1:
        message = f"lock {lock_id} has {len(bookings)} bookings"
        yield Finding(Fault.SEVERAL_BOOKINGS, message, lock=lock_id)
    paid = any(booking.get("status") == BookingStatus.CONFIRMED for booking in bookings)
    if lock and status == LockStatus.CONSUMED and not paid:
        message = f"lock {lock_id} is CONSUMED without a CONFIRMED booking; somebody may have paid"
        yield Finding(Fault.CONSUMED_WITHOUT_BOOKING, message, lock.get("eventId"), lock_id)
    for booking in bookings:
        fault = _fault_of_pair(str(booking.get("status")), status)
        if fault is Fault.SEATS_NOT_RETURNED and kept:
            continue  # a person has to look at the other booking first
        if lock and fault in (Fault.SEATS_NOT_RETURNED, Fault.LOST_LOCK) and seats_of(lock) is None:
            yield _damaged_lock(lock)  # recovery cannot move its seats before a person mends it
        elif fault:
            message = f"booking {booking['_id']} is {booking['status']} but its lock {lock_id} is "
            message += str(status or "missing")
            yield Finding(fault, message, booking.get("event"), lock_id, booking["_id"])


def _is_alive(booking: Document) -> bool:
    """Whether a booking keeps its lock."""
    return any(state in LIVE for state in states_of(booking))


def _other_events(
    store: Store, locks: dict[Id, Document], bookings: Iterable[Document], session: Session
) -> Iterator[Finding]:
    """Live bookings of one event on a lock that holds seats of another. Where one of the two does not
    exist, the orphan is the finding."""
    astray = [
        (booking, locks[booking["seatLockId"]])
        for booking in bookings
        if booking.get("status") in LIVE and _holds_elsewhere(locks.get(booking["seatLockId"]), booking)
    ]
    named = [event for booking, lock in astray for event in (booking.get("event"), lock.get("eventId"))]
    known = store.events_by_id({event for event in named if is_key(event)}, session)
    for booking, lock in astray:
        event, holds = booking.get("event"), lock.get("eventId")
        if all(is_key(each) and each in known for each in (event, holds)):
            message = f"booking {booking['_id']} names event {event}, but its lock {lock['_id']} holds seats "
            yield Finding(Fault.OTHER_EVENT, f"{message}of event {holds}", event, lock["_id"], booking["_id"])


def _holds_elsewhere(lock: Document | None, booking: Document) -> bool:
    return lock is not None and lock.get("status") in HOLDING and lock.get("eventId") != booking.get("event")


def _fault_of_pair(booking: str, lock: str | None) -> Fault | None:
    """What is wrong when a booking in this state has a lock in that one (None: no lock)."""
    match booking, lock:
        case BookingStatus.CONFIRMED, LockStatus.ACTIVE:
            return Fault.UNSETTLED_LOCK
        case BookingStatus.CONFIRMED, LockStatus.EXPIRED:
            return Fault.LOST_LOCK
        case BookingStatus.CONFIRMED, None:
            return Fault.CONFIRMED_WITHOUT_LOCK
        case ((BookingStatus.FAILED | BookingStatus.EXPIRED), LockStatus.ACTIVE):
            return Fault.SEATS_NOT_RETURNED
        case BookingStatus.PAYMENT_PENDING, (LockStatus.EXPIRED | None):
            return Fault.BOOKING_WITHOUT_SEATS
    return None  # a CONSUMED lock without a CONFIRMED booking is found from the lock's side


def _orphans(store: Store, session: Session) -> Iterator[Finding]:
    for lock in store.orphan_locks(session):
        fault = Fault.ORPHAN_LOCK if lock["status"] == LockStatus.ACTIVE else Fault.ORPHAN_SOLD
        owner = f"event {lock.get('eventId')}, which does not exist"
        message = f"lock {lock['_id']} ({lock['status']}) belongs to {owner}"
        yield Finding(fault, message, lock.get("eventId"), lock["_id"])
    for booking in store.orphan_bookings(session):
        fault = (
            Fault.ORPHAN_BOOKING if booking["status"] == BookingStatus.PAYMENT_PENDING else Fault.ORPHAN_SOLD
        )
        yield Finding(
            fault,
            f"booking {booking['_id']} ({booking['status']}) belongs to event {booking.get('event')}, "
            "which does not exist",
            booking.get("event"),
            booking.get("seatLockId"),
            booking["_id"],
        )


def indexes(store: Store) -> Iterator[Finding]:
    """Indexes by which MongoDB would delete what must never be deleted (invariant 9)."""
    for collection, name in store.deleting_indexes():
        yield Finding(
            Fault.TTL_INDEX,
            f"{collection}.{name} is a TTL index, by which MongoDB deletes documents; drop it in mongosh: "
            f"db.{collection}.dropIndex({json.dumps(name)})",
            index=f"{collection}.{name}",
        )


def counters(store: Store, session: Session = None) -> Iterator[Finding]:
    """Events whose counter is not what their locks say (invariants 1 and 2)."""
    held = store.held_by_event(session)
    unreadable = [event_id for event_id, (_, locks) in held.items() if locks]
    if unreadable:
        yield from map(_damaged_lock, store.unreadable_locks(unreadable, session))
    for event in store.all_counters(session):
        if not is_key(event["_id"]):
            event_id = describe(event["_id"])
            yield Finding(
                Fault.DAMAGED_EVENT, f"event {event_id}: no lock can refer to this _id", event["_id"]
            )
            continue
        finding = judge_counter(store, event, held.get(event["_id"], (0, 0)), session)
        if finding:
            yield finding


def judge_counter(
    store: Store, event: Document, held: tuple[int, int], session: Session = None
) -> Finding | None:
    """What is wrong with one event's counter, if anything is. One that is too low while a paid booking
    of the event has no lock (somebody deleted it) is in doubt: raised, it could sell paid seats again."""
    finding = check_counter(event, held)
    if not finding or finding.fault is not Fault.COUNTER_DRIFT:
        return finding
    too_low = event["availableSeats"] < expected_seats(event, held[0])
    if not (too_low and store.has_paid_without_lock(event["_id"], session)):
        return finding
    message = f"{finding.message}, but a paid booking has no lock: raised, it could sell paid seats again"
    return replace(finding, fault=Fault.COUNTER_IN_DOUBT, message=message)


def check_counter(event: Document, held: tuple[int, int]) -> Finding | None:
    """Judge one event by what its locks hold: (seats, locks whose `seats` is no seat count)."""
    event_id = event["_id"]
    if flaw := counter_flaw(event):
        return Finding(Fault.DAMAGED_EVENT, f"event {event_id}: {flaw}", event_id)
    seats, unreadable = held
    total = whole(event["totalSeats"])
    if unreadable:
        return (
            None  # each such lock is a finding of its own; the counter cannot be judged before it is mended
        )
    available, expected = whole_number(event["availableSeats"]), expected_seats(event, seats)
    if expected < 0:
        return Finding(
            Fault.OVERBOOKED,
            f"event {event_id}: locks hold {seats} of {total} seats, {-expected} too many",
            event_id,
        )
    if available != expected:
        return Finding(
            Fault.COUNTER_DRIFT,
            f"event {event_id}: {available} seats available, should be {expected} "
            f"({total} in all, {seats} held)",
            event_id,
        )
    return None


def expected_seats(event: Document, held: int) -> int:
    """What invariant 1 makes of an event with that many seats held."""
    total: Any = whole_number(event["totalSeats"])
    return int(total) - held
