"""Wrong answers that an attacker once got, each by name."""

from __future__ import annotations

from datetime import timedelta

import pytest
from bson import ObjectId

from seatctl import booking
from seatctl.errors import DamagedDocument
from seatctl.expiry import booking_sweep, sweep
from seatctl.inventory import Terms


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


def test_two_bookings_of_one_lock_in_two_batches(store, clock):
    """Overdue bookings of one lock in batches that are in flight together still give its seats back."""
    event = event_of(store, 100)
    locks = [booking.lock(store, event, "ada", 1, ttl=timedelta(hours=5)).document for _ in range(20)]
    for _ in range(2):
        for lock in locks:
            another_booking(store, clock, lock, "PAYMENT_PENDING")
    now = clock.advance(hours=1)
    list(sweep(store, booking_sweep(store), Terms(now, overdue_at=now), batch_size=20))

    assert store.event(event)["availableSeats"] == 100
