"""What a sale after all promises: of a booking that had ended, or of a sold lock without a paid booking."""

from __future__ import annotations

from datetime import timedelta

import pytest
from conftest import available, edit, everything
from oracle import violations
from scene import (
    NOWHERE,
    book,
    booking_of,
    confirm,
    create,
    delete,
    insert_booking,
    lock,
    lock_of,
    meanwhile,
    run_expire_bookings,
    sell,
    states,
)

from seatctl.domain.settings import Settings
from seatctl.errors import (
    Closed,
    CountedByDay,
    DamagedDocument,
    DeadlinePassed,
    NotFound,
    RefundDue,
    SoldOut,
    WrongState,
)
from seatctl.mongo.bookings import Bookings
from seatctl.mongo.locks import SeatLocks
from seatctl.services import blocks, cancellation, extension, payments, rebooking
from seatctl.services.cancellation import CancelRequest
from seatctl.services.extension import ExtendRequest
from seatctl.services.rebooking import RebookRequest
from seatctl.services.refunds import mark_done
from seatctl.services.verify import verify


@pytest.fixture
def event(store):
    return create(store, 10)


@pytest.fixture
def ended(store, clock, event):
    """A booking of three seats that nobody paid in time."""
    _, booked = book(store, event, 3)
    clock.advance(minutes=16)
    run_expire_bookings(store)
    return booked


@pytest.fixture
def late(store, ended):
    """The same, and then it was paid as R."""
    with pytest.raises(RefundDue):
        payments.pay(store, ended, "R")
    return ended


def rebook(store, booked, ref=None, **options):
    return rebooking.rebook(store, RebookRequest(booked, ref, **options))


def due(store, booked):
    found = store.refunds.of_booking(booked)
    owed = [(one.cause.value, one.payment_ref, one.seats, one.status.value) for one in found]
    return sorted(owed, key=lambda one: one[1] or "")


def test_a_late_payment_gets_its_seats_after_all_once_and_is_not_due_any_more(store, clock, event, late):
    done = rebook(store, late)

    assert (done.created, done.available) == (True, 7)
    new, held = booking_of(store, done.booking.id), lock_of(store, done.lock.id)
    assert (done.booking.stored, done.lock.stored) == (new, held)
    assert new["_id"] != late
    assert (new["status"], new["paymentRef"], new["user"], new["seatLockId"]) == (
        "CONFIRMED",
        "R",
        "u",
        held["_id"],
    )
    assert (held["status"], held["seats"], held["idempotencyKey"]) == ("CONSUMED", 3, f"rebook-{late}")
    assert booking_of(store, late)["status"] == "EXPIRED"
    assert available(store, event) == 7
    assert due(store, late) == [("LATE_PAYMENT", "R", 3, "WITHDRAWN")]
    (operation,) = store.operations.concerning([new["_id"]])
    assert (operation["command"], operation["at"]) == ("rebook", clock())
    assert {late, held["_id"], event} < set(operation["ids"])
    before = everything(store)
    again = rebook(store, late)
    assert (again.created, again.booking.id) == (False, new["_id"])
    assert everything(store) == before
    assert violations(store.database) == []


@pytest.mark.parametrize("way", ["failed", "cancelled", "cancelled and paid"])
def test_whatever_ended_can_be_booked_again(store, event, way):
    _, booked = book(store, event, 3)
    if way == "failed":
        payments.fail_payment(store, booked)
    else:
        if way == "cancelled and paid":
            payments.pay(store, booked, "R")
        cancellation.cancel(store, CancelRequest(booked))
    done = rebook(store, booked)

    assert done.booking.payment_ref == ("R" if "paid" in way else None)
    assert available(store, event) == 7
    assert [one for one in due(store, booked) if one[3] == "DUE"] == []
    assert violations(store.database) == []


def test_the_seats_that_were_returned_before_stay_due(store, event):
    """Two of five seats came back, then the other three: these are sold again."""
    _, booked = book(store, event, 5)
    payments.pay(store, booked, "R")
    cancellation.cancel(store, CancelRequest(booked, 2))
    cancellation.cancel(store, CancelRequest(booked))
    done = rebook(store, booked)

    assert done.lock.seats == 3
    assert due(store, booked) == [("CANCELLED", "R", 2, "DUE")]


def test_of_several_payments_the_reference_says_which_one_counts(store, late):
    with pytest.raises(RefundDue):
        payments.pay(store, late, "S")
    with pytest.raises(WrongState, match=r"has several refunds due; --ref says which payment counts"):
        rebook(store, late)

    assert rebook(store, late, "S").booking.payment_ref == "S"
    assert due(store, late) == [("LATE_PAYMENT", "R", 3, "DUE"), ("LATE_PAYMENT", "S", 3, "WITHDRAWN")]


def test_a_payment_that_nobody_recorded_before_counts_by_its_reference(store, ended):
    assert rebook(store, ended, "R").booking.payment_ref == "R"
    with pytest.raises(WrongState, match="it was rebooked with this payment, nothing is due"):
        payments.pay(store, ended, "R")
    assert due(store, ended) == []


def test_money_that_went_back_buys_nothing(store, event, late):
    mark_done(store, store.refunds.of_booking(late)[0].id, "back 1")
    for ref in (None, "R"):
        with pytest.raises(WrongState, match=r"was paid at .* .reference 'back 1'."):
            rebook(store, late, ref)
    assert available(store, event) == 10


@pytest.mark.parametrize("field", ["closedAt", "cancelledAt"])
def test_an_event_that_sells_nothing_any_more_books_nothing_again(store, clock, event, late, field):
    edit(store, "events", event, **{field: clock()})
    before = everything(store)
    with pytest.raises(Closed, match=f"event {event}"):
        rebook(store, late)
    assert everything(store) == before


def test_where_the_seats_are_sold_the_refund_stays_due(store, event, late):
    sell(store, event, 8)
    with pytest.raises(SoldOut, match=f"event {event} has 2 seats left, 3 requested"):
        rebook(store, late)
    assert due(store, late) == [("LATE_PAYMENT", "R", 3, "DUE")]


def test_what_is_overdue_there_is_returned_first(store, clock, event, late):
    lock(store, event, 9)
    clock.advance(minutes=11)
    before = everything(store)
    assert rebook(store, late, dry_run=True).available == 7
    assert everything(store) == before
    assert rebook(store, late).available == 7


def test_a_dry_run_says_the_same_and_changes_nothing(store, late):
    before = everything(store)
    told = rebook(store, late, dry_run=True)
    assert (told.created, told.available, told.refund.status) == (True, 7, "WITHDRAWN")
    assert everything(store) == before


def test_what_still_has_its_seats_is_not_booked_again(store, clock, event):
    held, booked = book(store, event, 3)
    with pytest.raises(WrongState, match=f"still has its seats; `seatctl pay {booked}`"):
        rebook(store, booked)
    clock.advance(minutes=16)
    says = f"`seatctl extend {booked} --for 10m --overdue`, then `seatctl pay {booked}`"
    with pytest.raises(WrongState, match=says):
        rebook(store, booked)
    edit(store, "bookings", booked, status="FAILED")
    with pytest.raises(WrongState, match=f"lock {held} .* still ACTIVE; run `seatctl recover`"):
        rebook(store, booked)
    edit(store, "seatLocks", held, status="CONSUMED")
    with pytest.raises(WrongState, match=f"CONSUMED; `seatctl cancel {held}` returns"):
        rebook(store, booked)
    edit(store, "bookings", booked, status="CONFIRMED")
    with pytest.raises(WrongState, match="is CONFIRMED and its seats are sold"):
        rebook(store, booked)
    edit(store, "bookings", booked, status="INITIATED")
    with pytest.raises(WrongState, match="INITIATED by another program"):
        rebook(store, booked)


def test_one_that_was_booked_again_and_ended_names_the_last_one(store, late):
    new = rebook(store, late).booking.id
    cancellation.cancel(store, CancelRequest(new))
    with pytest.raises(
        WrongState, match=f"rebooked as booking {new}, which is CANCELLED; `seatctl rebook {new}`"
    ):
        rebook(store, late)
    assert rebook(store, new).created


def test_what_is_missing_or_unreadable_is_refused(store, event, late):
    with pytest.raises(NotFound):
        rebook(store, NOWHERE)
    held = booking_of(store, late)["seatLockId"]
    edit(store, "events", event, eventType="multi-day")
    with pytest.raises(CountedByDay):
        rebook(store, late)
    edit(store, "seatLocks", held, seats="three")
    with pytest.raises(DamagedDocument):
        rebook(store, late)
    delete(store, "seatLocks", held)
    with pytest.raises(WrongState, match="is missing, so its number of seats is unknown; `seatctl lock"):
        rebook(store, late)


def test_labels_are_written_where_the_other_program_needs_them(store, late):
    labelled = store.with_settings(Settings(seat_labels=True))
    assert rebook(labelled, late).booking.stored["seats"] == ["SEAT-1", "SEAT-2", "SEAT-3"]


def test_two_at_once_make_one_booking(store, event, late, monkeypatch):
    happened = meanwhile(monkeypatch, SeatLocks, "by_key", lambda: rebook(store, late))
    done = rebook(store, late)
    assert happened
    assert (done.created, done.booking.id) == (False, happened[0].booking.id)
    assert available(store, event) == 7


# --- a sold lock without a paid booking ---------------------------------------------------------------------


@pytest.mark.parametrize("status", ["PAYMENT_PENDING", "INITIATED", None])
def test_a_sold_lock_gets_its_booking_once(store, clock, event, status):
    """The decision that somebody paid, for consumed_without_booking."""
    held = lock(store, event, 2)
    waiting = None if status is None else insert_booking(store, event, held, status)
    edit(store, "seatLocks", held, status="CONSUMED")
    clock.advance(seconds=1)
    done = payments.record_sale(store, held, "R")

    assert done.created
    assert done.booking.stored == booking_of(store, done.booking.id)
    assert (done.booking.status, done.booking.payment_ref) == ("CONFIRMED", "R")
    assert waiting in (None, done.booking.id)
    assert available(store, event) == 8
    assert list(verify(store)) == []
    (operation,) = store.operations.concerning([done.booking.id])
    assert operation["command"] == "confirm --sold"
    before = everything(store)
    assert not payments.record_sale(store, held, "R").created
    assert everything(store) == before


def test_a_payment_that_was_refused_because_its_lock_was_sold_is_not_due_then(store, event):
    held, booked = book(store, event, 2)
    edit(store, "seatLocks", held, status="CONSUMED")
    with pytest.raises(RefundDue, match=f"`seatctl confirm {held} --sold --ref R` records that"):
        payments.pay(store, booked, "R")
    payments.record_sale(store, held, "R")
    assert due(store, booked) == [("LATE_PAYMENT", "R", 2, "WITHDRAWN")]


@pytest.mark.parametrize("confirmed", [False, True], ids=["locked", "confirmed"])
def test_a_lock_becomes_a_paid_booking_in_one_step(store, clock, event, confirmed):
    held = lock(store, event, 4)
    waiting = confirm(store, held) if confirmed else None
    clock.advance(minutes=5)
    done = payments.record_sale(store, held, "R")

    assert done.created
    assert waiting in (None, done.booking.id)
    assert states(store, held, done.booking.id) == ("CONSUMED", "CONFIRMED")
    assert (done.booking.payment_ref, available(store, event)) == ("R", 6)
    assert list(verify(store)) == []
    sales_of = [one for one in store.operations.concerning([held]) if one["command"] == "confirm --sold"]
    assert [one["after"] for one in sales_of] == [{"status": "CONFIRMED", "seats": 4, "paymentRef": "R"}]
    before = everything(store)
    assert not payments.record_sale(store, held, "R").created
    assert everything(store) == before


@pytest.mark.parametrize("confirmed", [False, True], ids=["locked", "confirmed"])
def test_a_lock_that_is_overdue_is_not_sold_but_extended_first(store, clock, event, confirmed):
    held = lock(store, event)
    if confirmed:
        confirm(store, held)
    clock.advance(minutes=15)
    before = everything(store)
    says = f"`seatctl extend {held} --for 10m --overdue`, then `seatctl confirm {held} --sold --ref 'R 1'`"
    with pytest.raises(DeadlinePassed, match=says):
        payments.record_sale(store, held, "R 1")
    assert everything(store) == before
    extension.extend(store, ExtendRequest(held, timedelta(minutes=10), overdue=True))
    assert payments.record_sale(store, held, "R 1").created


def test_a_block_and_a_lock_of_a_cancelled_event_are_not_sold(store, event):
    held, block = lock(store, event), blocks.block(store, blocks.BlockRequest(event, 1)).lock.id
    with pytest.raises(WrongState, match=f"`seatctl unblock {block}`"):
        payments.record_sale(store, block)
    edit(store, "events", event, cancelledAt=store.now())
    with pytest.raises(Closed):
        payments.record_sale(store, held)


@pytest.mark.parametrize("status", ["EXPIRED", "CANCELLED"])
def test_only_a_lock_that_holds_seats_is_recorded_as_sold(store, event, status):
    held = lock(store, event)
    edit(store, "seatLocks", held, status=status)
    with pytest.raises(WrongState, match=f"lock {held} is {status}; .* `seatctl lock {event}` takes new"):
        payments.record_sale(store, held)


def test_a_lock_that_ended_with_its_booking_is_sold_by_booking_that_again(store, event):
    held, booked = book(store, event)
    edit(store, "seatLocks", held, status="EXPIRED")
    edit(store, "bookings", booked, status="EXPIRED")
    with pytest.raises(
        WrongState, match=f"lock {held} is EXPIRED; `seatctl rebook {booked}` sells its seats"
    ):
        payments.record_sale(store, held)


def test_a_sold_lock_whose_booking_has_ended_names_the_two_steps(store, event):
    held, booked = book(store, event)
    edit(store, "seatLocks", held, status="CONSUMED")
    edit(store, "bookings", booked, status="EXPIRED")
    says = f"`seatctl cancel {held}` returns the seats, then `seatctl rebook {booked}` sells them"
    with pytest.raises(WrongState, match=says):
        payments.record_sale(store, held)
    cancellation.cancel(store, CancelRequest(held))
    assert rebook(store, booked).created
    assert list(verify(store)) == []


@pytest.mark.parametrize("by", ["sale", "cancellation"])
def test_a_sold_lock_is_decided_upon_once(store, clock, event, monkeypatch, by):
    """Recorded as sold and cancelled at once: the later one sees what the first did."""
    held = lock(store, event)
    edit(store, "seatLocks", held, status="CONSUMED")
    clock.advance(seconds=1)

    def sale():
        return payments.record_sale(store, held)

    def cancel():
        return cancellation.cancel(store, CancelRequest(held))

    first, second = (sale, cancel) if by == "sale" else (cancel, sale)
    happened = meanwhile(monkeypatch, Bookings, "of_lock", first)
    with pytest.raises(WrongState):
        second()
    assert happened
    assert violations(store.database) == []
