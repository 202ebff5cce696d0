"""Exact schedules for the guards of commands on a whole event, as those in `schedules.py`."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from oracle import violations
from scene import book, create, insert_booking, lock, sell

from seatctl.errors import RefundDue
from seatctl.mongo.bookings import Bookings
from seatctl.mongo.events import Events
from seatctl.mongo.locks import SeatLocks
from seatctl.mongo.operations import Operations
from seatctl.services import blocks, closing, event_cancellation, payments, resizing, sales
from seatctl.services.events import CreateEventRequest, create_event

if TYPE_CHECKING:
    from schedules import Scene

NAME = "Concert"


def cancel(scene: Scene, event: Any) -> None:
    event_cancellation.cancel_event(scene.store, event_cancellation.CancelEventRequest(event, NAME))


def not_for_sale(scene: Scene, event: Any) -> list[str]:
    available = scene.find("events", event)["availableSeats"]
    return [] if available <= 0 else ["14: a closed event has seats available"]


def same_event_key_at_once(scene: Scene) -> list[str]:
    request = CreateEventRequest(NAME, 10, scene.clock.time, key="same")
    scene.store.operations.ensure_collection()
    scene.before(Operations, "record", lambda: create_event(scene.store, request))
    create_event(scene.store, request)
    made = scene.store.database.events.count_documents({})
    return [] if made == 1 else ["key: one key made two events"]


def locked_when_closed(scene: Scene) -> list[str]:
    """Seats came back to a closed event; a buyer comes before the next run of a job."""
    event = create(scene.store, 10)
    held = lock(scene.store, event)
    closing.close(scene.store, event)
    sales.release(scene.store, held)
    sold = scene.try_to(lock, event, 1, "late")
    return ["14: a closed event sold a seat"] if sold else []


def locked_while_closed(scene: Scene) -> list[str]:
    """Close has read the counter; a buyer takes seats; close writes."""
    event = create(scene.store, 10)
    scene.before(Events, "close", lambda: lock(scene.store, event, 4))
    scene.try_to(closing.close, event)
    return violations(scene.store.database)


def locked_while_resized(scene: Scene) -> list[str]:
    """Resize has counted what is held; a buyer takes seats; resize writes."""
    event = create(scene.store, 10)
    scene.before(Events, "set_counter", lambda: lock(scene.store, event, 4))
    scene.try_to(resizing.resize, resizing.ResizeRequest(event, 3))
    return violations(scene.store.database)


def resized_beside_an_unreadable_booking(scene: Scene) -> list[str]:
    """A booking's lock is gone, and its seats may be anybody's."""
    event = create(scene.store, 10)
    gone, _ = sell(scene.store, event, 3)
    scene.remember()
    scene.store.database.seatLocks.delete_one({"_id": gone})
    request = resizing.ResizeRequest(event, 20)
    return scene.watched(lambda: resizing.resize(scene.store, request), resizes=event)


def reopened_beside_an_unreadable_lock(scene: Scene) -> list[str]:
    event = create(scene.store, 10)
    odd = lock(scene.store, event, 2)
    closing.close(scene.store, event)
    scene.remember()
    scene.set("seatLocks", odd, status="HELD")
    return scene.watched(lambda: closing.reopen(scene.store, event), reopens=event)


def unblocked_while_overbooked(scene: Scene) -> list[str]:
    event = scene.crowd()
    held = blocks.block(scene.store, blocks.BlockRequest(event, 2)).lock.id
    scene.set("events", event, totalSeats=4, availableSeats=0)
    return scene.watched(lambda: blocks.unblock(scene.store, held), releases=held)


def shrunk_while_reopened(scene: Scene) -> list[str]:
    """Reopen has read how much the block holds; somebody closes seats for good; reopen writes."""
    event = create(scene.store, 10)
    closing.close(scene.store, event)
    smaller = resizing.ResizeRequest(event, 6)
    scene.before(Bookings, "protecting", lambda: resizing.resize(scene.store, smaller))
    scene.try_to(closing.reopen, event)
    return violations(scene.store.database)


def paid_while_cancelled(scene: Scene) -> list[str]:
    """The batch has read a pending booking; another program confirms it; the batch writes."""
    event = create(scene.store, 10)
    held, unpaid = book(scene.store, event, 2)

    def pay() -> None:
        scene.set("bookings", unpaid, status="CONFIRMED")
        scene.set("seatLocks", held, status="CONSUMED")

    scene.before(Bookings, "end_all", pay)
    cancel(scene, event)
    cancel(scene, event)
    owed = scene.store.database.refunds.count_documents({"bookingId": unpaid})
    return [] if owed == 1 else ["12: a payment was forgotten"]


def paid_between_two_lists(scene: Scene) -> list[str]:
    """Of the only booking there is."""
    event = create(scene.store, 10)
    _, unpaid = book(scene.store, event, 2)

    def pay() -> None:
        with suppress(RefundDue):
            payments.pay(scene.store, unpaid, "R")

    scene.before(Bookings, "ids_of", lambda: scene.before(Bookings, "ids_of", pay))
    cancel(scene, event)
    owed = scene.store.database.refunds.count_documents({"bookingId": unpaid})
    return [] if owed == 1 else ["12: a payment was forgotten"]


def confirmed_while_cancelled(scene: Scene) -> list[str]:
    """The bookings have ended; another program confirms a lock before the locks end."""
    event = create(scene.store, 10)
    held = lock(scene.store, event, 2)

    def confirm() -> None:
        insert_booking(scene.store, event, held, "CONFIRMED")

    scene.before(SeatLocks, "ids_of", confirm)
    cancel(scene, event)
    return violations(scene.store.database)


def cancelled_beside_what_cannot_be_read(scene: Scene) -> list[str]:
    """A booking names its lock by text."""
    event = create(scene.store, 10)
    held, waiting = book(scene.store, event, 2)
    scene.remember()
    scene.set("bookings", waiting, seatLockId=str(held))
    found = scene.watched(lambda: cancel(scene, event), cancels_event=event)
    return ["11: a lock ended under a booking that cannot be read"] if found else []


def returned_to_a_closed_event(scene: Scene) -> list[str]:
    event = create(scene.store, 10)
    lock(scene.store, event, 2)
    closing.close(scene.store, event)
    scene.clock.advance(minutes=11)
    scene.expire_locks()
    return not_for_sale(scene, event)
