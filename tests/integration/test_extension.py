"""What extending a lock or a booking promises."""

from __future__ import annotations

from datetime import timedelta

import pytest
from conftest import edit, everything
from scene import (
    HOUR,
    NOWHERE,
    book,
    booking_of,
    create,
    delete,
    insert_booking,
    insert_lock,
    lock,
    lock_of,
    meanwhile,
    run_expire_bookings,
    run_expire_locks,
    sell,
)

from seatctl.domain.states import BookingStatus, LockStatus
from seatctl.errors import DamagedDocument, DeadlinePassed, NotFound, Usage, WrongState
from seatctl.mongo.bookings import Bookings
from seatctl.mongo.locks import SeatLocks
from seatctl.services import extension, payments, sales
from seatctl.services.extension import ExtendAllRequest, ExtendRequest

MINUTE = timedelta(minutes=1)


@pytest.fixture
def event(store):
    return create(store, 100)


def extend(store, wanted, until=HOUR, **options):
    return extension.extend(store, ExtendRequest(wanted, until, **options))


def extend_all(store, event, status, until=HOUR, **options):
    return extension.extend_all(store, ExtendAllRequest(event, status, until, **options))


def operations(store, wanted):
    return list(store.operations.concerning([wanted]))


# --- one -----------------------------------------------------------------------------------------------


def test_a_lock_waits_until_the_new_deadline_and_the_operation_says_from_when(store, clock, event):
    held = lock(store, event, 2)
    was = lock_of(store, held)["expiresAt"]
    done = extend(store, held)

    assert (done.changed, done.deadline, done.booking) == (True, clock() + HOUR, None)
    assert done.lock.stored == lock_of(store, held)
    assert lock_of(store, held)["expiresAt"] == clock() + HOUR
    (operation,) = operations(store, held)
    assert (operation["command"], operation["before"], operation["after"]) == (
        "extend",
        {"deadline": was},
        {"deadline": clock() + HOUR},
    )
    clock.advance(minutes=59)
    assert run_expire_locks(store).locks == 0


@pytest.mark.parametrize("by", ["booking", "lock"])
def test_a_booking_and_its_lock_move_together_by_the_id_of_either(store, clock, event, by):
    held, booked = book(store, event, 2)
    done = extend(store, booked if by == "booking" else held)

    assert done.changed
    assert booking_of(store, booked)["paymentExpiresAt"] == clock() + HOUR
    assert lock_of(store, held)["expiresAt"] == clock() + HOUR
    clock.advance(minutes=59)
    assert run_expire_bookings(store).bookings == 0
    assert payments.pay(store, booked).changed


@pytest.mark.parametrize("until", [MINUTE, 10 * MINUTE])
def test_a_later_deadline_stays_and_nothing_changes(store, event, until):
    held = lock(store, event)
    before = everything(store)
    done = extend(store, held, until)

    assert not done.changed
    assert done.deadline == lock_of(store, held)["expiresAt"]
    assert everything(store) == before


def test_an_absolute_deadline_extends_once(store, clock, event):
    held = lock(store, event)
    before, until = lock_of(store, held)["expiresAt"], clock() + HOUR
    done = extend(store, held, until)
    assert (done.changed, done.before, done.deadline) == (True, before, until)
    clock.advance(minutes=5)

    assert not extend(store, held, until).changed
    assert len(operations(store, held)) == 1


def test_what_is_overdue_needs_a_word_and_its_seats(store, clock, event):
    held, booked = book(store, event)
    free = lock(store, event)
    clock.advance(minutes=15)
    for one in (held, booked, free):
        with pytest.raises(DeadlinePassed, match=r"passed at .* its seats are still held.*--overdue"):
            extend(store, one)

    assert extend(store, booked, overdue=True).changed
    assert payments.pay(store, booked).changed
    clock.advance(minutes=1)
    run_expire_locks(store)
    with pytest.raises(WrongState, match=f"lock {free} is EXPIRED"):
        extend(store, free, overdue=True)


@pytest.mark.parametrize("status", sorted(set(BookingStatus) - {BookingStatus.PAYMENT_PENDING}))
def test_only_a_booking_that_waits_is_extended(store, event, status):
    _, booked = book(store, event)
    edit(store, "bookings", booked, status=status.value)
    with pytest.raises(WrongState, match=f"booking {booked} is {status}"):
        extend(store, booked)


@pytest.mark.parametrize("status", sorted(set(LockStatus) - {LockStatus.ACTIVE}))
def test_only_what_holds_its_seats_for_a_while_is_extended(store, event, status):
    held, booked = book(store, event)
    edit(store, "seatLocks", held, status=status.value)
    before = everything(store)
    with pytest.raises(WrongState, match=f"booking {booked} has no seats: lock {held} is {status}"):
        extend(store, booked)
    assert everything(store) == before


def test_a_block_has_no_deadline_and_says_how_it_ends(store, event):
    blocked = insert_lock(store, event, due=HOUR, kind="BLOCK", idempotencyKey="b")
    closed = insert_lock(store, event, due=HOUR, kind="BLOCK", idempotencyKey="closed-1")
    for one, way_out in ((blocked, f"seatctl unblock {blocked}"), (closed, f"seatctl reopen {event}")):
        for command in (
            lambda one=one: extend(store, one, 2 * HOUR),
            lambda one=one: sales.release(store, one),
            lambda one=one: sales.confirm(store, sales.ConfirmRequest(one)),
        ):
            with pytest.raises(
                WrongState, match=f"is a block: it has no buyer and no deadline; `{way_out}` returns"
            ):
                command()


def test_what_is_missing_or_unreadable_is_refused(store, event):
    with pytest.raises(NotFound, match=r"no lock or booking .* that is the id of an event"):
        extend(store, event)
    with pytest.raises(NotFound, match=f"no lock or booking {NOWHERE}"):
        extend(store, NOWHERE)
    held, booked = book(store, event)
    edit(store, "bookings", booked, status="ON_HOLD")
    for one in (held, booked):
        with pytest.raises(DamagedDocument, match="status is 'ON_HOLD'"):
            extend(store, one)
    delete(store, "seatLocks", held)
    edit(store, "bookings", booked, status="PAYMENT_PENDING")
    with pytest.raises(NotFound, match=f"no lock {held}"):
        extend(store, booked)


def test_a_time_that_makes_no_sense_is_a_usage_error(store, clock, event):
    held = lock(store, event)
    for past in (timedelta(0), clock() - MINUTE):
        with pytest.raises(Usage, match=r"the new deadline .* has already passed"):
            extend(store, held, past)
    for far in (timedelta(days=366), clock() + timedelta(days=366)):
        with pytest.raises(Usage, match="longer than zero and at most 365 days"):
            extend(store, held, far)


def test_a_dry_run_says_the_same_and_changes_nothing(store, clock, event):
    _, booked = book(store, event)
    before = everything(store)
    done = extend(store, booked, dry_run=True)

    assert (done.changed, done.deadline) == (True, clock() + HOUR)
    assert everything(store) == before


@pytest.mark.parametrize("what", ["lock", "booking"])
def test_a_deadline_that_passes_between_reading_and_writing_is_kept(store, clock, event, monkeypatch, what):
    """By the server's clock, in the write itself."""
    held, booked = book(store, event)
    one, owner = (booked, Bookings) if what == "booking" else (lock(store, event), SeatLocks)
    happened = meanwhile(monkeypatch, owner, "extend", lambda: clock.advance(minutes=16), before=True)
    with pytest.raises(DeadlinePassed):
        extend(store, one, HOUR)
    assert happened
    assert lock_of(store, held)["expiresAt"] < clock()


def test_a_deadline_that_another_writer_moves_meanwhile_does_not_become_earlier(
    store, clock, event, monkeypatch
):
    held = lock(store, event)
    happened = meanwhile(
        monkeypatch,
        SeatLocks,
        "extend",
        lambda: edit(store, "seatLocks", held, expiresAt=clock() + 2 * HOUR),
        before=True,
    )
    assert not extend(store, held).changed
    assert happened
    assert lock_of(store, held)["expiresAt"] == clock() + 2 * HOUR


# --- all of an event -----------------------------------------------------------------------------------


def test_all_bookings_of_an_event_get_time_and_no_deadline_becomes_earlier(store, clock, event, monkeypatch):
    monkeypatch.setattr(extension, "EXTENSION_BATCH", 2)
    waiting = [book(store, event)[1] for _ in range(3)]
    longer = book(store, event, ttl=2 * HOUR)[1]
    others = [book(store, create(store, 5))[1], sell(store, event)[1]]
    untouched = [booking_of(store, one) for one in (longer, *others)]
    done = extend_all(store, event, BookingStatus.PAYMENT_PENDING)

    assert sorted(done.extended) == sorted(waiting)
    assert done.skipped == []
    for one in waiting:
        deadline = booking_of(store, one)["paymentExpiresAt"]
        assert deadline == lock_of(store, booking_of(store, one)["seatLockId"])["expiresAt"]
        assert deadline == clock() + HOUR
    assert [booking_of(store, one) for one in (longer, *others)] == untouched
    assert store.database.operations.count_documents({"command": "extend"}) == 2
    assert [one["command"] for one in operations(store, waiting[0])] == ["confirm", "extend"]
    assert extend_all(store, event, BookingStatus.PAYMENT_PENDING).extended == []


def test_all_locks_of_an_event_get_time_but_for_those_with_a_booking_and_blocks(store, clock, event):
    free = [lock(store, event) for _ in range(2)]
    booked, _ = book(store, event)
    block = insert_lock(store, event, due=MINUTE, kind="BLOCK")
    paid, _ = sell(store, event)
    untouched = [lock_of(store, one) for one in (booked, block, paid)]
    done = extend_all(store, event, LockStatus.ACTIVE)

    assert sorted(done.extended) == sorted(free)
    assert {lock_of(store, one)["expiresAt"] for one in free} == {clock() + HOUR}
    assert [lock_of(store, one) for one in (booked, block, paid)] == untouched


@pytest.mark.parametrize("status", [LockStatus.ACTIVE, BookingStatus.PAYMENT_PENDING])
def test_what_is_overdue_on_an_event_gets_time_only_with_a_word(store, clock, event, status):
    late = lock(store, event) if status is LockStatus.ACTIVE else book(store, event)[1]
    clock.advance(minutes=16)

    assert extend_all(store, event, status).extended == []
    assert extend_all(store, event, status, overdue=True).extended == [late]


def test_a_dry_run_over_an_event_says_the_same_and_changes_nothing(store, event):
    waiting = book(store, event)[1]
    before = everything(store)

    done = extend_all(store, event, BookingStatus.PAYMENT_PENDING, dry_run=True)
    assert done.extended == [waiting]
    assert everything(store) == before


def test_what_cannot_be_extended_is_skipped_by_name_and_the_rest_is_done(store, event):
    waiting = book(store, event)[1]
    lost = insert_booking(store, event, NOWHERE, due=MINUTE)
    odd = insert_booking(store, event, lock(store, event), due=MINUTE)
    edit(store, "bookings", odd, paymentExpiresAt="soon")
    done = extend_all(store, event, BookingStatus.PAYMENT_PENDING)

    assert done.extended == [waiting]
    assert {item.id for item in done.skipped} == {lost, odd}


@pytest.mark.parametrize("status", [LockStatus.CONSUMED, BookingStatus.CONFIRMED])
def test_only_what_waits_has_a_deadline_to_move(store, event, status):
    with pytest.raises(Usage, match="only ACTIVE locks and PAYMENT_PENDING bookings"):
        extend_all(store, event, status)


def test_a_booking_that_is_paid_while_its_event_is_extended_stays_paid(store, event, monkeypatch):
    held, waiting = book(store, event)
    happened = meanwhile(monkeypatch, Bookings, "pending_before", lambda: payments.pay(store, waiting))
    assert extend_all(store, event, BookingStatus.PAYMENT_PENDING).extended == []
    assert happened
    assert lock_of(store, held)["status"] == "CONSUMED"
