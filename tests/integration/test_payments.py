"""What paying, failing and releasing promise."""

import logging
from datetime import timedelta

import pytest
from bson import ObjectId
from conftest import available, edit, everything, open_store
from scene import (
    add,
    book,
    booking_of,
    confirm,
    create,
    delete,
    insert_booking,
    lock,
    lock_of,
    meanwhile,
    stale_clock_once,
    states,
)

from seatctl.domain.states import LIVE, BookingStatus, LockStatus
from seatctl.errors import (
    Contention,
    DamagedDocument,
    RefundDue,
    StaleRead,
    WriteRefused,
    WrongState,
)
from seatctl.mongo import transactions
from seatctl.mongo.bookings import Bookings
from seatctl.mongo.locks import SeatLocks
from seatctl.services import payments, sales

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


# --- the story -----------------------------------------------------------------------------------------


@pytest.fixture
def told(store, event, caplog):
    """Each line about the counter, with what everybody else can read of it at that moment."""
    lines = []

    class Listener(logging.Handler):
        def emit(self, record):
            if "→" in record.getMessage():
                lines.append((record.getMessage(), available(store, event)))

    caplog.set_level("INFO", "seatctl")
    listener = Listener()
    logging.getLogger("seatctl").addHandler(listener)
    yield lines
    logging.getLogger("seatctl").removeHandler(listener)


def stale():
    raise StaleRead


MOVES = {
    "lock": ("insert", lambda store, event, _: lock(store, event, 2), (7, 5, -2)),
    "release": ("change", lambda store, _, held: sales.release(store, held), (7, 10, 3)),
    "pay --failed": (
        "change",
        lambda store, _, held: payments.fail_payment(store, confirm(store, held)),
        (7, 10, 3),
    ),
}
"""By command: the write after which it starts over, what it does, and how the counter moves."""


@pytest.mark.parametrize("command", MOVES)
def test_a_counter_is_told_once_when_it_has_moved_however_often_the_command_starts_over(
    store, event, held, told, monkeypatch, command
):
    method, act, (before, after, change) = MOVES[command]
    told.clear()
    happened = meanwhile(monkeypatch, SeatLocks, method, stale)
    act(store, event, held)

    assert happened
    assert told == [(f"event {event}: {before} → {after} seats available ({change:+})", after)]


@pytest.mark.parametrize("command", MOVES)
def test_of_a_command_that_gives_up_no_counter_is_told(store, event, held, told, monkeypatch, command):
    method, act, _ = MOVES[command]
    told.clear()
    monkeypatch.setattr(transactions, "PATIENCE", 0)
    monkeypatch.setattr(SeatLocks, method, lambda *_, **__: stale())
    with pytest.raises(Contention):
        act(store, event, held)

    assert (told, available(store, event)) == ([], 7)


def test_no_counter_is_told_where_no_seats_move(store, event, held, told):
    told.clear()
    payments.pay(store, confirm(store, held))
    again = lock(store, event, 1, key="k")
    assert told.pop()
    assert lock(store, event, 1, key="k") == again
    other = confirm(store, again)
    insert_booking(store, event, again)  # which keeps the seats
    payments.fail_payment(store, other)

    assert told == []


# --- pay -------------------------------------------------------------------------------------------


def test_a_payment_in_time_confirms_the_booking_consumes_the_lock_and_moves_no_seats(
    store, clock, event, held, pending
):
    clock.advance(minutes=5)
    edit(store, "bookings", pending, invoice="R-1")
    paid = payments.pay(store, pending)

    assert paid.changed
    assert paid.booking.stored == booking_of(store, pending)
    wanted = ["CONFIRMED", "R-1", clock()]
    assert [paid.booking.stored[field] for field in ("status", "invoice", "updatedAt")] == wanted
    assert lock_of(store, held)["status"] == "CONSUMED"
    assert "oldStatus" not in lock_of(store, held)
    assert available(store, event) == 7


def test_paying_twice_is_one_payment_also_after_the_deadline(store, clock, pending):
    payments.pay(store, pending)
    before = everything(store)
    clock.advance(hours=1)

    assert not payments.pay(store, pending).changed
    assert before == everything(store)


def test_a_payment_at_its_deadline_is_refused_and_leaves_only_a_refund(store, clock, pending):
    before = everything(store, "refunds", "operations")
    clock.advance(minutes=15)

    with pytest.raises(
        RefundDue, match=r"had to be paid by 2027-01-01T12:15:00Z; a refund is due: [0-9a-f]{24}"
    ):
        payments.pay(store, pending)
    assert booking_of(store, pending)["paymentRefusedAt"] == clock()
    store.database.bookings.update_one({"_id": pending}, {"$unset": {"paymentRefusedAt": 1}})
    assert before == everything(store, "refunds", "operations")


@pytest.mark.parametrize("status", BookingStatus)
def test_only_a_pending_booking_is_paid_and_an_ended_one_is_never_revived(store, held, pending, status):
    edit(store, "bookings", pending, status=status.value)

    if status in LIVE:
        assert payments.pay(store, pending).booking.status == "CONFIRMED"
        return
    with pytest.raises(RefundDue, match=f"is {status}.*a refund is due"):
        payments.pay(store, pending)
    assert states(store, held, pending) == ("ACTIVE", status)


def test_a_booking_in_no_known_state_is_not_paid(store, held, pending):
    edit(store, "bookings", pending, status="ON_HOLD")

    with pytest.raises(DamagedDocument, match="status is 'ON_HOLD'"):
        payments.pay(store, pending)
    assert states(store, held, pending) == ("ACTIVE", "ON_HOLD")


@pytest.mark.parametrize("status", [*sorted(set(LockStatus) - {LockStatus.ACTIVE}), "missing"])
def test_a_booking_whose_seats_are_not_held_is_not_paid(store, held, pending, status):
    if status == "missing":
        delete(store, "seatLocks", held)
    else:
        edit(store, "seatLocks", held, status=str(status))

    sold = f"is already CONSUMED; if this payment bought it, `seatctl confirm {held} --sold` records that"
    says = sold if status == "CONSUMED" else f"is {status}, so its seats are not held"
    with pytest.raises(RefundDue, match=f"{says}; a refund is due: "):
        payments.pay(store, pending)
    assert booking_of(store, pending)["status"] == "PAYMENT_PENDING"


@pytest.mark.parametrize("fields", [{"seats": 0}, {"status": "ON_HOLD"}])
def test_a_booking_whose_lock_cannot_be_read_is_not_paid(store, held, pending, fields):
    edit(store, "seatLocks", held, **fields)
    before = everything(store)

    with pytest.raises(DamagedDocument, match=f"lock {held}"):
        payments.pay(store, pending)
    assert everything(store) == before


@pytest.mark.parametrize("way", ["gone", "by day"])
def test_a_booking_of_an_event_that_is_gone_or_counted_by_day_is_not_paid(store, event, pending, way):
    if way == "gone":
        delete(store, "events", event)
    else:
        edit(store, "events", event, eventType="multi-day")
    before = everything(store, "refunds", "operations")
    says = {
        "gone": f"event {event} of booking {pending} does not exist",
        "by day": f"event {event} counts its seats per day, .* its booking {pending} alone",
    }[way]

    with pytest.raises(RefundDue, match=f"^{says}; a refund is due: "):
        payments.pay(store, pending)
    store.database.bookings.update_one({"_id": pending}, {"$unset": {"paymentRefusedAt": 1}})
    assert everything(store, "refunds", "operations") == before
    assert [refund.seats for refund in store.refunds.of_booking(pending)] == [3]


@pytest.mark.parametrize("fields", [{"availableSeats": "many"}, {"totalSeats": None}])
def test_a_payment_needs_no_counter_that_can_be_read(store, event, held, pending, fields):
    """The seats are the lock's, and no counter moves."""
    edit(store, "events", event, **fields)
    before = everything(store, "seatLocks", "bookings", "operations")

    assert payments.pay(store, pending).changed
    assert states(store, held, pending) == ("CONSUMED", "CONFIRMED")
    assert everything(store, "seatLocks", "bookings", "operations") == before


def test_a_booking_whose_deadline_is_no_date_is_not_paid(store, pending):
    edit(store, "bookings", pending, paymentExpiresAt="tomorrow")

    with pytest.raises(DamagedDocument, match=r"paymentExpiresAt is 'tomorrow'"):
        payments.pay(store, pending)
    assert booking_of(store, pending)["status"] == "PAYMENT_PENDING"


def test_a_booking_that_fails_between_reading_and_writing_stays_failed(store, pending, monkeypatch):
    happened = meanwhile(
        monkeypatch,
        Bookings,
        "confirm",
        lambda: edit(store, "bookings", pending, status="FAILED"),
        before=True,
    )

    with pytest.raises(RefundDue, match="refund is due"):
        payments.pay(store, pending)
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

    with pytest.raises(RefundDue, match="refund is due"):
        payments.pay(store, pending)
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

    with pytest.raises(RefundDue, match="refund is due"):
        payments.pay(store, pending)
    assert happened
    assert states(store, held, pending) == ("EXPIRED", "PAYMENT_PENDING")


def test_a_payment_that_slept_past_its_deadline_is_refused_by_the_servers_clock(database_uri, monkeypatch):
    store = open_store(database_uri)
    held, pending = book(store, create(store, 10))
    edit(store, "bookings", pending, paymentExpiresAt=store.now() - timedelta(seconds=1))
    slept = stale_clock_once(monkeypatch)

    with pytest.raises(RefundDue, match="refund is due"):
        payments.pay(store, pending)
    assert slept
    assert states(store, held, pending) == ("ACTIVE", "PAYMENT_PENDING")
    store.deployment.close()


# --- pay --failed ----------------------------------------------------------------------------------


def test_a_failed_payment_expires_the_lock_and_returns_the_seats(store, event, held, pending):
    failed = payments.fail_payment(store, pending)

    assert failed.changed
    assert failed.booking.stored == booking_of(store, pending)
    assert states(store, held, pending) == ("EXPIRED", "FAILED")
    assert "oldStatus" not in lock_of(store, held)
    assert available(store, event) == 10


def test_failing_twice_returns_the_seats_once(store, pending):
    payments.fail_payment(store, pending)
    before = everything(store)

    assert not payments.fail_payment(store, pending).changed
    assert before == everything(store)


@pytest.mark.parametrize("status", BookingStatus)
def test_only_a_pending_booking_can_fail(store, event, pending, status):
    edit(store, "bookings", pending, status=status.value)

    if status in (BookingStatus.PAYMENT_PENDING, BookingStatus.FAILED):
        assert payments.fail_payment(store, pending).booking.status == "FAILED"
        return
    with pytest.raises(WrongState, match=f"is {status}"):
        payments.fail_payment(store, pending)
    assert available(store, event) == 7


def test_a_failure_may_come_after_the_deadline(store, clock, event, pending):
    clock.advance(hours=1)
    payments.fail_payment(store, pending)

    assert available(store, event) == 10


@pytest.mark.parametrize("lost", ["EXPIRED", "CANCELLED", "missing"])
def test_a_failed_booking_whose_seats_are_not_held_returns_none(store, event, held, pending, lost):
    if lost == "missing":
        delete(store, "seatLocks", held)
    else:
        edit(store, "seatLocks", held, status=lost)
    payments.fail_payment(store, pending)

    assert booking_of(store, pending)["status"] == "FAILED"
    assert available(store, event) == 7


@pytest.mark.parametrize("other", ["PAYMENT_PENDING", "CONFIRMED", "ON_HOLD"])
def test_a_failed_booking_leaves_its_lock_to_another_booking_that_may_be_live(
    store, event, held, pending, other
):
    insert_booking(store, event, held, other)
    payments.fail_payment(store, pending)

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
        payments.fail_payment(store, pending)
    assert before == everything(store)


def test_a_payment_that_arrives_while_it_is_failed_is_kept(store, event, held, pending, monkeypatch):
    happened = meanwhile(monkeypatch, Bookings, "protecting", lambda: payments.pay(store, pending))

    with pytest.raises(WrongState, match="is CONFIRMED"):
        payments.fail_payment(store, pending)
    assert happened
    assert states(store, held, pending) == ("CONSUMED", "CONFIRMED")
    assert available(store, event) == 7


# --- release ---------------------------------------------------------------------------------------


def test_releasing_returns_the_seats_early_with_the_deadline_and_leaves_no_trace_of_a_job(
    store, clock, event, held
):
    clock.advance(minutes=1)
    released = sales.release(store, held).lock

    assert released.stored == lock_of(store, held)
    wanted = ["EXPIRED", clock(), clock()]
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
    """Seats that the counter never gave are not added, and nothing is clamped."""
    edit(store, "events", event, availableSeats=10)

    assert "10 available and 3 held are more than its 10 seats" in str(sales.release(store, held).doubt)
    assert (lock_of(store, held)["status"], available(store, event)) == ("EXPIRED", 10)


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
