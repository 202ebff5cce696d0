"""Each guard is taken out once: without it the same schedule must break a promise.

A guard whose absence nobody notices is not believed. The schedules are exact: a rival acts at the
one moment that the guard is there for, between two commands to the database.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import schedules as on
import schedules_of_events as on_events
from schedules import Scene

from seatctl.domain import rules
from seatctl.mongo import codec
from seatctl.mongo import events as counters_of_events
from seatctl.mongo.aggregations import Aggregations
from seatctl.mongo.bookings import Bookings
from seatctl.mongo.collection import Documents
from seatctl.mongo.events import Events
from seatctl.mongo.ids import new_run_id
from seatctl.mongo.locks import SeatLocks
from seatctl.mongo.refunds import Refunds
from seatctl.services import (
    counters,
    event_cancellation,
    event_cancellation_batch,
    events,
    jobs,
    payments,
    rebooking,
    recovery,
    refunds,
)
from seatctl.services.clearance import Clearance

if TYPE_CHECKING:
    from conftest import Clock

    from seatctl.mongo.store import Store


@dataclass(frozen=True)
class Control:
    """A guard: how to take it out, the schedule that it is there for, and what breaks without it (the
    invariant's number, or the promise)."""

    remove: Callable[[Scene], None]
    attack: Callable[[Scene], list[str]]
    breaks: str


# --- guards taken out ----------------------------------------------------------------------------------


def blinding(collection: type, method: str, *fields: str) -> Callable[[Scene], None]:
    return lambda scene: scene.blind(collection, method, *fields)


def skipping(owner: Any, method: str, answer: Any = None) -> Callable[[Scene], None]:
    return lambda scene: scene.skip(owner, method, answer)


def believing(*methods: tuple[type, str]) -> Callable[[Scene], None]:
    """Take what a method should change for what it did."""

    def remove(scene: Scene) -> None:
        for collection, method in methods:
            scene.pretend(collection, method, lambda ids, *_: len(ids))

    return remove


def look_for_bookings_once(scene: Scene) -> None:
    """In the plan of the sweep, and not again when it writes."""
    original = Bookings.protecting

    def once(bookings: Bookings, *args: Any) -> Any:
        scene.skip(Bookings, "protecting", iter(()))
        return original(bookings, *args)

    scene.patch.setattr(Bookings, "protecting", once)


def accept_late_payments(scene: Scene) -> None:
    scene.skip(rules, "check_payable")
    scene.blind(Bookings, "confirm", "$expr")


def sell_what_is_overdue(scene: Scene) -> None:
    scene.skip(rules, "check_sellable")
    scene.blind(Bookings, "confirm", "$expr")


def extend_anything(scene: Scene) -> None:
    scene.skip(rules, "check_extendable")
    scene.blind(Bookings, "extend", "$expr")


def forget_what_came_back(scene: Scene) -> None:
    get = Bookings.get

    def forgetful(bookings: Bookings, booking_id: Any) -> Any:
        found = get(bookings, booking_id)
        return found and found._replace(seats_cancelled=0)

    scene.patch.setattr(Bookings, "get", forgetful)
    scene.blind(Bookings, "return_some_seats", "seatsCancelled")


def forget_the_cancellation(scene: Scene) -> None:
    """That a refund of the payment is recorded, and that an operator cancelled the booking."""
    scene.skip(Refunds, "of_booking", [])
    scene.skip(refunds, "_paid_once", answer=False)


def read_the_key_outside(scene: Scene) -> None:
    """Not in the snapshot of the transaction that takes the seats."""
    by_key = SeatLocks.by_key
    scene.patch.setattr(
        SeatLocks, "by_key", lambda locks, *args: by_key(SeatLocks(locks._deployment, None), *args)
    )


def count_outside(scene: Scene) -> None:
    """Recovery reads an event and its locks outside of its transaction, and then writes regardless. Either
    the snapshot or the comparison would save it."""
    get, held = Events.get, Aggregations.held_seats

    def held_outside(audit: Aggregations, scope: Any, **options: Any) -> Any:
        audit._session = None
        return held(audit, scope, **options)

    scene.patch.setattr(
        Events, "get", lambda events, event_id: get(Events(events._deployment, None), event_id)
    )
    scene.patch.setattr(Aggregations, "held_seats", held_outside)
    scene.skip(counters, "reason_against_raising")
    scene.blind(Events, "set_counter", "availableSeats", "totalSeats")


def reading_outside(*reads: tuple[type, str], blind: tuple[type, str, tuple[str, ...]]) -> Any:
    """Read outside of the transaction, and then write regardless. Either the snapshot or the comparison would
    save it."""

    def remove(scene: Scene) -> None:
        for owner, method in reads:
            scene.patch.setattr(owner, method, _outside(getattr(owner, method)))
        scene.skip(Clearance, "doubts", {})
        scene.blind(blind[0], blind[1], *blind[2])

    return remove


def without_snapshot(*blind: tuple[type, str, str]) -> Callable[[Scene], None]:
    """Read everything outside of the transaction, and then write regardless."""

    def remove(scene: Scene) -> None:
        one, find = Documents._one, Documents._find
        scene.patch.setattr(Documents, "_one", _outside(one))
        scene.patch.setattr(Documents, "_find", _outside(lambda *args, **more: iter([*find(*args, **more)])))
        scene.skip(Clearance, "doubts", {})
        for method in blind:
            scene.blind(*method)

    return remove


def _outside(read: Callable[..., Any]) -> Callable[..., Any]:
    def reading(owner: Any, *args: Any, **more: Any) -> Any:
        session, owner._session = owner._session, None
        found = read(owner, *args, **more)
        owner._session = session
        return found

    return reading


def name_no_confirmed_lock(scene: Scene) -> None:
    plan = event_cancellation.plan_locks

    def forgetful(*args: Any) -> Any:
        batch = plan(*args)
        batch.kept.clear()
        return batch

    scene.patch.setattr(event_cancellation, "plan_locks", forgetful)


READ = (Events, "get"), (Aggregations, "held_seats"), (SeatLocks, "of_closing")
NUMBERS = ("availableSeats", "totalSeats")

CONTROLS_OF_EVENTS = {
    "create-event: a key makes the id of its operation": Control(
        lambda scene: scene.patch.setattr(events, "id_of_key", lambda *_: new_run_id()),
        on_events.same_event_key_at_once,
        breaks="key",
    ),
    "take_seats: the event is open": Control(
        skipping(codec, "is_open", {"$literal": True}), on_events.locked_when_closed, breaks="14"
    ),
    "close reads and writes at one point in time": Control(
        reading_outside(*READ, blind=(Events, "close", NUMBERS)), on_events.locked_while_closed, breaks="1"
    ),
    "reopen reads and writes at one point in time": Control(
        reading_outside(*READ, blind=(Events, "reopen", (*NUMBERS, "$expr"))),
        on_events.shrunk_while_reopened,
        breaks="2",
    ),
    "resize reads and writes at one point in time": Control(
        reading_outside(*READ, blind=(Events, "set_counter", NUMBERS)),
        on_events.locked_while_resized,
        breaks="1",
    ),
    "clearance in a resize": Control(
        skipping(Clearance, "doubts", {}), on_events.resized_beside_an_unreadable_booking, breaks="11"
    ),
    "clearance in a reopening": Control(
        skipping(Clearance, "doubts", {}), on_events.reopened_beside_an_unreadable_lock, breaks="11"
    ),
    "clearance in an unblock": Control(
        skipping(Clearance, "doubts", {}), on_events.unblocked_while_overbooked, breaks="1"
    ),
    "a sweep blocks what came back to a closed event": Control(
        skipping(jobs, "block_what_came_back", Counter()), on_events.returned_to_a_closed_event, breaks="14"
    ),
    "cancel-event: seats go into the block": Control(
        skipping(event_cancellation_batch, "add_to_block"), on_events.confirmed_while_cancelled, breaks="1"
    ),
    "cancel-event: refunds": Control(
        skipping(event_cancellation_batch, "_owe"), on_events.paid_while_cancelled, breaks="12"
    ),
    "cancel-event: bookings that wait are listed before those that are paid": Control(
        lambda scene: scene.patch.setattr(event_cancellation, "LISTS", event_cancellation.LISTS[::-1]),
        on_events.paid_between_two_lists,
        breaks="12",
    ),
    "cancel-event: one more pass for a lock that was confirmed": Control(
        name_no_confirmed_lock, on_events.confirmed_while_cancelled, breaks="5"
    ),
    "cancel-event: a booking that names its lock by text": Control(
        skipping(Bookings, "with_malformed_lock_id", ()),
        on_events.cancelled_beside_what_cannot_be_read,
        breaks="11",
    ),
}
"""Those of the commands on a whole event."""

CONTROLS = CONTROLS_OF_EVENTS | {
    # --- the counter
    "take_seats: the counter has enough seats": Control(
        blinding(Events, "take_seats", "availableSeats"), on.two_buyers_one_seat, breaks="2"
    ),
    "add_seats: no counter above the total": Control(
        skipping(counters_of_events, "_has_room", {}), on.counter_raised_while_swept, breaks="2"
    ),
    "expire: every event took its seats, or StaleRead": Control(
        believing((Events, "add_seats")), on.counter_unreadable_while_swept, breaks="1"
    ),
    # --- the sweeps
    "locks.expire_overdue: the status": Control(
        blinding(SeatLocks, "expire_overdue", "status"), on.released_while_swept, breaks="1"
    ),
    "locks.expire_overdue: the deadline": Control(
        blinding(SeatLocks, "expire_overdue", "expiresAt"), on.confirmed_while_swept, breaks="4"
    ),
    "locks.expire_booked: the status": Control(
        blinding(SeatLocks, "expire_booked", "status"),
        on.booked_lock_expired_by_another_program_while_swept,
        breaks="1",
    ),
    "locks.expire_overdue: the seats": Control(
        blinding(SeatLocks, "expire_overdue", "seats"), on.seats_changed_by_hand_while_swept, breaks="1"
    ),
    "locks.expire_booked: the seats": Control(
        blinding(SeatLocks, "expire_booked", "seats"), on.seats_given_back_while_swept, breaks="1"
    ),
    "bookings.expire_overdue: the status": Control(
        blinding(Bookings, "expire_overdue", "status"), on.marked_paid_while_swept, breaks="final"
    ),
    "bookings.expire_overdue: the deadline": Control(
        blinding(Bookings, "expire_overdue", "paymentExpiresAt"), on.prolonged_while_swept, breaks="6"
    ),
    "expire: the expected count of locks": Control(
        believing((SeatLocks, "expire_overdue")), on.released_while_swept, breaks="1"
    ),
    "expire: the expected count of booked locks": Control(
        believing((SeatLocks, "expire_booked")),
        on.booked_lock_expired_by_another_program_while_swept,
        breaks="1",
    ),
    "expire: the expected count of bookings": Control(
        believing((Bookings, "expire_overdue")), on.marked_paid_while_swept, breaks="4"
    ),
    "expire: the expected counts of bookings and locks": Control(
        believing((Bookings, "expire_overdue"), (SeatLocks, "expire_booked")),
        on.failed_while_swept,
        breaks="1",
    ),
    "expire: bookings are looked for again as of the future": Control(
        look_for_bookings_once, on.confirmed_while_swept_as_of_the_future, breaks="4"
    ),
    "plan: a live booking keeps its lock": Control(
        skipping(Bookings, "protecting", ()), on.booking_of_another_program_under_an_overdue_lock, breaks="4"
    ),
    # --- clearance
    "clearance of an overbooked event in a sweep": Control(
        skipping(Clearance, "doubts", {}), on.swept_while_overbooked, breaks="1"
    ),
    "clearance of an unreadable event in a sweep": Control(
        skipping(Clearance, "doubts", {}), on.swept_beside_an_unreadable_lock, breaks="11"
    ),
    "clearance in a release": Control(
        skipping(Clearance, "doubts", {}), on.released_while_overbooked, breaks="1"
    ),
    "clearance in a failed payment": Control(
        skipping(Clearance, "doubts", {}), on.failed_beside_a_missing_lock, breaks="11"
    ),
    "clearance before recovery raises a counter": Control(
        skipping(counters, "reason_against_raising"), on.recovered_while_a_sold_lock_is_missing, breaks="11"
    ),
    # --- confirm, pay, lock
    "confirm writes the lock: swept meanwhile": Control(
        skipping(SeatLocks, "move_deadline", answer=True), on.swept_while_confirmed, breaks="4"
    ),
    "confirm writes the lock: sweep begun before": Control(
        skipping(SeatLocks, "move_deadline", answer=True), on.confirmed_while_swept, breaks="4"
    ),
    "confirm writes the lock: confirmed meanwhile": Control(
        skipping(SeatLocks, "move_deadline", answer=True), on.confirmed_while_confirmed, breaks="5"
    ),
    "locks.move_deadline: the deadline": Control(
        blinding(SeatLocks, "move_deadline", "$expr"), on.run_out_while_confirmed, breaks="6"
    ),
    "bookings.confirm: the deadline": Control(
        blinding(Bookings, "confirm", "$expr"), on.run_out_while_paid, breaks="7"
    ),
    "pay: the deadline": Control(accept_late_payments, on.paid_too_late, breaks="7"),
    "lock: a key is looked up in the transaction's snapshot": Control(
        read_the_key_outside, on.same_key_at_once, breaks="key"
    ),
    # --- more time, cancelled, booked again
    "locks.extend: the deadline": Control(
        blinding(SeatLocks, "extend", "$expr"), on.run_out_while_extended, breaks="6"
    ),
    "bookings.extend: the deadline": Control(
        blinding(Bookings, "extend", "$expr"), on.booking_run_out_while_extended, breaks="6"
    ),
    "extend: what is overdue stays so": Control(extend_anything, on.extended_too_late, breaks="6"),
    "clearance in a cancellation": Control(
        skipping(Clearance, "doubts", {}), on.cancelled_beside_an_unreadable_lock, breaks="11"
    ),
    "clearance when some seats come back": Control(
        skipping(Clearance, "doubts", {}), on.some_cancelled_beside_an_unreadable_lock, breaks="11"
    ),
    "cancel: an overbooked event takes no seats": Control(
        skipping(Clearance, "doubts", {}), on.cancelled_while_overbooked, breaks="1"
    ),
    "cancel: another booking keeps the lock": Control(
        skipping(Bookings, "protecting", ()), on.cancelled_beside_another_booking, breaks="5"
    ),
    "cancel: the lock that another booking keeps": Control(
        skipping(SeatLocks, "touch", True), on.cancelled_while_cancelled, breaks="5"
    ),
    "pay --failed: the lock that another booking keeps": Control(
        skipping(SeatLocks, "touch", True), on.failed_while_failed, breaks="5"
    ),
    "recovery: the booking whose seats are taken again": Control(
        skipping(Bookings, "stamp", True), on.cancelled_while_recovered, breaks="5"
    ),
    "pay: the booking whose payment is refused": Control(
        skipping(Bookings, "stamp", True), on.extended_and_paid_while_refused, breaks="12"
    ),
    "rebook: the booking whose payment is refused": Control(
        skipping(Bookings, "stamp", True), on.rebooked_while_refused, breaks="12"
    ),
    "cancel: what has ended is final": Control(
        skipping(rules, "check_cancellable"), on.cancelled_after_the_end, breaks="final"
    ),
    "cancel --seats: the target is absolute": Control(
        forget_what_came_back, on.some_cancelled_twice, breaks="twice"
    ),
    "cancel: a booking is as it was read: paid meanwhile": Control(
        without_snapshot((SeatLocks, "change", "status"), (Bookings, "change", "status")),
        on.paid_while_cancelled,
        breaks="12",
    ),
    "cancel: a booking is as it was read: cancelled meanwhile": Control(
        without_snapshot((SeatLocks, "change", "status"), (Bookings, "change", "status")),
        on.cancelled_twice_at_once,
        breaks="1",
    ),
    "pay: a booking is as it was read: cancelled meanwhile": Control(
        without_snapshot((SeatLocks, "change", "status"), (Bookings, "confirm", "status")),
        on.cancelled_while_paid,
        breaks="1",
    ),
    "cancel: what was paid is due": Control(
        skipping(Refunds, "owe"), on.cancelled_when_it_was_paid, breaks="12"
    ),
    "confirm --sold writes the lock": Control(
        skipping(SeatLocks, "touch", answer=True),
        on.cancelled_while_recorded_as_sold,
        breaks="5",
    ),
    "confirm --sold: the deadline": Control(sell_what_is_overdue, on.sold_too_late, breaks="7"),
    "rebook: its key is looked up": Control(skipping(SeatLocks, "by_key"), on.rebooked_twice, breaks="twice"),
    "rebook: its key is looked up again": Control(
        skipping(SeatLocks, "by_key"), on.rebooked_twice_at_once, breaks="twice"
    ),
    "rebook: the refund is not due any more": Control(
        skipping(rebooking, "reduce_refund"), on.rebooked_with_a_late_payment, breaks="12"
    ),
    "rebook: money that went back buys nothing": Control(
        skipping(rebooking, "find_due_refund"), on.rebooked_with_money_that_went_back, breaks="12"
    ),
    "pay: a late payment is recorded": Control(skipping(Refunds, "record"), on.paid_late, breaks="12"),
    "pay: the payment of a cancelled booking is due once": Control(
        forget_the_cancellation, on.paid_again_after_a_cancellation, breaks="12"
    ),
    "pay: a late payment that counts after all is not due": Control(
        skipping(payments, "withdraw_late"), on.paid_late_and_extended, breaks="12"
    ),
    # --- recovery
    "recovery counts and sets a counter at one point in time": Control(
        count_outside, on.locked_while_counted, breaks="1"
    ),
    "recovery raises a counter only by a drift that lasts": Control(
        lambda scene: scene.patch.setattr(recovery, "stable_drifts", lambda _store, drifts, *_: drifts),
        on.recovered_between_two_writes,
        breaks="1",
    ),
}


@pytest.fixture
def scene(store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(store, clock, monkeypatch)


@pytest.mark.parametrize("name", CONTROLS)
def test_with_its_guard_the_schedule_does_no_harm(scene: Scene, name: str) -> None:
    assert CONTROLS[name].attack(scene) == []


@pytest.mark.parametrize("name", CONTROLS)
def test_without_its_guard_the_same_schedule_breaks_a_promise(scene: Scene, name: str) -> None:
    """The one that the guard is there for."""
    control = CONTROLS[name]
    control.remove(scene)
    broken = control.attack(scene)
    assert control.breaks in {found.partition(":")[0] for found in broken}, broken
