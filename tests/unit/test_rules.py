"""What may happen to a lock or a booking, and what a caller may ask for: with time as an argument and no
database."""

from datetime import UTC, datetime, timedelta

import pytest

from seatctl.domain import rules, validation
from seatctl.domain.documents import Booking, SeatLock
from seatctl.domain.rules import MAX_SEATS, MAX_TEXT
from seatctl.domain.states import BookingStatus, LockStatus
from seatctl.domain.words import printable
from seatctl.errors import DeadlinePassed, KeyReused, RefundDue, Usage, WrongState

NOW = datetime(2027, 1, 1, 12, tzinfo=UTC)
MOMENT = timedelta(milliseconds=1)
LATER = NOW + MOMENT


def lock(status=LockStatus.ACTIVE, expires_at=LATER, seats=2, key=None):
    return SeatLock("L", "E", "u", seats, status, expires_at, key, {})


def booking(status=BookingStatus.PAYMENT_PENDING, deadline=LATER):
    return Booking("B", "E", "u", "L", status, deadline, {})


# --- rules --------------------------------------------------------------------------------------------


def test_a_key_stands_for_one_number_of_seats():
    rules.check_same_request(lock(key="k"), 2)
    said = r"key 'k' already locked 2 seats .* \(lock L\); use a new key to lock 3 seats"
    with pytest.raises(KeyReused, match=said):
        rules.check_same_request(lock(key="k"), 3)
    with pytest.raises(KeyReused, match=r"locked 1 seat .* to lock 2 seats"):
        rules.check_same_request(lock(seats=1, key="k" * 99), 2)


@pytest.mark.parametrize("status", LockStatus)
def test_only_an_active_lock_strictly_before_its_deadline_is_confirmed(status):
    if status is not LockStatus.ACTIVE:
        with pytest.raises(WrongState, match=f"lock L is {status}; only an ACTIVE lock can be confirmed"):
            rules.check_confirmable(lock(status), NOW)
        return
    rules.check_confirmable(lock(), NOW)
    for late in (LATER, LATER + MOMENT):
        with pytest.raises(
            DeadlinePassed, match=r"passed at 2027-01-01T12:00:00\.001Z; lock the seats again"
        ):
            rules.check_confirmable(lock(), late)


@pytest.mark.parametrize("status", BookingStatus)
def test_a_booking_is_confirmed_again_while_it_is_paid_or_in_time(status):
    if status is BookingStatus.CONFIRMED:
        rules.check_confirmed_before(booking(status), LATER + timedelta(days=99))
        rules.check_confirmed_before(booking(status, None), NOW)
        return
    if status is not BookingStatus.PAYMENT_PENDING:
        with pytest.raises(WrongState, match=f"lock L already has booking B, which is {status}"):
            rules.check_confirmed_before(booking(status), NOW)
        return
    rules.check_confirmed_before(booking(), NOW)
    with pytest.raises(
        DeadlinePassed, match=r"booking B of lock L had to be paid by 2027-01-01T12:00:00\.001Z"
    ):
        rules.check_confirmed_before(booking(), LATER)


@pytest.mark.parametrize(
    ("lock_runs", "ttl", "wanted"),
    [
        (timedelta(minutes=10), None, timedelta(minutes=15)),
        (timedelta(hours=1), None, timedelta(hours=1)),
        (timedelta(minutes=15), None, timedelta(minutes=15)),
        (timedelta(hours=1), timedelta(minutes=5), timedelta(minutes=5)),
        (timedelta(minutes=10), timedelta(hours=2), timedelta(hours=2)),
    ],
)
def test_the_payment_deadline_is_what_was_asked_or_never_before_the_locks_own(lock_runs, ttl, wanted):
    assert rules.payment_deadline(lock(expires_at=NOW + lock_runs), ttl, NOW) == NOW + wanted


@pytest.mark.parametrize("status", LockStatus)
def test_only_an_active_lock_without_a_booking_is_released_whatever_its_deadline(status):
    if status is not LockStatus.ACTIVE:
        with pytest.raises(WrongState, match=f"lock L is {status}; only an ACTIVE lock can be released"):
            rules.check_releasable(lock(status), None)
        return
    rules.check_releasable(lock(), None)
    rules.check_releasable(lock(expires_at=None), None)
    for state in BookingStatus:
        pending = state is BookingStatus.PAYMENT_PENDING
        way_out = "`seatctl pay B --failed` ends it" if pending else "run `seatctl recover`"
        with pytest.raises(WrongState, match=f"^lock L has booking B, which is {state}; {way_out}$"):
            rules.check_releasable(lock(), booking(state))


@pytest.mark.parametrize("status", BookingStatus)
def test_only_a_pending_booking_strictly_before_its_deadline_is_paid_else_a_refund_is_due(status):
    if status is not BookingStatus.PAYMENT_PENDING:
        with pytest.raises(RefundDue, match=f"booking B is {status}"):
            rules.check_payable(booking(status), lock(), NOW)
        return
    rules.check_payable(booking(), lock(), NOW)
    with pytest.raises(RefundDue, match="had to be paid by "):
        rules.check_payable(booking(), lock(), LATER)


@pytest.mark.parametrize("status", [*LockStatus, None])
def test_a_payment_needs_the_lock_that_holds_its_seats(status):
    held = None if status is None else lock(status, expires_at=NOW - timedelta(days=1))
    if status is LockStatus.ACTIVE:
        rules.check_payable(booking(), held, NOW)
        return
    said = f"lock of booking B is {status or 'missing'}, so its seats are not held"
    if status is LockStatus.CONSUMED:  # they may be held for this very booking
        said = "lock L of booking B is already CONSUMED; .*`seatctl confirm L --sold` records"
    with pytest.raises(RefundDue, match=said):
        rules.check_payable(booking(), held, NOW)


@pytest.mark.parametrize("status", BookingStatus)
@pytest.mark.parametrize("lock_status", [*LockStatus, None])
def test_only_a_pending_booking_whose_lock_is_not_sold_can_fail(status, lock_status):
    held = None if lock_status is None else lock(lock_status)
    if status is not BookingStatus.PAYMENT_PENDING:
        with pytest.raises(WrongState, match=f"booking B is {status}; only a PAYMENT_PENDING booking"):
            rules.check_failable(booking(status), held)
    elif lock_status is LockStatus.CONSUMED:
        with pytest.raises(WrongState, match="is CONSUMED: someone may have paid"):
            rules.check_failable(booking(status), held)
    else:
        rules.check_failable(booking(status, NOW - timedelta(days=1)), held)


# --- requests -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seats", [1, 2, MAX_SEATS])
def test_a_number_of_seats_that_makes_sense(seats):
    assert validation.seat_count(seats) == seats


@pytest.mark.parametrize("seats", [0, -1, MAX_SEATS + 1, 10**30])
def test_a_number_of_seats_that_makes_no_sense(seats):
    with pytest.raises(Usage, match=f"a whole number from 1 to 1,000,000, not {seats}"):
        validation.seat_count(seats)


NAMES = [
    "田中\u3000太郎",
    "Jean\u00a0Valjean",
    "क्\u200dषेत्र",
    "👩\u200d💻",
    "\u200f\u05e9\u05dc\u05d5\u05dd",
    "Donau\u00addampf",
]


@pytest.mark.parametrize("name", NAMES)
def test_names_of_the_world_are_texts(name):
    assert validation.text("name", f"  {name} ") == name
    assert printable(name) == name


def test_a_text_is_stripped_and_may_be_as_long_as_the_limit():
    assert validation.text("name", "  Concert\n") == "Concert"
    assert validation.text("name", "x" * MAX_TEXT) == "x" * MAX_TEXT
    assert validation.text("description", "a\n\tb", 10_000, lines=True) == "a\n\tb"


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("", "must not be empty"),
        (" \t ", "must not be empty"),
        ("x" * (MAX_TEXT + 1), "has 201 characters; at most 200 are allowed"),
        ("a\x00b", "control characters"),
        ("a\nb", "control characters"),
        ("\x1b[31mred", "control characters"),
    ],
)
def test_a_text_that_cannot_stand_in_a_table(value, says):
    with pytest.raises(Usage, match=f"name .*{says}"):
        validation.text("name", value)


@pytest.mark.parametrize("duration", [MOMENT, timedelta(days=365)])
def test_a_ttl_that_makes_sense(duration):
    assert validation.ttl("ttl", duration) == duration


@pytest.mark.parametrize("duration", [timedelta(), -MOMENT, timedelta(days=365) + MOMENT])
def test_a_ttl_that_makes_no_sense(duration):
    with pytest.raises(Usage, match=r"^payment-ttl must be longer than zero and at most 365 days"):
        validation.ttl("payment-ttl", duration)


def test_a_moment_is_a_time_or_a_duration_from_now_in_whole_milliseconds():
    odd = timedelta(microseconds=1_999)

    assert validation.moment("date", NOW + odd, NOW) == validation.moment("date", odd, NOW) == NOW + MOMENT
    with pytest.raises(Usage, match="date is too far in the future"):
        validation.moment("date", timedelta(days=3_000_000), NOW)
