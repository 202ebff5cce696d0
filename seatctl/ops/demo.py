"""The three scenarios of a day that goes wrong, played on a real database that is thrown away.

Nobody waits: deadlines pass because the sweeps are told that it is later. Every number is checked.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from seatctl.domain.model import BookingStatus, Document, Id, JobType, LockStatus
from seatctl.mongo.store import new_id
from seatctl.output import tables as output
from seatctl.services import expiry, health, recovery
from seatctl.services import jobs as joblog
from seatctl.services import lookup as lists
from seatctl.services import sales as booking
from seatctl.services.seats import Terms

if TYPE_CHECKING:
    from rich.console import RenderableType

    from seatctl.mongo.store import Store
    from seatctl.services.jobs import Run

MAX_AGE = timedelta(minutes=3)


@dataclass(slots=True)
class Scenario:
    """One story: what is told and shown, and the numbers that must come out."""

    title: str
    parts: list[RenderableType] = field(default_factory=list)
    checks: list[tuple[str, Any, Any]] = field(default_factory=list)

    def say(self, *parts: RenderableType) -> None:
        self.parts += parts

    def expect(self, what: str, expected: Any, actual: Any) -> None:
        self.checks.append((what, expected, actual))

    @property
    def ok(self) -> bool:
        return all(expected == actual for _, expected, actual in self.checks)

    def as_document(self) -> Document:
        checks = [
            {"what": what, "expected": expected, "actual": actual} for what, expected, actual in self.checks
        ]
        return {"title": self.title, "ok": self.ok, "checks": checks}


def play(store: Store) -> Iterator[Scenario]:
    """Play all scenarios in an empty database, one after the other."""
    store.init()
    for scenario in (
        lock_expiry,
        booking_expiry,
        recovery_after_crash,
        recovery_without_drift,
        state_of_health,
    ):
        yield scenario(store)


def lock_expiry(store: Store) -> Scenario:
    told = Scenario("Lock expiry: five buyers lock a seat each and walk away")
    event = _event(store, "Spring gala")
    for buyer in range(5):
        booking.lock(store, event, f"buyer-{buyer + 1}", 1)
    before = _available(store, event)
    told.say(_events(store, event, "before"), "Eleven minutes later: seatctl expire-locks")
    entry = _sweep(store, JobType.LOCK_EXPIRY, timedelta(minutes=11))
    expired = store.newest("seatLocks", {"eventId": event, "status": LockStatus.EXPIRED}, 0)
    after = _available(store, event)
    told.say(
        output.locks_table(expired, "the locks"), _events(store, event, f"after: 100 → {before} → {after}")
    )
    told.expect("seats available while locked", 95, before)
    told.expect("locks EXPIRED", 5, len(expired))
    told.expect("seats restored", 5, entry["details"]["seatsRestored"])
    told.expect("seats available at the end", 100, after)
    told.expect("LOCK_EXPIRY runs", ["SUCCESS"], _runs(store, JobType.LOCK_EXPIRY))
    return told


def booking_expiry(store: Store) -> Scenario:
    told = Scenario("Booking expiry: three buyers confirm and never pay")
    event = _event(store, "Summer concert")
    for buyer in range(3):
        lock = booking.lock(store, event, f"buyer-{buyer + 1}", 1).document
        booking.confirm(store, lock["_id"])
    before = _available(store, event)
    pending = store.newest("bookings", {"event": event, "status": BookingStatus.PAYMENT_PENDING}, 0)
    told.say(_events(store, event, "before"), "Sixteen minutes later: seatctl expire-bookings")
    entry = _sweep(store, JobType.BOOKING_EXPIRY, timedelta(minutes=16))
    expired = store.newest("bookings", {"event": event, "status": BookingStatus.EXPIRED}, 0)
    locks = store.newest("seatLocks", {"eventId": event, "status": LockStatus.EXPIRED}, 0)
    after = _available(store, event)
    told.say(
        output.bookings_table(expired, "the bookings"),
        _events(store, event, f"after: 100 → {before} → {after}"),
    )
    told.expect("seats available while waiting", 97, before)
    told.expect("bookings PAYMENT_PENDING", 3, len(pending))
    told.expect("bookings EXPIRED", 3, len(expired))
    told.expect("their locks EXPIRED", 3, len(locks))
    told.expect("seats restored", 3, entry["details"]["seatsRestored"])
    told.expect("seats available at the end", 100, after)
    told.expect("BOOKING_EXPIRY runs", ["SUCCESS"], _runs(store, JobType.BOOKING_EXPIRY))
    return told


def recovery_after_crash(store: Store) -> Scenario:
    told = Scenario("Recovery: a crash left seven locks behind, long overdue")
    event = _event(store, "Autumn fair", available=93)
    _leave_locks(store, event, 7)
    before = _available(store, event)
    told.say(_events(store, event, "before"), "After the restart: seatctl recover")
    entry = _recover(store)
    after = _available(store, event)
    told.say(_events(store, event, f"after: {before} → {after}"))
    told.expect("seats available after the crash", 93, before)
    told.expect("locks EXPIRED", 7, entry["details"]["locksExpired"])
    told.expect("seats restored", 7, entry["details"]["seatsRestored"])
    told.expect("seats available at the end", 100, after)
    told.expect("RECOVERY runs", ["SUCCESS"], _runs(store, JobType.RECOVERY))
    return told


def recovery_without_drift(store: Store) -> Scenario:
    told = Scenario("Recovery: the same seven locks, but the counter was never reduced")
    event = _event(store, "Winter ball")
    _leave_locks(store, event, 7)
    told.say(_events(store, event, "before"), "After the restart: seatctl recover")
    entry = _recover(store)
    after = _available(store, event)
    told.say(_events(store, event, f"after: 100 → {after}, never 107"))
    told.expect("locks EXPIRED", 7, entry["details"]["locksExpired"])
    told.expect("seats available at the end", 100, after)
    return told


def state_of_health(store: Store) -> Scenario:
    told = Scenario("Health after it all: seatctl health")
    state = health.check(store, max_age=MAX_AGE)
    document = state.as_document()
    told.say(*output.health_tables(document))
    told.expect("healthy", True, state.healthy)
    told.expect("inconsistent events", [], document["inventory"]["inconsistentEvents"])
    told.expect("seats in all", 400, document["inventory"]["totalSeats"])
    told.expect("seats available", 400, document["inventory"]["availableSeats"])
    return told


def _event(store: Store, name: str, available: int = 100) -> Id:
    event: Id = booking.create_event(store, name, 100, timedelta(days=30)).document["_id"]
    if available != 100:
        seen = store.event(event)
        assert seen is not None
        store.swap_counter(seen, available, store.now())
    return event


def _leave_locks(store: Store, event: Id, count: int) -> None:
    """Overdue locks as another program would leave them: no key, no booking."""
    long_ago = store.now() - timedelta(hours=2)
    for _ in range(count):
        store.insert_lock(
            {
                "_id": new_id(),
                "eventId": event,
                "userId": "crashed-backend",
                "seats": 1,
                "status": LockStatus.ACTIVE.value,
                "expiresAt": long_ago,
            },
            None,
        )


def _sweep(store: Store, job: JobType, later: timedelta) -> Document:
    now = store.now()
    kind = (expiry.lock_sweep if job is JobType.LOCK_EXPIRY else expiry.booking_sweep)(store)

    def work(run: Run) -> None:
        for batch in expiry.sweep(store, kind, Terms(now, overdue_at=now + later)):
            run.record(batch)

    return joblog.run(store, job, work)[0]


def _recover(store: Store) -> Document:
    return joblog.run(store, JobType.RECOVERY, lambda run: recovery.recover(store, run))[0]


def _available(store: Store, event: Id) -> int:
    found = store.event(event)
    assert found is not None
    return int(found["availableSeats"])


def _runs(store: Store, job: JobType) -> list[str]:
    return [run["status"] for run in store.newest("jobLogs", {"jobType": job}, 0)]


def _events(store: Store, event: Id, title: str) -> RenderableType:
    return output.events_table(lists.newest(store, "events", {"_id": event}, 1), title)
