"""What confirming a lock promises."""

from datetime import datetime, timedelta

import pytest
from bson import ObjectId
from conftest import available, edit, everything, open_store
from scene import (
    HOUR,
    booking_of,
    confirm,
    create,
    delete,
    event_of,
    insert_booking,
    insert_lock,
    lock,
    lock_of,
    meanwhile,
    stale_clock_once,
)

from seatctl.domain.states import LIVE, BookingStatus, LockStatus
from seatctl.errors import (
    Contention,
    CountedByDay,
    DamagedDocument,
    DeadlinePassed,
    NotFound,
    SeatctlError,
    WrongState,
)
from seatctl.mongo import transactions
from seatctl.mongo.bookings import Bookings
from seatctl.mongo.locks import SeatLocks
from seatctl.services import payments, sales
from seatctl.services.sales import ConfirmRequest

USER = ObjectId("65f000000000000000000001")


@pytest.fixture
def event(store):
    """An event with ten seats."""
    return create(store, 10)


@pytest.fixture
def held(store, event):
    """A lock of three of them."""
    return lock(store, event, 3, user=USER)


@pytest.fixture
def pending(store, held):
    """That lock's booking, waiting for its payment."""
    return confirm(store, held)


def bookings(store):
    return store.database.bookings.count_documents({})


# --- confirm ---------------------------------------------------------------------------------------


def test_a_booking_is_stored_with_exactly_the_contracts_fields(store, clock, event, held):
    made = sales.confirm(store, ConfirmRequest(held))

    stored = booking_of(store, made.booking.id)
    assert made.booking.stored == stored
    assert {field: type(value) for field, value in stored.items()} == {
        "_id": ObjectId,
        "event": ObjectId,
        "user": ObjectId,
        "seatLockId": ObjectId,
        "status": str,
        "paymentExpiresAt": datetime,
        "createdAt": datetime,
        "updatedAt": datetime,
    }
    wanted = [event, USER, held, "PAYMENT_PENDING"]
    assert [stored[field] for field in ("event", "user", "seatLockId", "status")] == wanted
    assert stored["paymentExpiresAt"] == clock() + timedelta(minutes=15)


def test_confirming_takes_no_seats_and_moves_the_locks_deadline_to_the_bookings(store, clock, event, held):
    """So that an expiry of the lock and this cannot both win."""
    clock.advance(minutes=2)
    confirm(store, held, timedelta(minutes=20))

    assert available(store, event) == 7
    assert lock_of(store, held)["status"] == "ACTIVE"
    assert lock_of(store, held)["expiresAt"] == clock() + timedelta(minutes=20)
    assert lock_of(store, held)["updatedAt"] == clock()


def test_without_a_payment_ttl_the_deadline_is_never_before_the_locks_own(store, clock, event):
    deadline = clock() + HOUR
    long = lock(store, event, ttl=HOUR)
    made = sales.confirm(store, ConfirmRequest(long))

    assert made.booking.payment_expires_at == lock_of(store, long)["expiresAt"] == deadline
    assert not made.shortened


def test_an_explicit_payment_ttl_is_taken_also_where_it_is_before_the_locks_deadline(store, clock, event):
    long = lock(store, event, ttl=HOUR)
    made = sales.confirm(store, ConfirmRequest(long, timedelta(minutes=5)))

    wanted = clock() + timedelta(minutes=5)
    assert made.booking.payment_expires_at == lock_of(store, long)["expiresAt"] == wanted
    assert made.shortened


def test_confirming_again_returns_the_same_booking_also_when_the_locks_own_time_is_up(
    store, clock, held, pending
):
    clock.advance(minutes=14)
    before = everything(store)
    again = sales.confirm(store, ConfirmRequest(held, HOUR))

    assert (pending, False) == (again.booking.id, again.created)
    assert everything(store) == before


def test_confirming_again_after_the_payment_deadline_is_refused(store, clock, held, pending):
    clock.advance(minutes=15)
    before = everything(store)

    with pytest.raises(DeadlinePassed, match=rf"booking {pending} .* had to be paid by 2027-01-01T12:15:00Z"):
        confirm(store, held)
    assert everything(store) == before


def test_confirming_a_paid_lock_again_returns_its_booking_however_late(store, clock, held, pending):
    payments.pay(store, pending)
    clock.advance(days=1)

    assert confirm(store, held) == pending


@pytest.mark.parametrize("status", sorted(set(BookingStatus) - {BookingStatus.INITIATED}))
def test_a_lock_has_one_booking_a_live_one_is_returned_an_ended_one_never_followed(
    store, held, pending, status
):
    edit(store, "bookings", pending, status=status.value)

    if status in LIVE:
        assert confirm(store, held) == pending
    else:
        with pytest.raises(WrongState, match=f"already has booking {pending}, which is {status}"):
            confirm(store, held)
    assert bookings(store) == 1


def test_of_several_bookings_a_live_one_is_returned(store, event, held):
    insert_booking(store, event, held, "FAILED")
    live = insert_booking(store, event, held)
    insert_booking(store, event, held, "EXPIRED")

    assert confirm(store, held) == live


def test_a_lock_that_another_program_is_about_to_confirm_is_left_to_it(store, event, held):
    """Its booking is INITIATED; another one beside it would be two once both wait for a payment."""
    initiated = insert_booking(store, event, held, "INITIATED")

    with pytest.raises(WrongState, match=f"{initiated}, which is INITIATED"):
        confirm(store, held)
    assert bookings(store) == 1


def test_where_a_lock_can_have_one_booking_only_an_initiated_one_is_no_endless_race(
    store, event, held, monkeypatch
):
    """The guard of init, or another program's unique index, has room for one: no other writer is winning."""
    monkeypatch.setattr(transactions, "PATIENCE", 0)
    store.init()
    initiated = insert_booking(store, event, held, "INITIATED")

    with pytest.raises(SeatctlError, match=str(initiated)) as refused:
        confirm(store, held)
    assert not isinstance(refused.value, Contention)


@pytest.mark.parametrize("status", LockStatus)
def test_only_an_active_lock_is_confirmed(store, held, status):
    edit(store, "seatLocks", held, status=status.value)

    if status is LockStatus.ACTIVE:
        assert sales.confirm(store, ConfirmRequest(held)).created
        return
    with pytest.raises(WrongState, match=f"is {status}"):
        confirm(store, held)
    assert not bookings(store)


def test_an_overdue_lock_is_not_confirmed_even_when_no_job_ran(store, clock, held):
    clock.advance(minutes=10)

    with pytest.raises(DeadlinePassed, match="passed at 2027-01-01T12:10:00Z"):
        confirm(store, held)
    assert not bookings(store)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"seats": 1.5}, "seats is 1.5"),
        ({"expiresAt": "soon"}, "expiresAt is 'soon'"),
        ({"status": "ON_HOLD"}, "status is 'ON_HOLD'"),
        ({"eventId": "x"}, "eventId is 'x'"),
    ],
)
def test_a_lock_that_cannot_be_read_is_not_confirmed(store, held, fields, says):
    edit(store, "seatLocks", held, **fields)

    with pytest.raises(DamagedDocument, match=says):
        confirm(store, held)
    assert not bookings(store)


def test_a_lock_whose_booking_cannot_be_read_is_not_confirmed(store, held, pending):
    edit(store, "bookings", pending, status="ON_HOLD")

    with pytest.raises(DamagedDocument, match="status is 'ON_HOLD'"):
        confirm(store, held)
    assert bookings(store) == 1


@pytest.mark.parametrize("status", [*BookingStatus, "ON_HOLD"])
@pytest.mark.parametrize("odd_event", [False, True])
def test_a_lock_that_a_booking_names_by_text_is_not_confirmed(store, event, held, status, odd_event):
    """Unless that has ended: of one lock no two bookings may be live."""
    odd = insert_booking(store, str(event) if odd_event else event, str(held), str(status))
    before = everything(store)
    if status in {*LIVE, "ON_HOLD"}:
        with pytest.raises(DamagedDocument, match=f"lock {held} may already have a booking: booking {odd}: "):
            confirm(store, held)
        assert everything(store) == before
    else:
        assert booking_of(store, confirm(store, held))["status"] == "PAYMENT_PENDING"


def test_a_lock_of_an_event_that_is_gone_or_counted_by_day_is_not_confirmed(store, event, held):
    edit(store, "events", event, eventType="multi-day")
    with pytest.raises(CountedByDay, match="counts its seats per day"):
        confirm(store, held)
    delete(store, "events", event)
    with pytest.raises(NotFound, match="there is no event"):
        confirm(store, held)
    assert not bookings(store)


def test_a_lock_that_expires_between_reading_and_writing_is_not_confirmed(store, held, monkeypatch):
    happened = meanwhile(
        monkeypatch, SeatLocks, "get", lambda: edit(store, "seatLocks", held, status="EXPIRED")
    )

    with pytest.raises(WrongState, match="is EXPIRED"):
        confirm(store, held)
    assert happened
    assert not bookings(store)


def test_of_two_confirms_at_once_the_slower_one_returns_the_fasters_booking(store, held, monkeypatch):
    happened = meanwhile(monkeypatch, Bookings, "of_lock", lambda: confirm(store, held))
    again = sales.confirm(store, ConfirmRequest(held))

    assert (happened, False) == ([again.booking.id], again.created)
    assert bookings(store) == 1


def test_a_confirm_that_slept_past_the_locks_deadline_is_refused_by_the_servers_clock(
    database_uri, monkeypatch
):
    """The deadline is compared in the write itself, whatever time the command read before it slept."""
    store = open_store(database_uri)
    held = lock(store, create(store, 10))
    edit(store, "seatLocks", held, expiresAt=store.now() - timedelta(seconds=1))
    slept = stale_clock_once(monkeypatch)

    with pytest.raises(DeadlinePassed):
        confirm(store, held)
    assert slept
    assert not bookings(store)
    store.deployment.close()


def test_a_foreign_lock_is_handled_like_any_other_and_keeps_what_is_unknown(store, event):
    made = insert_lock(store, event, 2.0, due=timedelta(minutes=1), rows=["A1", "A2"])
    edit(store, "events", event, availableSeats=8, venue={"hall": 1})

    payments.fail_payment(store, confirm(store, made))

    assert (lock_of(store, made)["rows"], lock_of(store, made)["status"]) == (["A1", "A2"], "EXPIRED")
    assert (event_of(store, event)["venue"], available(store, event)) == ({"hall": 1}, 10)
    assert "idempotencyKey" not in lock_of(store, made)
