"""A dry run of `cancel-event` tells what the real run then does, whatever is stored of an event."""

from collections.abc import Callable
from itertools import combinations_with_replacement
from typing import Any

import pytest
from conftest import available, everything
from oracle import violations
from scene import (
    HOUR,
    NOWHERE,
    add,
    book,
    create,
    delete,
    insert_booking,
    insert_lock,
    lock,
    meanwhile,
    sell,
    states,
)

from seatctl.domain.states import BookingStatus, LockStatus
from seatctl.mongo.bookings import Bookings
from seatctl.services import payments
from seatctl.services.closing import close
from seatctl.services.event_cancellation import CancelEventRequest, cancel_event

BOOKINGS = [*BookingStatus, "unreadable", "by text", "of another event"]
"""Each state of a booking, and what else may name a lock."""
LOCKS = [*LockStatus, "unreadable", "of another event", "missing"]


def run(store: Any, event: Any, **options: Any) -> Any:
    return cancel_event(store, CancelEventRequest(event, "Concert", **options))


def insert_named(store: Any, event: Any, lock_id: Any, what: str) -> Any:
    match what:
        case "unreadable":
            return insert_booking(store, event, lock_id, "PAID")
        case "by text":
            return insert_booking(store, event, str(lock_id), "CONFIRMED")
        case "of another event":
            return insert_booking(store, create(store, 10), lock_id, "CONFIRMED")
    return insert_booking(store, event, lock_id, what)


def insert_pair(store: Any, event: Any, lock_state: str, bookings: tuple[str, ...]) -> None:
    """A lock of two seats in this state, or none, and the bookings that name it."""
    held = NOWHERE
    if lock_state != "missing":
        status = {"unreadable": "HELD", "of another event": "CONSUMED"}.get(lock_state, lock_state)
        owner = create(store, 10) if lock_state == "of another event" else event
        held = insert_lock(store, owner, 2, due=HOUR, status=status)
        add(store, owner, -2 if status in ("ACTIVE", "CONSUMED", "HELD") else 0)
    for booking in bookings:
        insert_named(store, event, held, booking)


def told(result: Any) -> dict[str, Any]:
    """What a run says that it did, or would do."""
    return {
        "done": (result.bookings, result.locks, result.seats, result.refunds, result.increased),
        "due": result.due,
        "owed": sorted((str(refund["_id"]), refund["seats"]) for refund in result.owed),
        "skipped": sorted((str(item.id), item.reason) for item in result.skipped),
        "count": len(result.skipped),
    }


def ended(store: Any, event: Any) -> tuple[int, int]:
    """How many bookings and locks of an event an operation ended, by what is stored."""
    by_run = {"endedBy": {"$exists": True}}
    return (
        store.database.bookings.count_documents({"event": event, **by_run}),
        store.database.seatLocks.count_documents({"eventId": event, **by_run}),
    )


@pytest.mark.parametrize("batch_size", [1, 2, 5_000])
@pytest.mark.parametrize("lock_state", LOCKS)
def test_a_dry_run_tells_what_the_real_run_does(store: Any, lock_state: str, batch_size: int) -> None:
    """Over no, one or two bookings of each kind that name a lock in each state."""
    event = create(store, 1_000)
    for number in range(3):
        for bookings in combinations_with_replacement(BOOKINGS, number):
            insert_pair(store, event, lock_state, bookings)
    before = everything(store)
    planned = run(store, event, dry_run=True, batch_size=batch_size)
    assert everything(store) == before
    done = run(store, event, batch_size=batch_size)
    assert told(planned) == told(done)
    assert (done.bookings, done.locks) == ended(store, event)
    assert available(store, event) == 0


def test_what_is_owed_for_a_booking_without_a_lock_is_what_is_known_of_it(store: Any) -> None:
    event = create(store, 100)
    held, sold = sell(store, event, 3)
    delete(store, "seatLocks", held)
    labelled = insert_booking(store, event, NOWHERE, "CONFIRMED", seats=["A1", "A2"])
    unknown = insert_booking(store, event, NOWHERE, "CONFIRMED")
    for dry_run in (True, False):
        owed = {refund["bookingId"]: refund["seats"] for refund in run(store, event, dry_run=dry_run).owed}
        assert owed == {sold: 3, labelled: 2, unknown: None}


def test_a_booking_that_waits_beside_a_paid_one_ends_with_it_and_their_lock(store: Any) -> None:
    event = create(store, 100)
    held, paid = sell(store, event, 2)
    waiting = insert_booking(store, event, held)
    assert told(run(store, event))["done"] == (2, 1, 2, 1, 0)
    assert states(store, held, paid) == states(store, held, waiting) == ("CANCELLED", "CANCELLED")


def test_a_booking_that_is_paid_between_two_lists_ends(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it is the only one, so that a pass without it would be the last."""
    event = create(store, 100)
    held, booked = book(store, event, 2)
    happened = meanwhile(monkeypatch, Bookings, "ids_of", lambda: payments.pay(store, booked))
    assert told(run(store, event))["done"] == (1, 1, 2, 1, 0)
    assert happened
    assert states(store, held, booked) == ("CANCELLED", "CANCELLED")


def test_a_block_that_another_program_sold_ends_and_its_seats_stay_off_sale(store: Any) -> None:
    event = create(store, 100)
    close(store, event)
    (block,) = store.locks.of_closing(event)
    insert_booking(store, event, block.id)
    assert told(run(store, event, dry_run=True)) == told(run(store, event))
    assert violations(store.database) == []
    assert sum(each.seats for each in store.locks.of_closing(event)) == 100


@pytest.mark.parametrize("dry_run", [True, False])
def test_what_is_done_and_what_is_left_are_the_same_number_after_each_batch(
    store: Any, *, dry_run: bool
) -> None:
    """Also in a dry run, which ends nothing of what is counted."""
    event = create(store, 100)
    for _ in range(3):
        lock(store, event)
        book(store, event)
        sell(store, event)
    totals = []

    class Told:
        def start(self, _what: str, count: Callable[[], int]) -> None:
            self.done, self.count = 0, count

        def advance(self, items: int) -> None:
            self.done += items
            totals.append(self.done + self.count())

        def stop(self) -> None:
            pass

    cancel_event(store, CancelEventRequest(event, "Concert", dry_run, batch_size=2), Told())
    assert set(totals) == {9}
