"""What cancelling an event promises: nothing of it is sold any more, everything of it ends, and whoever paid
is owed."""

import pytest
from conftest import available, edit, everything
from pymongo.errors import OperationFailure
from scene import (
    NOWHERE,
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
    run_expire_bookings,
    run_expire_locks,
    run_recover,
    sell,
    states,
)

from seatctl.domain.states import RefundCause, RefundStatus
from seatctl.errors import (
    CachePressure,
    Closed,
    Contention,
    CountedByDay,
    CursorLost,
    DamagedDocument,
    Interrupted,
    NotFound,
    Usage,
)
from seatctl.mongo.bookings import Bookings
from seatctl.mongo.events import Events
from seatctl.mongo.locks import SeatLocks
from seatctl.services import payments
from seatctl.services.blocks import BlockRequest, block
from seatctl.services.cancellation import CancelRequest, cancel
from seatctl.services.closing import close
from seatctl.services.event_cancellation import CancelEventRequest, cancel_event
from seatctl.services.signals import Stop
from seatctl.services.verify import verify


@pytest.fixture
def event(store):
    """An event with 100 seats."""
    return create(store, 100)


def run(store, event, name="Concert", **options):
    return cancel_event(store, CancelEventRequest(event, name, **options))


def done(result):
    return result.bookings, result.locks, result.seats, result.refunds, len(result.skipped)


def check_over(store, event, skipped_seats=0):
    """Nothing of it is for sale, and its block holds everything."""
    assert available(store, event) == 0
    assert sum(each.seats for each in store.locks.of_closing(event)) == 100 - skipped_seats


def paid(store, event, seats=1, ref=None):
    held, booked = book(store, event, seats)
    payments.pay(store, booked, ref)
    return held, booked


# --- what ends -----------------------------------------------------------------------------------------


def test_everything_of_a_cancelled_event_ends_and_its_seats_stay_off_sale(store, clock, event):
    free, house = lock(store, event, 1), block(store, BlockRequest(event, 2)).lock.id
    pending, sold = book(store, event, 3), paid(store, event, 4, "r1")
    clock.advance(minutes=1)
    result = run(store, event)

    assert done(result) == (2, 4, 10, 1, 0)
    assert (lock_of(store, free)["status"], lock_of(store, house)["status"]) == ("EXPIRED", "EXPIRED")
    assert (states(store, *pending), states(store, *sold)) == (
        ("EXPIRED", "CANCELLED"),
        ("CANCELLED", "CANCELLED"),
    )
    found = event_of(store, event)
    assert (found["closedAt"], found["cancelledAt"]) == (clock(), clock())
    assert result.event == found
    check_over(store, event)
    assert list(verify(store)) == []


def test_whoever_paid_is_owed(store, clock, event):
    _, one = paid(store, event, 4, "r1")
    _, other = paid(store, event, 2)
    book(store, event)
    run(store, event)

    due = {refund.booking: refund for refund in store.refunds.due_of_event(event)}
    assert {booking: (each.seats, each.payment_ref, each.cause.value) for booking, each in due.items()} == {
        one: (4, "r1", "CANCELLED"),
        other: (2, None, "CANCELLED"),
    }
    assert {each.due_at for each in due.values()} == {clock()}


def test_of_a_booking_that_gave_seats_back_only_the_others_are_owed_once_more(store, event):
    """The refund that is due grows; one that was paid stays, and another is due beside it."""
    _, one = paid(store, event, 4, "r1")
    _, other = paid(store, event, 4, "r2")
    for booking in (one, other):
        cancel(store, CancelRequest(booking, seats=1))
    (settled,) = store.refunds.of_booking(other)
    store.refunds.finish(settled.id, RefundStatus.DONE, store.now(), "bank")
    run(store, event)

    assert [refund.seats for refund in store.refunds.of_booking(one)] == [4]
    assert sorted((each.seats, each.status.value) for each in store.refunds.of_booking(other)) == [
        (1, "DONE"),
        (3, "DUE"),
    ]
    assert list(verify(store)) == []


def test_each_end_names_the_operation_that_says_who_and_why(store, event):
    held, booked = paid(store, event, 4)
    with_reason = type(store)(store.deployment, operator=store.operator._replace(reason="flood"))
    run(with_reason, event)

    first, batch = [
        each for each in store.operations.concerning([event]) if each["command"] == "cancel-event"
    ]
    assert (first["reason"], batch["reason"]) == ("flood", "flood")
    assert lock_of(store, held)["endedBy"] == booking_of(store, booked)["endedBy"] == batch["_id"]
    assert first["before"] == {"cancelledAt": None, "availableSeats": 96}
    assert batch["after"] == {"bookingsCancelled": 1, "locksEnded": 1, "seatsBlocked": 4, "refundsDue": 1}


def test_other_events_stay_as_they_are(store, event):
    other = create(store, 100)
    kept = [book(store, other), paid(store, other)]
    run(store, event)
    assert [states(store, *pair) for pair in kept] == [
        ("ACTIVE", "PAYMENT_PENDING"),
        ("CONSUMED", "CONFIRMED"),
    ]
    assert available(store, other) == 98


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_the_size_of_a_batch_changes_nothing(store, event, batch_size):
    for _ in range(3):
        lock(store, event)
        book(store, event, 2)
        paid(store, event, 3)
    assert done(run(store, event, batch_size=batch_size)) == (6, 9, 18, 3, 0)
    check_over(store, event)
    assert list(verify(store)) == []


def test_cancelling_again_changes_and_records_nothing(store, clock, event):
    paid(store, event, 4)
    run(store, event)
    before = everything(store)
    clock.advance(minutes=1)
    again = run(store, event)
    assert (again.already, done(again)) == (True, (0, 0, 0, 0, 0))
    assert everything(store) == before


def test_seats_that_came_back_since_go_into_the_block_and_are_recorded(store, event):
    run(store, event)
    edit(store, "events", event, totalSeats=102, availableSeats=2)
    recorded = store.database.operations.count_documents({})
    run(store, event)

    (latest,) = store.database.operations.find().skip(recorded)
    assert (latest["command"], latest["eventId"]) == ("cancel-event", event)
    assert latest["after"] == {"seatsBlocked": 2}
    assert available(store, event) == 0


def test_a_closed_event_can_be_cancelled_and_keeps_the_time_at_which_it_was_closed(store, clock, event):
    paid(store, event, 4)
    close(store, event)
    closed = clock()
    clock.advance(hours=1)
    run(store, event)
    found = event_of(store, event)
    assert (found["closedAt"], found["cancelledAt"]) == (closed, clock())
    check_over(store, event)


def test_a_dry_run_tells_what_would_end_and_changes_nothing(store, event):
    lock(store, event)
    book(store, event, 2)
    paid(store, event, 3)
    before = everything(store)
    planned = run(store, event, dry_run=True, batch_size=1)
    assert everything(store) == before
    assert done(planned) == done(run(store, event)) == (2, 3, 6, 1, 0)


# --- what is refused -----------------------------------------------------------------------------------


def test_another_name_or_no_event_is_refused(store, event):
    before = everything(store)
    for name in ("Ball", "", "concert"):
        with pytest.raises(Usage, match="is called 'Concert'"):
            run(store, event, name)
    with pytest.raises(NotFound):
        run(store, NOWHERE)
    assert everything(store) == before
    edit(store, "events", event, name=" Concert ")
    run(store, event)


def test_an_event_that_cannot_be_read_or_counts_by_day_is_refused(store, event):
    edit(store, "events", event, totalSeats="many")
    with pytest.raises(DamagedDocument):
        run(store, event)
    edit(store, "events", event, totalSeats=100, eventType="multi-day")
    with pytest.raises(CountedByDay):
        run(store, event)


def test_a_cancelled_event_sells_and_confirms_nothing(store, event, monkeypatch):
    held = lock(store, event)
    happened = meanwhile(monkeypatch, Events, "touch", lambda: confirm_refused(store, held), before=True)
    run(store, event)
    assert happened == ["refused"]
    with pytest.raises(Closed):
        lock(store, event)


def confirm_refused(store, held):
    with pytest.raises(Closed, match="was cancelled"):
        confirm(store, held)
    return "refused"


# --- what is skipped -----------------------------------------------------------------------------------


def unreadable_lock(store, event):
    return insert_lock(store, event, 2, status="HELD")


def unreadable_booking(store, event):
    held = lock(store, event, 2)
    return insert_booking(store, event, held, "PAID")


def unreadable_lock_of_a_booking(store, event):
    held, booked = paid(store, event, 2)
    edit(store, "seatLocks", held, status="HELD")
    return booked


def sold_without_booking(store, event):
    held, booked = paid(store, event, 2)
    delete(store, "bookings", booked)
    return held


def sold_and_pending(store, event):
    _, booked = paid(store, event, 2)
    edit(store, "bookings", booked, status="PAYMENT_PENDING")
    return booked


def of_another_event(store, event):
    _, booked = paid(store, create(store, 10), 2)
    edit(store, "bookings", booked, event=event)
    return booked


def booked_from_another_event(store, event):
    held, booked = book(store, event, 2)
    edit(store, "bookings", booked, event=create(store, 10))
    return held


def booked_by_text(store, event):
    held, booked = paid(store, event, 2)
    edit(store, "bookings", booked, seatLockId=str(held))
    return booked


def booked_twice_once_unreadably(store, event):
    held, booked = paid(store, event, 2)
    insert_booking(store, event, held, "PAID")
    return booked


SKIPPED = [
    unreadable_lock,
    unreadable_booking,
    unreadable_lock_of_a_booking,
    sold_without_booking,
    sold_and_pending,
    of_another_event,
    booked_from_another_event,
    booked_by_text,
    booked_twice_once_unreadably,
]


@pytest.mark.parametrize("make", SKIPPED)
def test_what_a_person_has_to_look_at_is_skipped_and_named_and_the_rest_ends(store, event, make):
    odd = make(store, event)
    before = {name: store.database[name].find_one({"_id": odd}) for name in ("seatLocks", "bookings")}
    pair = paid(store, event, 3)
    result = run(store, event)

    assert result.error.startswith("skipped ")
    assert odd in [item.id for item in result.skipped]
    assert {name: store.database[name].find_one({"_id": odd}) for name in before} == before
    assert states(store, *pair) == ("CANCELLED", "CANCELLED")
    assert available(store, event) == 0


def test_what_was_skipped_ends_once_it_is_resolved(store, event):
    odd = unreadable_lock_of_a_booking(store, event)
    run(store, event)
    edit(store, "seatLocks", booking_of(store, odd)["seatLockId"], status="CONSUMED")
    assert done(run(store, event)) == (1, 1, 2, 1, 0)
    check_over(store, event)
    assert list(verify(store)) == []


def test_only_so_many_skipped_items_are_listed_and_all_are_counted(store, event):
    for _ in range(103):
        insert_lock(store, event, 1, status="HELD")
    result = run(store, event)
    told = result.as_document()["cancellation"]
    assert (told["skippedCount"], len(told["skipped"])) == (103, 100)


# --- what is broken already ----------------------------------------------------------------------------


def test_live_bookings_end_whatever_became_of_their_locks(store, event):
    lost, gone, unsettled = (paid(store, event, 2) for _ in range(3))
    edit(store, "seatLocks", lost[0], status="EXPIRED")
    delete(store, "seatLocks", gone[0])
    edit(store, "seatLocks", unsettled[0], status="ACTIVE")
    add(store, event, 4)
    assert done(run(store, event)) == (3, 1, 2, 3, 0)
    assert {booking_of(store, pair[1])["status"] for pair in (lost, gone, unsettled)} == {"CANCELLED"}
    assert lock_of(store, unsettled[0])["status"] == "EXPIRED"
    assert {each.booking: each.seats for each in store.refunds.due_of_event(event)} == {
        lost[1]: 2,
        gone[1]: 2,
        unsettled[1]: 2,
    }
    check_over(store, event)
    assert list(verify(store)) == []


@pytest.mark.parametrize("batch_size", [1, 5])
def test_a_lock_that_two_bookings_name_ends_once_with_the_last_of_them(store, event, batch_size):
    held, booked = book(store, event, 2)
    other = insert_booking(store, event, held)
    assert done(run(store, event, batch_size=batch_size)) == (2, 1, 2, 0, 0)
    assert states(store, held, booked) == ("EXPIRED", "CANCELLED")
    assert booking_of(store, other)["status"] == "CANCELLED"
    check_over(store, event)


def test_an_overbooked_event_ends_with_what_its_locks_held(store, event):
    paid(store, event, 60)
    edit(store, "events", event, totalSeats=50, availableSeats=0)
    run(store, event)
    assert sum(each.seats for each in store.locks.of_closing(event)) == 60
    assert available(store, event) == 0


def test_an_ended_bookings_lock_that_another_program_left_active_ends(store, event):
    held, booked = book(store, event, 2)
    edit(store, "bookings", booked, status="FAILED")
    assert done(run(store, event)) == (0, 1, 2, 0, 0)
    assert lock_of(store, held)["status"] == "EXPIRED"


# --- beside others -------------------------------------------------------------------------------------


def test_a_booking_paid_while_its_batch_is_planned_is_owed(store, event, monkeypatch):
    held, booked = book(store, event, 2)
    happened = meanwhile(monkeypatch, SeatLocks, "by_id", lambda: payments.pay(store, booked, "late"))
    assert run(store, event).refunds == 1
    assert happened
    assert states(store, held, booked) == ("CANCELLED", "CANCELLED")
    assert [refund.payment_ref for refund in store.refunds.due_of_event(event)] == ["late"]


def test_a_lock_confirmed_by_another_program_behind_the_first_pass_ends_in_the_next(
    store, event, monkeypatch
):
    held = lock(store, event, 2)
    happened = meanwhile(
        monkeypatch, SeatLocks, "ids_of", lambda: insert_booking(store, event, held, "CONFIRMED")
    )
    assert done(run(store, event)) == (1, 1, 2, 1, 0)
    assert booking_of(store, happened[0])["status"] == "CANCELLED"
    check_over(store, event)


@pytest.mark.parametrize("job", [run_expire_locks, run_expire_bookings, run_recover])
def test_what_a_job_returns_meanwhile_stays_off_sale(store, clock, event, monkeypatch, job):
    for _ in range(3):
        lock(store, event)
        book(store, event, 2)
    clock.advance(minutes=16)
    happened = meanwhile(monkeypatch, Bookings, "ids_of", lambda: job(store))
    run(store, event)
    assert happened
    check_over(store, event)
    assert list(verify(store)) == []


def test_a_lost_list_is_read_again(store, event, monkeypatch):
    paid(store, event)
    original, lost = Bookings.ids_of, []

    def lose_once(bookings, *args):
        yield from original(bookings, *args)
        if not lost:
            lost.append(True)
            raise CursorLost

    monkeypatch.setattr(Bookings, "ids_of", lose_once)
    assert done(run(store, event)) == (1, 1, 1, 1, 0)
    assert lost


@pytest.mark.parametrize("error", [CachePressure, Contention])
def test_a_batch_that_does_not_pass_is_halved_down_to_what_is_in_its_way(store, event, monkeypatch, error):
    pairs = [paid(store, event) for _ in range(5)]
    stuck = pairs[2][1]
    original = Bookings.end_all

    def refuse(bookings, booking_ids, *args):
        if stuck in booking_ids:
            raise error
        return original(bookings, booking_ids, *args)

    monkeypatch.setattr(Bookings, "end_all", refuse)
    result = run(store, event)
    assert done(result) == (4, 4, 4, 4, 1)
    assert [item.id for item in result.skipped] == [stuck]
    assert states(store, *pairs[2]) == ("CONSUMED", "CONFIRMED")
    check_over(store, event, skipped_seats=1)


def test_a_refund_that_nobody_expected_is_no_hindrance(store, event):
    """As one that a person wrote for a booking that is still paid."""
    pairs = [paid(store, event) for _ in range(3)]
    booking = store.bookings.get(pairs[1][1])
    made = store.refunds.record(booking, 1, RefundCause.CANCELLED, None, store.now())
    store.refunds.finish(made.id, RefundStatus.DONE, store.now(), "bank")
    assert done(run(store, event)) == (3, 3, 3, 3, 0)
    assert len(store.refunds.of_booking(booking.id)) == 2


def test_one_that_is_told_to_stop_ends_its_batch_and_the_next_goes_on(store, event, monkeypatch):
    for _ in range(4):
        paid(store, event)
    original = Bookings.end_all

    def stop_after(bookings, *args):
        monkeypatch.setattr(Stop, "go_on", lambda _stop: False)
        monkeypatch.setattr(Stop, "check", stopped)
        return original(bookings, *args)

    def stopped(_stop, progress):
        raise Interrupted(2, progress)

    with monkeypatch.context() as patch:
        patch.setattr(Bookings, "end_all", stop_after)
        with pytest.raises(
            Interrupted, match="after 1 booking and 1 lock; run the same command again to continue"
        ):
            run(store, event, batch_size=1)
    monkeypatch.undo()
    assert list(verify(store)) == []
    assert done(run(store, event)) == (3, 3, 3, 3, 0)
    check_over(store, event)


def test_a_server_that_fails_for_good_leaves_nothing_half_done(store, event, monkeypatch):
    paid(store, event)

    def fail(*_args):
        raise OperationFailure("out of order", 8000)

    with monkeypatch.context() as patch:
        patch.setattr(SeatLocks, "end_all", fail)
        with pytest.raises(OperationFailure):
            run(store, event)
    assert list(verify(store)) == []
    assert done(run(store, event)) == (1, 1, 1, 1, 0)


def test_a_dry_run_names_what_is_due_and_what_would_be(store, clock):
    """Beside a refund that is due and stays as it is, one that would increase, and a new one."""
    event = create(store, 20)
    _, earlier = sell(store, event, 2)
    cancel(store, CancelRequest(earlier))
    _, part = sell(store, event, 3)
    cancel(store, CancelRequest(part, seats=1))
    _, new = sell(store, event, 4)
    clock.advance(minutes=1)
    before = everything(store)
    planned = run(store, event, dry_run=True)
    assert everything(store) == before

    def told(result):
        owed = sorted((refund["bookingId"], refund["seats"]) for refund in result.owed)
        return owed, result.refunds, result.increased, result.due

    assert told(planned) == (sorted([(earlier, 2), (part, 3), (new, 4)]), 2, 1, 3)
    assert told(run(store, event)) == told(planned)
    assert told(run(store, event))[1:] == (0, 0, 3)
