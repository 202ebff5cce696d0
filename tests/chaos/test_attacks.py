"""Wrong answers that an attacker once got, each by name."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta

import pytest
from bson import ObjectId

from seatctl.domain.model import JobType
from seatctl.errors import DamagedDocument, WrongState
from seatctl.services import jobs as joblog
from seatctl.services import recovery
from seatctl.services import sales as booking
from seatctl.services.expiry import booking_sweep, sweep
from seatctl.services.rehearsal import Rehearsal
from seatctl.services.seats import GivenBack, Terms


def event_of(store, seats=10):
    return booking.create_event(store, "Concert", seats, timedelta(days=30)).document["_id"]


def another_booking(store, clock, lock, status, **fields):
    """A second booking of a lock, by another program."""
    document = {"_id": ObjectId(), "seatLockId": lock["_id"], "event": lock["eventId"], "user": "x"}
    document |= {"status": status, "paymentExpiresAt": clock() + timedelta(minutes=15), **fields}
    store.database.bookings.insert_one(document)
    return document["_id"]


@pytest.mark.parametrize("status", ["CONFIRMED", "PAYMENT_PENDING"])
def test_failed_payment_beside_a_live_booking(store, clock, status):
    """A payment that fails closes its booking and leaves the lock to the other booking on it."""
    event = event_of(store)
    lock = booking.lock(store, event, "ada", 4).document
    another_booking(store, clock, lock, status)
    failed = another_booking(store, clock, lock, "PAYMENT_PENDING")

    assert booking.fail(store, failed).document["status"] == "FAILED"
    assert (store.lock(lock["_id"])["status"], store.event(event)["availableSeats"]) == ("ACTIVE", 6)


@pytest.mark.parametrize("counter", [{"availableSeats": 12}, {"totalSeats": "10"}])
def test_counter_that_promises_too_much(store, counter):
    """Nothing is sold on a counter above its total, or beside a total that is no number."""
    event = event_of(store)
    store.database.events.update_one({"_id": event}, {"$set": counter})

    with pytest.raises(DamagedDocument):
        booking.lock(store, event, "ada", 1)
    assert store.database.seatLocks.count_documents({}) == 0


@pytest.mark.parametrize("events", [1, 2])
def test_two_bookings_of_one_lock_in_two_batches(store, clock, events):
    """Overdue bookings of one lock, be it of different events, in batches that are in flight together
    still give its seats back, once; and so says the plan."""
    named = [event_of(store, 100) for _ in range(events)]
    holder = named[0]
    locks = [booking.lock(store, holder, "ada", 1, ttl=timedelta(hours=5)).document for _ in range(20)]
    for event in (holder, named[-1]):
        for lock in locks:
            another_booking(store, clock, lock, "PAYMENT_PENDING", event=event)
    now = clock.advance(hours=1)

    def told(store, **options):
        kind, done = booking_sweep(store), GivenBack()
        for batch in sweep(store, kind, Terms(now, overdue_at=now), batch_size=20, **options):
            done.add(batch)
        return done.bookings, done.locks, done.seats

    planned = told(Rehearsal(store), dry_run=True)

    assert planned == told(store) == (40, 20, {holder: 20})
    assert store.event(holder)["availableSeats"] == 100


MATCHES_EVERYTHING = {"$ne": 1}


@pytest.fixture(params=["replica", "standalone"])
def server_store(request):
    """mongomock takes no field name with a dollar."""
    return request.getfixturevalue(f"{request.param}_store")


@pytest.mark.parametrize("status", ["PAYMENT_PENDING", "CONFIRMED"])
def test_booking_whose_lock_is_an_operator(server_store, clock, status):
    """A booking that stores a query operator instead of its lock's id is paid with nobody's seats."""
    store, event = server_store, event_of(server_store)
    lock = booking.lock(store, event, "ada", 4).document
    booked = another_booking(store, clock, lock, status, seatLockId=MATCHES_EVERYTHING)

    with suppress(WrongState):
        booking.pay(store, booked)
    assert store.lock(lock["_id"])["status"] == "ACTIVE"
    with suppress(WrongState):
        booking.fail(store, booked)
    assert (store.lock(lock["_id"])["status"], store.event(event)["availableSeats"]) == ("ACTIVE", 6)


def test_lost_lock_whose_event_is_an_operator(server_store, clock):
    """Recovery takes no seats of some event for a paid lock that stores an operator as its event's id."""
    store, event = server_store, event_of(server_store)
    lock = booking.lock(store, event, "ada", 4).document["_id"]
    booking.pay(store, booking.confirm(store, lock).document["_id"])
    changes = {"status": "EXPIRED", "eventId": MATCHES_EVERYTHING}
    store.database.seatLocks.update_one({"_id": lock}, {"$set": changes})
    store.database.events.update_one({"_id": event}, {"$inc": {"availableSeats": 4}})
    before = store.event(event)
    clock.advance(minutes=2)
    entry, _ = joblog.run(store, JobType.RECOVERY, lambda run: recovery.recover(store, run))

    assert before == store.event(event)
    assert entry["status"] == "FAILED"


@pytest.mark.parametrize("field", ["updatedAt", "expiresAt"])
def test_release_of_a_lock_with_an_operator_for_a_date(server_store, monkeypatch, field):
    """A release compares a lock's dates with what it has read, even where that looks like a condition
    that any date fulfils."""
    store, event = server_store, event_of(server_store)
    lock = booking.lock(store, event, "ada", 4).document["_id"]
    store.database.seatLocks.update_one({"_id": lock}, {"$set": {field: MATCHES_EVERYTHING}})
    move, calls = store.move_lock, iter(range(100))

    def prolonged_meanwhile(*arguments, **options):
        if not next(calls):
            store.database.seatLocks.update_one({"_id": lock}, {"$set": {field: "prolonged"}})
        return move(*arguments, **options)

    monkeypatch.setattr(store, "move_lock", prolonged_meanwhile)
    booking.release(store, lock)

    assert next(calls) >= 2
    assert store.lock(lock)["status"] == "EXPIRED"
