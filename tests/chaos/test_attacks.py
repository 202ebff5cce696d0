"""Wrong answers that an attacker once got, each by name."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta

import pytest
import scene
from conftest import available, edit, everything

from seatctl.errors import DamagedDocument, WrongState
from seatctl.services import payments, sales
from seatctl.services.events import CreateEventRequest, create_event

HOUR = timedelta(hours=1)
MATCHES_EVERYTHING = {"$ne": 1}


@pytest.mark.parametrize("status", ["CONFIRMED", "PAYMENT_PENDING"])
def test_a_payment_that_fails_leaves_the_lock_to_a_live_booking_beside_it(store, status):
    """A payment that fails closes its own booking alone."""
    event = scene.create(store, 10)
    lock = scene.lock(store, event, 4)
    scene.insert_booking(store, event, lock, status)
    failed = scene.insert_booking(store, event, lock)

    assert payments.fail_payment(store, failed).booking.status == "FAILED"
    assert (scene.lock_of(store, lock)["status"], available(store, event)) == ("ACTIVE", 6)


@pytest.mark.parametrize("counter", [{"availableSeats": 12}, {"totalSeats": "10"}])
def test_nothing_is_sold_on_a_counter_that_promises_too_much(store, counter):
    """Above its total, or beside a total that is no number."""
    event = scene.create(store, 10)
    edit(store, "events", event, **counter)

    with pytest.raises(DamagedDocument):
        scene.lock(store, event, 1)
    assert store.database.seatLocks.count_documents({}) == 0


@pytest.mark.parametrize("batch_size", [20, 40, 7])
@pytest.mark.parametrize("events", [1, 2])
def test_two_overdue_bookings_of_one_lock_return_its_seats_once(store, clock, events, batch_size):
    """Be it of different events, in one batch or in batches that are in flight together; and so says the
    plan."""
    named = [scene.create(store, 100) for _ in range(events)]
    holder = named[0]
    locks = [scene.lock(store, holder, 1, ttl=timedelta(hours=5)) for _ in range(20)]
    for event in (holder, named[-1]):
        for lock in locks:
            scene.insert_booking(store, event, lock, due=timedelta(minutes=15))
    clock.advance(hours=1)

    def told(**options):
        report = scene.run_expire_bookings(store, batch_size=batch_size, **options)
        return report.bookings, report.locks, report.seats, report.error

    planned = told(dry_run=True)

    assert planned == told() == (40, 20, 20, None)
    assert available(store, holder) == 100


# --- documents that hold query operators -------------------------------------------------------------


@pytest.mark.parametrize("status", ["PAYMENT_PENDING", "CONFIRMED"])
def test_a_booking_whose_lock_is_an_operator_is_paid_with_nobodys_seats(store, status):
    """A booking may store a query operator instead of its lock's id."""
    event = scene.create(store, 10)
    lock = scene.lock(store, event, 4)
    booked = scene.insert_booking(store, event, MATCHES_EVERYTHING, status)
    before = everything(store)

    with suppress(WrongState, DamagedDocument):
        payments.pay(store, booked)
    assert everything(store) == before
    with suppress(WrongState, DamagedDocument):
        payments.fail_payment(store, booked)
    assert (scene.lock_of(store, lock)["status"], available(store, event)) == ("ACTIVE", 6)


def test_recovery_takes_no_seats_for_a_paid_lock_whose_event_is_an_operator(store, clock):
    event = scene.create(store, 10)
    lock, _ = scene.sell(store, event, 4)
    edit(store, "seatLocks", lock, status="EXPIRED", eventId=MATCHES_EVERYTHING)
    scene.add(store, event, 4)
    clock.advance(minutes=2)
    before = everything(store, "jobLogs")

    report = scene.run_recover(store)

    assert everything(store, "jobLogs") == before
    assert report.error


def test_a_lock_whose_event_is_an_operator_holds_the_seats_of_every_counter(store, clock):
    """Nobody can say of which event they are: no counter is raised (invariant 11)."""
    event = scene.create(store, 10)
    lock = scene.lock(store, event, 4)
    edit(store, "seatLocks", lock, eventId=MATCHES_EVERYTHING)
    clock.advance(hours=1)

    assert scene.run_expire_locks(store).error
    assert scene.run_recover(store).error
    assert (scene.lock_of(store, lock)["status"], available(store, event)) == ("ACTIVE", 6)


def test_a_release_changes_nothing_of_a_lock_whose_deadline_is_an_operator(store):
    event = scene.create(store, 10)
    lock = scene.lock(store, event, 4)
    edit(store, "seatLocks", lock, expiresAt=MATCHES_EVERYTHING)
    before = everything(store)

    with pytest.raises(DamagedDocument):
        sales.release(store, lock)
    assert everything(store) == before


def test_a_release_returns_a_lock_whose_time_of_change_is_an_operator_once(store):
    event = scene.create(store, 10)
    lock = scene.lock(store, event, 4)
    edit(store, "seatLocks", lock, updatedAt=MATCHES_EVERYTHING)

    sales.release(store, lock)
    with pytest.raises(WrongState):
        sales.release(store, lock)
    assert (scene.lock_of(store, lock)["status"], available(store, event)) == ("EXPIRED", 10)


@pytest.mark.parametrize("field", ["userId", "idempotencyKey"])
def test_a_key_finds_no_lock_whose_user_or_key_is_an_operator(store, field):
    """The request gets a lock of its own."""
    event = scene.create(store, 10)
    foreign = scene.lock(store, event, 4, user="u", key="k")
    edit(store, "seatLocks", foreign, **{field: MATCHES_EVERYTHING})

    assert scene.lock(store, event, 2, user="u", key="k") != foreign
    assert available(store, event) == 4


# --- texts that look like something else --------------------------------------------------------------


@pytest.mark.parametrize("text", ["$where", "$availableSeats", '{"$ne": 1}', "a.b", "0" * 24])
def test_a_name_or_key_that_looks_like_an_expression_is_a_text(store, text):
    event = create_event(store, CreateEventRequest(text, 10, HOUR)).id
    lock = scene.lock(store, event, 1, user=text, key=text)

    assert scene.lock(store, event, 1, user=text, key=text) == lock
    stored = scene.lock_of(store, lock)
    assert (scene.event_of(store, event)["name"], stored["userId"], stored["idempotencyKey"]) == (text,) * 3
    assert available(store, event) == 9
