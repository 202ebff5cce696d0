"""`refunds`: money that has to go back (invariant 12)."""

from __future__ import annotations

from datetime import timedelta

import pytest
from conftest import edit, everything
from scene import NOWHERE, book, booking_of, create, meanwhile, run_expire_bookings, sell

from seatctl.domain.documents import RefundId
from seatctl.domain.states import RefundCause, RefundStatus
from seatctl.errors import DamagedDocument, NotFound, RefundDue, Usage, WrongState
from seatctl.mongo.bookings import Bookings
from seatctl.mongo.refunds import Refunds
from seatctl.mongo.store import Store
from seatctl.services import cancellation, extension, lists, payments, rebooking, refunds, sales
from seatctl.services.cancellation import CancelRequest
from seatctl.services.extension import ExtendRequest
from seatctl.services.rebooking import RebookRequest
from seatctl.services.sales import ConfirmRequest, LockRequest


@pytest.fixture
def event(store: Store):
    return create(store)


def test_a_refund_is_recorded_once_for_a_booking_a_cause_and_a_payment(store: Store, clock, event):
    lock = sales.lock(store, LockRequest(event, "ada", 2)).lock
    booking = sales.confirm(store, ConfirmRequest(lock.id)).booking
    made = []
    for ref in ("one", "one", None, None, "two"):
        for attempt in store.transaction_attempts():
            with attempt as tx:
                result = tx.refunds.record(booking, 2, RefundCause.LATE_PAYMENT, ref, clock())
        made.append(result.id)

    one, one_again, without, without_again, two = made
    assert (one_again, without_again) == (one, without)
    assert len({one, without, two}) == 3
    assert [refund.payment_ref for refund in store.refunds.of_booking(booking.id)].count("one") == 1
    assert store.refunds.count_due() == (3, clock())


def test_a_refund_is_settled_once(store: Store, clock, event):
    lock = sales.lock(store, LockRequest(event, "ada", 2)).lock
    booking = sales.confirm(store, ConfirmRequest(lock.id)).booking
    refund = store.refunds.record(booking, 2, RefundCause.CANCELLED, "r", clock())

    done = store.refunds.finish(refund.id, RefundStatus.DONE, clock(), "bank-1")
    assert done is not None
    assert (done.status, done.stored["doneRef"]) == (RefundStatus.DONE, "bank-1")
    assert store.refunds.finish(refund.id, RefundStatus.WITHDRAWN, clock(), None) is None
    assert store.refunds.get(RefundId(refund.id)) == done
    assert store.refunds.count_due() == (0, None)


# --- payments --------------------------------------------------------------------------------------------


@pytest.fixture
def late(store: Store, clock, event):
    """A booking that was not paid by its deadline, and still has its seats."""
    _, booked = book(store, event, 2)
    clock.advance(minutes=15)
    return booked


def due(store, booked):
    found = store.refunds.of_booking(booked)
    owed = [(one.cause.value, one.payment_ref, one.seats, one.status.value) for one in found]
    return sorted(owed, key=lambda one: one[1] or "")


def refuse(store, booked, ref=None):
    with pytest.raises(RefundDue, match="a refund is due: ") as refused:
        payments.pay(store, booked, ref)
    return str(refused.value)


def test_a_payment_is_stored_by_its_reference_and_repeated_is_one(store: Store, event):
    _, booked = book(store, event, 2)
    assert payments.pay(store, booked, " R ").booking.payment_ref == "R"
    before = everything(store)
    for ref in ("R", None):
        assert not payments.pay(store, booked, ref).changed
    assert everything(store) == before


def test_the_reference_of_a_payment_may_be_known_later(store: Store, event):
    _, booked = sell(store, event, 2)
    assert not payments.pay(store, booked, "R").changed
    assert booking_of(store, booked)["paymentRef"] == "R"
    assert due(store, booked) == []


def test_a_second_payment_goes_back_and_the_first_one_counts(store: Store, event):
    _, booked = book(store, event, 2)
    payments.pay(store, booked, "R")
    for _ in range(2):
        assert "was paid before, as 'R'" in refuse(store, booked, "S")
    assert due(store, booked) == [("DUPLICATE_PAYMENT", "S", 2, "DUE")]
    assert booking_of(store, booked)["paymentRef"] == "R"
    assert len([one for one in store.operations.concerning([booked]) if "refundId" in one]) == 1


def test_each_late_payment_goes_back_once_and_names_the_way_out(store: Store, late):
    for ref in ("R", "R", "S"):
        then = f"then `seatctl pay {late} --ref {ref}` counts"
        longer = f"`seatctl extend {late} --for 10m --overdue` gives more time to pay, {then}"
        assert longer in refuse(store, late, ref)
    assert [(ref, seats) for _, ref, seats, _ in due(store, late)] == [("R", 2), ("S", 2)]
    assert booking_of(store, late)["status"] == "PAYMENT_PENDING"


@pytest.mark.parametrize("refs", [(None, None, "R"), ("R", None), (None, "R", None, "R")])
def test_a_late_payment_that_is_recorded_with_and_without_its_reference_goes_back_once(
    store: Store, clock, late, refs
):
    for ref in refs:
        refuse(store, late, ref)
    assert due(store, late) == [("LATE_PAYMENT", "R", 2, "DUE")]
    clock.advance(seconds=1)
    refuse(store, late, "S")
    assert [ref for _, ref, *_ in due(store, late)] == ["R", "S"]
    assert f"seatctl pay {late} --ref R" in refuse(store, late)


def test_the_reference_of_a_late_payment_that_is_named_later_is_recorded(store: Store, late):
    refuse(store, late)
    refuse(store, late, "R")
    (owed,) = store.refunds.of_booking(late)
    *_, operation = store.operations.concerning([owed.id])
    assert (operation["command"], operation["after"]) == ("pay", {"paymentRef": "R"})
    before = everything(store)
    for ref in ("R", None):
        refuse(store, late, ref)
    assert everything(store) == before


def test_two_references_that_are_named_at_once_are_two_payments(store: Store, late, monkeypatch):
    refuse(store, late)
    happened = meanwhile(monkeypatch, Refunds, "set_payment", lambda: refuse(store, late, "S"), before=True)
    refuse(store, late, "R")
    assert happened
    assert [ref for _, ref, *_ in due(store, late)] == ["R", "S"]


def test_a_payment_that_is_named_only_as_it_counts_after_all_is_not_due(store: Store, late):
    refuse(store, late)
    extension.extend(store, ExtendRequest(late, timedelta(minutes=5), overdue=True))
    assert payments.pay(store, late, "R").booking.payment_ref == "R"
    assert due(store, late) == [("LATE_PAYMENT", "R", 2, "WITHDRAWN")]


def test_a_payment_that_is_named_only_as_its_booking_is_made_again_is_not_due(store: Store, clock, late):
    clock.advance(minutes=1)
    run_expire_bookings(store)
    refuse(store, late)
    rebooked = rebooking.rebook(store, RebookRequest(late, "R")).booking
    assert rebooked.payment_ref == "R"
    assert due(store, late) == [("LATE_PAYMENT", "R", 2, "WITHDRAWN")]
    with pytest.raises(WrongState, match="rebooked with this payment, nothing is due"):
        payments.pay(store, late)
    assert f"It was rebooked as {rebooked.id}, paid as 'R'" in refuse(store, late, "S")


def test_a_payment_that_went_back_before_it_was_named_is_not_taken_for_another_one(store: Store, late):
    refuse(store, late)
    refunds.mark_done(store, store.refunds.of_booking(late)[0].id, "back 1")
    with pytest.raises(WrongState, match=r"'back 1'.; another payment needs a --ref of its own"):
        payments.pay(store, late)
    refuse(store, late, "R")
    assert [(ref, status) for _, ref, _, status in due(store, late)] == [(None, "DONE"), ("R", "DUE")]


def test_a_late_payment_that_gets_more_time_counts_and_is_not_due(store: Store, late):
    refuse(store, late, "R")
    refuse(store, late, "S")
    extension.extend(store, ExtendRequest(late, timedelta(minutes=5), overdue=True))
    assert payments.pay(store, late, "R").changed
    assert [(ref, status) for _, ref, _, status in due(store, late)] == [("R", "WITHDRAWN"), ("S", "DUE")]


def test_without_a_reference_the_only_late_payment_counts(store: Store, late):
    """What follows from the hint, with the reference left out, is no second payment."""
    refuse(store, late, "R")
    extension.extend(store, ExtendRequest(late, timedelta(minutes=5), overdue=True))
    assert payments.pay(store, late).booking.payment_ref == "R"
    assert due(store, late) == [("LATE_PAYMENT", "R", 2, "WITHDRAWN")]
    before = everything(store)
    assert not payments.pay(store, late, "R").changed
    assert everything(store) == before


def test_of_several_late_payments_the_one_that_counts_has_to_be_named(store: Store, late):
    refuse(store, late, "R")
    refuse(store, late, "S")
    extension.extend(store, ExtendRequest(late, timedelta(minutes=5), overdue=True))
    before = everything(store)
    with pytest.raises(WrongState, match="--ref says which payment counts: 'R', 'S'"):
        payments.pay(store, late)
    assert everything(store) == before


def test_a_late_payment_that_is_named_once_the_booking_is_paid_is_not_due(store: Store, event, clock):
    _, booked = sell(store, event, 2)
    booking = store.bookings.get(booked)
    store.refunds.record(booking, 2, RefundCause.LATE_PAYMENT, "R", clock())
    assert not payments.pay(store, booked, "R").changed
    assert booking_of(store, booked)["paymentRef"] == "R"
    assert due(store, booked) == [("LATE_PAYMENT", "R", 2, "WITHDRAWN")]


def test_a_payment_that_was_refused_and_paid_back_is_not_due_again(store: Store, late):
    refuse(store, late, "R")
    refunds.mark_done(store, store.refunds.of_booking(late)[0].id, "back 1")
    with pytest.raises(WrongState, match=r"its refund [0-9a-f]{24} was paid at .* .reference 'back 1'."):
        payments.pay(store, late, "R")
    assert store.refunds.count_due() == (0, None)


@pytest.mark.parametrize("ref", ["R", None])
def test_the_payment_of_a_cancelled_booking_goes_back_once(store: Store, event, ref):
    """A command that is repeated because its answer was lost is no second payment."""
    _, booked = book(store, event, 2)
    payments.pay(store, booked, ref)
    cancellation.cancel(store, CancelRequest(booked))
    again = f"`seatctl rebook {booked}{'' if ref is None else ' --ref R'}`"
    assert again in refuse(store, booked, ref)
    assert due(store, booked) == [("CANCELLED", ref, 2, "DUE")]
    refuse(store, booked, ref or "named later")
    refuse(store, booked, "S")
    assert (
        due(store, booked)
        == [
            ("CANCELLED", ref or "named later", 2, "DUE"),
            ("LATE_PAYMENT", "S", 2, "DUE"),
        ][:: 1 if ref else -1]
    )


@pytest.mark.parametrize("ref", ["R", None])
def test_the_payment_of_a_booking_that_was_cancelled_without_a_refund_is_kept(store: Store, event, ref):
    _, booked = book(store, event, 2)
    payments.pay(store, booked, ref)
    cancellation.cancel(store, CancelRequest(booked, refund=False))
    with pytest.raises(WrongState, match="it was paid, and cancelled without a refund"):
        payments.pay(store, booked, ref)
    assert due(store, booked) == []


def test_a_booking_that_was_cancelled_before_it_was_paid_is_paid_too_late(store: Store, event):
    held, booked = book(store, event, 2)
    edit(store, "seatLocks", held, status="CONSUMED")
    cancellation.cancel(store, CancelRequest(held))
    refuse(store, booked)
    assert due(store, booked) == [("LATE_PAYMENT", None, 2, "DUE")]


def test_two_payments_that_are_late_at_once_are_recorded_once(store: Store, late, monkeypatch):
    happened = meanwhile(monkeypatch, Bookings, "stamp", lambda: refuse(store, late, "R"), before=True)
    refuse(store, late, "R")
    assert happened
    assert len(due(store, late)) == 1


@pytest.mark.parametrize("ref", ["", " ", "x" * 201, "a\x1bb"])
def test_a_reference_is_a_short_text(store: Store, late, ref):
    with pytest.raises(Usage, match="ref"):
        payments.pay(store, late, ref)


# --- paid back --------------------------------------------------------------------------------------------


def test_a_refund_is_marked_as_done_once_and_the_operation_says_by_whom(store: Store, clock, late):
    refuse(store, late, "R")
    owed = store.refunds.of_booking(late)[0].id
    clock.advance(days=1)
    done = refunds.mark_done(store, owed, "back 1")

    assert done.changed
    assert done.refund.stored == store.refunds.stored(owed)
    assert (done.refund.stored["doneAt"], done.refund.stored["doneRef"]) == (clock(), "back 1")
    operation = list(store.operations.concerning([owed]))[-1]
    assert (operation["command"], operation["bookingId"], operation["after"]) == (
        "refund",
        late,
        {"status": "DONE", "doneRef": "back 1"},
    )
    before = everything(store)
    assert not refunds.mark_done(store, owed, "back 1").changed
    with pytest.raises(WrongState, match=r"was paid at .* .reference 'back 1'."):
        refunds.mark_done(store, owed, "back 2")
    assert everything(store) == before


def test_a_refund_that_is_not_owed_is_withdrawn_once_and_the_operation_says_why(store: Store, clock, late):
    refuse(store, late, "R")
    owed = store.refunds.of_booking(late)[0].id
    withdrawn = refunds.withdraw(store.for_reason("typed twice"), owed)

    assert withdrawn.changed
    assert (withdrawn.refund.status, withdrawn.refund.stored["doneAt"]) == (RefundStatus.WITHDRAWN, clock())
    *_, operation = store.operations.concerning([owed])
    told = (operation["command"], operation["reason"], operation["before"], operation["after"])
    assert told == ("refund", "typed twice", {"status": "DUE"}, {"status": "WITHDRAWN"})
    before = everything(store)
    assert not refunds.withdraw(store, owed).changed
    with pytest.raises(WrongState, match=f"refund {owed} was withdrawn at .*`seatctl history {owed}` says"):
        refunds.mark_done(store, owed, "back 1")
    with pytest.raises(WrongState, match="was withdrawn"):
        payments.pay(store, late, "R")
    assert everything(store) == before


def test_a_refund_that_was_paid_back_is_not_withdrawn(store: Store, late):
    refuse(store, late, "R")
    owed = store.refunds.of_booking(late)[0].id
    refunds.mark_done(store, owed, "back 1")
    before = everything(store)
    with pytest.raises(WrongState, match=r"was paid at .* .reference 'back 1'."):
        refunds.withdraw(store, owed)
    assert everything(store) == before


def test_a_refund_that_is_missing_or_unreadable_is_not_marked(store: Store, late):
    for wrong in (NOWHERE, late):
        with pytest.raises(NotFound, match=f"no refund {wrong}"):
            refunds.mark_done(store, RefundId(wrong), "back 1")
    refuse(store, late)
    owed = store.refunds.of_booking(late)[0].id
    edit(store, "refunds", owed, cause="KINDNESS")
    with pytest.raises(DamagedDocument, match=f"refund {owed} cannot be read"):
        refunds.mark_done(store, owed, "back 1")


def test_refunds_are_listed_by_status_and_event(store: Store, clock, event, late):
    refuse(store, late, "R")
    clock.advance(seconds=1)
    refuse(store, late, "S")
    first, second = (refund.id for refund in store.refunds.of_booking(late))
    refunds.mark_done(store, first, "back 1")

    def listed(*filters):
        return [one["_id"] for one in lists.refunds(store, *filters)]

    assert listed(None, None) == [first, second]
    assert listed(event, RefundStatus.DUE) == [second]
    assert listed(None, RefundStatus.DONE) == [first]
    assert listed(create(store), None) == []
    with pytest.raises(NotFound):
        listed(NOWHERE, None)


# --- what counts once -------------------------------------------------------------------------------------


def more_time(store: Store, booking) -> None:
    extension.extend(store, ExtendRequest(booking, timedelta(hours=1), overdue=True))


def test_money_that_went_back_buys_no_seats(store: Store, late):
    refuse(store, late, "R")
    refunds.mark_done(store, store.refunds.of_booking(late)[0].id, "back 1")
    more_time(store, late)

    for pay in (lambda: payments.pay(store, late, "R"), lambda: payments.pay(store, late)):
        with pytest.raises(WrongState, match=r"was paid at .* .reference 'back 1'."):
            pay()
    with pytest.raises(WrongState, match=r"was paid at .* .reference 'back 1'."):
        payments.record_sale(store, booking_of(store, late)["seatLockId"], "R")
    assert payments.pay(store, late, "another").changed


def test_a_late_payment_counts_for_the_seats_that_are_left(store: Store, late):
    refuse(store, late, "R")
    seats = store.refunds.of_booking(late)[0].seats
    more_time(store, late)
    cancellation.cancel(store, CancelRequest(late, seats=1))
    payments.pay(store, late, "R")

    (refund,) = store.refunds.of_booking(late)
    assert (refund.status, refund.seats) == (RefundStatus.DUE, 1)
    assert seats > 1


def test_a_payment_whose_reference_was_named_later_goes_back_once(store: Store, event):
    _, paid = sell(store, event, 2)
    payments.pay(store, paid, "R")
    cancellation.cancel(store, CancelRequest(paid))
    with pytest.raises(RefundDue):
        payments.pay(store, paid)

    assert [refund.payment_ref for refund in store.refunds.of_booking(paid)] == ["R"]


def test_a_reference_that_another_program_stored_as_a_number_is_one(store: Store, event):
    _, paid = sell(store, event, 2)
    edit(store, "bookings", paid, paymentRef=12345)
    with pytest.raises(RefundDue, match="was paid before, as '12345'"):
        payments.pay(store, paid, "R")

    assert [refund.cause for refund in store.refunds.of_booking(paid)] == [RefundCause.DUPLICATE_PAYMENT]


def test_seats_that_were_returned_before_stay_due_when_the_others_are_sold_after_all(store: Store, event):
    """The cancellation itself was without a refund."""
    _, paid = sell(store, event, 4)
    cancellation.cancel(store, CancelRequest(paid, seats=1))
    cancellation.cancel(store, CancelRequest(paid, refund=False))
    rebooking.rebook(store, RebookRequest(paid))

    assert [(refund.status, refund.seats) for refund in store.refunds.of_booking(paid)] == [("DUE", 1)]


def test_what_was_rebooked_without_a_reference_takes_the_one_that_is_named_later(store: Store, clock, event):
    _, unpaid = book(store, event, 2)
    clock.advance(hours=1)
    run_expire_bookings(store)
    first = rebooking.rebook(store, RebookRequest(unpaid))
    refuse(store, unpaid, "R")
    again = rebooking.rebook(store, RebookRequest(unpaid, "R"))

    assert (again.booking.id, again.booking.payment_ref) == (first.booking.id, "R")
    assert [refund.status for refund in store.refunds.of_booking(unpaid)] == [RefundStatus.WITHDRAWN]
