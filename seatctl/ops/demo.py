"""The scenarios of the specification, played on a real database that is thrown away.

Nobody waits: deadlines pass because the sweeps are told that it is later. Every number is checked.
The tables fit 80 columns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from seatctl.domain.documents import UserId
from seatctl.domain.states import BookingStatus, JobType, LockStatus
from seatctl.output import tables
from seatctl.output.health import health_parts
from seatctl.services import events, health, jobs, lists, sales

if TYPE_CHECKING:
    from seatctl.domain.documents import EventId, StoredDocument
    from seatctl.mongo.store import Store
    from seatctl.output.console import Part

SEATS = 100


@dataclass(frozen=True, slots=True)
class Scenario:
    """One story: what it shows, and each number with its name and the number that is expected."""

    title: str
    parts: list[Part]
    checks: list[tuple[str, object, object]]

    @property
    def ok(self) -> bool:
        return all(expected == actual for _, expected, actual in self.checks)

    def as_document(self) -> StoredDocument:
        checks = [dict(zip(("what", "expected", "actual"), check, strict=True)) for check in self.checks]
        return {"title": self.title, "ok": self.ok, "checks": checks}


def play(store: Store) -> Iterator[Scenario]:
    """Play all scenarios in an empty database, one after the other."""
    store.init()
    yield lock_expiry(store)
    yield booking_expiry(store)
    yield recovery(store, "a crash left seven locks behind, two hours overdue", taken=7)
    yield recovery(store, "the same seven locks, but the counter was never reduced", taken=0)
    yield final_health(store)


def lock_expiry(store: Store) -> Scenario:
    event = _create_event(store, "Spring gala")
    for number in range(5):
        _lock_seat(store, event, number)
    before = _event(store, event)
    report = jobs.expire_locks(store, jobs.JobOptions(as_of=timedelta(minutes=11), force=True))
    expired = list(lists.locks(store, event, LockStatus.EXPIRED))
    after = _event(store, event)
    return Scenario(
        "Lock expiry: five buyers lock a seat each and leave",
        [
            _event_table(before, "before"),
            "Eleven minutes later: seatctl expire-locks",
            tables.list_table(expired, _without(tables.LISTS["seatLocks"], "event", "key"), "the locks"),
            _event_table(after, f"after: {SEATS} → {_available(before)} → {_available(after)}"),
        ],
        [
            ("seats available while locked", 95, _available(before)),
            ("locks EXPIRED", 5, len(expired)),
            ("seats returned", 5, report.seats),
            ("seats available at the end", 100, _available(after)),
            ("LOCK_EXPIRY runs", "1 SUCCESS", _outcomes(store, JobType.LOCK_EXPIRY)),
        ],
    )


def booking_expiry(store: Store) -> Scenario:
    event = _create_event(store, "Summer concert")
    for number in range(3):
        sales.confirm(store, sales.ConfirmRequest(_lock_seat(store, event, number).lock.id))
    before = _event(store, event)
    pending = list(lists.bookings(store, event, BookingStatus.PAYMENT_PENDING))
    report = jobs.expire_bookings(store, jobs.JobOptions(as_of=timedelta(minutes=16), force=True))
    expired = list(lists.with_seats_of_locks(store, lists.bookings(store, event, BookingStatus.EXPIRED)))
    after = _event(store, event)
    return Scenario(
        "Booking expiry: three buyers confirm and never pay",
        [
            _event_table(before, "before"),
            "Sixteen minutes later: seatctl expire-bookings",
            tables.list_table(expired, _without(tables.LISTS["bookings"], "event", "lock"), "the bookings"),
            _event_table(after, f"after: {SEATS} → {_available(before)} → {_available(after)}"),
        ],
        [
            ("seats available while waiting for payment", 97, _available(before)),
            ("bookings PAYMENT_PENDING", 3, len(pending)),
            ("bookings EXPIRED", 3, len(expired)),
            ("their locks EXPIRED", 3, _expired_locks(store, event)),
            ("seats returned", 3, report.seats),
            ("seats available at the end", 100, _available(after)),
            ("BOOKING_EXPIRY runs", "1 SUCCESS", _outcomes(store, JobType.BOOKING_EXPIRY)),
        ],
    )


def recovery(store: Store, what: str, *, taken: int) -> Scenario:
    """Seven overdue locks of another program, without a key or a booking, of an event whose counter was
    reduced by `taken`."""
    event = _create_event(store, "Autumn fair" if taken else "Winter ball")
    if taken:
        store.events.take_seats(event, taken)
    lock = {"eventId": event, "userId": "crashed-backend", "seats": 1, "status": LockStatus.ACTIVE.value}
    deadline = store.now() - timedelta(hours=2)
    for _ in range(7):
        store.locks.insert_as_stored({**lock, "expiresAt": deadline})
    before = _event(store, event)
    report = jobs.recover(store, jobs.JobOptions())
    after = _event(store, event)
    title = f"after: {_available(before)} → {_available(after)}"
    return Scenario(
        f"Recovery: {what}",
        [
            _event_table(before, "before"),
            "After the restart: seatctl recover",
            _event_table(after, title if taken else f"{title}, never 107"),
        ],
        [
            ("seats available after the crash", SEATS - taken, _available(before)),
            ("locks EXPIRED", 7, _expired_locks(store, event)),
            *([("seats returned", 7, report.seats)] if taken else []),
            ("seats available at the end", 100, _available(after)),
            ("RECOVERY runs", "1 SUCCESS" if taken else "2 SUCCESS", _outcomes(store, JobType.RECOVERY)),
        ],
    )


def final_health(store: Store) -> Scenario:
    state = health.check(store)
    return Scenario(
        "Health after all this: seatctl health",
        health_parts(state.as_document()),
        [
            ("healthy", True, state.healthy),
            ("inconsistent events", 0, len(state.inconsistent_events)),
            ("total seats", 400, state.seats.total),
            ("seats available", 400, state.seats.available),
        ],
    )


# --- acting and reading -------------------------------------------------------------------------------


def _create_event(store: Store, name: str) -> EventId:
    return events.create_event(store, events.CreateEventRequest(name, SEATS, timedelta(days=30))).id


def _lock_seat(store: Store, event: EventId, number: int) -> sales.LockResult:
    return sales.lock(store, sales.LockRequest(event, UserId(f"buyer-{number + 1}"), 1))


def _event(store: Store, event: EventId) -> StoredDocument:
    return lists.show(store, event).document


def _available(event: StoredDocument) -> object:
    return event["availableSeats"]


def _expired_locks(store: Store, event: EventId) -> int:
    return len(list(lists.locks(store, event, LockStatus.EXPIRED)))


def _outcomes(store: Store, job: JobType) -> str:
    statuses = Counter(str(run["status"]) for run in lists.job_runs(store, job))
    return ", ".join(f"{number} {status}" for status, number in statuses.items())


def _event_table(event: StoredDocument, title: str) -> Part:
    return tables.list_table([event], _without(tables.LISTS["events"], "id", "date", "unaccounted #"), title)


def _without(columns: Mapping[str, tables.Field], *names: str) -> dict[str, tables.Field]:
    """The columns that fit into 80, and have something to say here."""
    return {column: field for column, field in columns.items() if column not in {*names, *tables.RARE}}
