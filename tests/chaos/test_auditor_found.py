"""What the auditor found, as short as it gets."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from bson import ObjectId
from conftest import available, edit, everything
from scene import NOWHERE, confirm, create, insert_booking, insert_lock, lock_of, run_recover, sell
from scene import lock as lock_seats

from seatctl.domain.states import Fault
from seatctl.errors import SeatctlError
from seatctl.services import jobs, payments, sales
from seatctl.services.job_report import Outcome
from seatctl.services.verify import verify

if TYPE_CHECKING:
    from conftest import Clock

    from seatctl.mongo.store import Store

HOUR = timedelta(hours=1)


def status(store: Store, collection: str, one: Any) -> Any:
    return store.database[collection].find_one({"_id": one})["status"]


def faults(store: Store) -> list[Fault]:
    return [one.fault for one in verify(store)]


# --- seats that are sold twice -----------------------------------------------------------------------


def sold_but_returned(store: Store, *, seats: int, total: int) -> tuple[Any, Any]:
    """An event and a paid lock on it that another program set to EXPIRED, its seats returned."""
    event = create(store, total)
    lock = sell(store, event, seats)[0]
    edit(store, "seatLocks", lock, status="EXPIRED")
    edit(store, "events", event, availableSeats=total)
    return event, lock


def test_recovery_does_not_sell_twice_because_a_counter_is_too_high(store: Store, clock: Clock) -> None:
    """Whether an event still has the seats of a paid lock is for its locks to say: with all seats held
    by others, recovery reports it as oversold and leaves it, whatever the counter says."""
    event, lock = sold_but_returned(store, seats=2, total=2)
    other = lock_seats(store, event, 2, ttl=HOUR)
    edit(store, "events", event, availableSeats=2)
    clock.advance(minutes=2)
    report = run_recover(store)
    (step,) = [step for step in report.steps if step.violation.lock == lock]
    assert step.outcome in (Outcome.OVERSOLD, Outcome.NEEDS_PERSON)
    assert status(store, "seatLocks", lock) == "EXPIRED"
    assert status(store, "seatLocks", other) == "ACTIVE"
    assert available(store, event) == 0


def test_recovery_changes_nothing_about_what_is_oversold(store: Store, clock: Clock) -> None:
    """A paid lock whose seats are gone is reported; its event keeps even its `updatedAt`."""
    event, _ = sold_but_returned(store, seats=2, total=2)
    insert_lock(store, event, 3, due=HOUR)
    edit(store, "events", event, availableSeats=0)
    before = everything(store, "jobLogs")
    clock.advance(minutes=2)
    assert run_recover(store).error
    assert everything(store, "jobLogs") == before


def test_recovery_changes_nothing_about_a_counter_that_it_must_not_raise(store: Store, clock: Clock) -> None:
    """Not even its `updatedAt`, by which the next run would take the event for one that is being sold."""
    event = create(store, 10)
    insert_lock(store, event, 1, due=HOUR)
    insert_booking(store, event, ObjectId(), "CONFIRMED")
    edit(store, "events", event, availableSeats=5)
    before = everything(store, "jobLogs")
    clock.advance(minutes=2)
    assert run_recover(store).error
    assert everything(store, "jobLogs") == before


def test_recovery_puts_no_seat_of_an_oversold_booking_on_sale(store: Store) -> None:
    """Two paid seats lost their lock, and only one of them is left: it is not for the next buyer."""
    event = create(store, 6)
    lost, _ = sell(store, event, 2)
    edit(store, "seatLocks", lost, status="EXPIRED")
    insert_lock(store, event, 5, due=HOUR)
    edit(store, "events", event, availableSeats=0)
    assert run_recover(store).error
    assert available(store, event) == 0


def test_each_counter_that_recovery_corrects_is_reported(store: Store, clock: Clock) -> None:
    """Also the counter that was too low to take a paid lock's seats again."""
    event, lock = sold_but_returned(store, seats=2, total=5)
    edit(store, "events", event, availableSeats=0)
    clock.advance(minutes=2)
    report = run_recover(store)
    assert status(store, "seatLocks", lock) == "CONSUMED"
    outcomes = [step.outcome for step in report.steps if step.violation.fault is Fault.COUNTER_DRIFT]
    assert outcomes == [Outcome.REPAIRED]
    assert available(store, event) == 3


def test_one_recovery_takes_again_what_it_returned_itself(store: Store) -> None:
    """A failed booking's lock still holds the only seats, and a paid one lost its own: whether the event
    has the seats is asked once those are back, not by the next run."""
    event, lost = sold_but_returned(store, seats=2, total=2)
    held = lock_seats(store, event, 2, ttl=HOUR)
    insert_booking(store, event, held, "FAILED")
    assert run_recover(store).error is None
    assert (status(store, "seatLocks", lost), status(store, "seatLocks", held)) == ("CONSUMED", "EXPIRED")
    assert available(store, event) == 0


# --- bookings that protect their lock ------------------------------------------------------------------


@pytest.fixture(params=["REFUNDED", "CONFIRMED"])
def state(request: pytest.FixtureRequest) -> str:
    """Of a booking that another program stored: one that nobody knows, and a live one."""
    return request.param


@pytest.fixture(params=["by text", "in a list"])
def named(request: pytest.FixtureRequest) -> Any:
    """How another program may store the id of a lock."""
    return {"by text": str, "in a list": lambda one: [one]}[request.param]


def test_a_release_is_refused_while_an_unreadable_booking_names_the_lock(
    store: Store, state: str, named: Any
) -> None:
    event = create(store, 10)
    lock = lock_seats(store, event, 2)
    insert_booking(store, event, named(lock), state)
    with pytest.raises(SeatctlError):
        sales.release(store, lock)
    assert (status(store, "seatLocks", lock), available(store, event)) == ("ACTIVE", 8)


def test_a_failed_payment_returns_no_seats_that_an_unreadable_booking_names(
    store: Store, state: str, named: Any
) -> None:
    event = create(store, 10)
    lock = lock_seats(store, event, 2)
    booking = confirm(store, lock)
    insert_booking(store, event, named(lock), state)
    with suppress(SeatctlError):
        payments.fail_payment(store, booking)
    assert (status(store, "seatLocks", lock), available(store, event)) == ("ACTIVE", 8)


def test_an_expired_booking_returns_no_seats_that_an_unreadable_booking_names(
    store: Store, clock: Clock, state: str, named: Any
) -> None:
    event = create(store, 10)
    lock = lock_seats(store, event, 2)
    confirm(store, lock)
    insert_booking(store, event, named(lock), state)
    clock.advance(minutes=16)
    jobs.expire_bookings(store, jobs.JobOptions())
    assert (status(store, "seatLocks", lock), available(store, event)) == ("ACTIVE", 8)


def test_recovery_returns_no_seats_that_an_unreadable_booking_names(
    store: Store, state: str, named: Any
) -> None:
    event = create(store, 10)
    lock = lock_seats(store, event, 2)
    insert_booking(store, event, lock, "FAILED")
    insert_booking(store, event, named(lock), state)
    run_recover(store)
    assert (status(store, "seatLocks", lock), available(store, event)) == ("ACTIVE", 8)


def test_a_lock_that_an_unreadable_booking_names_is_not_confirmed_again(
    store: Store, state: str, named: Any
) -> None:
    event = create(store, 10)
    lock = lock_seats(store, event, 2)
    insert_booking(store, event, named(lock), state)
    with pytest.raises(SeatctlError):
        confirm(store, lock)


# --- events that are to be left alone --------------------------------------------------------------------


def test_no_counter_is_raised_while_the_lock_of_a_live_booking_is_missing(store: Store, clock: Clock) -> None:
    """Also where the counter is too high by less than what is overdue, and is lowered first."""
    event = create(store, 10)
    lock_seats(store, event, 3)
    insert_booking(store, event, ObjectId(), "CONFIRMED")
    edit(store, "events", event, availableSeats=8)
    clock.advance(minutes=11)
    assert run_recover(store).error
    assert available(store, event) <= 8


@pytest.mark.parametrize("state", ["ACTIVE", "CONSUMED"])
def test_seats_of_a_lock_that_names_its_event_in_a_list_are_not_free(
    store: Store, clock: Clock, state: str
) -> None:
    event = create(store, 10)
    lock = lock_seats(store, event, 3)
    lock_seats(store, event, 1, ttl=HOUR)
    edit(store, "seatLocks", lock, eventId=[event], status=state)
    clock.advance(minutes=2)
    assert lock in [one.lock for one in verify(store)]
    assert run_recover(store).error
    assert available(store, event) == 6


@pytest.mark.parametrize("state", ["PAYMENT_PENDING", "CONFIRMED"])
def test_verify_names_a_booking_whose_event_is_a_list(store: Store, state: str) -> None:
    event = create(store, 10)
    booking = confirm(store, lock_seats(store, event, 3))
    edit(store, "bookings", booking, event=[event], status=state)
    assert booking in [one.booking for one in verify(store)]


@pytest.mark.parametrize(
    "by", ["a lock in an unknown state", "counting by day", "a missing lock", "a TTL index"]
)
def test_before_its_deadline_no_booking_ends_of_an_event_that_cannot_be_read(store: Store, by: str) -> None:
    event = create(store, 10)
    ended, other = lock_seats(store, event, 1), lock_seats(store, event, 1, ttl=HOUR)
    booking = confirm(store, ended)
    edit(store, "seatLocks", ended, status="EXPIRED")
    match by:
        case "a lock in an unknown state":
            edit(store, "seatLocks", other, status="HELD")
        case "counting by day":
            edit(store, "events", event, eventType="multi-day")
        case "a missing lock":
            insert_booking(store, event, ObjectId(), "CONFIRMED")
        case "a TTL index":
            store.database.seatLocks.create_index("createdAt", expireAfterSeconds=315_360_000)
    assert run_recover(store).error
    assert status(store, "bookings", booking) == "PAYMENT_PENDING"


def test_recovery_leaves_the_locks_of_an_event_counted_by_day_alone(store: Store) -> None:
    event = create(store, 10)
    lock = lock_seats(store, event, 1)
    edit(store, "events", event, eventType="multi-day")
    insert_booking(store, event, lock, "CONFIRMED")
    run_recover(store)
    assert status(store, "seatLocks", lock) == "ACTIVE"


# --- what is no violation ---------------------------------------------------------------------------------


def test_a_booking_beside_one_that_was_only_initiated_is_no_violation(store: Store) -> None:
    event = create(store, 10)
    lock, _ = sell(store, event, 1)
    insert_booking(store, event, lock, "INITIATED")
    assert faults(store) == []


def test_a_lock_with_an_initiated_booking_is_confirmed_or_refused_at_once(
    store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a unique index allows one booking for each lock, no other writer is to blame."""
    monkeypatch.setattr("seatctl.mongo.transactions.PATIENCE", 0)
    store.init()
    event = create(store, 10)
    lock = lock_seats(store, event, 1)
    insert_booking(store, event, lock, "INITIATED", user="ann", createdAt=clock(), updatedAt=clock())
    with pytest.raises(SeatctlError) as refused:
        confirm(store, lock)
    assert refused.value.code == "wrong_state"


def test_an_expired_lock_of_no_event_is_no_violation(store: Store) -> None:
    """Also where two bookings name it."""
    lock = insert_lock(store, NOWHERE, 1, due=HOUR)
    edit(store, "seatLocks", lock, status="EXPIRED")
    for _ in range(2):
        insert_booking(store, NOWHERE, lock, "FAILED")
    assert Fault.ORPHAN_SOLD not in faults(store)


def test_a_lock_of_no_event_that_recovery_ends_tells_its_old_state(store: Store) -> None:
    lock = insert_lock(store, NOWHERE, 1, due=HOUR)
    run_recover(store)
    assert lock_of(store, lock)["oldStatus"] == "ACTIVE"
