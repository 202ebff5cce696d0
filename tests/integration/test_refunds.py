"""`refunds`: money that has to go back (invariant 12)."""

from __future__ import annotations

import pytest
from scene import create

from seatctl.domain.documents import RefundId
from seatctl.domain.states import RefundCause, RefundStatus
from seatctl.mongo.store import Store
from seatctl.services import sales
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
        made.append(result[1])

    assert made == [True, False, True, False, True]
    assert [refund.payment_ref for refund in store.refunds.of_booking(booking.id)].count("one") == 1
    assert store.refunds.count_due() == (3, clock())


def test_a_refund_is_settled_once(store: Store, clock, event):
    lock = sales.lock(store, LockRequest(event, "ada", 2)).lock
    booking = sales.confirm(store, ConfirmRequest(lock.id)).booking
    refund, _ = store.refunds.record(booking, 2, RefundCause.CANCELLED, "r", clock())

    done = store.refunds.settle(refund.id, RefundStatus.DONE, clock(), "bank-1")
    assert done is not None
    assert (done.status, done.stored["doneRef"]) == (RefundStatus.DONE, "bank-1")
    assert store.refunds.settle(refund.id, RefundStatus.WITHDRAWN, clock(), None) is None
    assert store.refunds.get(RefundId(refund.id)) == done
    assert store.refunds.count_due() == (0, None)
