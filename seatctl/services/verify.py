"""`verify`: every violation in a database, found range by range of events.

An event's invariants need no other event, so each range is read in a snapshot of its own: neither memory
nor the time for which a server keeps a snapshot limits the size. Sold seats are compared by digests and
read only where those differ; open locks and pending bookings are read and judged one by one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace

from seatctl.domain.documents import Booking, Event, EventId, Flaw, LockId, SeatLock, Unreadable
from seatctl.domain.faults import KEEP_THE_PROGRAM
from seatctl.domain.rules import FAR
from seatctl.domain.states import HOLDING, LIVE, BookingStatus, Fault, LockStatus
from seatctl.mongo.aggregations import BookingCounts, HeldSeats, Scope, scope_of
from seatctl.mongo.collection import CURSOR_BATCH, chunks
from seatctl.mongo.store import Store
from seatctl.services import violations
from seatctl.services.clearance import Cause, Clearance, Doubt, doubt_of_database
from seatctl.services.counters import reason_against_raising
from seatctl.services.parallel import side_by_side
from seatctl.services.seats import NO_COUNTER
from seatctl.services.violations import Violation

LARGEST_RANGE = 1_000
"""Events in one range: enough that a range is worth its six queries."""
RANGES = 8
"""Into so many ranges a small number of events is divided, so that several threads can work on them."""
ENDS_BOOKING = frozenset({Fault.BOOKING_WITHOUT_SEATS, Fault.ORPHAN_BOOKING})
RETURNS_SEATS = ENDS_BOOKING | {Fault.SEATS_NOT_RETURNED}
"""What recovery repairs only where a counter may be raised, or need not be."""


def verify(store: Store) -> Iterator[Violation]:
    """Every violation, each once, with the ranges of events in order. Reads only.
    Raises CursorLost when the server keeps dropping what is read."""
    for violation in once(_verify(store)):
        damaged = violation.damage is not None
        yield replace(violation, locks=store.settings.locks) if damaged else violation


def _verify(store: Store) -> Iterator[Violation]:
    doubt = doubt_of_counters(store)
    size = max(1, min(LARGEST_RANGE, store.sizes()["events"] // RANGES))
    ranges = ((([scope], False)) for scope in store.aggregations.ranges(size))
    for found in side_by_side(ranges, lambda scopes, _: _of_range(store, scopes[0], doubt)):
        yield from found
    yield from _of_no_range(store)
    yield from indexes(store)
    yield from collations(store)


def indexes(store: Store) -> Iterator[Violation]:
    """Indexes by which MongoDB would delete what must never be deleted (invariant 9)."""
    only = KEEP_THE_PROGRAM if store.settings.adopted else None
    again = "where another program creates it at each start, `seatctl adopt`"
    if only is not None:
        again = "the other program would create it again, so do not drop it: `seatctl adopt`, run again,"
    for index in store.aggregations.deleting_indexes():
        message = f"{index} is a TTL index, so MongoDB deletes documents; {again} makes it harmless"
        yield Violation(Fault.TTL_INDEX, message, index=str(index), only=only)


def collations(store: Store) -> Iterator[Violation]:
    """Collections that compare texts otherwise than exactly: only other programs do then (invariant 8)."""
    for collection, collation in store.aggregations.collations():
        how = ", ".join(f"{name} {collation[name]}" for name in ("locale", "strength") if name in collation)
        message = (
            f"{collection} has a collation ({how}), so other programs can confuse users or keys, such "
            "as ann and Ann; seatctl compares them exactly"
        )
        yield Violation(Fault.COLLATION, message, accepted=True)


def doubt_of_counters(store: Store) -> Doubt | None:
    """Why no counter of this database can be called too low: locks may be missing, or a lock that names no
    event may hold seats of any."""
    if doubt := doubt_of_database(store):
        return doubt
    for lock in store.locks.with_unreadable_event():
        if lock.event is None:
            return Doubt(Cause.UNREADABLE, f"{lock}, so its seats may belong to any event")
    return None


def _of_no_range(store: Store) -> Iterator[Violation]:
    """Documents that name their event by something that is no ObjectId, and events with such an id."""
    yield from map(violations.unreadable, store.aggregations.malformed_events())
    yield from map(violations.unreadable, store.locks.with_unreadable_event())
    yield from (violations.unreadable(booking) for booking, _ in store.bookings.with_malformed_event_id())


def _of_range(store: Store, scope: Scope, doubt: Doubt | None) -> list[Violation]:
    what = f"the events from {scope['$gte']} to {scope.get('$lt', 'the last')}"
    return store.read_snapshot(lambda at: list(_of_scope(at, scope, doubt)), what)


def once(found: Iterable[Violation]) -> Iterator[Violation]:
    """Each violation once: one document can be met on several ways."""
    seen: set[int] = set()  # not the topics: there can be one for each of 400,000 events
    for violation in found:
        topic = hash(violation.topic)
        if topic not in seen:
            seen.add(topic)
            yield violation


def _of_scope(at: Store, scope: Scope, doubt: Doubt | None) -> Iterator[Violation]:
    events, held, booked = (
        at.aggregations.events(scope),
        at.aggregations.held_seats(scope),
        at.aggregations.booking_counts(scope),
    )
    clearance = Clearance(at)
    for violation in _of_documents(at, scope, events, held, booked):
        if _counts_by_day(events.get(EventId(violation.event))):
            yield replace(violation, repairable=False, accepted=at.settings.adopted)
        else:
            by_recovery = violation.is_for_recovery and _is_repairable(at, violation, held, clearance)
            yield replace(violation, repairable=by_recovery)
    yield from map(violations.duplicate_key, at.aggregations.shared_keys(scope))
    for event_id, event in events.items():
        holds = held.get(event_id, HeldSeats())
        if isinstance(event, Unreadable):
            by_day = replace(violations.counted_by_day(event), accepted=at.settings.adopted)
            yield by_day if _counts_by_day(event) else violations.unreadable(event)
            continue
        if on_sale := violations.judge_closed(event):
            yield on_sale
        if not holds.unreadable and (found := violations.judge_counter(event, holds.seats)):
            # Each lock that cannot be read is a violation of its own.
            too_low = found.fault is Fault.COUNTER_DRIFT and event.available + holds.seats < event.total
            reason = (str(doubt) if doubt else reason_against_raising(at, event_id)) if too_low else None
            yield violations.counter_in_doubt(found, reason) if reason else found


def _counts_by_day(event: Event | Unreadable | None) -> bool:
    """Whether everything about this event is another program's business."""
    return isinstance(event, Unreadable) and event.flaw is Flaw.COUNTED_BY_DAY


def _is_repairable(
    at: Store, violation: Violation, held: dict[EventId, HeldSeats], clearance: Clearance
) -> bool:
    """Whether recovery, which repairs such faults, can repair this one: its event can be read, and takes the
    seats that would go back, or has those that a lock lost."""
    lock = at.locks.get(LockId(violation.lock))
    if violation.fault in ENDS_BOOKING:
        event_id = EventId(violation.event)
    elif isinstance(lock, SeatLock):
        event_id = lock.event
    else:
        return False
    if violation.fault in RETURNS_SEATS:
        doubt = clearance.doubt(event_id)
        return doubt is None or doubt.cause in NO_COUNTER
    event = at.events.get(event_id)
    if violation.fault is Fault.LOST_LOCK:
        holds = held.get(event_id, HeldSeats())
        if not isinstance(event, Event) or not isinstance(lock, SeatLock) or holds.unreadable:
            return False
        blocks = at.locks.of_closing(event.id) if event.is_closed else []
        return event.total - holds.seats + sum(block.seats for block in blocks) >= lock.seats
    return not isinstance(event, Unreadable)


def _of_documents(
    at: Store,
    scope: Scope,
    events: dict[EventId, Event | Unreadable],
    held: dict[EventId, HeldSeats],
    booked: dict[EventId, BookingCounts],
) -> Iterator[Violation]:
    """Locks and bookings that disagree, that belong to no event, or that cannot be read."""
    yield from _locks(at, at.locks.of_events(scope, LockStatus.ACTIVE), events)
    yield from _bookings(at, at.bookings.of_events(scope, BookingStatus.PAYMENT_PENDING), events)
    named = {*held, *booked}
    unequal = {event_id for event_id in named if event_id not in events or _differs(event_id, held, booked)}
    for some_events in chunks(unequal, LARGEST_RANGE):
        those = scope_of(some_events)
        yield from _locks(at, at.locks.of_events(those, LockStatus.CONSUMED), events)
        yield from _bookings(at, at.bookings.of_events(those, BookingStatus.CONFIRMED), events)
    damaged = [event_id for event_id, holds in held.items() if holds.unreadable]
    yield from map(violations.unreadable, at.locks.unreadable(scope_of(damaged)) if damaged else ())
    damaged = [event_id for event_id, bookings in booked.items() if bookings.unreadable]
    yield from map(violations.unreadable, at.bookings.unreadable(scope_of(damaged)) if damaged else ())
    yield from _far_deadlines(at, scope)
    if twice := list(at.aggregations.booked_twice(scope)):
        yield from _locks(at, at.locks.by_id(twice).values(), events)


def _far_deadlines(at: Store, scope: Scope) -> Iterator[Violation]:
    """Locks and bookings that run for more than a year. Of a lock with a booking, only the booking."""
    far = at.now() + FAR
    for bookings in chunks(at.bookings.due_after(scope, far), CURSOR_BATCH):
        yield from (violations.far_deadline(booking) for booking in bookings if isinstance(booking, Booking))
    for locks in chunks(at.locks.due_after(scope, far), CURSOR_BATCH):
        booked = {lock_id for lock_id, _ in at.bookings.protecting([LockId(lock.id) for lock in locks])}
        kept = (lock for lock in locks if isinstance(lock, SeatLock) and lock.id not in booked)
        yield from map(violations.far_deadline, kept)


def _differs(event_id: EventId, held: dict[EventId, HeldSeats], booked: dict[EventId, BookingCounts]) -> bool:
    """Whether the sold locks of an event are not those that its paid bookings name."""
    sold, paid = held.get(event_id, HeldSeats()), booked.get(event_id, BookingCounts())
    return sold.sold_digest != paid.paid_digest


def _locks(
    at: Store, locks: Iterable[SeatLock | Unreadable], events: dict[EventId, Event | Unreadable]
) -> Iterator[Violation]:
    for some_locks in chunks(locks, CURSOR_BATCH):
        bookings: dict[LockId, list[Booking | Unreadable]] = defaultdict(list)
        ids = [lock.id for lock in some_locks if isinstance(lock, SeatLock)]
        for lock_id, booking in at.bookings.naming(ids):
            bookings[lock_id].append(booking)
        for lock in some_locks:
            if isinstance(lock, Unreadable):
                yield violations.unreadable(lock)
            elif lock.event in events:
                found = violations.judge_lock(lock, bookings[lock.id])
                yield from (violation for violation in found if not _is_orphans(at, violation, events))
            elif lock.status in HOLDING and at.events.get(lock.event) is None:
                yield violations.orphan(lock, bookings[lock.id])


def _is_orphans(at: Store, violation: Violation, events: dict[EventId, Event | Unreadable]) -> bool:
    """Whether a booking names another event than its lock because its own does not exist: the orphan is the
    violation."""
    if violation.fault is not Fault.OTHER_EVENT:
        return False
    event_id = EventId(violation.event)
    return event_id not in events and at.events.get(event_id) is None


def _bookings(
    at: Store, bookings: Iterable[Booking | Unreadable], events: dict[EventId, Event | Unreadable]
) -> Iterator[Violation]:
    for some_bookings in chunks(bookings, CURSOR_BATCH):
        locks = at.locks.by_id([booking.lock for booking in some_bookings if isinstance(booking, Booking)])
        for booking in some_bookings:
            if isinstance(booking, Unreadable):
                yield violations.unreadable(booking)
            elif booking.event in events:
                yield from violations.judge_booking(booking, locks.get(booking.lock))
            elif booking.status in LIVE:
                yield violations.orphan(booking)
