"""`history`: what happened to a document, in order, by whom and why."""

from __future__ import annotations

from datetime import timedelta

import pytest
from conftest import edit
from scene import (
    NOWHERE,
    add,
    book,
    create,
    insert_booking,
    lock,
    run_expire_bookings,
    run_expire_locks,
    run_recover,
)

from seatctl.domain.documents import EventId, LockId
from seatctl.domain.states import Fault, RefundCause
from seatctl.errors import NotFound
from seatctl.mongo.store import Store
from seatctl.services.cancellation import CancelRequest, cancel
from seatctl.services.explain import explain
from seatctl.services.history import history, newest
from seatctl.services.payments import record_sale


@pytest.fixture
def event(store: Store):
    return create(store)


def operate(store: Store, command: str, clock, reason=None, **facts):
    """An entry as a command leaves it; returns its id."""
    ours = Store(store.deployment, operator=store.operator._replace(reason=reason))
    ours.operations.record(command, clock(), **facts)
    return ours.operations.id


def sentences(entries):
    return [entry.what for entry in entries]


def test_why_a_booking_expired_is_told_with_its_deadline_and_the_run_that_ended_it(
    store: Store, clock, event
):
    held, booked = book(store, event, 2)
    deadline = clock.advance(minutes=15)
    clock.advance(minutes=1)
    report = run_expire_bookings(store)
    clock.advance(hours=1)

    for asked in (booked, held):
        entries = history(store, asked, 0)
        assert sentences(entries)[0] == f"2 seats locked for u: lock {held}"
        ended = entries[-1]
        assert ended.what == (
            f"booking {booked} expired with its lock (2 seats): not paid by {deadline:%Y-%m-%dT%H:%M:%SZ}"
        )
        assert (ended.at, ended.ids["run"]) == (report.started, report.id)
        assert ended.by == f"expire-bookings on {report.host}"
        assert [entry.at for entry in entries] == sorted(entry.at for entry in entries)


def test_a_run_whose_time_was_moved_says_so(store: Store, event):
    held = lock(store, event)
    run_expire_locks(store, as_of=timedelta(minutes=11), force=True)

    assert sentences(history(store, held, 0))[-1].endswith("(run as of 2027-01-01T12:11:00Z)")


def test_what_another_program_ended_is_told_as_recorded_by_nobody(store: Store, clock, event):
    held, booked = book(store, event)
    at = clock.advance(minutes=2)
    edit(store, "bookings", booked, status="EXPIRED", updatedAt=at)
    edit(store, "seatLocks", held, status="EXPIRED", updatedAt=at)

    entries = history(store, booked, 0)
    assert [entry.by for entry in entries[-2:]] == [None, None]
    assert [entry.at for entry in entries if "no record says by whom" in entry.what] == [at, at]


def test_an_entry_of_the_job_log_that_is_no_longer_kept_is_said_to_be_gone(store: Store, clock, event):
    held = lock(store, event)
    clock.advance(minutes=11)
    report = run_expire_locks(store)
    store.database.jobLogs.delete_many({})

    ended = history(store, held, 0)[-1]
    assert "the run's log entry is no longer kept" in ended.what
    assert (ended.by, ended.ids["run"]) == ("a job", report.id)


def test_an_operation_is_told_with_what_changed_who_did_it_and_why(store: Store, clock, event):
    operation = operate(
        store,
        "resize",
        clock,
        "bigger hall",
        event=EventId(event),
        before={"totalSeats": 100, "name": "Gala"},
        after={"totalSeats": 120, "name": "Gala", "extra": {"row": 7}},
    )

    told = history(store, event, 0)[-1]
    assert told.what == "capacity changed: total seats 100 → 120, extra.row 7"
    assert told.reason == "bigger hall"
    assert told.by == f"{store.operator.system_user} on {store.operator.host}"
    assert told.ids == {"event": event, "operation": operation}
    assert sentences(history(store, operation, 0)) == [
        told.what.replace("changed:", f"changed (event {event}):")
    ]


def test_an_operation_on_a_part_of_what_was_asked_names_that_part(store: Store, clock, event):
    held = lock(store, event)
    operate(store, "release", clock, event=EventId(event), lock=LockId(held))

    assert sentences(history(store, event, 0))[-1] == f"lock released (lock {held})"
    assert sentences(history(store, held, 0))[-1] == "lock released"


def test_of_a_long_story_the_newest_is_told_in_order(store: Store, clock, event):
    for number in range(5):
        clock.advance(minutes=1)
        operate(store, "resize", clock, event=EventId(event), after={"totalSeats": number})

    assert [what[-1] for what in sentences(history(store, event, 2))] == ["3", "4"]
    assert len(history(store, event, 0)) >= 6


def test_seats_that_were_returned_are_told_as_a_part_of_those_that_were_locked(store: Store, clock, event):
    held = lock(store, event, 6)
    booked = record_sale(store, held, "R").booking.id
    for seats in (2, 3):
        clock.advance(minutes=1)
        cancel(store, CancelRequest(booked, seats=seats))

    assert sentences(history(store, booked, 0)) == [
        f"6 seats locked for u: lock {held}",
        "sale recorded: status CONFIRMED, seats 6, payment R",
        told_of_refund(store, booked, "2 of 6 seats returned"),
        told_of_refund(store, booked, "1 of 4 seats returned"),
    ]


def told_of_refund(store: Store, booked, what):
    return f"{what} (refund {store.refunds.of_booking(booked)[0].id})"


def test_a_sold_lock_without_a_booking_is_told_as_cancelled(store: Store, event):
    held = lock(store, event, 2)
    edit(store, "seatLocks", held, status="CONSUMED")
    cancel(store, CancelRequest(held))

    assert "sold lock cancelled: status CONSUMED → CANCELLED" in sentences(history(store, held, 0))


def test_an_event_is_told_with_the_runs_that_returned_its_seats_or_corrected_its_counter(
    store: Store, clock, event
):
    lock(store, event, 3)
    lock(store, create(store))
    clock.advance(minutes=11)
    run_expire_locks(store)
    add(store, event, -1)
    clock.advance(minutes=1)
    run_recover(store)

    told = history(store, event, 0)
    assert told[-2].what == "3 seats returned"
    assert told[-1].what.startswith("counter_drift: corrected (")
    assert (told[-1].by or "").startswith("recover on ")


def test_a_repair_of_recovery_is_told_once_with_its_run(store: Store, clock, event):
    held, booked = book(store, event)
    edit(store, "bookings", booked, status="FAILED", updatedAt=clock.advance(minutes=1))
    clock.advance(minutes=1)
    run_recover(store)

    told = sentences(history(store, booked, 0))
    assert [what for what in told if f"lock {held} is ACTIVE" in what] == [told[-1]]
    assert "seats_not_returned: lock EXPIRED, 1 seat returned" in told[-1]


def test_a_refund_that_is_due_is_part_of_its_bookings_story_and_has_its_own(store: Store, clock, event):
    _, booked = book(store, event)
    found = store.bookings.get(booked)
    refund = store.refunds.record(found, 1, RefundCause.LATE_PAYMENT, "r-7", clock.advance(minutes=1))
    due = f"refund {refund.id} of payment r-7 due: LATE_PAYMENT"

    assert sentences(history(store, booked, 0))[-1] == due
    assert sentences(history(store, refund.id, 0)) == [due]


def test_without_an_id_the_newest_is_told_first_and_idle_runs_are_left_out(store: Store, clock, event):
    lock(store, event)
    for _ in range(3):
        run_expire_locks(store)
    clock.advance(minutes=11)
    run_expire_locks(store)
    clock.advance(minutes=1)
    operate(store, "close", clock, event=EventId(event))

    told = [
        entry
        for entry in newest(store, 0)
        if "create" not in entry.what and "event created" not in entry.what
    ]
    assert [entry.what.partition(":")[0] for entry in told] == [
        f"sales closed (event {event})",
        "1 lock expired, 1 seat returned",
    ]
    assert len(list(newest(store, 1))) == 1


def test_documents_of_any_shape_have_a_story(store: Store):
    odd = {"eventId": "?", "seats": "two", "status": ["x"], "updatedAt": "yesterday", "endedBy": 7}
    held = store.database.seatLocks.insert_one({**odd}).inserted_id
    booked = insert_booking(store, NOWHERE, held, "LOST", endedBy=held, createdAt=None)
    (event,) = store.database.events.insert_many([{}]).inserted_ids

    for each in (held, booked, event):
        assert history(store, each, 0)


def test_there_is_no_story_of_nothing(store: Store):
    with pytest.raises(NotFound):
        history(store, NOWHERE, 0)


def test_a_sale_whose_booking_was_deleted_is_told_with_what_is_recorded_of_it(store: Store, event):
    held = lock(store, event, 2)
    booked = record_sale(store, LockId(held), "card 1").booking.id
    store.database.bookings.delete_one({"_id": booked})

    told = sentences(history(store, held, 0))
    assert told[-2].startswith(f"sale recorded (booking {booked}): ")
    assert told[-1].startswith(f"lock {held} is sold, but its booking {booked} no longer exists")
    assert f"{booked} no longer exists" in sentences(history(store, booked, 0))[-1]
    (found,) = explain(store, Fault.CONSUMED_WITHOUT_BOOKING).found
    assert found.message.endswith(f"`confirm --sold` recorded booking {booked} with payment 'card 1'")
    assert found.remedies[0].commands == (f"seatctl confirm {held} --sold --ref 'card 1'",)
