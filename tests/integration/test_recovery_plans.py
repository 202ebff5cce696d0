"""Dry runs of `recover`, which promise what the run that follows does; and what somebody else repairs or
breaks meanwhile."""

from datetime import timedelta

import pytest
from conftest import available, edit, everything
from scene import (
    HOUR,
    NOWHERE,
    add,
    book,
    create,
    delete,
    event_of,
    insert_booking,
    insert_lock,
    lock,
    lock_of,
    meanwhile,
    run_recover,
    states,
)

from seatctl.domain.states import HOLDING
from seatctl.mongo.bookings import Bookings
from seatctl.mongo.events import Events
from seatctl.mongo.locks import SeatLocks
from seatctl.services import recovery
from seatctl.services.job_report import Outcome
from seatctl.services.verify import verify


@pytest.fixture
def event(store):
    """An event with a hundred seats, with a past."""
    return past(store)


def past(store):
    made = create(store)
    insert_lock(store, made, status="EXPIRED")  # there is a collection, and it is not empty
    return made


def pair(store, event, lock_status, booking_status, **lock_fields):
    """A lock of two seats and its booking in these states, good for two hours, the counter as invariant 1
    has it."""
    held, booked = book(store, event, 2, ttl=2 * HOUR)
    edit(store, "seatLocks", held, status=lock_status, **lock_fields)
    edit(store, "bookings", booked, status=booking_status)
    if lock_status not in HOLDING:
        add(store, event, 2)
    return held, booked


def overdue_locks(store, event, number):
    return [insert_lock(store, event, due=timedelta(days=-1)) for _ in range(number)]


def outcomes(report):
    return [(step["fault"], step["outcome"]) for step in (each.as_document() for each in report.steps)]


# --- dry runs ------------------------------------------------------------------------------------------


UNREPAIRED = {
    "its counter cannot be read": lambda store, event: edit(store, "events", event, availableSeats="many"),
    "a lock of it cannot be read": lambda store, event: insert_lock(store, event, status="odd"),
    "all is well": lambda store, event: None,  # noqa: ARG005 - the control
}


@pytest.mark.parametrize("name", UNREPAIRED)
@pytest.mark.parametrize(
    "states_of_pair",
    [("ACTIVE", "CONFIRMED"), ("EXPIRED", "CONFIRMED"), ("ACTIVE", "FAILED"), ("EXPIRED", "PAYMENT_PENDING")],
)
def test_recovery_is_promised_of_a_pair_only_where_it_repairs_it(store, event, states_of_pair, name):
    held, booked = pair(store, event, *states_of_pair)
    UNREPAIRED[name](store, event)
    [promised] = [found for found in verify(store) if found.booking == booked]
    planned = {step.outcome for step in run_recover(store, dry_run=True).steps if step.violation == promised}
    run_recover(store)
    repaired = states(store, held, booked) != states_of_pair

    assert (promised.remedy == "seatctl recover") == repaired
    assert planned == {Outcome.PLANNED if repaired else Outcome.NEEDS_PERSON}
    assert name != "all is well" or repaired


def test_a_dry_run_prints_every_violation_as_a_plan_and_changes_nothing(store, event):
    overdue_locks(store, event, 7)
    pair(store, event, "ACTIVE", "CONFIRMED")
    pair(store, event, "CONSUMED", "FAILED")
    pair(store, event, "EXPIRED", "PAYMENT_PENDING")
    before = everything(store)
    report = run_recover(store, dry_run=True)

    assert before == everything(store)
    assert set(outcomes(report)) == {
        ("unsettled_lock", "planned"),
        ("booking_without_seats", "planned"),
        ("consumed_without_booking", "needs a person"),
        ("counter_drift", "planned"),
    }


@pytest.mark.parametrize(("counter", "gains"), [(93, 7), (95, 7), (100, 7)])
def test_a_dry_run_over_overdue_locks_gives_the_numbers_of_the_run_that_follows(store, event, counter, gains):
    """Where the counter never went down it is lowered first, and then takes the seats: 100, never 107."""
    overdue_locks(store, event, 7)
    add(store, event, counter - 100)
    planned, done = run_recover(store, dry_run=True), run_recover(store)

    assert (planned.locks, planned.seats) == (done.locks, done.seats) == (7, gains)
    assert available(store, event) == 100


def test_an_overdue_lock_of_no_event_stands_in_the_plan_once(store, event):
    overdue_locks(store, NOWHERE, 1)
    planned = run_recover(store, dry_run=True)

    assert [fault for fault, _ in outcomes(planned)] == ["orphan_lock"]
    assert (planned.locks, available(store, event)) == (1, 100)


def twins(store, event, lock_status, *booking_states, due=2 * HOUR):
    """A lock with several bookings, of another program's making."""
    held = lock(store, event, 2, ttl=2 * HOUR)
    edit(store, "seatLocks", held, status=lock_status)
    for status in booking_states:
        insert_booking(store, event, held, status, due=due)


def settled(lock_status, booking_status, *, late=0, more=0, **lock_fields):
    """A pair, its counter off by `more`, that many hours past its settling."""

    def damage(store, event, clock):
        pair(store, event, lock_status, booking_status, **lock_fields)
        add(store, event, more)
        clock.advance(hours=late)

    return damage


def swept_onto(counter):
    def damage(store, event, _clock):
        overdue_locks(store, event, 7)
        add(store, event, counter - 100)

    return damage


def lost_lock_of_a_full_event(store, event, clock):
    pair(store, event, "EXPIRED", "CONFIRMED")
    lock(store, event, 100, ttl=timedelta(minutes=1))
    clock.advance(minutes=2)


def nowhere(lock_status, booking_status, *, late=0, both=True):
    """A pair whose event is gone; unless `both`, only the lock says so."""

    def damage(store, event, clock):
        held, booked = pair(store, event, lock_status, booking_status)
        edit(store, "seatLocks", held, eventId=NOWHERE)
        add(store, event, 2)
        if both:
            edit(store, "bookings", booked, event=NOWHERE)
        clock.advance(hours=late)

    return damage


def elsewhere(late):
    """A pending booking that names another event than its lock's."""

    def damage(store, event, clock):
        _, booked = pair(store, event, "ACTIVE", "PAYMENT_PENDING")
        edit(store, "bookings", booked, event=past(store))
        clock.advance(hours=late)

    return damage


def lock_without_an_event(store, event, _clock):
    held = lock(store, event, 2, ttl=2 * HOUR)
    store.database.seatLocks.update_one({"_id": held}, {"$unset": {"eventId": 1}})


def booking_of_no_possible_lock(late):
    def damage(store, event, clock):
        _, booked = pair(store, event, "EXPIRED", "PAYMENT_PENDING")
        edit(store, "bookings", booked, seatLockId=f"L-{booked}")
        clock.advance(hours=late)

    return damage


def deleted_lock(lock_status, booking_status, late=0):
    def damage(store, event, clock):
        held, _ = pair(store, event, lock_status, booking_status)
        overdue_locks(store, event, 3)
        add(store, event, -3)
        delete(store, "seatLocks", held)
        clock.advance(hours=late)

    return damage


def overdue_twins(store, event, clock):
    twins(store, event, "ACTIVE", "PAYMENT_PENDING", "PAYMENT_PENDING")
    clock.advance(hours=3)


def everything_at_once(store, _event, clock):
    for name in list(DAMAGE)[:-1]:
        DAMAGE[name](store, past(store), clock)


DAMAGE = {
    "overdue locks": swept_onto(93),
    "overdue locks on a full counter": swept_onto(100),
    "overdue locks on a counter that takes some": swept_onto(97),
    "a counter that is too high": settled("CONSUMED", "CONFIRMED", more=1),
    "a counter that is too low": settled("CONSUMED", "CONFIRMED", more=-1),
    "paid, active": settled("ACTIVE", "CONFIRMED"),
    "paid, active, overdue": settled("ACTIVE", "CONFIRMED", late=3),
    "paid, lost": settled("EXPIRED", "CONFIRMED"),
    "paid, cancelled": settled("CANCELLED", "CONFIRMED"),
    "paid, lost, counter too low": settled("EXPIRED", "CONFIRMED", more=-99),
    "paid, lost, seats come back first": lost_lock_of_a_full_event,
    "failed, active": settled("ACTIVE", "FAILED"),
    "failed, active, full counter": settled("ACTIVE", "FAILED", more=2),
    "failed, active, overdue": settled("ACTIVE", "FAILED", late=3),
    "failed twice, active": lambda store, event, _: twins(store, event, "ACTIVE", "FAILED", "EXPIRED"),
    "paid twice, active": lambda store, event, _: twins(store, event, "ACTIVE", "CONFIRMED", "CONFIRMED"),
    "waiting, lost": settled("EXPIRED", "PAYMENT_PENDING"),
    "waiting, lost, overdue": settled("EXPIRED", "PAYMENT_PENDING", late=3),
    "waiting, sold": settled("CONSUMED", "PAYMENT_PENDING", late=3),
    "waiting twice, overdue": overdue_twins,
    "a lock without seats": settled("ACTIVE", "FAILED", seats="x", late=3),
    "a lock without a deadline": settled("ACTIVE", "PAYMENT_PENDING", expiresAt=None),
    "a lock without a deadline, overdue": settled("ACTIVE", "PAYMENT_PENDING", late=3, expiresAt=None),
    "a lock in no known state": settled("ON_HOLD", "PAYMENT_PENDING", late=3),
    "a booking of no possible lock": booking_of_no_possible_lock(0),
    "a booking of no possible lock, overdue": booking_of_no_possible_lock(3),
    "no event": nowhere("ACTIVE", "PAYMENT_PENDING"),
    "no event, overdue": nowhere("ACTIVE", "PAYMENT_PENDING", late=3),
    "no event, paid": nowhere("ACTIVE", "CONFIRMED"),
    "no event, failed": nowhere("ACTIVE", "FAILED"),
    "no event but the booking's": nowhere("ACTIVE", "PAYMENT_PENDING", both=False),
    "no event but the booking's, overdue": nowhere("ACTIVE", "PAYMENT_PENDING", late=3, both=False),
    "another event": elsewhere(0),
    "another event, overdue": elsewhere(3),
    "a deleted paid lock": deleted_lock("CONSUMED", "CONFIRMED"),
    "a deleted pending lock": deleted_lock("ACTIVE", "PAYMENT_PENDING"),
    "a deleted pending lock, overdue": deleted_lock("ACTIVE", "PAYMENT_PENDING", 3),
    "a lock without an event": lock_without_an_event,
    "everything at once": everything_at_once,
}


def told(report):
    """What a run skips and what it leaves to a person, and whether it fails."""
    undone = {
        (step.violation.fault.value, step.violation.lock, step.violation.booking, step.violation.event)
        for step in report.steps
        if "person" in step.as_document()["outcome"]
    }
    return undone, {str(item.id) for item in report.skipped.values()}, report.error is not None


CAUTIOUS = {
    "paid, lost, seats come back first",
    "paid, lost, counter too low",
    "a deleted pending lock, overdue",
    "everything at once",
}
"""Where a plan cannot know what the sweeps make possible, it promises less than the run does, never more."""


@pytest.mark.parametrize("batch_size", [1, 5000])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_plan_leaves_to_a_person_and_skips_what_the_run_does(store, clock, event, damage, batch_size):
    DAMAGE[damage](store, event, clock)
    before = everything(store)
    planned = told(run_recover(store, dry_run=True, batch_size=batch_size))
    assert before == everything(store)
    done = told(run_recover(store, batch_size=batch_size))

    if damage in CAUTIOUS:
        assert (done[0] <= planned[0], done[1] <= planned[1]) == (True, True)
    else:
        assert planned == done


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_second_run_finds_nothing_more_to_do(store, clock, event, damage):
    """And what is left is what needs a person."""
    DAMAGE[damage](store, event, clock)
    run_recover(store)
    before = everything(store, "jobLogs")
    report = run_recover(store)

    assert (report.locks, report.bookings, report.seats, report.repairs) == (0, 0, 0, 0)
    assert everything(store, "jobLogs") == before
    assert not [violation for violation in verify(store) if violation.is_for_recovery]


# --- somebody was faster -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lock_status", "booking_status"),
    [
        ("ACTIVE", "CONFIRMED"),
        ("EXPIRED", "CONFIRMED"),
        ("ACTIVE", "FAILED"),
        ("EXPIRED", "PAYMENT_PENDING"),
    ],
)
def test_what_another_run_repaired_between_look_and_repair_is_left_and_not_told(
    store, event, monkeypatch, lock_status, booking_status
):
    pair(store, event, lock_status, booking_status)
    original = recovery.verify

    def repaired_meanwhile(where):
        found = list(original(where))
        monkeypatch.setattr(recovery, "verify", original)
        assert run_recover(where).processed == 1
        return found

    monkeypatch.setattr(recovery, "verify", repaired_meanwhile)
    report = run_recover(store)

    assert (report.processed, outcomes(report), report.error) == (0, [], None)
    assert store.database.jobLogs.count_documents({}) == 2
    assert list(verify(store)) == []


def test_a_counter_that_another_run_corrected_is_left(store, event, monkeypatch):
    add(store, event, -3)
    original = recovery.verify

    def corrected_meanwhile(where):
        found = list(original(where))
        monkeypatch.setattr(recovery, "verify", original)
        assert run_recover(where).counters_corrected == 1
        return found

    monkeypatch.setattr(recovery, "verify", corrected_meanwhile)
    report = run_recover(store)

    assert (outcomes(report), available(store, event)) == ([], 100)


def test_seats_that_another_run_took_again_are_not_taken_twice(store, event, monkeypatch):
    held, booked = pair(store, event, "EXPIRED", "CONFIRMED")
    happened = meanwhile(
        monkeypatch, Events, "set_counter", lambda: run_recover(store).processed, before=True
    )
    report = run_recover(store)

    assert happened == [1]
    assert outcomes(report) == []
    assert (states(store, held, booked), available(store, event)) == (("CONSUMED", "CONFIRMED"), 98)


def test_seats_that_a_buyer_gets_between_look_and_repair_are_not_taken_for_a_lost_lock(
    store, event, monkeypatch
):
    held, booked = pair(store, event, "EXPIRED", "CONFIRMED")
    happened = meanwhile(monkeypatch, Events, "set_counter", lambda: lock(store, event, 99), before=True)
    report = run_recover(store)

    assert happened
    assert (states(store, held, booked), available(store, event)) == (("EXPIRED", "CONFIRMED"), 1)
    assert outcomes(report) == [("lost_lock", "oversold: the event no longer has the seats; needs a person")]


def test_a_lock_whose_event_comes_back_between_look_and_repair_is_left_with_its_booking(
    store, event, monkeypatch
):
    """A restore that brought the locks first."""
    held, booked = pair(store, event, "ACTIVE", "PAYMENT_PENDING")
    gone = event_of(store, event)
    delete(store, "events", event)
    before = everything(store, "jobLogs", "events")
    happened = meanwhile(
        monkeypatch, SeatLocks, "get", lambda: store.database.events.insert_one(gone), before=True
    )
    report = run_recover(store)

    assert happened
    assert (outcomes(report), report.error) == ([], None)
    assert everything(store, "jobLogs", "events") == before
    assert (states(store, held, booked), list(verify(store))) == (("ACTIVE", "PAYMENT_PENDING"), [])


@pytest.mark.parametrize("status", sorted(HOLDING))
def test_a_booking_whose_lock_holds_seats_again_between_look_and_repair_is_left(
    store, event, monkeypatch, status
):
    held, booked = pair(store, event, "EXPIRED", "PAYMENT_PENDING")

    def hold_again():
        edit(store, "seatLocks", held, status=status.value)
        add(store, event, -2)

    happened = meanwhile(monkeypatch, Bookings, "get", hold_again, before=True)
    report = run_recover(store)

    assert happened
    assert (report.bookings, outcomes(report)) == (0, [])
    assert (states(store, held, booked), available(store, event)) == ((status, "PAYMENT_PENDING"), 98)


def test_a_booking_whose_event_comes_back_between_look_and_repair_is_left(store, event, monkeypatch):
    held, booked = pair(store, event, "ACTIVE", "PAYMENT_PENDING")
    edit(store, "bookings", booked, event=NOWHERE)
    back = {"_id": NOWHERE, "name": "Concert", "totalSeats": 10, "availableSeats": 10}
    happened = meanwhile(
        monkeypatch, Bookings, "get", lambda: store.database.events.insert_one(back), before=True
    )
    report = run_recover(store)

    assert happened
    assert (report.bookings, outcomes(report)) == (0, [])
    assert (states(store, held, booked), available(store, event)) == (("ACTIVE", "PAYMENT_PENDING"), 98)


def test_a_booking_that_is_paid_between_look_and_repair_is_left(store, event, monkeypatch):
    held, booked = pair(store, event, "EXPIRED", "PAYMENT_PENDING")
    happened = meanwhile(
        monkeypatch, Bookings, "get", lambda: edit(store, "bookings", booked, status="CONFIRMED"), before=True
    )
    run_recover(store)

    assert happened
    assert states(store, held, booked) == ("EXPIRED", "CONFIRMED")


@pytest.mark.parametrize(
    ("lock_status", "booking_status"), [("EXPIRED", "PAYMENT_PENDING"), ("ACTIVE", "CONFIRMED")]
)
@pytest.mark.parametrize("fields", [{"eventType": "multi-day"}, {"availableSeats": "many"}])
def test_what_is_wrong_on_an_event_in_doubt_is_left_to_a_person(
    store, event, lock_status, booking_status, fields
):
    """A booking keeps its time to pay (invariant 11)."""
    pair(store, event, lock_status, booking_status)
    edit(store, "events", event, **fields)
    before = everything(store, "jobLogs")
    report = run_recover(store)

    assert before == everything(store, "jobLogs")
    assert {outcome.partition(":")[0] for _, outcome in outcomes(report)} == {"needs a person"}
    assert len(outcomes(report)) == 2


def test_a_lock_that_is_booked_again_between_look_and_repair_keeps_its_seats(store, event, monkeypatch):
    """By another program: its first booking failed."""
    held, _ = pair(store, event, "ACTIVE", "FAILED")
    original = recovery.verify

    def booked_meanwhile(where):
        found = list(original(where))
        insert_booking(store, event, held)
        return found

    monkeypatch.setattr(recovery, "verify", booked_meanwhile)
    run_recover(store)

    assert (lock_of(store, held)["status"], available(store, event)) == ("ACTIVE", 98)
