"""States and rules, with time as an argument and no database."""

from datetime import UTC, datetime, timedelta

import pytest
from bson import Int64

from seatctl.domain import model
from seatctl.domain.model import HOLDING, LIVE, BookingStatus, JobStatus, JobType, LockStatus
from seatctl.errors import DamagedDocument, DeadlinePassed, KeyReused, WrongState

NOW = datetime(2027, 1, 1, 12, tzinfo=UTC)
LATER = NOW + timedelta(milliseconds=1)
LOCK = {"_id": "L", "seats": 2, "status": "ACTIVE", "expiresAt": LATER}
BOOKING = {"_id": "B", "status": "PAYMENT_PENDING", "paymentExpiresAt": LATER}


def test_states():
    """The states are a contract with other programs."""
    assert set(LockStatus) == {"ACTIVE", "CONSUMED", "EXPIRED"}
    assert set(BookingStatus) == {"PAYMENT_PENDING", "CONFIRMED", "FAILED", "EXPIRED"}
    assert set(JobType) == {"LOCK_EXPIRY", "BOOKING_EXPIRY", "RECOVERY"}
    assert set(JobStatus) == {"SUCCESS", "FAILED"}
    assert set(HOLDING) == {"ACTIVE", "CONSUMED"}
    assert set(LIVE) == {"PAYMENT_PENDING", "CONFIRMED"}


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (2, 2),
        (2.0, 2),
        (Int64(2), 2),
        (-1, -1),
        (0, 0),
        (2.5, None),
        (True, None),
        ("2", None),
        (None, None),
        (float("inf"), None),
        (float("-inf"), None),
        (float("nan"), None),
        ([2], None),
    ],
)
def test_whole_number(value, number):
    """A whole number is an int, or a double with nothing behind the point."""
    assert model.whole_number(value) == number


@pytest.mark.parametrize(("seats", "number"), [(1, 1), (3.0, 3), (0, None), (-2, None), (1.5, None)])
def test_seats_of(seats, number):
    """A lock holds a positive whole number of seats, or none that a program may move."""
    assert model.seats_of({"seats": seats}) == number


@pytest.mark.parametrize(
    ("fields", "flaw"),
    [
        ({}, None),
        ({"seats": 0}, "seats is 0, not a positive whole number"),
        ({"seats": None}, "seats is missing, not a positive whole number"),
        ({"expiresAt": "x" * 99}, f"expiresAt is '{'x' * 38}…, not a date"),
    ],
)
def test_lock_flaw(fields, flaw):
    """What keeps a lock from being given back is said in words, however long the value."""
    assert model.lock_flaw({**LOCK, **fields}) == flaw


@pytest.mark.parametrize(
    ("total", "available", "flaw"),
    [
        (10, 0, None),
        (10, 11, None),
        (0, 0, "totalSeats is 0, not a positive whole number"),
        (None, 0, "totalSeats is missing, not a positive whole number"),
        (10, "7", "availableSeats is '7', not a whole number"),
    ],
)
def test_counter_flaw(total, available, flaw):
    """A counter can be used when both numbers are; being wrong is not being unreadable."""
    assert model.counter_flaw({"totalSeats": total, "availableSeats": available}) == flaw


def test_same_request():
    """A key stands for one number of seats."""
    model.check_same_request({"_id": "L", "seats": 2.0}, 2, "k")
    with pytest.raises(KeyReused, match=r"already locked 2 seats .* use a new key to lock 3"):
        model.check_same_request(LOCK, 3, "k")


@pytest.mark.parametrize("status", LockStatus)
def test_confirmable(status):
    """Only an ACTIVE lock strictly before its deadline becomes a booking."""
    lock = {**LOCK, "status": status.value}
    if status is not LockStatus.ACTIVE:
        with pytest.raises(WrongState):
            model.check_confirmable(lock, NOW)
        return
    model.check_confirmable(lock, NOW)
    with pytest.raises(DeadlinePassed):
        model.check_confirmable(lock, LATER)
    with pytest.raises(DamagedDocument):
        model.check_confirmable({**lock, "expiresAt": None}, NOW)


@pytest.mark.parametrize("status", LockStatus)
def test_releasable(status):
    """Only an ACTIVE lock without a booking is released; its deadline does not matter."""
    lock = {**LOCK, "status": status.value}
    if status is not LockStatus.ACTIVE:
        with pytest.raises(WrongState):
            model.check_releasable(lock, None)
        return
    model.check_releasable(lock, None)
    model.check_releasable({**lock, "expiresAt": None}, None)
    with pytest.raises(WrongState, match="has booking B"):
        model.check_releasable(lock, BOOKING)
    with pytest.raises(DamagedDocument):
        model.check_releasable({**lock, "seats": 0}, None)


@pytest.mark.parametrize("status", BookingStatus)
def test_payable(status):
    """Only a waiting booking strictly before its deadline is paid; everything else is due for refund."""
    booking = {**BOOKING, "status": status.value}
    if status is not BookingStatus.PAYMENT_PENDING:
        with pytest.raises(WrongState, match="a refund is due"):
            model.check_payable(booking, LOCK, NOW)
        return
    model.check_payable(booking, LOCK, NOW)
    with pytest.raises(DeadlinePassed, match="a refund is due"):
        model.check_payable(booking, LOCK, LATER)
    with pytest.raises(DamagedDocument, match="was not recorded"):
        model.check_payable({**booking, "paymentExpiresAt": 5}, LOCK, NOW)


@pytest.mark.parametrize("status", [*LockStatus, None])
def test_payable_while_the_seats_are_held(status):
    """A payment needs the lock that holds its seats."""
    lock = None if status is None else {**LOCK, "status": status.value}
    if status is LockStatus.ACTIVE:
        model.check_payable(BOOKING, lock, NOW)
        return
    with pytest.raises(WrongState, match="its seats are not held; a refund is due"):
        model.check_payable(BOOKING, lock, NOW)


@pytest.mark.parametrize("status", BookingStatus)
def test_failable(status):
    """Only a waiting booking can fail."""
    booking = {**BOOKING, "status": status.value}
    if status is BookingStatus.PAYMENT_PENDING:
        model.check_failable(booking)
        return
    with pytest.raises(WrongState):
        model.check_failable(booking)
