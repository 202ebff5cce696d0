"""A healthy database, and ways to break each of its promises."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from scene import NOWHERE, book, create, insert_booking, lock, sell

from seatctl.domain.states import Fault
from seatctl.mongo.store import Store
from seatctl.services import payments, sales
from seatctl.services.closing import close

Id = Any


class Scene:
    """A healthy database to break: one event of 100 seats with every kind of lock and booking on it."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.event = create(store)
        self.held = lock(store, self.event)
        self.lock_of_pending, self.pending = self.booked()
        self.lock_of_paid, self.paid = sell(store, self.event)
        self.lock_of_failed, self.failed = self.booked()
        payments.fail_payment(store, self.failed)

    def booked(self) -> tuple[Id, Id]:
        return book(self.store, self.event)

    def edit(self, collection: str, document_id: Id, **fields: Any) -> None:
        self.store.database[collection].update_one({"_id": document_id}, {"$set": fields})

    def remove(self, collection: str, document_id: Id) -> None:
        self.store.database[collection].delete_one({"_id": document_id})

    def counter(self, change: int) -> None:
        self.store.database.events.update_one({"_id": self.event}, {"$inc": {"availableSeats": int(change)}})


def drift(scene: Scene) -> set[Id]:
    scene.counter(-1)
    return {scene.event}


def overbook(scene: Scene) -> set[Id]:
    scene.edit("seatLocks", scene.held, seats=101)
    return {scene.event}


def forget_to_consume(scene: Scene) -> set[Id]:
    scene.edit("seatLocks", scene.lock_of_paid, status="ACTIVE")
    return {scene.event, scene.lock_of_paid, scene.paid}


def lose_paid_lock(scene: Scene) -> set[Id]:
    scene.edit("seatLocks", scene.lock_of_paid, status="EXPIRED")
    scene.counter(1)
    return {scene.event, scene.lock_of_paid, scene.paid}


def keep_seats_of_failed(scene: Scene) -> set[Id]:
    scene.edit("seatLocks", scene.lock_of_failed, status="ACTIVE")
    scene.counter(-1)
    return {scene.event, scene.lock_of_failed, scene.failed}


def free_under_payment(scene: Scene) -> set[Id]:
    scene.edit("seatLocks", scene.lock_of_pending, status="EXPIRED")
    scene.counter(1)
    return {scene.event, scene.lock_of_pending, scene.pending}


def delete_lock_of_pending(scene: Scene) -> set[Id]:
    scene.remove("seatLocks", scene.lock_of_pending)
    scene.counter(1)
    return {scene.event, scene.lock_of_pending, scene.pending}


def delete_lock_of_paid(scene: Scene) -> set[Id]:
    scene.remove("seatLocks", scene.lock_of_paid)
    scene.counter(1)
    return {scene.event, scene.lock_of_paid, scene.paid}


def delete_lock_of_paid_and_nothing_else(scene: Scene) -> set[Id]:
    scene.remove("seatLocks", scene.lock_of_paid)
    return {scene.event}


def delete_paid_booking(scene: Scene) -> set[Id]:
    scene.remove("bookings", scene.paid)
    return {scene.event, scene.lock_of_paid}


def book_twice(scene: Scene) -> set[Id]:
    insert_booking(scene.store, scene.event, scene.lock_of_pending)
    return {scene.event, scene.lock_of_pending}


def move_booking_elsewhere(scene: Scene) -> set[Id]:
    other = create(scene.store, 10)
    scene.edit("bookings", scene.pending, event=other)
    return {other, scene.lock_of_pending, scene.pending}


def move_lock_nowhere(scene: Scene) -> set[Id]:
    scene.edit("seatLocks", scene.held, eventId=NOWHERE)
    scene.counter(1)
    return {NOWHERE, scene.held}


def move_booking_nowhere(scene: Scene) -> set[Id]:
    scene.edit("bookings", scene.pending, event=NOWHERE)
    return {NOWHERE, scene.lock_of_pending, scene.pending}


def move_sold_nowhere(scene: Scene) -> set[Id]:
    scene.edit("seatLocks", scene.lock_of_paid, eventId=NOWHERE)
    scene.edit("bookings", scene.paid, event=NOWHERE)
    scene.counter(1)
    return {NOWHERE, scene.lock_of_paid, scene.paid}


def damage_lock(scene: Scene) -> set[Id]:
    scene.edit("seatLocks", scene.held, seats=0.5)
    return {scene.event, scene.held}


def damage_booking(scene: Scene) -> set[Id]:
    scene.edit("bookings", scene.failed, status="LOST")
    return {scene.event, scene.failed}


def damage_event(scene: Scene) -> set[Id]:
    scene.edit("events", scene.event, totalSeats=None)
    return {scene.event}


def count_by_day(scene: Scene) -> set[Id]:
    scene.edit("events", scene.event, dailySeats={"2027-01-01": {"total": 100, "available": 97}})
    return {scene.event}


def let_documents_expire(scene: Scene) -> set[Id]:
    """A TTL index of whatever name and keys, here with a partial filter; long enough to see it found."""
    scene.store.database.bookings.create_index(
        [("paymentExpiresAt", 1)],
        name="tidy",
        expireAfterSeconds=10**9,
        partialFilterExpression={"status": "FAILED"},
    )
    return {"bookings.tidy"}


def share_a_key(scene: Scene) -> set[Id]:
    """Two locks that hold seats for one request, as another program makes them where no index forbids it."""
    scene.store.database.seatLocks.drop_indexes()
    for held in (scene.held, scene.lock_of_pending):
        scene.edit("seatLocks", held, userId="u", idempotencyKey="order-7")
    return {scene.event, min(scene.held, scene.lock_of_pending)}


def return_seats_to_a_closed_event(scene: Scene) -> set[Id]:
    close(scene.store, scene.event)
    sales.release(scene.store, scene.held)
    return {scene.event}


BESIDE = {Fault.COUNTER_IN_DOUBT: {Fault.CONFIRMED_WITHOUT_LOCK}}
"""What else is wrong wherever a fault is."""


def hold_for_centuries(scene: Scene) -> set[Id]:
    scene.edit("seatLocks", scene.held, expiresAt=scene.store.now() + timedelta(days=219_000))
    return {scene.event, scene.held}


BREAKAGES = {
    Fault.COUNTER_DRIFT: drift,
    Fault.COUNTER_IN_DOUBT: delete_lock_of_paid_and_nothing_else,
    Fault.OVERBOOKED: overbook,
    Fault.UNSETTLED_LOCK: forget_to_consume,
    Fault.LOST_LOCK: lose_paid_lock,
    Fault.SEATS_NOT_RETURNED: keep_seats_of_failed,
    Fault.BOOKING_WITHOUT_SEATS: free_under_payment,
    Fault.BOOKING_WITHOUT_LOCK: delete_lock_of_pending,
    Fault.CONFIRMED_WITHOUT_LOCK: delete_lock_of_paid,
    Fault.CONSUMED_WITHOUT_BOOKING: delete_paid_booking,
    Fault.SEVERAL_BOOKINGS: book_twice,
    Fault.OTHER_EVENT: move_booking_elsewhere,
    Fault.ORPHAN_LOCK: move_lock_nowhere,
    Fault.ORPHAN_BOOKING: move_booking_nowhere,
    Fault.ORPHAN_SOLD: move_sold_nowhere,
    Fault.DAMAGED_LOCK: damage_lock,
    Fault.DAMAGED_BOOKING: damage_booking,
    Fault.DAMAGED_EVENT: damage_event,
    Fault.UNKNOWN_COUNTING: count_by_day,
    Fault.TTL_INDEX: let_documents_expire,
    Fault.DUPLICATE_KEY: share_a_key,
    Fault.CLOSED_WITH_SEATS: return_seats_to_a_closed_event,
    Fault.FAR_DEADLINE: hold_for_centuries,
}
"""By fault, how it comes about; each returns the ids that the violation must name."""
