"""The steps of a sale on a store in memory: what each step does to lock, booking and counter."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from memory import MockStore, new_store

from seatctl.domain.documents import EventId, LockId, Unreadable
from seatctl.domain.states import BookingStatus, LockStatus
from seatctl.errors import (
    DamagedDocument,
    DeadlinePassed,
    KeyReused,
    NotFound,
    RefundDue,
    SoldOut,
    WrongState,
)
from seatctl.mongo.ids import parse_document_id, parse_user
from seatctl.services.events import CreateEventRequest, create_event
from seatctl.services.payments import fail_payment, pay
from seatctl.services.sales import ConfirmRequest, LockRequest, confirm, lock, release

if TYPE_CHECKING:
    from conftest import Clock

ADA = parse_user("ada")


@pytest.fixture
def store(clock: Clock) -> MockStore:
    return new_store(clock)


@pytest.fixture
def event(store: MockStore) -> EventId:
    return create_event(store, CreateEventRequest("Spring gala", 10, timedelta(days=30))).id


def available(store: MockStore, event: EventId) -> int:
    found = store.events.get(event)
    assert found is not None
    assert not isinstance(found, Unreadable)
    return found.available


def test_a_lock_takes_its_seats_once(store: MockStore, event: EventId) -> None:
    result = lock(store, LockRequest(event, ADA, 4))

    assert (result.created, result.available, available(store, event)) == (True, 6, 6)
    assert (result.lock.status, result.lock.seats, result.lock.user) == (LockStatus.ACTIVE, 4, "ada")


def test_every_lock_has_a_key_of_its_own(store: MockStore, event: EventId) -> None:
    first, second = (lock(store, LockRequest(event, ADA, 1)).lock for _ in range(2))

    assert first.key
    assert first.key != second.key


def test_the_same_key_is_the_same_lock_and_never_another_request(store: MockStore, event: EventId) -> None:
    first = lock(store, LockRequest(event, ADA, 4, key="order-1"))
    again = lock(store, LockRequest(event, ADA, 4, key=" order-1 "))

    assert (again.created, again.lock.id, available(store, event)) == (False, first.lock.id, 6)
    with pytest.raises(KeyReused, match="already locked 4 seats"):
        lock(store, LockRequest(event, ADA, 5, key="order-1"))


def test_no_more_seats_are_locked_than_there_are(store: MockStore, event: EventId) -> None:
    lock(store, LockRequest(event, ADA, 8))

    with pytest.raises(SoldOut, match="has 2 seats left, 3 requested"):
        lock(store, LockRequest(event, ADA, 3))
    assert available(store, event) == 2


def test_a_sold_out_event_returns_what_is_overdue_first(
    store: MockStore, event: EventId, clock: Clock
) -> None:
    lock(store, LockRequest(event, ADA, 10))
    clock.advance(minutes=11)

    assert lock(store, LockRequest(event, ADA, 3)).available == 7


def test_an_event_that_is_not_there_is_not_found(store: MockStore) -> None:
    with pytest.raises(NotFound):
        lock(store, LockRequest(EventId(parse_document_id("0" * 24)), ADA, 1))


def test_confirming_and_paying_take_no_seats(store: MockStore, event: EventId) -> None:
    held = lock(store, LockRequest(event, ADA, 4)).lock
    booking = confirm(store, ConfirmRequest(held.id)).booking
    paid = pay(store, booking.id)

    assert (booking.status, paid.booking.status) == (BookingStatus.PAYMENT_PENDING, BookingStatus.CONFIRMED)
    assert status_of(store, held.id) is LockStatus.CONSUMED
    assert available(store, event) == 6
    assert pay(store, booking.id).changed is False


def test_a_lock_past_its_deadline_is_not_confirmed(store: MockStore, event: EventId, clock: Clock) -> None:
    held = lock(store, LockRequest(event, ADA, 4)).lock
    clock.advance(minutes=10)

    with pytest.raises(DeadlinePassed):
        confirm(store, ConfirmRequest(held.id))


def test_a_payment_that_comes_too_late_is_due_for_refund(
    store: MockStore, event: EventId, clock: Clock
) -> None:
    booking = confirm(store, ConfirmRequest(lock(store, LockRequest(event, ADA, 4)).lock.id)).booking
    clock.advance(minutes=15)

    for _ in range(2):
        with pytest.raises(RefundDue, match=r"had to be paid by .*; a refund is due: [0-9a-f]{24}"):
            pay(store, booking.id)
    assert store.refunds.count_due() == (1, clock())


def test_a_failed_payment_returns_the_seats_once(store: MockStore, event: EventId) -> None:
    held = lock(store, LockRequest(event, ADA, 4)).lock
    booking = confirm(store, ConfirmRequest(held.id)).booking

    assert fail_payment(store, booking.id).changed
    assert not fail_payment(store, booking.id).changed
    assert (status_of(store, held.id), available(store, event)) == (LockStatus.EXPIRED, 10)


def test_a_released_lock_returns_its_seats_once(store: MockStore, event: EventId) -> None:
    held = lock(store, LockRequest(event, ADA, 4)).lock
    release(store, held.id)

    assert available(store, event) == 10
    with pytest.raises(WrongState):
        release(store, held.id)


def test_seats_beside_a_lock_that_cannot_be_read_are_not_returned(store: MockStore, event: EventId) -> None:
    held = lock(store, LockRequest(event, ADA, 4)).lock
    other = lock(store, LockRequest(event, ADA, 2)).lock
    store.database.seatLocks.update_one({"_id": other.id}, {"$set": {"status": "HELD"}})

    with pytest.raises(DamagedDocument, match="cannot be returned"):
        release(store, held.id)
    assert available(store, event) == 4


def status_of(store: MockStore, lock_id: LockId) -> LockStatus:
    found = store.locks.get(lock_id)
    assert found is not None
    assert not isinstance(found, Unreadable)
    return found.status
