"""What `expire-bookings` expires, leaves alone and skips."""

from datetime import timedelta

import pytest
from conftest import available, edit
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
    run_expire_locks,
    states,
)

from seatctl.domain.states import BookingStatus
from seatctl.services import payments


@pytest.fixture
def event(store):
    """An event with a hundred seats."""
    return create(store)


def take(store, event, number=1, seats=1):
    """Lock seats; the new locks' ids."""
    return [lock(store, event, seats, user=f"user {n}") for n in range(number)]


def counts(report):
    return report.locks, report.bookings, report.seats


def reasons(report):
    return {item.id: item.reason for item in report.skipped.values()}


def status(store, lock_id):
    return lock_of(store, lock_id)["status"]


# --- expire-bookings -------------------------------------------------------------------------------


def test_three_confirmed_locks_come_back_past_their_bookings_deadline(store, clock, event):
    pairs = [book(store, event) for _ in range(3)]
    assert available(store, event) == 97
    clock.advance(minutes=16)

    assert counts(run_expire_bookings(store)) == (3, 3, 3)
    assert [states(store, *pair) for pair in pairs] == [("EXPIRED", "EXPIRED")] * 3
    assert available(store, event) == 100
    runs = [run["status"] for run in store.database.jobLogs.find({"jobType": "BOOKING_EXPIRY"})]
    assert runs == ["SUCCESS"]


def test_an_expired_booking_keeps_its_deadline_and_what_is_unknown_and_its_lock_remembers_its_state(
    store, clock, event
):
    held, booked = book(store, event)
    edit(store, "bookings", booked, invoice="R-1")
    before = booking_of(store, booked)
    clock.advance(minutes=16)
    run_expire_bookings(store)

    run = store.database.jobLogs.find_one({})
    changes = {"status": "EXPIRED", "updatedAt": clock(), "endedBy": run["_id"]}
    assert booking_of(store, booked) == {**before, **changes}
    assert lock_of(store, held)["oldStatus"] == "ACTIVE"


def test_a_booking_is_overdue_after_its_deadline_not_at_it(store, clock, event):
    book(store, event)
    clock.advance(minutes=15)
    assert counts(run_expire_bookings(store)) == (0, 0, 0)

    clock.advance(milliseconds=1)
    assert counts(run_expire_bookings(store)) == (1, 1, 1)


@pytest.mark.parametrize("foreign", [False, True], ids=["ours", "foreign"])
@pytest.mark.parametrize("paid", [True, False], ids=["paid", "unpaid"])
def test_a_short_lock_under_a_long_payment_is_left_alone_and_returned_once(
    store, clock, event, foreign, paid
):
    """A 10-minute lock under a 15-minute payment is left alone at minute 11 and paid at minute 12, or
    unpaid returns its seats exactly once at minute 16; also when another program wrote the booking and did
    not touch the lock."""
    if foreign:
        held = lock(store, event, 2)
        booked = insert_booking(store, event, held, due=timedelta(minutes=15))
    else:
        held, booked = book(store, event, 2)

    clock.advance(minutes=11)
    assert counts(run_expire_locks(store)) == (0, 0, 0)
    assert (status(store, held), available(store, event)) == ("ACTIVE", 98)

    clock.advance(minutes=1)
    if paid:
        payments.pay(store, booked)
    clock.advance(minutes=4)
    first = counts(run_expire_bookings(store))
    again = counts(run_expire_bookings(store)), counts(run_expire_locks(store))

    assert first == ((0, 0, 0) if paid else (1, 1, 2))
    assert again == ((0, 0, 0), (0, 0, 0))
    assert (status(store, held), available(store, event)) == (("CONSUMED", 98) if paid else ("EXPIRED", 100))


@pytest.mark.parametrize("state", BookingStatus)
def test_only_pending_bookings_expire(store, clock, event, state):
    _, booked = book(store, event)
    edit(store, "bookings", booked, status=state.value)
    clock.advance(minutes=16)
    waiting = state is BookingStatus.PAYMENT_PENDING

    assert waiting == run_expire_bookings(store).bookings
    assert booking_of(store, booked)["status"] == ("EXPIRED" if waiting else state)


@pytest.mark.parametrize("ended", ["EXPIRED", "CANCELLED"])
def test_a_booking_whose_lock_holds_nothing_expires_and_returns_nothing(store, clock, event, ended):
    held, booked = book(store, event)
    edit(store, "seatLocks", held, status=ended)
    clock.advance(minutes=16)
    report = run_expire_bookings(store)

    assert counts(report) == (0, 1, 0)
    assert states(store, held, booked) == (ended, "EXPIRED")
    assert (available(store, event), report.error) == (99, None)


def test_a_booking_whose_lock_is_missing_expires_and_is_reported_never_silent(store, clock, event):
    held, booked = book(store, event)
    book(store, event)
    delete(store, "seatLocks", held)
    clock.advance(minutes=16)
    report = run_expire_bookings(store)

    said = f"expired booking {booked}: its lock {held} does not exist, so no seats were returned"
    assert counts(report) == (1, 2, 1)
    assert (available(store, event), report.error) == (99, said)
    assert store.database.jobLogs.find_one()["status"] == "FAILED"


BROKEN_BOOKINGS = {
    "a deadline in words": ({"paymentExpiresAt": "soon"}, {}, "paymentExpiresAt is 'soon', not a date"),
    "no deadline": ({"paymentExpiresAt": None}, {}, "paymentExpiresAt is missing, not a date"),
    "a sold lock": ({}, {"status": "CONSUMED"}, "is CONSUMED: someone may have paid"),
    "a lock of unknown status": ({}, {"status": "ON_HOLD"}, "its status is 'ON_HOLD'"),
    "a lock without status": ({}, {"status": None}, "its status is missing"),
    "a lock without seats": ({}, {"seats": None}, "seats is missing"),
    "a lock of an unknown event": ({}, {"eventId": NOWHERE}, "does not exist"),
    "no lock": ({"seatLockId": None}, {}, "seatLockId is missing, not an id"),
    "a lock id in words": ({"seatLockId": "L-1"}, {}, "seatLockId is 'L-1', not an id"),
    "a lock id that is a document": ({"seatLockId": {"n": 1}}, {}, "seatLockId is {'n': 1}, not an id"),
    "a lock id that is a list": ({"seatLockId": [1]}, {}, "seatLockId is [1], not an id"),
    "an event id in words": ({"event": "x"}, {}, "event is 'x', not an id"),
}


@pytest.mark.parametrize("name", BROKEN_BOOKINGS)
def test_a_broken_booking_is_skipped_with_its_reason_and_the_rest_is_done(store, clock, event, name):
    changes, lock_changes, reason = BROKEN_BOOKINGS[name]
    held, booked = book(store, event)
    other = create(store)
    good = book(store, other)
    edit(store, "bookings", booked, **changes, known=True)
    edit(store, "seatLocks", held, **lock_changes, known=True)
    clock.advance(minutes=16)
    before = booking_of(store, booked), lock_of(store, held)
    report = run_expire_bookings(store)

    assert counts(report) == (1, 1, 1)
    assert states(store, *good) == ("EXPIRED", "EXPIRED")
    assert list(reasons(report)) == [booked]
    assert reason in reasons(report)[booked]
    assert (booking_of(store, booked), lock_of(store, held)) == before


def test_a_booking_whose_id_is_no_object_id_is_skipped(store, clock, event):
    held = lock(store, event)
    insert_booking(store, event, held, _id="B-1", due=timedelta(0))
    clock.advance(minutes=1)

    assert reasons(run_expire_bookings(store)) == {"B-1": "its _id is not an ObjectId"}


# --- several bookings of one lock -----------------------------------------------------------------------


def test_two_overdue_bookings_of_one_lock_end_one_after_the_other_and_return_its_seats_once(
    store, clock, event
):
    held = lock(store, event, 2)
    for _ in range(2):
        insert_booking(store, event, held, due=timedelta(0))
    clock.advance(minutes=16)
    first, *others = [counts(run_expire_bookings(store)), counts(run_expire_locks(store))]

    assert [sum(column) for column in zip(first, *others, strict=True)] == [1, 2, 2]
    assert (status(store, held), available(store, event)) == ("EXPIRED", 100)


def test_a_lock_with_another_booking_that_was_paid_keeps_its_seats(store, clock, event):
    held = lock(store, event)
    for state in ("PAYMENT_PENDING", "CONFIRMED"):
        insert_booking(store, event, held, state, due=timedelta(0))
    clock.advance(minutes=16)

    assert counts(run_expire_bookings(store)) == (0, 1, 0)
    assert counts(run_expire_locks(store)) == (0, 0, 0)
    assert (status(store, held), available(store, event)) == ("ACTIVE", 99)


@pytest.mark.parametrize(("state", "others"), [("PAYMENT_PENDING", "EXPIRED"), ("CONFIRMED", "ACTIVE")])
def test_a_live_booking_that_names_locks_in_a_list_keeps_each_of_them(store, clock, event, state, others):
    """A paid one keeps every other lock of its event, too: nobody can say which seats are sold."""
    named, other = take(store, event, 2)
    insert_booking(store, event, [named, "x"], state)
    clock.advance(minutes=11)
    run_expire_locks(store)

    assert (status(store, named), status(store, other)) == ("ACTIVE", others)


@pytest.mark.parametrize("state", ["PAYMENT_PENDING", "CONFIRMED", "ON_HOLD"])
@pytest.mark.parametrize("odd_event", [False, True])
def test_a_booking_that_runs_out_leaves_its_lock_to_another_one_that_names_it_by_text(
    store, clock, event, state, odd_event
):
    held, booked = book(store, event)
    insert_booking(store, str(event) if odd_event else event, str(held), state, due=timedelta(days=1))
    clock.advance(minutes=16)
    planned, done = run_expire_bookings(store, dry_run=True), run_expire_bookings(store)

    assert counts(planned) == counts(done) == (0, 1, 0)
    assert list(reasons(planned)) == list(reasons(done)) == [held]
    assert (states(store, held, booked), available(store, event)) == (("ACTIVE", "EXPIRED"), 99)
    assert done.run["status"] == "FAILED"


@pytest.mark.parametrize("state", ["PAYMENT_PENDING", "CONFIRMED", "ON_HOLD"])
@pytest.mark.parametrize("odd_event", [False, True])
def test_a_lock_that_a_booking_names_by_text_keeps_its_seats(store, clock, event, state, odd_event):
    held = lock(store, event)
    insert_booking(store, str(event) if odd_event else event, str(held), state)
    clock.advance(minutes=11)
    report = run_expire_locks(store)

    assert counts(report) == (0, 0, 0)
    assert list(reasons(report)) == [held]
    assert (status(store, held), available(store, event)) == ("ACTIVE", 99)
