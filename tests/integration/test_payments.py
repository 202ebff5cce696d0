"""What confirming, paying, failing and releasing promise."""

from datetime import datetime, timedelta

import pytest
from bson import ObjectId
from conftest import available, edit, everything, open_store
from scene import (
    HOUR,
    add,
    book,
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
    states,
)

from seatctl.domain.states import LIVE, BookingStatus, LockStatus
from seatctl.errors import (
    Contention,
    CountedByDay,
    DamagedDocument,
    DeadlinePassed,
    NotFound,
    SeatctlError,
    WriteRefused,
    WrongState,
)
from seatctl.mongo import client
from seatctl.mongo.bookings import Bookings
from seatctl.mongo.client import Deployment
from seatctl.mongo.locks import SeatLocks
from seatctl.services import sales
from seatctl.services.audit import verify
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
    booked = confirm(store, long)

    assert booking_of(store, booked)["paymentExpiresAt"] == lock_of(store, long)["expiresAt"] == deadline


def test_an_explicit_payment_ttl_is_taken_also_where_it_is_before_the_locks_deadline(store, clock, event):
    long = lock(store, event, ttl=HOUR)
    booked = confirm(store, long, timedelta(minutes=5))

    wanted = clock() + timedelta(minutes=5)
    assert booking_of(store, booked)["paymentExpiresAt"] == lock_of(store, long)["expiresAt"] == wanted


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
    sales.pay(store, pending)
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
        with pytest.raises(WrongState, match=f"had booking {pending}, which is {status}"):
            confirm(store, held)
    assert bookings(store) == 1


def test_of_several_bookings_a_live_one_is_returned(store, event, held):
    insert_booking(store, event, held, "FAILED")
    live = insert_booking(store, event, held)
    insert_booking(store, event, held, "EXPIRED")

    assert confirm(store, held) == live


def test_an_initiated_booking_of_another_program_holds_nothing_and_one_may_come_after_it(store, event, held):
    initiated = insert_booking(store, event, held, "INITIATED")

    made = sales.confirm(store, ConfirmRequest(held))

    assert made.created
    assert made.booking.id != initiated
    assert booking_of(store, initiated)["status"] == "INITIATED"
    assert list(verify(store)) == []


def test_where_a_lock_can_have_one_booking_only_an_initiated_one_is_no_endless_race(
    store, event, held, monkeypatch
):
    """The guard of init, or another program's unique index, has room for one: no other writer is winning."""
    monkeypatch.setattr(client, "PATIENCE", 0)
    store.init()
    initiated = insert_booking(store, event, held, "INITIATED")

    try:
        assert confirm(store, held)
    except Contention:
        pytest.fail("another writer is blamed")
    except SeatctlError as refusal:
        assert str(initiated) in str(refusal)


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


def test_a_lock_of_an_event_that_is_gone_or_counted_by_day_is_not_confirmed(store, event, held):
    edit(store, "events", event, eventType="multi-day")
    with pytest.raises(CountedByDay, match="counts its seats by day"):
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


def stale_clock_once(monkeypatch):
    """The first time that a command asks for, is of an hour ago, as if it had slept since."""
    read, slept = Deployment.now, []

    def now(self):
        if not slept:
            slept.append(True)
            return read(self) - HOUR
        return read(self)

    monkeypatch.setattr(Deployment, "now", now)
    return slept


def test_a_foreign_lock_is_handled_like_any_other_and_keeps_what_is_unknown(store, event):
    made = insert_lock(store, event, 2.0, due=timedelta(minutes=1), rows=["A1", "A2"])
    edit(store, "events", event, availableSeats=8, venue={"hall": 1})

    sales.fail_payment(store, confirm(store, made))

    assert (lock_of(store, made)["rows"], lock_of(store, made)["status"]) == (["A1", "A2"], "EXPIRED")
    assert (event_of(store, event)["venue"], available(store, event)) == ({"hall": 1}, 10)
    assert "idempotencyKey" not in lock_of(store, made)


# --- pay -------------------------------------------------------------------------------------------


def test_a_payment_in_time_confirms_the_booking_consumes_the_lock_and_moves_no_seats(
    store, clock, event, held, pending
):
    clock.advance(minutes=5)
    edit(store, "bookings", pending, invoice="R-1")
    paid = sales.pay(store, pending)

    assert paid.changed
    assert paid.booking.stored == booking_of(store, pending)
    wanted = ["CONFIRMED", "R-1", clock()]
    assert [paid.booking.stored[field] for field in ("status", "invoice", "updatedAt")] == wanted
    assert lock_of(store, held)["status"] == "CONSUMED"
    assert "oldStatus" not in lock_of(store, held)
    assert available(store, event) == 7


def test_paying_twice_is_one_payment_also_after_the_deadline(store, clock, pending):
    sales.pay(store, pending)
    before = everything(store)
    clock.advance(hours=1)

    assert not sales.pay(store, pending).changed
    assert before == everything(store)


def test_a_payment_at_its_deadline_is_refused_and_changes_nothing(store, clock, pending):
    before = everything(store)
    clock.advance(minutes=15)

    with pytest.raises(DeadlinePassed, match=r"had to be paid by 2027-01-01T12:15:00Z; a refund is due"):
        sales.pay(store, pending)
    assert before == everything(store)


@pytest.mark.parametrize("status", BookingStatus)
def test_only_a_pending_booking_is_paid_and_an_ended_one_is_never_revived(store, held, pending, status):
    edit(store, "bookings", pending, status=status.value)

    if status in LIVE:
        assert sales.pay(store, pending).booking.status == "CONFIRMED"
        return
    with pytest.raises(WrongState, match=f"is {status}.*a refund is due"):
        sales.pay(store, pending)
    assert states(store, held, pending) == ("ACTIVE", status)


def test_a_booking_in_no_known_state_is_not_paid(store, held, pending):
    edit(store, "bookings", pending, status="ON_HOLD")

    with pytest.raises(DamagedDocument, match="status is 'ON_HOLD'"):
        sales.pay(store, pending)
    assert states(store, held, pending) == ("ACTIVE", "ON_HOLD")


@pytest.mark.parametrize("status", [*sorted(set(LockStatus) - {LockStatus.ACTIVE}), "missing"])
def test_a_booking_whose_seats_are_not_held_is_not_paid(store, held, pending, status):
    if status == "missing":
        delete(store, "seatLocks", held)
    else:
        edit(store, "seatLocks", held, status=str(status))

    with pytest.raises(WrongState, match=f"is {status}.*a refund is due"):
        sales.pay(store, pending)
    assert booking_of(store, pending)["status"] == "PAYMENT_PENDING"


@pytest.mark.parametrize("fields", [{"seats": 0}, {"status": "ON_HOLD"}])
def test_a_booking_whose_lock_cannot_be_read_is_not_paid(store, held, pending, fields):
    edit(store, "seatLocks", held, **fields)
    before = everything(store)

    with pytest.raises(DamagedDocument, match=f"lock {held}"):
        sales.pay(store, pending)
    assert everything(store) == before


@pytest.mark.parametrize("way", ["gone", "by day"])
def test_a_booking_of_an_event_that_is_gone_or_counted_by_day_is_not_paid(store, event, pending, way):
    if way == "gone":
        delete(store, "events", event)
    else:
        edit(store, "events", event, eventType="multi-day")
    before = everything(store)

    with pytest.raises(WrongState, match=rf"event {event} .*a refund is due"):
        sales.pay(store, pending)
    assert everything(store) == before


def test_a_booking_whose_deadline_is_no_date_is_not_paid(store, pending):
    edit(store, "bookings", pending, paymentExpiresAt="tomorrow")

    with pytest.raises(DamagedDocument, match=r"paymentExpiresAt is 'tomorrow'"):
        sales.pay(store, pending)
    assert booking_of(store, pending)["status"] == "PAYMENT_PENDING"


def test_a_booking_that_fails_between_reading_and_writing_stays_failed(store, pending, monkeypatch):
    happened = meanwhile(
        monkeypatch,
        Bookings,
        "confirm",
        lambda: edit(store, "bookings", pending, status="FAILED"),
        before=True,
    )

    with pytest.raises(WrongState, match="refund is due"):
        sales.pay(store, pending)
    assert happened
    assert booking_of(store, pending)["status"] == "FAILED"


def test_a_deadline_that_moves_into_the_past_between_reading_and_writing_is_kept(
    store, clock, pending, monkeypatch
):
    happened = meanwhile(
        monkeypatch,
        Bookings,
        "confirm",
        lambda: edit(store, "bookings", pending, paymentExpiresAt=clock()),
        before=True,
    )

    with pytest.raises(DeadlinePassed, match="refund is due"):
        sales.pay(store, pending)
    assert happened
    assert booking_of(store, pending)["status"] == "PAYMENT_PENDING"


def test_a_lock_that_expires_in_the_middle_of_a_payment_leaves_no_confirmed_booking(
    store, held, pending, monkeypatch
):
    happened = meanwhile(
        monkeypatch,
        Bookings,
        "confirm",
        lambda: edit(store, "seatLocks", held, status="EXPIRED"),
    )

    with pytest.raises(WrongState, match="refund is due"):
        sales.pay(store, pending)
    assert happened
    assert states(store, held, pending) == ("EXPIRED", "PAYMENT_PENDING")


def test_a_payment_that_slept_past_its_deadline_is_refused_by_the_servers_clock(database_uri, monkeypatch):
    store = open_store(database_uri)
    held, pending = book(store, create(store, 10))
    edit(store, "bookings", pending, paymentExpiresAt=store.now() - timedelta(seconds=1))
    slept = stale_clock_once(monkeypatch)

    with pytest.raises(DeadlinePassed, match="a refund is due"):
        sales.pay(store, pending)
    assert slept
    assert states(store, held, pending) == ("ACTIVE", "PAYMENT_PENDING")
    store.deployment.close()


# --- pay --failed ----------------------------------------------------------------------------------


def test_a_failed_payment_expires_the_lock_and_returns_the_seats(store, event, held, pending):
    failed = sales.fail_payment(store, pending)

    assert failed.changed
    assert failed.booking.stored == booking_of(store, pending)
    assert states(store, held, pending) == ("EXPIRED", "FAILED")
    assert "oldStatus" not in lock_of(store, held)
    assert available(store, event) == 10


def test_failing_twice_returns_the_seats_once(store, pending):
    sales.fail_payment(store, pending)
    before = everything(store)

    assert not sales.fail_payment(store, pending).changed
    assert before == everything(store)


@pytest.mark.parametrize("status", BookingStatus)
def test_only_a_pending_booking_can_fail(store, event, pending, status):
    edit(store, "bookings", pending, status=status.value)

    if status in (BookingStatus.PAYMENT_PENDING, BookingStatus.FAILED):
        assert sales.fail_payment(store, pending).booking.status == "FAILED"
        return
    with pytest.raises(WrongState, match=f"is {status}"):
        sales.fail_payment(store, pending)
    assert available(store, event) == 7


def test_a_failure_may_come_after_the_deadline(store, clock, event, pending):
    clock.advance(hours=1)
    sales.fail_payment(store, pending)

    assert available(store, event) == 10


@pytest.mark.parametrize("lost", ["EXPIRED", "CANCELLED", "missing"])
def test_a_failed_booking_whose_seats_are_not_held_returns_none(store, event, held, pending, lost):
    if lost == "missing":
        delete(store, "seatLocks", held)
    else:
        edit(store, "seatLocks", held, status=lost)
    sales.fail_payment(store, pending)

    assert booking_of(store, pending)["status"] == "FAILED"
    assert available(store, event) == 7


@pytest.mark.parametrize("other", ["PAYMENT_PENDING", "CONFIRMED", "ON_HOLD"])
def test_a_failed_booking_leaves_its_lock_to_another_booking_that_may_be_live(
    store, event, held, pending, other
):
    insert_booking(store, event, held, other)
    sales.fail_payment(store, pending)

    assert states(store, held, pending) == ("ACTIVE", "FAILED")
    assert available(store, event) == 7


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"status": "CONSUMED"}, WrongState),
        ({"seats": "3"}, DamagedDocument),
        ({"status": "?"}, DamagedDocument),
    ],
)
def test_a_lock_that_may_be_sold_or_cannot_be_read_is_a_persons_to_decide(
    store, held, pending, fields, error
):
    edit(store, "seatLocks", held, **fields)
    before = everything(store)

    with pytest.raises(error):
        sales.fail_payment(store, pending)
    assert before == everything(store)


def test_a_payment_that_arrives_while_it_is_failed_is_kept(store, event, held, pending, monkeypatch):
    happened = meanwhile(monkeypatch, Bookings, "protecting", lambda: sales.pay(store, pending))

    with pytest.raises(WrongState, match="is CONFIRMED"):
        sales.fail_payment(store, pending)
    assert happened
    assert states(store, held, pending) == ("CONSUMED", "CONFIRMED")
    assert available(store, event) == 7


# --- release ---------------------------------------------------------------------------------------


def test_releasing_returns_the_seats_early_and_leaves_no_trace_of_a_job(store, clock, event, held):
    deadline = lock_of(store, held)["expiresAt"]
    clock.advance(minutes=1)
    released = sales.release(store, held)

    assert released.stored == lock_of(store, held)
    wanted = ["EXPIRED", deadline, clock()]
    assert [released.stored[field] for field in ("status", "expiresAt", "updatedAt")] == wanted
    assert "oldStatus" not in lock_of(store, held)
    assert available(store, event) == 10


@pytest.mark.parametrize("status", LockStatus)
def test_only_an_active_lock_is_released_so_never_twice(store, event, held, status):
    edit(store, "seatLocks", held, status=status.value)

    if status is LockStatus.ACTIVE:
        sales.release(store, held)
        assert available(store, event) == 10
        return
    with pytest.raises(WrongState, match=f"is {status}"):
        sales.release(store, held)
    assert available(store, event) == 7


@pytest.mark.parametrize("status", sorted(set(BookingStatus) - {BookingStatus.INITIATED}))
def test_a_lock_with_a_booking_is_not_released(store, event, held, pending, status):
    edit(store, "bookings", pending, status=status.value)

    with pytest.raises(WrongState, match=f"has booking {pending}"):
        sales.release(store, held)
    assert available(store, event) == 7


def test_a_lock_with_an_initiated_booking_is_released(store, event, held):
    """INITIATED holds nothing and protects nothing."""
    insert_booking(store, event, held, "INITIATED")
    sales.release(store, held)

    assert (lock_of(store, held)["status"], available(store, event)) == ("EXPIRED", 10)


@pytest.mark.parametrize("status", ["ON_HOLD", None, ["FAILED"]], ids=str)
def test_a_lock_whose_booking_cannot_be_read_is_not_released(store, event, held, pending, status):
    edit(store, "bookings", pending, status=status)

    with pytest.raises(DamagedDocument, match=f"booking {pending}"):
        sales.release(store, held)
    assert available(store, event) == 7


@pytest.mark.parametrize("odd", [{"status": "ON_HOLD"}, {"event": "text", "status": "CONFIRMED"}], ids=str)
def test_a_lock_that_a_booking_names_by_text_is_not_released(store, event, held, odd):
    """A sweep does not expire it either: what cannot be read is not free."""
    fields = {**odd, "event": str(event)} if "event" in odd else odd
    booked = insert_booking(store, event, str(held))
    edit(store, "bookings", booked, **fields)

    with pytest.raises((DamagedDocument, WrongState)):
        sales.release(store, held)
    assert (lock_of(store, held)["status"], available(store, event)) == ("ACTIVE", 7)


def test_an_overdue_lock_is_released_like_any_other(store, clock, event, held):
    clock.advance(hours=1)
    sales.release(store, held)

    assert available(store, event) == 10


def test_a_lock_that_is_confirmed_between_reading_and_writing_keeps_its_seats(
    store, event, held, monkeypatch
):
    happened = meanwhile(monkeypatch, Bookings, "of_lock", lambda: confirm(store, held))

    with pytest.raises(WrongState, match="has booking"):
        sales.release(store, held)
    assert happened
    assert (lock_of(store, held)["status"], available(store, event)) == ("ACTIVE", 7)


def test_releasing_never_overfills_a_counter(store, event, held):
    """Seats that the counter never gave are not added: nothing is clamped, nothing is changed."""
    edit(store, "events", event, availableSeats=10)
    before = everything(store)

    with pytest.raises(DamagedDocument, match="10 available and 3 held are more than its 10 seats"):
        sales.release(store, held)
    assert before == everything(store)


def test_a_lock_whose_seats_are_no_number_is_not_released(store, held):
    edit(store, "seatLocks", held, seats=-1)

    with pytest.raises(DamagedDocument, match="seats is -1"):
        sales.release(store, held)


def test_a_lock_that_the_validator_will_not_let_expire_keeps_its_seats(store, event, held):
    store.database.command("collMod", "seatLocks", validator={"status": {"$ne": "EXPIRED"}})

    with pytest.raises(WriteRefused, match="validator"):
        sales.release(store, held)
    assert (lock_of(store, held)["status"], available(store, event)) == ("ACTIVE", 7)


def test_a_counter_that_is_too_low_takes_the_seats_and_stays_too_low(store, event, held):
    """A drift downwards sells nothing twice; recovery is for that."""
    add(store, event, -2)
    sales.release(store, held)

    assert available(store, event) == 8
