"""The scenarios of the specification, played on a real database that is thrown away.

Nobody waits: deadlines pass because the sweeps are told that it is later. Every number is checked.
The tables fit 80 columns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

from seatctl.domain.documents import UserId
from seatctl.domain.states import BookingStatus, JobType, LockStatus
from seatctl.output import tables
from seatctl.services import events, health, jobs, lookup, sales

if TYPE_CHECKING:
    from seatctl.domain.documents import EventId, StoredDocument
    from seatctl.mongo.store import Store
    from seatctl.output.console import Part

SEATS = 100


@dataclass(slots=True)
class Scenario:
    """One story: what it shows, and the numbers that are expected."""

    title: str
    parts: list[Part] = field(default_factory=list)
    checks: list[tuple[str, object, object]] = field(default_factory=list)

    def show(self, *parts: Part) -> None:
        self.parts += parts

    def expect(self, what: str, expected: object, actual: object) -> None:
        self.checks.append((what, expected, actual))

    @property
    def ok(self) -> bool:
        return all(expected == actual for _, expected, actual in self.checks)

    def as_document(self) -> StoredDocument:
        """For `--json`."""
        checks = [dict(zip(("what", "expected", "actual"), check, strict=True)) for check in self.checks]
        return {"title": self.title, "ok": self.ok, "checks": checks}


def play(store: Store) -> Iterator[Scenario]:
    """Play all scenarios in an empty database, one after the other."""
    store.init()
    yield lock_expiry(store)
    yield booking_expiry(store)
    yield recovery_after_crash(store)
    yield recovery_with_wrong_counter(store)
    yield final_health(store)


def lock_expiry(store: Store) -> Scenario:
    story = Scenario("Lock expiry: five buyers lock a seat each and leave")
    event = _create_event(store, "Spring gala")
    for number in range(5):
        _lock_seat(store, event, number)
    before = _available(store, event)
    story.show(_event_table(store, event, "before"), "Eleven minutes later: seatctl expire-locks")
    report = jobs.expire_locks(store, jobs.SweepOptions(as_of=timedelta(minutes=11), force=True))
    expired = _locks(store, event, LockStatus.EXPIRED)
    after = _available(store, event)
    story.show(_locks_table(expired), _event_table(store, event, f"after: {SEATS} → {before} → {after}"))
    story.expect("seats available while locked", 95, before)
    story.expect("locks EXPIRED", 5, len(expired))
    story.expect("seats returned", 5, report.seats)
    story.expect("seats available at the end", 100, after)
    story.expect("LOCK_EXPIRY runs", "1 SUCCESS", _outcomes(store, JobType.LOCK_EXPIRY))
    return story


def booking_expiry(store: Store) -> Scenario:
    story = Scenario("Booking expiry: three buyers confirm and never pay")
    event = _create_event(store, "Summer concert")
    for number in range(3):
        lock = _lock_seat(store, event, number)
        sales.confirm(store, sales.ConfirmRequest(lock.lock.id))
    before = _available(store, event)
    pending = _bookings(store, event, BookingStatus.PAYMENT_PENDING)
    story.show(_event_table(store, event, "before"), "Sixteen minutes later: seatctl expire-bookings")
    report = jobs.expire_bookings(store, jobs.SweepOptions(as_of=timedelta(minutes=16), force=True))
    expired = _bookings(store, event, BookingStatus.EXPIRED)
    locks = _locks(store, event, LockStatus.EXPIRED)
    after = _available(store, event)
    story.show(_bookings_table(expired), _event_table(store, event, f"after: {SEATS} → {before} → {after}"))
    story.expect("seats available while waiting for payment", 97, before)
    story.expect("bookings PAYMENT_PENDING", 3, len(pending))
    story.expect("bookings EXPIRED", 3, len(expired))
    story.expect("their locks EXPIRED", 3, len(locks))
    story.expect("seats returned", 3, report.seats)
    story.expect("seats available at the end", 100, after)
    story.expect("BOOKING_EXPIRY runs", "1 SUCCESS", _outcomes(store, JobType.BOOKING_EXPIRY))
    return story


def recovery_after_crash(store: Store) -> Scenario:
    story = Scenario("Recovery: a crash left seven locks behind, two hours overdue")
    event = _create_event(store, "Autumn fair")
    store.events.take_seats(event, 7)
    _insert_locks_of_other_program(store, event, 7)
    before = _available(store, event)
    story.show(_event_table(store, event, "before"), "After the restart: seatctl recover")
    report = jobs.recover(store, jobs.RecoverOptions())
    after = _available(store, event)
    story.show(_event_table(store, event, f"after: {before} → {after}"))
    story.expect("seats available after the crash", 93, before)
    story.expect("locks EXPIRED", 7, len(_locks(store, event, LockStatus.EXPIRED)))
    story.expect("seats returned", 7, report.seats)
    story.expect("seats available at the end", 100, after)
    story.expect("RECOVERY runs", "1 SUCCESS", _outcomes(store, JobType.RECOVERY))
    return story


def recovery_with_wrong_counter(store: Store) -> Scenario:
    story = Scenario("Recovery: the same seven locks, but the counter was never reduced")
    event = _create_event(store, "Winter ball")
    _insert_locks_of_other_program(store, event, 7)
    before = _available(store, event)
    story.show(_event_table(store, event, "before"), "After the restart: seatctl recover")
    jobs.recover(store, jobs.RecoverOptions())
    after = _available(store, event)
    story.show(_event_table(store, event, f"after: {before} → {after}, never 107"))
    story.expect("seats available after the crash", 100, before)
    story.expect("locks EXPIRED", 7, len(_locks(store, event, LockStatus.EXPIRED)))
    story.expect("seats available at the end", 100, after)
    story.expect("RECOVERY runs", "2 SUCCESS", _outcomes(store, JobType.RECOVERY))
    return story


def final_health(store: Store) -> Scenario:
    story = Scenario("Health after all this: seatctl health")
    state = health.check(store)
    story.show(*tables.health_parts(state.as_document()))
    story.expect("healthy", True, state.healthy)
    story.expect("inconsistent events", 0, len(state.inconsistent_events))
    story.expect("total seats", 400, state.seats.total)
    story.expect("seats available", 400, state.seats.available)
    return story


# --- acting and reading -------------------------------------------------------------------------------


def _create_event(store: Store, name: str) -> EventId:
    return events.create_event(store, events.CreateEventRequest(name, SEATS, timedelta(days=30))).id


def _lock_seat(store: Store, event: EventId, number: int) -> sales.LockResult:
    return sales.lock(store, sales.LockRequest(event, UserId(f"buyer-{number + 1}"), 1))


def _insert_locks_of_other_program(store: Store, event: EventId, number: int) -> None:
    """Overdue locks without a key and without a booking."""
    deadline = store.now() - timedelta(hours=2)
    for _ in range(number):
        lock: dict[str, object] = {
            "eventId": event,
            "userId": "crashed-backend",
            "seats": 1,
            "status": LockStatus.ACTIVE.value,
            "expiresAt": deadline,
        }
        store.locks.insert_as_stored(lock)


def _event(store: Store, event: EventId) -> StoredDocument:
    return lookup.show(store, event).document


def _available(store: Store, event: EventId) -> object:
    return _event(store, event)["availableSeats"]


def _locks(store: Store, event: EventId, status: LockStatus) -> list[StoredDocument]:
    return list(lookup.locks(store, event, status, None, 0))


def _bookings(store: Store, event: EventId, status: BookingStatus) -> list[StoredDocument]:
    return list(lookup.bookings(store, event, status, None, 0))


def _outcomes(store: Store, job: JobType) -> str:
    statuses = Counter(str(run["status"]) for run in lookup.job_runs(store, job, None, None, 0))
    return ", ".join(f"{number} {status}" for status, number in statuses.items())


# --- tables that fit 80 columns -----------------------------------------------------------------------


def _event_table(store: Store, event: EventId, title: str) -> Part:
    found = _event(store, event)
    columns = ("name", "filled", "available #", "locked #", "sold #", "total #")
    numbers = (found[name] for name in ("availableSeats", "locked", "sold", "totalSeats"))
    row = (found["name"], tables.occupancy(found), *numbers)
    return tables.table(columns, [row], title=title)


def _locks_table(locks: list[StoredDocument]) -> Part:
    fields = ("_id", "userId", "seats", "status", "expiresAt")
    rows = [[lock[name] for name in fields] for lock in locks]
    return tables.table(("id", "user", "seats #", "status", "expires"), rows, title="the locks")


def _bookings_table(bookings: list[StoredDocument]) -> Part:
    fields = ("_id", "user", "status", "paymentExpiresAt")
    rows = [[booking[name] for name in fields] for booking in bookings]
    return tables.table(("id", "user", "status", "pay by"), rows, title="the bookings")
