"""Exact schedules for the negative controls: a rival acts at one moment between two commands to the
database. Each returns what is broken afterwards, "<invariant>: <what>".
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from oracle import sold_twice, violations
from pymongo.collection import Collection
from safety import Picture, Step, lock_is_readable, unsafe
from scene import book, confirm, create, insert_booking, insert_lock, lock, run_recover, sell

from seatctl.domain.states import HOLDING
from seatctl.errors import Contention, RefundDue, Refused, SeatctlError
from seatctl.mongo.bookings import Bookings
from seatctl.mongo.events import Events
from seatctl.mongo.locks import SeatLocks
from seatctl.services import cancellation, counters, extension, jobs, payments, rebooking, refunds, sales

if TYPE_CHECKING:
    from conftest import Clock

    from seatctl.mongo.store import Store

SECOND, HOUR = timedelta(seconds=1), timedelta(hours=1)


class Scene:
    """A database, its clock, and the means to act between two commands, or to take a guard out."""

    def __init__(self, store: Store, clock: Clock, patch: pytest.MonkeyPatch) -> None:
        self.store, self.clock, self.patch = store, clock, patch
        self.truth: dict[Any, tuple[Any, int]] = {}

    # --- the stage -----------------------------------------------------------------------------

    def crowd(self) -> Any:
        """An event with 10 seats, of which somebody holds 3 for an hour."""
        event = create(self.store, 10)
        lock(self.store, event, 3, "other", HOUR)
        return event

    def try_to(self, command: Callable[..., Any], *args: Any) -> bool:
        """Whether a buyer's command was not refused."""
        try:
            command(self.store, *args)
        except (Refused, Contention):
            return False
        return True

    def expire_locks(self, **options: Any) -> None:
        jobs.expire_locks(self.store, jobs.JobOptions(**options))

    def expire_bookings(self) -> None:
        jobs.expire_bookings(self.store, jobs.JobOptions())

    def other_program_expires(self, held: Any) -> None:
        """Another program returns a lock, and leaves no stamp."""
        database = self.store.database
        document = database.seatLocks.find_one_and_update({"_id": held}, {"$set": {"status": "EXPIRED"}})
        database.events.update_one(
            {"_id": document["eventId"]}, {"$inc": {"availableSeats": document["seats"]}}
        )

    def set(self, collection: str, one: Any, **fields: Any) -> None:
        self.store.database[collection].update_one({"_id": one}, {"$set": fields})

    def find(self, collection: str, one: Any) -> Any:
        return self.store.database[collection].find_one({"_id": one})

    # --- acting in between ---------------------------------------------------------------------

    def before(self, collection: type, method: str, act: Callable[[], Any]) -> None:
        """Have `act` happen once, right before the next call of this method."""
        original = getattr(collection, method)

        def interrupted(*args: Any, **more: Any) -> Any:
            self.patch.setattr(collection, method, original)
            act()
            return original(*args, **more)

        self.patch.setattr(collection, method, interrupted)

    def before_returning(self, act: Callable[[], Any]) -> None:
        """Have `act` happen right before the first write of what returns seats next."""
        self.before(Events, "add_seats", act)

    def at(self, time: datetime, act: Callable[[], Any]) -> None:
        """Do what somebody does who has looked at the clock at that time."""
        now, self.clock.time = self.clock.time, time
        act()
        self.clock.time = now

    def watched(self, act: Callable[[], Any], **may: Any) -> list[str]:
        """What `act` returned to sale, or changed, that it must not."""
        before = self.picture()
        with suppress(SeatctlError):
            act()
        after = self.picture()
        return unsafe(before, after, Step(self.clock(), **may))

    def picture(self) -> Picture:
        return Picture.of(self.store.database, self.truth, deleting=False)

    def remember(self) -> None:
        """What the locks stand for, before somebody makes them unreadable or deletes them."""
        found = self.store.database.seatLocks.find()
        self.truth = {one["_id"]: (one["eventId"], one["seats"]) for one in found if lock_is_readable(one)}

    # --- taking guards out ---------------------------------------------------------------------

    def blind(self, collection: type, method: str, *fields: str) -> None:
        """Make a method send its updates without the conditions on these fields."""
        original = getattr(collection, method)

        def blinded(*args: Any, **more: Any) -> Any:
            with pytest.MonkeyPatch.context() as patch:
                for update in ("update_many", "find_one_and_update"):
                    patch.setattr(
                        Collection, update, _without_conditions(getattr(Collection, update), fields)
                    )
                return original(*args, **more)

        self.patch.setattr(collection, method, blinded)

    def pretend(self, collection: type, method: str, answer: Callable[..., Any]) -> None:
        """Make a method do its work, and answer `answer(*args)` whatever came of it."""
        original = getattr(collection, method)

        def pretending(documents: Any, *args: Any, **more: Any) -> Any:
            original(documents, *args, **more)
            return answer(*args)

        self.patch.setattr(collection, method, pretending)

    def skip(self, owner: Any, method: str, answer: Any = None) -> None:
        """Make a method or function do nothing."""
        self.patch.setattr(owner, method, lambda *_args, **_more: answer)


def _without_conditions(update: Callable[..., Any], fields: tuple[str, ...]) -> Callable[..., Any]:
    def send(collection: Any, where: dict[str, Any], *args: Any, **more: Any) -> Any:
        assert set(fields) <= where.keys(), f"there is no condition on {fields} to take out of {where}"
        kept = {field: value for field, value in where.items() if field not in fields}
        return update(collection, kept, *args, **more)

    return send


# --- schedules: the counter --------------------------------------------------------------------------


def two_buyers_one_seat(scene: Scene) -> list[str]:
    event = create(scene.store, 1)
    lock(scene.store, event)
    scene.try_to(lock, event, 1, "second")
    return violations(scene.store.database)


def counter_raised_while_swept(scene: Scene) -> list[str]:
    """The sweep has cleared an event; another program raises its counter; the sweep writes."""
    event = create(scene.store, 10)
    lock(scene.store, event, 7)
    scene.clock.advance(minutes=11)
    scene.before_returning(lambda: scene.set("events", event, availableSeats=10))
    scene.expire_locks()
    return [found for found in violations(scene.store.database) if found.startswith("2")]


def counter_unreadable_while_swept(scene: Scene) -> list[str]:
    """The sweep has cleared an event; somebody makes a text of its counter, and a number again after the
    sweep."""
    event = create(scene.store, 10)
    lock(scene.store, event, 7)
    scene.clock.advance(minutes=11)
    scene.before_returning(lambda: scene.set("events", event, availableSeats="3"))
    scene.expire_locks()
    scene.set("events", event, availableSeats=3)
    return violations(scene.store.database)


# --- schedules: the sweeps -----------------------------------------------------------------------------


def released_while_swept(scene: Scene) -> list[str]:
    """The sweep has read an overdue lock; its buyer releases it; the sweep writes."""
    held = lock(scene.store, scene.crowd())
    scene.clock.advance(minutes=11)
    scene.before_returning(lambda: sales.release(scene.store, held))
    scene.expire_locks()
    return violations(scene.store.database)


def confirmed_while_swept(scene: Scene) -> list[str]:
    """The sweep has read an overdue lock; a confirm that began in time ends; the sweep writes."""
    held = lock(scene.store, create(scene.store, 10))
    in_time = scene.clock.time + timedelta(minutes=10) - SECOND
    scene.clock.advance(minutes=11)
    scene.before_returning(lambda: scene.at(in_time, lambda: confirm(scene.store, held)))
    scene.expire_locks()
    return violations(scene.store.database)


def confirmed_while_swept_as_of_the_future(scene: Scene) -> list[str]:
    """The deadline that the confirm moved is overdue by then, too."""
    held = lock(scene.store, create(scene.store, 10))
    scene.before_returning(lambda: confirm(scene.store, held))
    scene.expire_locks(as_of=HOUR, force=True)
    return violations(scene.store.database)


def failed_while_swept(scene: Scene) -> list[str]:
    """The sweep has read an overdue booking; its payment fails; the sweep writes."""
    _, unpaid = book(scene.store, scene.crowd())
    scene.clock.advance(minutes=16)
    scene.before_returning(lambda: payments.fail_payment(scene.store, unpaid))
    scene.expire_bookings()
    return violations(scene.store.database)


def seats_given_back_while_swept(scene: Scene) -> list[str]:
    """The sweep has read an overdue booking of four seats; its buyer gives three of them back."""
    event = scene.crowd()
    unpaid = confirm(scene.store, lock(scene.store, event, 4))
    scene.clock.advance(minutes=16)
    scene.before_returning(lambda: cancel(scene.store, unpaid, seats=3))
    scene.expire_bookings()
    return violations(scene.store.database)


def seats_changed_by_hand_while_swept(scene: Scene) -> list[str]:
    """The sweep has read an overdue lock of four seats; a person leaves one in it, and sets the counter."""
    event = scene.crowd()
    held = lock(scene.store, event, 4)
    scene.clock.advance(minutes=11)

    def edit() -> None:
        scene.set("seatLocks", held, seats=1)
        scene.set("events", event, availableSeats=6)

    scene.before_returning(edit)
    scene.expire_locks()
    return violations(scene.store.database)


def booked_lock_expired_by_another_program_while_swept(scene: Scene) -> list[str]:
    held, _ = book(scene.store, scene.crowd())
    scene.clock.advance(minutes=16)
    scene.before_returning(lambda: scene.other_program_expires(held))
    scene.expire_bookings()
    return violations(scene.store.database)


def marked_paid_while_swept(scene: Scene) -> list[str]:
    """The sweep has read an overdue booking; another program confirms it, and not yet its lock."""
    event = create(scene.store, 10)
    _, unpaid = book(scene.store, event)
    scene.clock.advance(minutes=16)
    scene.before_returning(lambda: scene.set("bookings", unpaid, status="CONFIRMED"))
    scene.expire_bookings()
    lost = scene.find("bookings", unpaid)["status"] != "CONFIRMED"
    returned = scene.find("events", event)["availableSeats"] == 10
    return ["final: a payment was undone"] * lost + ["4: a paid booking's seats were returned"] * returned


def prolonged_while_swept(scene: Scene) -> list[str]:
    """The sweep has read an overdue booking; another program gives it more time; the sweep writes."""
    _, unpaid = book(scene.store, create(scene.store, 10))
    scene.clock.advance(minutes=16)
    more_time = scene.clock.time + HOUR
    scene.before_returning(lambda: scene.set("bookings", unpaid, paymentExpiresAt=more_time))
    scene.expire_bookings()
    expired = scene.find("bookings", unpaid)["status"] == "EXPIRED"
    return ["6: a booking was expired before its deadline"] if expired else []


def booking_of_another_program_under_an_overdue_lock(scene: Scene) -> list[str]:
    """Another program confirms a lock without writing to it: 10-minute lock, 15-minute payment."""
    event = create(scene.store, 10)
    insert_booking(scene.store, event, lock(scene.store, event), due=timedelta(minutes=15))
    scene.clock.advance(minutes=12)
    scene.expire_locks()
    return violations(scene.store.database)


# --- schedules: what cannot be read ----------------------------------------------------------------------


def swept_while_overbooked(scene: Scene) -> list[str]:
    """The hall has become smaller than what is held: nothing of it is free."""
    event = scene.crowd()
    lock(scene.store, event, 2)
    scene.set("events", event, totalSeats=4, availableSeats=0)
    scene.clock.advance(minutes=11)
    return scene.watched(scene.expire_locks)


def swept_beside_an_unreadable_lock(scene: Scene) -> list[str]:
    event = scene.crowd()
    odd = lock(scene.store, event, 2)
    book(scene.store, event)
    scene.remember()
    scene.set("seatLocks", odd, status="HELD")
    scene.clock.advance(minutes=16)
    return scene.watched(scene.expire_bookings)


def released_while_overbooked(scene: Scene) -> list[str]:
    event = scene.crowd()
    held = lock(scene.store, event, 2)
    scene.set("events", event, totalSeats=4, availableSeats=0)
    return scene.watched(lambda: sales.release(scene.store, held), releases=held)


def failed_beside_a_missing_lock(scene: Scene) -> list[str]:
    event = create(scene.store, 10)
    gone, _ = book(scene.store, event, 3)
    _, unpaid = book(scene.store, event, 2)
    scene.remember()
    scene.store.database.seatLocks.delete_one({"_id": gone})
    return scene.watched(lambda: payments.fail_payment(scene.store, unpaid), fails=unpaid)


def recovered_while_a_sold_lock_is_missing(scene: Scene) -> list[str]:
    event = scene.crowd()
    gone, unpaid = book(scene.store, event, 2)
    payments.pay(scene.store, unpaid)
    scene.remember()
    scene.store.database.seatLocks.delete_one({"_id": gone})
    scene.clock.advance(minutes=2)
    return scene.watched(lambda: run_recover(scene.store), recovers=True)


# --- schedules: confirm, pay, lock -------------------------------------------------------------------------


def swept_while_confirmed(scene: Scene) -> list[str]:
    """Confirm has read a lock in time; the lock runs out and is swept; confirm writes."""
    held = lock(scene.store, create(scene.store, 10))

    def run_out() -> None:
        scene.clock.advance(minutes=11)
        scene.expire_locks()

    scene.before(SeatLocks, "move_deadline", run_out)
    scene.try_to(confirm, held)
    return violations(scene.store.database)


def confirmed_while_confirmed(scene: Scene) -> list[str]:
    event = create(scene.store, 10)
    book(scene.store, event)  # or the first booking ever would make the collection, which is a conflict
    held = lock(scene.store, event)
    scene.before(SeatLocks, "move_deadline", lambda: confirm(scene.store, held))
    scene.try_to(confirm, held)
    return violations(scene.store.database)


def run_out_while_confirmed(scene: Scene) -> list[str]:
    """Confirm has read a lock in time; its deadline passes; confirm writes."""
    held = lock(scene.store, create(scene.store, 10))
    scene.before(SeatLocks, "move_deadline", lambda: scene.clock.advance(minutes=11))
    return ["6: a lock was confirmed too late"] if scene.try_to(confirm, held) else []


def run_out_while_paid(scene: Scene) -> list[str]:
    """Pay has read a booking in time; its deadline passes; pay writes."""
    _, unpaid = book(scene.store, create(scene.store, 10))
    scene.before(Bookings, "confirm", lambda: scene.clock.advance(minutes=16))
    return ["7: a late payment was accepted"] if scene.try_to(payments.pay, unpaid) else []


def paid_too_late(scene: Scene) -> list[str]:
    _, unpaid = book(scene.store, create(scene.store, 10))
    scene.clock.advance(minutes=16)
    return ["7: a late payment was accepted"] if scene.try_to(payments.pay, unpaid) else []


def same_key_at_once(scene: Scene) -> list[str]:
    event = create(scene.store, 10)
    scene.before(Events, "take_seats", lambda: lock(scene.store, event, key="same"))
    lock(scene.store, event, key="same")
    locks = scene.store.database.seatLocks.count_documents({"idempotencyKey": "same"})
    return [*violations(scene.store.database), *(["key: two locks for one key"] if locks > 1 else [])]


# --- schedules: more time, cancelled, booked again ------------------------------------------------


def extend(store: Store, wanted: Any, **options: Any) -> None:
    extension.extend(store, extension.ExtendRequest(wanted, HOUR, **options))


def cancel(store: Store, wanted: Any, seats: int | None = None) -> None:
    cancellation.cancel(store, cancellation.CancelRequest(wanted, seats))


def rebook(store: Store, wanted: Any) -> None:
    rebooking.rebook(store, rebooking.RebookRequest(wanted))


def run_out_while_extended(scene: Scene) -> list[str]:
    """Extend has read a lock in time; its deadline passes; extend writes."""
    held = lock(scene.store, create(scene.store, 10))
    scene.before(SeatLocks, "extend", lambda: scene.clock.advance(minutes=11))
    return ["6: an overdue lock was extended"] if scene.try_to(extend, held) else []


def booking_run_out_while_extended(scene: Scene) -> list[str]:
    _, unpaid = book(scene.store, create(scene.store, 10))
    scene.before(Bookings, "extend", lambda: scene.clock.advance(minutes=16))
    return ["6: an overdue booking was extended"] if scene.try_to(extend, unpaid) else []


def extended_too_late(scene: Scene) -> list[str]:
    _, unpaid = book(scene.store, create(scene.store, 10))
    scene.clock.advance(minutes=16)
    return ["6: an overdue booking was extended"] if scene.try_to(extend, unpaid) else []


def _cancelled_beside_an_unreadable_lock(scene: Scene, seats: int | None) -> list[str]:
    event = scene.crowd()
    odd = lock(scene.store, event, 2)
    _, paid = sell(scene.store, event, 2)
    scene.remember()
    scene.set("seatLocks", odd, status="HELD")
    return scene.watched(lambda: cancel(scene.store, paid, seats), cancels=paid)


def cancelled_beside_an_unreadable_lock(scene: Scene) -> list[str]:
    return _cancelled_beside_an_unreadable_lock(scene, None)


def some_cancelled_beside_an_unreadable_lock(scene: Scene) -> list[str]:
    return _cancelled_beside_an_unreadable_lock(scene, 1)


def cancelled_while_overbooked(scene: Scene) -> list[str]:
    """The hall has become smaller than what is held: what one gives back is not free."""
    event = scene.crowd()
    _, paid = sell(scene.store, event, 2)
    scene.set("events", event, totalSeats=4, availableSeats=0)
    return scene.watched(lambda: cancel(scene.store, paid), cancels=paid)


def cancelled_beside_another_booking(scene: Scene) -> list[str]:
    """Another program made a second booking of a lock, which was paid for, too."""
    event = scene.crowd()
    held, paid = sell(scene.store, event, 2)
    other = insert_booking(scene.store, event, held, "CONFIRMED")
    cancel(scene.store, other)
    kept = scene.find("seatLocks", held)["status"], scene.find("bookings", paid)["status"]
    return [] if kept == ("CONSUMED", "CONFIRMED") else ["5: a paid booking lost its seats"]


def cancelled_after_the_end(scene: Scene) -> list[str]:
    _, unpaid = book(scene.store, scene.crowd())
    scene.clock.advance(minutes=16)
    scene.expire_bookings()
    scene.try_to(cancel, unpaid)
    kept = scene.find("bookings", unpaid)["status"] == "EXPIRED"
    return [] if kept else ["final: a booking ended twice"]


def some_cancelled_twice(scene: Scene) -> list[str]:
    """The same command again, because its answer was lost."""
    held, paid = sell(scene.store, scene.crowd(), 4)
    for _ in range(2):
        scene.try_to(cancel, paid, 1)
    left = scene.find("seatLocks", held)["seats"]
    return [] if left == 3 else ["twice: more seats came back than were named"]


def cancelled_when_it_was_paid(scene: Scene) -> list[str]:
    _, paid = sell(scene.store, scene.crowd(), 4)
    cancel(scene.store, paid)
    return owed(scene, paid, 1)


def cancelled_while_recorded_as_sold(scene: Scene) -> list[str]:
    """One has read a sold lock without a booking, to record its sale; another one returns its seats."""
    event = scene.crowd()
    book(scene.store, event)  # or the first booking ever would make the collection, which is a conflict
    held = lock(scene.store, event, 2)
    scene.set("seatLocks", held, status="CONSUMED")
    scene.clock.advance(seconds=1)
    scene.before(SeatLocks, "touch", lambda: cancel(scene.store, held))
    scene.try_to(payments.record_sale, held)
    return violations(scene.store.database)


def cancelled_while_cancelled(scene: Scene) -> list[str]:
    """Another program made a second booking of a lock. One is cancelled while the other one is."""
    event = scene.crowd()
    cancel(scene.store, sell(scene.store, event)[1])  # or the first refund makes its collection, a conflict
    held, paid = sell(scene.store, event, 2)
    other = insert_booking(scene.store, event, held, "CONFIRMED")
    scene.clock.advance(seconds=1)
    scene.before(SeatLocks, "touch", lambda: cancel(scene.store, other))
    cancel(scene.store, paid)
    return nobody_holds(scene, held)


def paid_while_cancelled(scene: Scene) -> list[str]:
    """Cancel has read a booking that waits; it is paid; cancel writes."""
    _, unpaid = book(scene.store, scene.crowd(), 2)
    scene.before_returning(lambda: payments.pay(scene.store, unpaid, "R"))
    cancel(scene.store, unpaid)
    return owed(scene, unpaid, 1)


def cancelled_while_paid(scene: Scene) -> list[str]:
    """Pay has read a booking that waits; it is cancelled; pay writes."""
    _, unpaid = book(scene.store, scene.crowd(), 2)
    scene.before(Bookings, "confirm", lambda: cancel(scene.store, unpaid))
    scene.try_to(payments.pay, unpaid, "R")
    return violations(scene.store.database)


def cancelled_twice_at_once(scene: Scene) -> list[str]:
    _, paid = sell(scene.store, scene.crowd(), 2)
    scene.before_returning(lambda: cancel(scene.store, paid))
    cancel(scene.store, paid)
    return violations(scene.store.database)


def failed_while_failed(scene: Scene) -> list[str]:
    """The same for two that wait for their payments, and fail."""
    event = scene.crowd()
    held, unpaid = book(scene.store, event, 2)
    other = insert_booking(scene.store, event, held, "PAYMENT_PENDING", due=HOUR)
    scene.clock.advance(seconds=1)
    scene.before(SeatLocks, "touch", lambda: payments.fail_payment(scene.store, other))
    payments.fail_payment(scene.store, unpaid)
    return nobody_holds(scene, held)


def nobody_holds(scene: Scene, lock_id: Any) -> list[str]:
    """What is wrong unless a lock has ended, of which all bookings have."""
    status = scene.find("seatLocks", lock_id)["status"]
    return [f"5: the lock is {status}, and none of its bookings is live"] if status in HOLDING else []


def cancelled_while_recovered(scene: Scene) -> list[str]:
    """Recovery takes the seats of a paid booking again; its buyer cancels."""
    event = scene.crowd()
    held, paid = sell(scene.store, event, 2)
    scene.set("seatLocks", held, status="EXPIRED")
    scene.set("events", event, availableSeats=7)
    scene.clock.advance(minutes=2)
    scene.before(Bookings, "stamp", lambda: cancel(scene.store, paid))
    run_recover(scene.store)
    return violations(scene.store.database)


def extended_and_paid_while_refused(scene: Scene) -> list[str]:
    """A payment comes too late; the booking gets more time, and the payment is recorded again."""
    _, unpaid = book(scene.store, scene.crowd(), 2)
    scene.clock.advance(minutes=16)

    def pay_in_time() -> None:
        extend(scene.store, unpaid, overdue=True)
        payments.pay(scene.store, unpaid, "R")

    scene.before(Bookings, "stamp", pay_in_time)
    scene.try_to(payments.pay, unpaid, "R")
    return owed(scene, unpaid, 0)


def rebooked_while_refused(scene: Scene) -> list[str]:
    """A payment comes too late; its seats are sold after all, with the same payment."""
    _, unpaid = book(scene.store, scene.crowd(), 2)
    scene.clock.advance(minutes=16)
    scene.expire_bookings()
    again = rebooking.RebookRequest(unpaid, "R")
    scene.before(Bookings, "stamp", lambda: rebooking.rebook(scene.store, again))
    scene.try_to(payments.pay, unpaid, "R")
    return owed(scene, unpaid, 0)


def sold_too_late(scene: Scene) -> list[str]:
    """A lock whose booking's deadline has passed is recorded as sold."""
    held, _ = book(scene.store, create(scene.store, 10))
    scene.clock.advance(minutes=16)
    return ["7: a late payment was accepted"] if scene.try_to(payments.record_sale, held) else []


def late(scene: Scene) -> Any:
    """A booking that expired, and was paid then."""
    _, unpaid = book(scene.store, scene.crowd(), 2)
    scene.clock.advance(minutes=16)
    scene.expire_bookings()
    with suppress(RefundDue, AttributeError):
        payments.pay(scene.store, unpaid, "R")
    return unpaid


def owed(scene: Scene, booking: Any, refunds: int) -> list[str]:
    """What is wrong unless so many refunds of a booking are due."""
    due = scene.store.database.refunds.count_documents({"bookingId": booking, "status": "DUE"})
    return [] if due == refunds else [f"12: {due} refunds are due, and not {refunds}"]


def paid_late(scene: Scene) -> list[str]:
    return owed(scene, late(scene), 1)


def paid_late_and_extended(scene: Scene) -> list[str]:
    """A payment is refused; the booking gets more time; the same payment is recorded again."""
    _, unpaid = book(scene.store, scene.crowd(), 2)
    scene.clock.advance(minutes=16)
    scene.try_to(payments.pay, unpaid, "R")
    extend(scene.store, unpaid, overdue=True)
    payments.pay(scene.store, unpaid, "R")
    return owed(scene, unpaid, 0)


def paid_again_after_a_cancellation(scene: Scene) -> list[str]:
    """A payment whose answer was lost is recorded again; meanwhile the buyer cancelled."""
    _, paid = sell(scene.store, scene.crowd(), 2)
    cancel(scene.store, paid)
    scene.try_to(payments.pay, paid)
    return owed(scene, paid, 1)


def rebooked_twice(scene: Scene) -> list[str]:
    booked = late(scene)
    for _ in range(2):
        scene.try_to(rebook, booked)
    made = scene.store.database.seatLocks.count_documents({"status": "CONSUMED"})
    return [] if made == 1 else ["twice: a booking was booked again twice"]


def rebooked_twice_at_once(scene: Scene) -> list[str]:
    booked = late(scene)
    scene.before(Events, "take_seats", lambda: rebook(scene.store, booked))
    scene.try_to(rebook, booked)
    made = scene.store.database.seatLocks.count_documents({"status": "CONSUMED"})
    return [] if made == 1 else ["twice: a booking was booked again twice"]


def rebooked_with_a_late_payment(scene: Scene) -> list[str]:
    booked = late(scene)
    scene.try_to(rebook, booked)
    return owed(scene, booked, 0)


def rebooked_with_money_that_went_back(scene: Scene) -> list[str]:
    booked = late(scene)
    refunds.mark_done(scene.store, scene.store.refunds.of_booking(booked)[0].id, "back 1")
    return ["12: seats were sold for nothing"] if scene.try_to(rebook, booked) else []


# --- schedules: recovery ------------------------------------------------------------------------------


def locked_while_counted(scene: Scene) -> list[str]:
    """Recovery has counted a drifted event; a buyer locks there; recovery sets the counter."""
    event = create(scene.store, 10)
    lock(scene.store, create(scene.store, 10))
    scene.set("events", event, availableSeats=4)
    scene.clock.advance(minutes=5)
    scene.before(Events, "set_counter", lambda: lock(scene.store, event))
    run_recover(scene.store)
    return ["1: seats could be sold twice"] if sold_twice(scene.store.database) else []


def recovered_between_two_writes(scene: Scene) -> list[str]:
    """Another program without transactions took its seats, and inserts its lock while recovery waits
    to see whether the drift lasts; or after it, if it does not wait."""
    event = create(scene.store, 10)
    lock(scene.store, create(scene.store, 10))
    scene.set("events", event, availableSeats=8, updatedAt=scene.clock())
    second_write = [lambda: insert_lock(scene.store, event, 2, due=HOUR)]

    def write(_seconds: float = 0) -> None:
        if second_write:
            second_write.pop()()

    # Not of the whole module: the retries of transactions sleep, too.
    scene.patch.setattr(counters, "time", SimpleNamespace(sleep=write))
    run_recover(scene.store, settle=SECOND)
    write()
    return violations(scene.store.database)
