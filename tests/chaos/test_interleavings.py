"""One command inside another: interleavings that processes hit once in a thousand rounds, put together
step by step.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import scene
from conftest import EPOCH, Clock, available, edit
from oracle import violations
from race import complaints, expire_bookings, expire_locks, recover

from seatctl.domain.documents import EventId
from seatctl.errors import RefundDue
from seatctl.mongo.aggregations import Aggregations
from seatctl.mongo.bookings import Bookings
from seatctl.mongo.client import Deployment
from seatctl.mongo.locks import SeatLocks
from seatctl.mongo.store import Store
from seatctl.services import counters, jobs, payments
from seatctl.services.jobs import JobOptions

SECOND, HOUR = timedelta(seconds=1), timedelta(hours=1)
LONG_AGO = EPOCH - timedelta(days=1_000)


def twin(store: Store, clock: Clock) -> Store:
    """Another process on the same database, whose clock is a second ahead: the same change twice would be
    no change, and hide a double one."""
    return Store(Deployment(store.deployment.client, store.name, clock=Clock(clock() + SECOND)))


def event_with_room(store: Store) -> EventId:
    """An event with 5 of 10 seats left: at its end, the counter would stop a seat from coming back twice."""
    event = scene.create(store, 10)
    scene.lock(store, event, 5, ttl=2 * HOUR)
    return event


def check(store: Store, happened: list[object]) -> None:
    assert happened
    assert violations(store.database) == []


def test_a_payment_whose_deadline_was_moved_while_it_was_checked_is_refused(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    booked = scene.book(store, scene.create(store))[1]
    happened = scene.meanwhile(
        monkeypatch, SeatLocks, "get", lambda: edit(store, "bookings", booked, paymentExpiresAt=LONG_AGO)
    )
    with pytest.raises(RefundDue, match="refund is due"):
        payments.pay(store, booked)
    assert scene.booking_of(store, booked)["status"] == "PAYMENT_PENDING"
    check(store, happened)


def test_a_payment_that_is_done_while_the_same_payment_reads_is_one_payment(
    store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    booked = scene.book(store, scene.create(store))[1]
    other = twin(store, clock)
    happened = scene.meanwhile(monkeypatch, Bookings, "get", lambda: payments.pay(other, booked))
    assert not payments.pay(store, booked).changed
    check(store, happened)


INTRUDERS: dict[str, tuple[Callable[[Store, Any], object], tuple[int, str, str]]] = {
    "pay": (payments.pay, (3, "CONSUMED", "CONFIRMED")),
    "fail_payment": (payments.fail_payment, (5, "EXPIRED", "FAILED")),
    "expire_bookings": (
        lambda store, _booking: expire_bookings(store, EPOCH + HOUR),
        (5, "EXPIRED", "EXPIRED"),
    ),
}
"""Who settles a booking while a sweep is on its way, and what that leaves: seats, lock, booking."""


@pytest.mark.parametrize("intruder", INTRUDERS)
@pytest.mark.parametrize("step", [(Bookings, "overdue"), (SeatLocks, "by_id"), (Bookings, "protecting")])
def test_a_sweep_leaves_a_booking_alone_that_is_settled_after_it_was_read(
    store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch, intruder: str, step: tuple[type[Any], str]
) -> None:
    """By a payment, by a failed payment, by another sweep: nobody has a reason to complain."""
    event = event_with_room(store)
    held, booked = scene.book(store, event, 2)
    other = twin(store, clock)
    settle, left = INTRUDERS[intruder]
    happened = scene.meanwhile(monkeypatch, *step, lambda: settle(other, booked))
    run = expire_bookings(store, EPOCH + HOUR)
    assert run["details"]["bookingsExpired"] == 0
    assert (available(store, event), *scene.states(store, held, booked)) == left
    assert complaints([run]) == []
    check(store, happened)


def test_a_sweep_whose_locks_another_sweep_expires_first_has_nothing_to_complain_about(
    store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    event = event_with_room(store)
    for user in ("one", "another"):
        scene.lock(store, event, 1, user)
    other = twin(store, clock)
    happened = scene.meanwhile(monkeypatch, Bookings, "protecting", lambda: expire_locks(other, EPOCH + HOUR))
    run = expire_locks(store, EPOCH + HOUR)
    assert complaints([run]) == []
    assert run["details"]["seatsRestored"] == 0
    assert available(store, event) == 5
    check(store, happened)


def test_recovery_between_the_plan_of_a_sweep_and_its_transaction_returns_the_seats_once(
    store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    event = event_with_room(store)
    for user in ("early", "late"):
        scene.lock(store, event, 1, user)
    clock.advance(minutes=11)
    other = twin(store, clock)
    happened = scene.meanwhile(monkeypatch, Bookings, "protecting", lambda: recover(other))
    expire_locks(store)
    assert available(store, event) == 5
    check(store, happened)


def test_a_lock_confirmed_after_a_sweep_of_the_future_looked_for_its_booking_stays(
    store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also by a sweep as of a time beyond the payment's deadline (invariant 4)."""
    held = scene.lock(store, scene.create(store, 10))
    other = twin(store, clock)
    happened = scene.meanwhile(monkeypatch, Bookings, "protecting", lambda: scene.confirm(other, held))
    expire_locks(store, EPOCH + HOUR)
    assert scene.lock_of(store, held)["status"] == "ACTIVE"
    check(store, happened)


def test_seats_taken_while_recovery_looks_at_a_drift_stay_taken(
    store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A counter that is too low is raised to what the locks say when it is written, not when it was read."""
    event = scene.create(store, 10)
    scene.add(store, event, -4)
    other = twin(store, clock)
    happened = scene.meanwhile(monkeypatch, Aggregations, "events", lambda: scene.lock(other, event, 3))
    recover(store)
    assert available(store, event) == 7
    check(store, happened)


def test_a_drift_that_ends_while_recovery_watches_it_raises_no_counter(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program without transactions took the counter down and has not stored its lock yet."""
    event = scene.create(store, 10)
    scene.add(store, event, -3)
    looks: list[float] = []

    def lock_stored_meanwhile(seconds: float) -> None:
        if not looks:
            scene.insert_lock(store, event, 3, due=HOUR)
        looks.append(seconds)

    monkeypatch.setattr(counters, "time", SimpleNamespace(sleep=lock_stored_meanwhile))
    report = jobs.recover(store, JobOptions(settle=timedelta(seconds=5)))
    assert sum(looks) == 5
    assert report.counters_corrected == 0
    assert available(store, event) == 7
    assert violations(store.database) == []
