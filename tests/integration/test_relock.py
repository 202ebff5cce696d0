"""`relock`: a lock of its own for a booking, with its seats."""

from __future__ import annotations

import pytest
from conftest import available, edit, everything
from scene import (
    NOWHERE,
    book,
    booking_of,
    create,
    delete,
    insert_booking,
    lock,
    lock_of,
    run_expire_bookings,
    run_recover,
    sell,
    states,
)

from seatctl.errors import DamagedDocument, DeadlinePassed, NotFound, SoldOut, Usage, WrongState
from seatctl.mongo.store import Store
from seatctl.services.cancellation import CancelRequest, cancel
from seatctl.services.relocking import relock
from seatctl.services.verify import verify


@pytest.fixture
def event(store: Store):
    return create(store)


@pytest.mark.parametrize("counted", [False, True], ids=["counter untouched", "counter raised, too"])
@pytest.mark.parametrize("make", [sell, book])
def test_a_booking_whose_lock_was_deleted_takes_its_seats_again_under_the_same_id(
    store: Store, event, make, counted
):
    held, booked = make(store, event, 3)
    before = lock_of(store, held)
    delete(store, "seatLocks", held)
    store.database.events.update_one({"_id": event}, {"$inc": {"availableSeats": 3 * counted}})

    result = relock(store, booked, 3)

    assert result.changed
    assert available(store, event) == 97
    after = lock_of(store, held)
    for field in ("eventId", "userId", "seats", "status", "expiresAt"):
        assert after[field] == before[field], field
    assert list(verify(store)) == []
    (operation,) = [one for one in store.operations.concerning([booked]) if one["command"] == "relock"]
    assert (operation["lockId"], operation["after"]["seats"]) == (held, 3)


def test_repeated_it_changes_nothing(store: Store, event):
    held, booked = sell(store, event)
    delete(store, "seatLocks", held)
    relock(store, booked, 1)
    before = everything(store)

    assert not relock(store, booked, 1).changed
    assert everything(store) == before


def test_the_labels_of_its_seats_say_how_many_it_had(store: Store, event):
    held, booked = sell(store, event, 2)
    delete(store, "seatLocks", held)
    store.database.operations.delete_many({})  # another program made it
    with pytest.raises(Usage, match="give it with --seats N"):
        relock(store, booked)

    edit(store, "bookings", booked, seats=["A1", "A2"])
    relock(store, booked)
    assert lock_of(store, held)["seats"] == 2


@pytest.mark.parametrize("make", [sell, book])
def test_what_commands_recorded_says_how_many_seats_it_had(store: Store, event, make):
    held, booked = make(store, event, 5)
    cancel(store, CancelRequest(booked, seats=2))
    delete(store, "seatLocks", held)
    with pytest.raises(WrongState, match=f"booking {booked} has 3 seats, not 5; leave out --seats"):
        relock(store, booked, 5)

    assert relock(store, booked).lock.seats == 3


def test_seats_that_others_hold_by_now_are_not_taken_twice(store: Store, event):
    held, booked = sell(store, event, 3)
    delete(store, "seatLocks", held)
    store.database.events.update_one({"_id": event}, {"$inc": {"availableSeats": 3}})
    lock(store, event, 98)
    before = everything(store)

    with pytest.raises(
        SoldOut,
        match=f"2 seats that no lock holds, but the booking needs 3; `seatctl resize {event} --seats 101`",
    ):
        relock(store, booked, 3)
    assert everything(store) == before


@pytest.mark.parametrize("status", ["CONFIRMED", "PAYMENT_PENDING"])
def test_of_two_bookings_on_one_lock_one_gets_seats_of_its_own(store: Store, event, status):
    held, booked = (sell if status == "CONFIRMED" else book)(store, event, 2)
    other = insert_booking(store, event, held, status)

    result = relock(store, other)

    assert available(store, event) == 96
    assert states(store, result.lock.id, other) == (lock_of(store, held)["status"], status)
    assert booking_of(store, booked)["seatLockId"] == held
    assert (result.left.id, result.lock.seats) == (held, 2)
    assert list(verify(store)) == []


@pytest.mark.parametrize(
    ("status", "wanted"), [("EXPIRED", "EXPIRED"), ("FAILED", "EXPIRED"), ("CANCELLED", "CANCELLED")]
)
def test_an_ended_booking_leaves_the_lock_of_a_live_one_and_takes_no_seats(
    store: Store, event, status, wanted
):
    held, _ = sell(store, event, 2)
    other = insert_booking(store, event, held, status)

    result = relock(store, other)

    assert (available(store, event), result.lock.status) == (98, wanted)
    assert list(verify(store)) == []


def test_a_booking_of_another_event_than_its_lock_takes_seats_of_its_own_event(store: Store, event, clock):
    other = create(store, 10)
    held, booked = book(store, event, 2)
    edit(store, "bookings", booked, event=other)

    relock(store, booked)

    assert (available(store, event), available(store, other)) == (98, 8)
    assert list(verify(store)) == []
    clock.advance(minutes=16)
    run_expire_bookings(store)
    run_recover(store)
    assert (available(store, event), available(store, other)) == (100, 10)
    assert lock_of(store, held)["status"] == "EXPIRED"


def test_what_needs_no_other_lock_is_left_as_it_is(store: Store, event):
    _, sold = sell(store, event)
    ended = insert_booking(store, event, NOWHERE, "EXPIRED")
    before = everything(store)

    assert not relock(store, sold).changed
    assert relock(store, ended).lock is None
    assert everything(store) == before


def test_what_it_cannot_decide_is_refused_with_the_way_out(store: Store, event, clock):
    with pytest.raises(NotFound):
        relock(store, NOWHERE)
    held, booked = sell(store, event)
    edit(store, "seatLocks", held, status="EXPIRED")
    with pytest.raises(WrongState, match="run `seatctl recover`"):
        relock(store, booked)
    edit(store, "seatLocks", held, status="?")
    with pytest.raises(DamagedDocument):
        relock(store, booked)
    delete(store, "seatLocks", held)
    damaged = lock(store, event)
    edit(store, "seatLocks", damaged, seats="two")
    with pytest.raises(DamagedDocument, match="1 lock cannot be read"):
        relock(store, booked, 1)
    delete(store, "seatLocks", damaged)
    waiting_lock, waiting = book(store, event)
    delete(store, "seatLocks", waiting_lock)
    clock.advance(minutes=16)
    with pytest.raises(DeadlinePassed, match="`seatctl expire-bookings` ends it"):
        relock(store, waiting, 1)
