"""What cancelling promises: a booking, some of its seats, a sold lock without a paid booking."""

from __future__ import annotations

import logging

import pytest
from bson import ObjectId
from conftest import available, edit, everything
from oracle import violations
from scene import (
    HOUR,
    NOWHERE,
    add,
    book,
    booking_of,
    create,
    delete,
    event_of,
    insert_booking,
    insert_lock,
    lock,
    lock_of,
    meanwhile,
    run_recover,
    states,
)

from seatctl.domain.settings import Settings
from seatctl.domain.states import LockStatus
from seatctl.errors import CountedByDay, DamagedDocument, NotFound, Usage, WrongState
from seatctl.mongo.bookings import Bookings
from seatctl.mongo.locks import SeatLocks
from seatctl.services import cancellation, payments
from seatctl.services.cancellation import CancelRequest
from seatctl.services.refunds import mark_done
from seatctl.services.verify import verify


@pytest.fixture
def event(store):
    """An event with twenty seats, of which somebody holds three."""
    event = create(store, 20)
    lock(store, event, 3, ttl=9 * HOUR)
    return event


@pytest.fixture
def paid(store, event):
    """A lock of five seats and its booking, paid as R."""
    held, booked = book(store, event, 5)
    payments.pay(store, booked, "R")
    return held, booked


def cancel(store, wanted, seats=None, **options):
    return cancellation.cancel(store, CancelRequest(wanted, seats, **options))


def due(store, booked):
    """By cause, reference and seats, the refunds of a booking, and their states."""
    return [
        (one.cause.value, one.payment_ref, one.seats, one.status.value)
        for one in store.refunds.of_booking(booked)
    ]


# --- a booking -----------------------------------------------------------------------------------------


def test_a_paid_booking_gives_its_seats_back_once_and_its_money_is_due(store, clock, event, paid):
    held, booked = paid
    clock.advance(minutes=5)
    done = cancel(store, booked)

    assert (done.changed, done.seats, done.available, done.doubt) == (True, 5, 17, None)
    assert done.booking.stored == booking_of(store, booked)
    assert states(store, held, booked) == ("CANCELLED", "CANCELLED")
    assert available(store, event) == 17
    assert due(store, booked) == [("CANCELLED", "R", 5, "DUE")]
    assert done.refund == store.refunds.of_booking(booked)[0]
    before = everything(store)
    again = cancel(store, booked)
    assert (again.changed, again.seats) == (False, 0)
    assert everything(store) == before
    assert violations(store.database) == []


def test_who_cancelled_stands_in_the_operations_and_on_what_ended(store, clock, event, paid):
    held, booked = paid
    cancel(store, booked)

    operation = list(store.operations.concerning([booked]))[-1]
    refund = store.refunds.of_booking(booked)[0]
    named = {
        name: operation[name] for name in ("command", "at", "eventId", "lockId", "bookingId", "refundId")
    }
    assert named == {
        "command": "cancel",
        "at": clock(),
        "eventId": event,
        "lockId": held,
        "bookingId": booked,
        "refundId": refund.id,
    }
    assert (operation["before"], operation["after"]) == ({"status": "CONFIRMED"}, {"status": "CANCELLED"})
    assert {lock_of(store, held)["endedBy"], booking_of(store, booked)["endedBy"]} == {operation["_id"]}


def test_a_booking_that_waits_ends_with_its_lock_and_no_money_is_due(store, event):
    held, booked = book(store, event, 2)
    done = cancel(store, booked)

    assert (done.seats, done.refund) == (2, None)
    assert states(store, held, booked) == ("EXPIRED", "CANCELLED")
    assert available(store, event) == 17
    assert due(store, booked) == []
    assert violations(store.database) == []


def test_without_a_refund_nothing_is_due(store, paid):
    assert cancel(store, paid[1], refund=False).refund is None
    assert due(store, paid[1]) == []


@pytest.mark.parametrize("status", ["EXPIRED", "FAILED", "INITIATED"])
def test_what_holds_no_seats_is_not_cancelled(store, paid, status):
    edit(store, "bookings", paid[1], status=status)
    before = everything(store)
    with pytest.raises(WrongState, match=f"booking {paid[1]} is {status}"):
        cancel(store, paid[1])
    assert everything(store) == before


@pytest.mark.parametrize("seats", [None, 2])
def test_a_dry_run_says_the_same_and_changes_nothing(store, paid, seats):
    before = everything(store)
    told = cancel(store, paid[1], seats, dry_run=True)
    assert everything(store) == before

    done = cancel(store, paid[1], seats)
    assert (told.seats, told.available, told.refund.id, told.refund.seats) == (
        done.seats,
        done.available,
        done.refund.id,
        done.refund.seats,
    )


def test_the_counter_is_told_once(store, event, paid, caplog):
    caplog.set_level(logging.INFO, "seatctl")
    cancel(store, paid[1])
    assert caplog.messages == [f"event {event}: 12 → 17 seats available (+5)"]


def test_what_is_missing_or_unreadable_is_refused(store, event, paid):
    with pytest.raises(NotFound, match=r"no booking or lock .* that is the id of an event"):
        cancel(store, event)
    with pytest.raises(NotFound):
        cancel(store, NOWHERE)
    edit(store, "seatLocks", paid[0], seats="five")
    with pytest.raises(DamagedDocument, match="seats is 'five'"):
        cancel(store, paid[1])
    edit(store, "bookings", paid[1], status="REFUNDED")
    with pytest.raises(DamagedDocument, match="status is 'REFUNDED'"):
        cancel(store, paid[1])


# --- what cannot be read is not free ---------------------------------------------------------------------


@pytest.mark.parametrize("seats", [None, 2])
def test_without_clearance_nothing_is_cancelled(store, event, paid, seats):
    odd = lock(store, event, 1)
    edit(store, "seatLocks", odd, status="HELD")
    before = everything(store)
    with pytest.raises(DamagedDocument, match=f"the seats of lock {paid[0]} cannot be returned"):
        cancel(store, paid[1], seats)
    assert everything(store) == before


def test_an_event_counted_by_day_is_left_alone(store, event, paid):
    edit(store, "events", event, eventType="multi-day")
    with pytest.raises(CountedByDay):
        cancel(store, paid[1])


@pytest.mark.parametrize("seats", [None, 2])
@pytest.mark.parametrize("doubt", ["overbooked", "too high", "no event"])
def test_where_no_counter_went_down_the_booking_ends_and_no_seats_come_back(store, event, paid, doubt, seats):
    match doubt:
        case "overbooked":
            edit(store, "events", event, totalSeats=4, availableSeats=0)
        case "too high":
            add(store, event, 2)
        case "no event":
            delete(store, "events", event)
    counter = event_of(store, event)
    done = cancel(store, paid[1], seats)

    assert (done.changed, done.seats) == (True, 0)
    assert done.doubt
    assert event_of(store, event) == counter
    assert due(store, paid[1]) == [("CANCELLED", "R", seats or 5, "DUE")]
    if seats is None:
        assert states(store, *paid) == ("CANCELLED", "CANCELLED")
    else:
        assert lock_of(store, paid[0])["seats"] == 3


# --- what does not fit together: the decision of a person -------------------------------------------------


@pytest.mark.parametrize("status", ["EXPIRED", "CANCELLED", "missing"])
def test_a_paid_booking_whose_seats_are_lost_ends_returns_none_and_is_paid_back(store, event, paid, status):
    """The way out of lost_lock, where the event is oversold, and of confirmed_without_lock."""
    held, booked = paid
    if status == "missing":
        delete(store, "seatLocks", held)
    else:
        edit(store, "seatLocks", held, status=status)
    assert list(verify(store))
    done = cancel(store, booked)

    assert (done.seats, available(store, event)) == (0, 12)
    assert due(store, booked) == [("CANCELLED", "R", 5, "DUE")]
    assert run_recover(store).error is None
    assert list(verify(store)) == []


@pytest.mark.parametrize(
    ("fields", "seats"),
    [({"seats": ["A1", "A2"]}, 2), ({"seats": 3}, 3), ({"seats": True}, None), ({}, None)],
)
def test_a_booking_without_a_lock_says_itself_how_many_seats_are_paid_back(store, event, fields, seats):
    """Of another program's, of which no command recorded anything; or nobody knows."""
    booked = insert_booking(store, event, NOWHERE, "CONFIRMED", **fields)
    refund = cancel(store, booked).refund
    assert refund.seats == (seats or 0)
    assert store.database.refunds.find_one()["seats"] == seats


def test_what_is_paid_back_of_a_booking_without_a_lock_is_what_commands_left_of_it(store, paid):
    cancel(store, paid[1], seats=2)
    delete(store, "seatLocks", paid[0])
    cancel(store, paid[1])
    assert due(store, paid[1]) == [("CANCELLED", "R", 5, "DUE")]


def test_a_paid_booking_whose_lock_is_still_active_is_cancelled_with_it(store, paid):
    edit(store, "seatLocks", paid[0], status="ACTIVE")
    assert cancel(store, paid[1]).seats == 5
    assert states(store, *paid) == ("EXPIRED", "CANCELLED")
    assert violations(store.database) == []


def test_of_two_bookings_of_a_lock_the_other_one_keeps_the_seats(store, event, paid):
    held, booked = paid
    second = insert_booking(store, event, held, "CONFIRMED")
    done = cancel(store, second)

    assert done.seats == 0
    assert states(store, held, booked) == ("CONSUMED", "CONFIRMED")
    assert booking_of(store, second)["status"] == "CANCELLED"


def test_seats_of_a_lock_with_several_bookings_are_nobody_s_to_return_alone(store, event, paid):
    insert_booking(store, event, paid[0], "CONFIRMED")
    with pytest.raises(WrongState, match=f"several bookings; `seatctl relock {paid[1]}`"):
        cancel(store, paid[1], 2)


def test_a_booking_that_waits_under_a_sold_lock_names_both_decisions(store, event):
    held, booked = book(store, event, 2)
    edit(store, "seatLocks", held, status="CONSUMED")
    before = everything(store)
    says = f"`seatctl confirm {held} --sold` records it; if not, `seatctl cancel {held}` returns"
    with pytest.raises(WrongState, match=says):
        cancel(store, booked)
    assert everything(store) == before


@pytest.mark.parametrize("booked", [True, False])
def test_a_sold_lock_without_a_paid_booking_gives_its_seats_back(store, event, booked):
    """The decision that nobody paid, for consumed_without_booking."""
    held = lock(store, event, 2)
    waiting = insert_booking(store, event, held) if booked else None
    edit(store, "seatLocks", held, status="CONSUMED")
    assert [one.fault for one in verify(store)] == ["consumed_without_booking"]
    done = cancel(store, held)

    assert (done.changed, done.seats, done.booking) == (True, 2, None)
    assert done.lock.stored == lock_of(store, held)
    assert lock_of(store, held)["status"] == "CANCELLED"
    assert waiting is None or booking_of(store, waiting)["status"] == "CANCELLED"
    assert available(store, event) == 17
    assert list(verify(store)) == []
    before = everything(store)
    assert not cancel(store, held).changed
    assert everything(store) == before


def test_a_sold_lock_of_no_event_ends(store):
    """The way out of orphan_sold."""
    sold = insert_lock(store, ObjectId(), 2, status="CONSUMED")
    assert cancel(store, sold).seats == 0
    assert list(verify(store)) == []


@pytest.mark.parametrize("status", [LockStatus.ACTIVE, LockStatus.EXPIRED])
def test_a_lock_that_is_not_sold_is_not_cancelled(store, event, status):
    held = lock(store, event, 2)
    edit(store, "seatLocks", held, status=status.value)
    way_out = f"; `seatctl release {held}`" if status is LockStatus.ACTIVE else "; its seats were returned$"
    with pytest.raises(WrongState, match=f"lock {held} is {status}, not CONSUMED{way_out}"):
        cancel(store, held)


def test_a_lock_with_a_paid_booking_or_an_unreadable_one_is_not_cancelled_alone(store, paid):
    with pytest.raises(WrongState, match=f"booking {paid[1]}, which is CONFIRMED; cancel the booking"):
        cancel(store, paid[0])
    edit(store, "bookings", paid[1], status="paid")
    with pytest.raises(DamagedDocument):
        cancel(store, paid[0])
    with pytest.raises(Usage, match="--seats is for a booking"):
        cancel(store, paid[0], 1)


# --- some of the seats ------------------------------------------------------------------------------------


def test_some_seats_come_back_once_and_the_booking_keeps_the_others(store, paid):
    held, booked = paid
    done = cancel(store, booked, 2)

    assert (done.changed, done.seats, done.available) == (True, 2, 14)
    assert done.booking.stored == booking_of(store, booked)
    assert (lock_of(store, held)["seats"], booking_of(store, booked)["seatsCancelled"]) == (3, 2)
    assert states(store, held, booked) == ("CONSUMED", "CONFIRMED")
    assert due(store, booked) == [("CANCELLED", "R", 2, "DUE")]
    before = everything(store)
    again = cancel(store, booked, 2)
    assert (again.changed, again.seats) == (False, 0)
    assert everything(store) == before
    assert violations(store.database) == []


def test_more_seats_are_a_further_target_and_one_refund_until_it_is_done(store, clock, event, paid):
    held, booked = paid
    cancel(store, booked, 1)
    cancel(store, booked, 3)
    assert due(store, booked) == [("CANCELLED", "R", 3, "DUE")]
    mark_done(store, store.refunds.of_booking(booked)[0].id, "back 1")
    clock.advance(minutes=1)
    cancel(store, booked, 4)
    assert due(store, booked) == [("CANCELLED", "R", 3, "DONE"), ("CANCELLED", "R", 1, "DUE")]
    assert cancel(store, booked).seats == 1
    assert due(store, booked) == [("CANCELLED", "R", 3, "DONE"), ("CANCELLED", "R", 2, "DUE")]
    assert states(store, held, booked) == ("CANCELLED", "CANCELLED")
    assert available(store, event) == 17
    assert violations(store.database) == []


def test_seats_of_a_booking_that_waits_come_back_and_no_money_is_due(store, event):
    held, booked = book(store, event, 4)
    assert cancel(store, booked, 1).refund is None
    assert (lock_of(store, held)["seats"], available(store, event)) == (3, 14)
    assert payments.pay(store, booked, "R").changed
    assert due(store, booked) == []


def test_seats_that_were_given_back_for_nothing_are_not_due_later(store, paid):
    cancel(store, paid[1], 2, refund=False)
    cancel(store, paid[1])
    assert due(store, paid[1]) == [("CANCELLED", "R", 3, "DUE")]


def test_a_target_below_what_came_back_or_of_all_seats_is_refused(store, paid):
    cancel(store, paid[1], 2)
    before = everything(store)
    for seats, says in (
        (1, "already has 2 seats cancelled"),
        (5, "5 seats.* leave out --seats"),
        (6, "5 seats"),
    ):
        with pytest.raises(WrongState, match=says):
            cancel(store, paid[1], seats)
    with pytest.raises(Usage):
        cancel(store, paid[1], 0)
    assert everything(store) == before


def test_labels_of_seats_go_with_the_seats(store, event):
    labelled = store.with_settings(Settings(seat_labels=True))
    _, booked = book(labelled, event, 3)
    cancel(labelled, booked, 1)
    assert booking_of(store, booked)["seats"] == ["SEAT-1", "SEAT-2"]
    cancel(labelled, booked, 2)
    assert booking_of(store, booked)["seats"] == ["SEAT-1"]


@pytest.mark.parametrize("lock_status", ["ACTIVE", "EXPIRED", "missing"])
def test_seats_come_back_only_where_booking_and_lock_agree(store, paid, lock_status):
    if lock_status == "missing":
        delete(store, "seatLocks", paid[0])
    else:
        edit(store, "seatLocks", paid[0], status=lock_status)
    with pytest.raises(WrongState, match=f"its lock is {lock_status}; run `seatctl recover`"):
        cancel(store, paid[1], 2)


@pytest.mark.parametrize("status", ["EXPIRED", "FAILED", "CANCELLED", "INITIATED"])
def test_an_ended_booking_has_no_seats_to_return(store, paid, status):
    edit(store, "bookings", paid[1], status=status)
    with pytest.raises(WrongState, match=f"is {status} and has no seats to return"):
        cancel(store, paid[1], 2)


# --- meanwhile --------------------------------------------------------------------------------------------


def test_a_booking_that_is_paid_while_it_is_cancelled_is_paid_back(store, event, monkeypatch):
    held, booked = book(store, event, 2)
    happened = meanwhile(monkeypatch, SeatLocks, "get", lambda: payments.pay(store, booked, "R"))
    cancel(store, booked)
    assert happened
    assert states(store, held, booked) == ("CANCELLED", "CANCELLED")
    assert due(store, booked) == [("CANCELLED", "R", 2, "DUE")]
    assert available(store, event) == 17


@pytest.mark.parametrize("seats", [None, 2])
def test_two_cancellations_return_the_seats_once(store, event, paid, monkeypatch, seats):
    happened = meanwhile(monkeypatch, Bookings, "get", lambda: cancel(store, paid[1], seats))
    assert not cancel(store, paid[1], seats).changed
    assert happened
    assert available(store, event) == 12 + (seats or 5)
    assert due(store, paid[1]) == [("CANCELLED", "R", seats or 5, "DUE")]
