"""What `recover` repairs, and what it leaves to a person."""

from datetime import timedelta

import pytest
from conftest import available, edit, everything
from scene import (
    HOUR,
    NOWHERE,
    PAIRS,
    add,
    book,
    booking_of,
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
from seatctl.services.repairs import REPAIRS
from seatctl.services.verify import verify


@pytest.fixture
def event(store):
    """An event with a hundred seats."""
    made = create(store)
    insert_lock(store, made, status="EXPIRED")  # there is a collection, and it is not empty
    return made


def pair(store, event, lock_status, booking_status, **lock_fields):
    """A lock of two seats and its booking in these states, good for two hours, the counter as invariant 1
    has it."""
    held, booked = book(store, event, 2, ttl=2 * HOUR)
    edit(store, "bookings", booked, status=booking_status)
    if lock_status is None:
        delete(store, "seatLocks", held)
    else:
        edit(store, "seatLocks", held, status=lock_status, **lock_fields)
    if lock_status not in HOLDING:
        add(store, event, 2)
    return held, booked


def overdue_locks(store, event, number, seats=1):
    """Locks written straight into the database, far past their deadline: no key, no booking."""
    return [insert_lock(store, event, seats, due=timedelta(days=-1)) for _ in range(number)]


def outcomes(report):
    return [(step["fault"], step["outcome"]) for step in (each.as_document() for each in report.steps)]


def sums(report):
    """Locks and bookings that ended, seats that went back, and everything that was touched."""
    return report.locks, report.bookings, report.seats, report.processed


def now_of(store, event, held, booked):
    """Lock, booking, counter."""
    found = lock_of(store, held)
    return found and found["status"], booking_of(store, booked)["status"], available(store, event)


# --- the scenario, and nothing to do -------------------------------------------------------------------


def test_seven_locks_far_past_their_deadline_give_their_seats_back(store, event):
    locks = overdue_locks(store, event, 7)
    add(store, event, -7)
    report = run_recover(store)

    assert [lock_of(store, each)["status"] for each in locks] == ["EXPIRED"] * 7
    assert [lock_of(store, each)["oldStatus"] for each in locks] == ["ACTIVE"] * 7
    assert available(store, event) == 100
    assert sums(report) == (7, 0, 7, 7)
    assert report.run["details"]["resourcesRecovered"] == 7
    assert [run["status"] for run in store.database.jobLogs.find({"jobType": "RECOVERY"})] == ["SUCCESS"]
    assert list(verify(store)) == []


@pytest.mark.parametrize("counter", [100, 97])
def test_the_same_on_a_counter_that_was_never_lowered_ends_at_100_never_above(store, event, counter):
    overdue_locks(store, event, 7)
    add(store, event, counter - 100)
    report = run_recover(store)

    assert (available(store, event), report.error, report.locks) == (100, None, 7)
    assert list(verify(store)) == []


def test_on_a_healthy_database_recovery_changes_nothing_but_its_own_log_entry(store, event):
    for lock_status, booking_status in (
        ("ACTIVE", "PAYMENT_PENDING"),
        ("ACTIVE", "INITIATED"),
        ("CONSUMED", "CONFIRMED"),
        ("EXPIRED", "FAILED"),
        ("EXPIRED", "EXPIRED"),
        ("CANCELLED", "CANCELLED"),
    ):
        pair(store, event, lock_status, booking_status)
    lock(store, event, 3)
    before = everything(store, "jobLogs")
    reports = [run_recover(store), run_recover(store)]

    assert before == everything(store, "jobLogs")
    assert [sums(report) for report in reports] == [(0, 0, 0, 0)] * 2
    assert [outcomes(report) for report in reports] == [[]] * 2
    assert store.database.jobLogs.count_documents({}) == 2


def test_recovering_twice_is_recovering_once(store, event):
    overdue_locks(store, event, 7)
    pair(store, event, "ACTIVE", "CONFIRMED")
    pair(store, event, "EXPIRED", "PAYMENT_PENDING")
    assert sums(run_recover(store)) != (0, 0, 0, 0)
    before = everything(store, "jobLogs")

    assert sums(run_recover(store)) == (0, 0, 0, 0)
    assert before == everything(store, "jobLogs")


# --- the table of pairs --------------------------------------------------------------------------------

ENDED = ("FAILED", "EXPIRED", "CANCELLED")
REPAIRED = {
    ("ACTIVE", "CONFIRMED"): ("CONSUMED", "CONFIRMED", 98, "lock CONSUMED"),
    **{("ACTIVE", ended): ("EXPIRED", ended, 100, "lock EXPIRED, 2 seats returned") for ended in ENDED},
    **{
        (lost, "CONFIRMED"): ("CONSUMED", "CONFIRMED", 98, "2 seats taken again, lock CONSUMED")
        for lost in ("EXPIRED", "CANCELLED")
    },
    **{
        (lost, "PAYMENT_PENDING"): (lost, "EXPIRED", 100, "booking EXPIRED")
        for lost in ("EXPIRED", "CANCELLED")
    },
}
"""Lock, booking and counter after recovery, and what it says."""
LEFT = {
    *(("CONSUMED", status) for status in ("INITIATED", "PAYMENT_PENDING", *ENDED)),
    (None, "PAYMENT_PENDING"),
    (None, "CONFIRMED"),
}
"""What needs a person."""


@pytest.mark.parametrize(("lock_status", "booking_status"), PAIRS, ids=str)
def test_each_pair_is_repaired_left_to_a_person_or_fine(store, event, lock_status, booking_status):
    held, booked = pair(store, event, lock_status, booking_status)
    before = everything(store, "jobLogs")
    report = run_recover(store)
    cell = (lock_status, booking_status)

    if cell in REPAIRED:
        *after, words = REPAIRED[cell]
        assert now_of(store, event, held, booked) == tuple(after)
        assert [said for _, said in outcomes(report)] == [words]
        assert (report.error, list(verify(store))) == (None, [])
        if after[0] != lock_status:
            assert lock_of(store, held)["oldStatus"] == lock_status
    else:
        assert everything(store, "jobLogs") == before
        assert [said for _, said in outcomes(report)] == (["needs a person"] if cell in LEFT else [])
        assert (report.error is None) == (cell not in LEFT)


@pytest.mark.parametrize(
    ("lock_status", "booking_status", "after", "error"),
    [
        ("ACTIVE", "INITIATED", ("EXPIRED", "INITIATED", 100), False),
        ("ACTIVE", "PAYMENT_PENDING", ("EXPIRED", "EXPIRED", 100), False),
        ("ACTIVE", "CONFIRMED", ("CONSUMED", "CONFIRMED", 98), False),
        ("ACTIVE", "FAILED", ("EXPIRED", "FAILED", 100), False),
        ("CONSUMED", "PAYMENT_PENDING", ("CONSUMED", "PAYMENT_PENDING", 98), True),
        ("EXPIRED", "PAYMENT_PENDING", ("EXPIRED", "EXPIRED", 100), False),
        (None, "PAYMENT_PENDING", (None, "EXPIRED", 100), True),
        (None, "CONFIRMED", (None, "CONFIRMED", 100), True),
    ],
)
def test_a_pair_past_its_deadlines_is_swept_first(
    store, clock, event, lock_status, booking_status, after, error
):
    held, booked = pair(store, event, lock_status, booking_status)
    clock.advance(hours=3)
    report = run_recover(store)

    assert now_of(store, event, held, booked) == after
    assert (report.error is not None) == error


# --- lost seats ----------------------------------------------------------------------------------------


def test_seats_that_the_event_no_longer_has_are_not_taken_again_and_a_person_is_told(store, event):
    held, booked = pair(store, event, "EXPIRED", "CONFIRMED")
    lock(store, event, 99, ttl=2 * HOUR)
    before = everything(store, "jobLogs")
    report = run_recover(store)

    assert before == everything(store, "jobLogs")
    assert now_of(store, event, held, booked) == ("EXPIRED", "CONFIRMED", 1)
    assert [fault for fault, _ in outcomes(report)] == ["lost_lock"]
    assert report.run["status"] == "FAILED"


def test_an_event_that_is_sold_out_between_look_and_repair_is_oversold(store, event, monkeypatch):
    held, booked = pair(store, event, "EXPIRED", "CONFIRMED")
    happened = meanwhile(monkeypatch, Bookings, "get", lambda: lock(store, event, 100), before=True)
    report = run_recover(store)

    assert happened
    assert now_of(store, event, held, booked) == ("EXPIRED", "CONFIRMED", 0)
    assert outcomes(report) == [("lost_lock", "oversold: the event no longer has the seats; needs a person")]


def test_a_counter_that_is_too_low_makes_no_event_oversold(store, event):
    """The locks decide how many are free, and the counter is corrected after."""
    held, booked = pair(store, event, "EXPIRED", "CONFIRMED")
    add(store, event, -99)
    report = run_recover(store)

    assert now_of(store, event, held, booked) == ("CONSUMED", "CONFIRMED", 98)
    assert report.error is None
    assert list(verify(store)) == []


def test_seats_that_come_back_serve_a_paid_booking_whose_lock_had_lost_them(store, clock, event):
    """Sweeps come first, then pairs, then counters."""
    held, booked = pair(store, event, "EXPIRED", "CONFIRMED")
    lock(store, event, 100, ttl=timedelta(minutes=1))
    clock.advance(minutes=2)
    report = run_recover(store)

    assert now_of(store, event, held, booked) == ("CONSUMED", "CONFIRMED", 98)
    assert (report.error, outcomes(report)) == (None, [("lost_lock", "2 seats taken again, lock CONSUMED")])
    assert list(verify(store)) == []


def test_seats_of_a_failed_booking_serve_a_paid_one_in_the_same_run(store, event):
    lost = pair(store, event, "EXPIRED", "CONFIRMED")
    returned = pair(store, event, "ACTIVE", "FAILED")
    lock(store, event, 98, ttl=2 * HOUR)
    report = run_recover(store)

    assert states(store, *returned) == ("EXPIRED", "FAILED")
    assert now_of(store, event, *lost) == ("CONSUMED", "CONFIRMED", 0)
    assert report.error is None


def test_seats_of_an_ended_booking_that_no_counter_went_down_for_go_nowhere(store, event):
    held, booked = pair(store, event, "ACTIVE", "FAILED")
    add(store, event, 2)
    report = run_recover(store)

    assert now_of(store, event, held, booked) == ("EXPIRED", "FAILED", 100)
    assert (report.seats, report.error) == (0, None)
    assert list(verify(store)) == []


# --- orphans -------------------------------------------------------------------------------------------


def test_locks_and_bookings_of_an_event_that_does_not_exist_end_and_are_told(store, event):
    held, booked = pair(store, event, "ACTIVE", "PAYMENT_PENDING")
    delete(store, "events", event)
    report = run_recover(store)

    assert states(store, held, booked) == ("EXPIRED", "EXPIRED")
    assert outcomes(report) == [
        ("orphan_lock", f"lock EXPIRED with booking {booked}, its event does not exist")
    ]
    assert (sums(report), report.error) == ((1, 1, 0, 2), None)
    assert list(verify(store)) == []


def test_overdue_ones_end_too(store, clock, event):
    (alone,) = overdue_locks(store, event, 1)
    held, booked = pair(store, event, "ACTIVE", "PAYMENT_PENDING")
    delete(store, "events", event)
    clock.advance(hours=3)
    report = run_recover(store)

    assert (lock_of(store, alone)["status"], *states(store, held, booked)) == ("EXPIRED",) * 3
    assert {fault for fault, _ in outcomes(report)} == {"orphan_lock"}
    assert (report.seats, report.error) == (0, None)
    assert list(verify(store)) == []


@pytest.mark.parametrize("bookings", [1, 2])
def test_one_run_ends_a_lock_of_no_event_with_whatever_waits_for_its_payment(store, event, bookings):
    """Also where that names an event that exists."""
    held, booked = pair(store, event, "ACTIVE", "PAYMENT_PENDING")
    twins = [insert_booking(store, event, held) for _ in range(bookings - 1)]
    edit(store, "seatLocks", held, eventId=NOWHERE)
    add(store, event, 2)
    report = run_recover(store)

    assert now_of(store, event, held, booked) == ("EXPIRED", "EXPIRED", 100)
    assert {booking_of(store, twin)["status"] for twin in twins} <= {"EXPIRED"}
    assert ("orphan_lock", "needs a person") not in outcomes(report)
    assert sums(report) == (1, bookings, 0, 1 + bookings)


def test_a_lock_of_no_event_under_a_paid_booking_is_left_to_a_person(store, event):
    held, booked = pair(store, event, "ACTIVE", "CONFIRMED")
    edit(store, "seatLocks", held, eventId=NOWHERE)
    add(store, event, 2)
    report = run_recover(store)

    assert now_of(store, event, held, booked)[1:] == ("CONFIRMED", 100)
    assert lock_of(store, held)["status"] in HOLDING
    assert ("orphan_sold", "needs a person") in outcomes(report)


def test_a_lock_of_no_event_whose_booking_may_be_paid_is_left_to_a_person(store, event):
    """Its status is a list."""
    held, booked = pair(store, event, "ACTIVE", ["FAILED", "CONFIRMED"])
    edit(store, "seatLocks", held, eventId=NOWHERE)
    add(store, event, 2)
    run_recover(store)

    assert now_of(store, event, held, booked) == ("ACTIVE", ["FAILED", "CONFIRMED"], 100)


def test_a_lock_of_no_event_whose_payment_arrives_meanwhile_keeps_its_booking(store, event, monkeypatch):
    held, booked = pair(store, event, "ACTIVE", "PAYMENT_PENDING")
    edit(store, "seatLocks", held, eventId=NOWHERE)
    add(store, event, 2)
    happened = meanwhile(
        monkeypatch, Bookings, "naming", lambda: edit(store, "bookings", booked, status="CONFIRMED")
    )
    report = run_recover(store)

    assert happened
    assert now_of(store, event, held, booked) == ("ACTIVE", "CONFIRMED", 100)
    assert ("orphan_lock", "needs a person") in outcomes(report)


def test_what_was_paid_for_on_an_event_that_does_not_exist_is_never_ended(store, event):
    held, booked = pair(store, event, "CONSUMED", "CONFIRMED")
    delete(store, "events", event)
    report = run_recover(store)

    assert states(store, held, booked) == ("CONSUMED", "CONFIRMED")
    assert outcomes(report) == [("orphan_sold", "needs a person")] * 2


# --- what cannot be read --------------------------------------------------------------------------------


@pytest.mark.parametrize(("lock_status", "booking_status"), [("EXPIRED", "CONFIRMED"), ("ACTIVE", "FAILED")])
def test_seats_that_cannot_be_read_are_neither_taken_again_nor_returned(
    store, event, lock_status, booking_status
):
    held, _ = pair(store, event, lock_status, booking_status, seats=0.5)
    before = everything(store, "jobLogs")
    report = run_recover(store)

    assert before == everything(store, "jobLogs")
    assert report.run["status"] == "FAILED"
    assert lock_of(store, held)["seats"] == 0.5


def test_a_paid_booking_whose_lost_lock_names_no_event_is_told_and_the_rest_repaired(store, event):
    held, _ = pair(store, event, "EXPIRED", "CONFIRMED")
    store.database.seatLocks.update_one({"_id": held}, {"$unset": {"eventId": 1}})
    good = pair(store, event, "ACTIVE", "CONFIRMED")
    report = run_recover(store)

    assert states(store, *good) == ("CONSUMED", "CONFIRMED")
    assert report.run["status"] == "FAILED"


def test_a_broken_lock_is_skipped_and_named_and_other_events_are_repaired(store, event):
    broken, *_ = overdue_locks(store, event, 3)
    add(store, event, -3)
    edit(store, "seatLocks", broken, seats="x")
    other = create(store)
    overdue_locks(store, other, 2)
    add(store, other, -2)
    good = pair(store, event, "ACTIVE", "CONFIRMED")
    report = run_recover(store)

    assert states(store, *good) == ("CONSUMED", "CONFIRMED")
    assert (report.locks, available(store, other), available(store, event)) == (2, 100, 95)
    assert broken in [item["id"] for item in report.run["details"]["setAside"]]


# --- counters ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("drift", [-3, 3, 200])
def test_a_counter_that_drifted_is_set_right_and_told_with_what_it_was_and_should_be(store, event, drift):
    lock(store, event, 10, ttl=HOUR)
    add(store, event, drift)
    report = run_recover(store)
    (step,) = report.steps

    assert available(store, event) == 90
    assert outcomes(report) == [("counter_drift", "corrected")]
    assert f"{90 + drift} seats available, should be 90" in step.violation.message
    assert (sums(report), report.counters_corrected) == ((0, 0, 0, 1), 1)
    assert type(available(store, event)) is int


@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize("status", ["CONFIRMED", "PAYMENT_PENDING"])
def test_while_a_live_booking_has_no_lock_its_events_counter_is_not_raised(store, event, dry_run, status):
    """That could sell its seats again. It is a person's to decide, with the reason."""
    held, _ = pair(store, event, "CONSUMED" if status == "CONFIRMED" else "ACTIVE", status)
    delete(store, "seatLocks", held)
    before = available(store, event), everything(store, "jobLogs", "events")
    report = run_recover(store, dry_run=dry_run)

    assert (available(store, event), everything(store, "jobLogs", "events")) == before
    without = {"CONFIRMED": "confirmed_without_lock", "PAYMENT_PENDING": "booking_without_lock"}[status]
    assert set(outcomes(report)) == {(without, "needs a person"), ("counter_in_doubt", "needs a person")}
    assert "98 seats available, should be 100" in report.steps[-1].violation.message
    assert "it has a live booking whose lock cannot be found" in report.steps[-1].violation.message
    assert report.run["status"] == "FAILED"


def test_a_counter_that_is_too_high_is_lowered_also_where_a_paid_booking_has_no_lock(store, event):
    """That sells nothing."""
    held, _ = pair(store, event, "CONSUMED", "CONFIRMED")
    delete(store, "seatLocks", held)
    add(store, event, 2 + 5)
    report = run_recover(store)

    assert available(store, event) == 100
    assert ("counter_drift", "corrected") in outcomes(report)


def test_a_counter_is_not_raised_to_take_the_seats_of_a_paid_booking_again(store, event):
    deleted, _ = pair(store, event, "CONSUMED", "CONFIRMED")
    held, booked = pair(store, event, "EXPIRED", "CONFIRMED")
    delete(store, "seatLocks", deleted)
    add(store, event, -97)
    run_recover(store)

    # Its locks hold 2 of 100, so the seats are taken; what the counter says stays as low as it is.
    assert now_of(store, event, held, booked) == ("CONSUMED", "CONFIRMED", 1)


def test_where_locks_hold_more_seats_than_there_are_nothing_more_is_sold_and_a_person_must_decide(
    store, event
):
    held = lock(store, event, 1, ttl=HOUR)
    edit(store, "seatLocks", held, seats=101)
    before = everything(store, "jobLogs", "events")
    reports = [run_recover(store), run_recover(store)]

    assert before == everything(store, "jobLogs", "events")
    assert available(store, event) == 0
    assert [outcomes(report) for report in reports] == [[("overbooked", "needs a person")]] * 2
    assert [(report.repairs, report.counters_corrected) for report in reports] == [(0, 0)] * 2
    assert [violation.fault for violation in verify(store)] == ["overbooked"]


def test_a_correction_stamps_the_event_with_the_servers_now(store, clock, event):
    store.database.events.update_one(
        {"_id": event}, {"$unset": {"updatedAt": 1}, "$inc": {"availableSeats": -1}}
    )
    clock.advance(minutes=1)
    run_recover(store)

    assert available(store, event) == 100
    assert event_of(store, event)["updatedAt"] == clock()


def test_the_repairs_are_of_faults_that_a_program_may_repair():
    from seatctl.domain.faults import EXPLANATIONS
    from seatctl.domain.states import Fault

    repairable = {fault for fault, about in EXPLANATIONS.items() if about.repairable}
    assert set(REPAIRS) | {Fault.COUNTER_DRIFT} == repairable


def test_both_sweeps_say_once_that_an_event_does_not_exist(store, clock):
    event = create(store)
    lock(store, event)
    book(store, event)
    delete(store, "events", event)
    clock.advance(hours=1)
    report = run_recover(store)

    assert [step.words for step in report.steps].count("overdue items expired, no counter raised") == 1
    assert (report.locks, report.bookings) == (2, 1)
