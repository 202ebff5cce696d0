"""Each guard is taken out once: without it the same schedule must break a promise.

A guard whose absence nobody notices is not believed. The schedules are exact: a rival acts at the
one moment that the guard is there for, between two commands to the database.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from crash import sold_twice, violations
from pymongo.collection import Collection

from seatctl.domain.model import QUIET, Document, JobType
from seatctl.errors import Contention, Refused
from seatctl.mongo import client as connection
from seatctl.mongo import store as store_module
from seatctl.mongo.store import Store
from seatctl.services import jobs as joblog
from seatctl.services import recovery
from seatctl.services import sales as booking
from seatctl.services import seats as inventory
from seatctl.services.expiry import booking_sweep, lock_sweep, sweep
from seatctl.services.seats import Claim, GivenBack, Terms

if TYPE_CHECKING:
    from conftest import Clock

TRANSACTIONS, ORDERED = "replica", "standalone"
BOTH = (TRANSACTIONS, ORDERED)
SECOND = timedelta(seconds=1)
PATIENCE = 30
"""Seconds after which a thread that should have gone on counts as stuck."""

WRITES = (
    "take_seats",
    "add_seats_to",
    "swap_counter",
    "insert_lock",
    "move_lock",
    "extend_lock",
    "insert_booking",
    "close_bookings",
)


class Crash(BaseException):
    """The process ends here."""


class Scene:
    """A database, its clock, and the means to act between two commands, or to take a guard out."""

    def __init__(self, store: Store, clock: Clock, patch: pytest.MonkeyPatch) -> None:
        self.store, self.clock, self.patch = store, clock, patch

    # --- the stage -----------------------------------------------------------------------------

    def event(self, seats: int) -> Any:
        return booking.create_event(self.store, "concert", seats, timedelta(days=1)).document["_id"]

    def lock(self, event: Any, user: str = "buyer", seats: int = 1, **more: Any) -> Any:
        return booking.lock(self.store, event, user, seats, **more).document["_id"]

    def try_to(self, command: Callable[..., Any], *args: Any) -> bool:
        """Whether a buyer's command was not refused."""
        try:
            command(self.store, *args)
        except Refused:
            return False
        return True

    def expire_locks(self) -> None:
        self._expire(lock_sweep(self.store))

    def expire_bookings(self) -> None:
        self._expire(booking_sweep(self.store))

    def _expire(self, kind: Any) -> None:
        list(sweep(self.store, kind, Terms(self.store.now(), overdue_at=self.store.now())))

    def recover(self) -> None:
        joblog.run(self.store, JobType.RECOVERY, lambda current: recovery.recover(self.store, current))

    def recover_later(self) -> None:
        self.clock.advance(seconds=QUIET.total_seconds() + 1)
        self.recover()

    def foreign_hand_expires(self, lock: Any) -> None:
        """Another program gives a lock back, and leaves no stamp."""
        database = self.store.database
        document = database.seatLocks.find_one_and_update({"_id": lock}, {"$set": {"status": "EXPIRED"}})
        database.events.update_one(
            {"_id": document["eventId"]}, {"$inc": {"availableSeats": document["seats"]}}
        )

    # --- acting in between ---------------------------------------------------------------------

    def before(self, method: str, act: Callable[[], Any]) -> None:
        """Have `act` happen once, right before the next `Store.method`."""
        original = getattr(Store, method)

        def interrupted(store: Store, *args: Any, **more: Any) -> Any:
            self.patch.setattr(Store, method, original)
            act()
            return original(store, *args, **more)

        self.patch.setattr(Store, method, interrupted)

    def before_giving_back(self, act: Callable[[], Any]) -> None:
        """Have `act` happen right before the first write of the next give-back."""
        self.before("add_seats" if self.store.transactions else "move_lock", act)

    def before_write(self, number: int, act: Callable[[], Any]) -> None:
        """Have `act` happen once, right before the `number`-th write from now on."""
        count = 0

        def counting(original: Callable[..., Any]) -> Callable[..., Any]:
            def counted(store: Store, *args: Any, **more: Any) -> Any:
                nonlocal count
                count += 1
                if count == number:
                    act()
                return original(store, *args, **more)

            return counted

        for method in WRITES:
            self.patch.setattr(Store, method, counting(getattr(Store, method)))

    def crash_before_write(self, number: int, command: Callable[[], Any]) -> None:
        def crash() -> None:
            raise Crash

        self.before_write(number, crash)
        with pytest.raises(Crash):
            command()

    def start_and_pause(self, command: Callable[[], Any], method: str) -> Callable[[], None]:
        """Run `command` in a thread up to the next `Store.method`; returns what lets it finish."""
        there, go_on = threading.Event(), threading.Event()

        def pause() -> None:
            there.set()
            assert go_on.wait(PATIENCE)

        def finish() -> None:
            go_on.set()
            thread.join(PATIENCE)

        self.before(method, pause)
        thread = threading.Thread(target=command, daemon=True)
        thread.start()
        assert there.wait(PATIENCE)
        return finish

    # --- taking guards out ---------------------------------------------------------------------

    def blind(self, method: str, *fields: str) -> None:
        """Make `Store.method` send its updates without the conditions on these fields."""
        original = getattr(Store, method)

        def blinded(store: Store, *args: Any, **more: Any) -> Any:
            with pytest.MonkeyPatch.context() as patch:
                for update in ("update_one", "update_many", "find_one_and_update"):
                    patch.setattr(
                        Collection, update, _without_conditions(getattr(Collection, update), fields)
                    )
                return original(store, *args, **more)

        self.patch.setattr(Store, method, blinded)

    def pretend(self, method: str, answer: Callable[..., Any]) -> None:
        """Make `Store.method` do its work, and answer `answer(*args)` whatever came of it."""
        original = getattr(Store, method)

        def pretending(store: Store, *args: Any, **more: Any) -> Any:
            original(store, *args, **more)
            return answer(*args)

        self.patch.setattr(Store, method, pretending)

    def skip(self, method: str, answer: Any = None) -> None:
        """Make `Store.method` do nothing."""
        self.patch.setattr(Store, method, lambda *_args, **_more: answer)


def _without_conditions(update: Callable[..., Any], fields: tuple[str, ...]) -> Callable[..., Any]:
    def send(collection: Any, where: dict[str, Any], *args: Any, **more: Any) -> Any:
        assert set(fields) <= where.keys(), f"there is no condition on {fields} to take out of {where}"
        kept = {field: value for field, value in where.items() if field not in fields}
        return update(collection, kept, *args, **more)

    return send


@dataclass(frozen=True)
class Control:
    """A guard: how to take it out, the schedule that it is there for, what breaks without it (the
    invariant's number, or the promise), and on which deployments."""

    remove: Callable[[Scene], None]
    attack: Callable[[Scene], list[str]]
    breaks: str
    on: tuple[str, ...] = BOTH


# --- schedules -------------------------------------------------------------------------------------


def two_buyers_one_seat(scene: Scene) -> list[str]:
    event = scene.event(1)
    scene.lock(event)
    scene.try_to(booking.lock, event, "second", 1)
    return violations(scene.store.database)


def released_while_swept(scene: Scene) -> list[str]:
    """The sweep has read an overdue lock; its buyer releases it; the sweep writes."""
    event = scene.event(10)
    scene.lock(event, "other", 3, ttl=timedelta(hours=1))
    lock = scene.lock(event)
    scene.clock.advance(minutes=11)
    scene.before_giving_back(lambda: booking.release(scene.store, lock))
    scene.expire_locks()
    return violations(scene.store.database)


def expired_by_another_program_while_swept(scene: Scene) -> list[str]:
    event = scene.event(10)
    scene.lock(event, "other", 3, ttl=timedelta(hours=1))
    lock = scene.lock(event)
    scene.clock.advance(minutes=11)
    scene.before_giving_back(lambda: scene.foreign_hand_expires(lock))
    scene.expire_locks()
    return violations(scene.store.database)


def released_while_released(scene: Scene) -> list[str]:
    event = scene.event(10)
    scene.lock(event, "other", 3)
    lock = scene.lock(event)
    scene.before_giving_back(lambda: booking.release(scene.store, lock))
    scene.try_to(booking.release, lock)
    return violations(scene.store.database)


def failed_while_swept(scene: Scene) -> list[str]:
    """The sweep has read an overdue booking; its payment fails; the sweep writes."""
    event = scene.event(10)
    scene.lock(event, "other", 3, ttl=timedelta(hours=1))
    unpaid = booking.confirm(scene.store, scene.lock(event)).document["_id"]
    scene.clock.advance(minutes=16)
    first_write = "add_seats" if scene.store.transactions else "close_bookings"
    scene.before(first_write, lambda: booking.fail(scene.store, unpaid))
    scene.expire_bookings()
    return violations(scene.store.database)


def paid_while_swept(scene: Scene) -> list[str]:
    """The sweep has read an overdue booking; its payment, begun in time, is recorded; the sweep writes."""
    event = scene.event(10)
    unpaid = booking.confirm(scene.store, scene.lock(event)).document["_id"]
    in_time = scene.clock.time + timedelta(minutes=15) - SECOND
    scene.clock.advance(minutes=16)
    first_write = "add_seats" if scene.store.transactions else "close_bookings"
    scene.before(first_write, lambda: _at(scene, in_time, lambda: booking.pay(scene.store, unpaid)))
    scene.expire_bookings()
    return violations(scene.store.database)


def foreign_booking_under_an_overdue_lock(scene: Scene) -> list[str]:
    """Another program confirms a lock without writing to it: 10-minute lock, 15-minute payment."""
    event = scene.event(10)
    lock = scene.lock(event)
    deadline = scene.clock.time + timedelta(minutes=15)
    scene.store.database.bookings.insert_one(
        {"event": event, "seatLockId": lock, "status": "PAYMENT_PENDING", "paymentExpiresAt": deadline}
    )
    scene.clock.advance(minutes=12)
    scene.expire_locks()
    return violations(scene.store.database)


def swept_while_confirmed(scene: Scene) -> list[str]:
    """Confirm has read a lock in time; the lock runs out and is swept; confirm writes."""
    lock = scene.lock(scene.event(10))

    def run_out() -> None:
        scene.clock.advance(minutes=11)
        scene.expire_locks()

    scene.before("extend_lock", run_out)
    scene.try_to(booking.confirm, lock)
    return violations(scene.store.database)


def confirmed_while_swept(scene: Scene) -> list[str]:
    """The sweep has read an overdue lock; a confirm that began in time ends; the sweep writes."""
    lock = scene.lock(scene.event(10))
    in_time = scene.clock.time + timedelta(minutes=10) - SECOND
    scene.clock.advance(minutes=11)
    scene.before_giving_back(lambda: _at(scene, in_time, lambda: booking.confirm(scene.store, lock)))
    scene.expire_locks()
    return violations(scene.store.database)


def confirmed_while_released(scene: Scene) -> list[str]:
    """Release has read a lock without a booking; it is confirmed; release writes."""
    lock = scene.lock(scene.event(10))
    scene.clock.advance(seconds=1)
    scene.before_giving_back(lambda: booking.confirm(scene.store, lock))
    scene.try_to(booking.release, lock)
    return violations(scene.store.database)


def confirmed_twice_at_once(scene: Scene) -> list[str]:
    lock = scene.lock(scene.event(10))
    scene.before("insert_booking", lambda: booking.confirm(scene.store, lock))
    booking.confirm(scene.store, lock)
    return violations(scene.store.database)


def expired_while_confirmed(scene: Scene) -> list[str]:
    """Confirm has inserted its booking; another program expires the lock; confirm writes the lock."""
    lock = scene.lock(scene.event(10))
    scene.before("extend_lock", lambda: scene.foreign_hand_expires(lock))
    scene.try_to(booking.confirm, lock)
    return violations(scene.store.database)


def expired_while_paid(scene: Scene) -> list[str]:
    """Pay has confirmed the booking; another program expires the lock; pay writes the lock."""
    lock = scene.lock(scene.event(10))
    unpaid = booking.confirm(scene.store, lock).document["_id"]
    scene.before("move_lock", lambda: scene.foreign_hand_expires(lock))
    scene.try_to(booking.pay, unpaid)
    return violations(scene.store.database)


def paid_too_late(scene: Scene) -> list[str]:
    unpaid = booking.confirm(scene.store, scene.lock(scene.event(10))).document["_id"]
    scene.clock.advance(minutes=16)
    return ["7: a late payment was accepted"] if scene.try_to(booking.pay, unpaid) else []


def deadline_moved_while_paid(scene: Scene) -> list[str]:
    """Pay has read a booking in time; another program ends its time; pay writes."""
    unpaid = booking.confirm(scene.store, scene.lock(scene.event(10))).document["_id"]
    over = {"$set": {"paymentExpiresAt": scene.clock.time - SECOND}}
    scene.before("confirm_booking", lambda: scene.store.database.bookings.update_one({"_id": unpaid}, over))
    return ["7: a late payment was accepted"] if scene.try_to(booking.pay, unpaid) else []


def marked_paid_while_swept(scene: Scene) -> list[str]:
    """The sweep has read an overdue booking; another program confirms it, and not yet its lock."""
    event = scene.event(10)
    unpaid = booking.confirm(scene.store, scene.lock(event)).document["_id"]
    scene.clock.advance(minutes=16)
    paid = {"$set": {"status": "CONFIRMED"}}
    bookings = scene.store.database.bookings
    first_write = "add_seats" if scene.store.transactions else "close_bookings"
    scene.before(first_write, lambda: bookings.update_one({"_id": unpaid}, paid))
    scene.expire_bookings()
    lost = bookings.find_one({"_id": unpaid})["status"] != "CONFIRMED"
    given_back = scene.store.event(event)["availableSeats"] == 10
    return ["final: a payment was undone"] * lost + [
        "4: the seats of a paid booking were given back"
    ] * given_back


def prolonged_while_swept(scene: Scene) -> list[str]:
    """The sweep has read an overdue booking; another program gives it more time; the sweep writes."""
    unpaid = booking.confirm(scene.store, scene.lock(scene.event(10))).document["_id"]
    scene.clock.advance(minutes=16)
    more_time = {"$set": {"paymentExpiresAt": scene.clock.time + timedelta(hours=1)}}
    bookings = scene.store.database.bookings
    first_write = "add_seats" if scene.store.transactions else "close_bookings"
    scene.before(first_write, lambda: bookings.update_one({"_id": unpaid}, more_time))
    scene.expire_bookings()
    expired = bookings.find_one({"_id": unpaid})["status"] == "EXPIRED"
    return ["6: a booking was expired before its deadline"] if expired else []


def failed_while_paid(scene: Scene) -> list[str]:
    """Pay has read a waiting booking; its payment is recorded as failed; pay writes."""
    unpaid = booking.confirm(scene.store, scene.lock(scene.event(10))).document["_id"]
    scene.before("confirm_booking", lambda: booking.fail(scene.store, unpaid))
    scene.try_to(booking.pay, unpaid)
    failed = scene.store.booking(unpaid)["status"] == "FAILED"
    return [*violations(scene.store.database), *([] if failed else ["final: a FAILED booking changed"])]


def deadline_moved_while_confirmed(scene: Scene) -> list[str]:
    """Confirm has read a lock in time; another program ends its time; confirm writes."""
    lock = scene.lock(scene.event(10))
    over = {"$set": {"expiresAt": scene.clock.time - SECOND}}
    scene.before("extend_lock", lambda: scene.store.database.seatLocks.update_one({"_id": lock}, over))
    return ["6: a lock was confirmed too late"] if scene.try_to(booking.confirm, lock) else []


def same_key_at_once(scene: Scene) -> list[str]:
    event = scene.event(10)
    scene.before("take_seats", lambda: scene.lock(event, key="same"))
    scene.lock(event, key="same")
    locks = scene.store.database.seatLocks.count_documents({"idempotencyKey": "same"})
    return [*violations(scene.store.database), *(["key: two locks for one key"] if locks > 1 else [])]


def lock_that_took_no_seats(scene: Scene) -> list[str]:
    """Somebody wrote an overdue lock into the database and left the counter at its total."""
    event = scene.event(10)
    scene.store.database.seatLocks.insert_one(
        {"eventId": event, "userId": "hand", "seats": 7, "status": "ACTIVE"}
        | {"expiresAt": scene.clock.time - timedelta(days=1)}
    )
    scene.expire_locks()
    return [found for found in violations(scene.store.database) if found.startswith("2")]


def recovery_while_locking(scene: Scene) -> list[str]:
    """A buyer's lock command has taken its seats, its lock is not there yet; recovery counts."""
    event = scene.event(10)
    scene.clock.advance(minutes=5)
    scene.before("insert_lock", lambda: _a_moment_later(scene, scene.recover))
    scene.lock(event)
    return violations(scene.store.database)


def locking_while_recovery_sweeps(scene: Scene) -> list[str]:
    """Recovery runs; a buyer who has looked at the clock before it takes seats; recovery gives an
    overdue lock of that event back and counts; only then the buyer's lock is there."""
    event = scene.event(10)
    scene.lock(event, "late")
    started = scene.clock.advance(minutes=11)
    finish: list[Callable[[], None]] = []

    def buy() -> None:
        finish.append(scene.start_and_pause(lambda: scene.lock(event), "insert_lock"))

    scene.before("add_seats_to", lambda: _at(scene, started, buy))
    scene.recover()
    finish.pop()()
    return violations(scene.store.database)


def forget_neighbour(_: GivenBack, before: Document, seats: int, terms: Terms) -> None:
    """Take what is on the counter for one's own, whoever changed it last."""
    terms.left[before["_id"]] = before["availableSeats"] + seats


def locked_while_counted(scene: Scene) -> list[str]:
    """Recovery has counted a drifted event; a buyer locks there; recovery sets the counter."""
    event = scene.event(10)
    scene.store.database.events.update_one({"_id": event}, {"$set": {"availableSeats": 4}})
    scene.clock.advance(minutes=5)
    # Where recovery holds the event, the buyer would wait for it: in this thread, for ever.
    scene.patch.setattr(connection, "TRANSACTION_PATIENCE", 0)

    def buy() -> None:
        with suppress(Contention):
            scene.lock(event)

    scene.before("swap_counter", buy)
    scene.recover()
    return ["1: seats could be sold twice"] if sold_twice(scene.store.database) else []


def crash_while_expiring(scene: Scene) -> list[str]:
    """The job dies between its two writes; buyers come, and the job runs again."""
    event = scene.event(1)
    scene.lock(event, "late")
    scene.clock.advance(minutes=11)
    scene.crash_before_write(2, scene.expire_locks)
    scene.try_to(booking.lock, event, "first", 1)
    scene.expire_locks()
    scene.try_to(booking.lock, event, "second", 1)
    scene.recover_later()
    return violations(scene.store.database)


def crash_while_locking(scene: Scene) -> list[str]:
    """A buyer dies between the two writes of a lock; another comes."""
    event = scene.event(1)
    scene.crash_before_write(2, lambda: scene.lock(event))
    scene.try_to(booking.lock, event, "second", 1)
    scene.recover_later()
    return violations(scene.store.database)


def released_between_the_writes_of_confirm(scene: Scene) -> list[str]:
    """Release reads the lock and its booking when confirm has done one of its two writes; confirm
    does the other; release writes."""
    lock = scene.lock(scene.event(10))
    scene.clock.advance(seconds=1)
    second_write = "extend_lock"
    finish = scene.start_and_pause(lambda: scene.try_to(booking.confirm, lock), second_write)
    scene.before("move_lock", finish)
    scene.try_to(booking.release, lock)
    finish()
    return violations(scene.store.database)


def _at(scene: Scene, time: datetime, act: Callable[[], Any]) -> None:
    """Do what somebody does who has looked at the clock at that time."""
    now, scene.clock.time = scene.clock.time, time
    act()
    scene.clock.time = now


def _a_moment_later(scene: Scene, act: Callable[[], Any]) -> None:
    scene.clock.advance(milliseconds=1)
    act()


# --- guards taken out ------------------------------------------------------------------------------


def believe_the_locks_are_expired(scene: Scene) -> None:
    scene.pretend("expire_locks", lambda lock_ids, *_: len(lock_ids))


def believe_the_bookings_are_closed_too(scene: Scene) -> None:
    believe_the_locks_are_expired(scene)
    scene.pretend("close_bookings", lambda booking_ids, *_: len(booking_ids))


def accept_late_payments(scene: Scene) -> None:
    scene.patch.setattr(booking, "check_payable", lambda *_: None)
    scene.blind("confirm_booking", "paymentExpiresAt")


def raise_counters_above_the_total(scene: Scene) -> None:
    scene.patch.setattr(store_module, "_takes", lambda _seats: {})
    scene.patch.setattr(inventory, "_counter_problem", lambda *_: None)


def forget_how_the_lock_was_read(scene: Scene) -> None:
    scene.patch.setattr(booking, "hold_of", lambda lock: replace(inventory.hold_of(lock), as_read=()))


def count_without_a_claim(scene: Scene) -> None:
    """Recovery reads event, locks and bookings outside of its transaction, and then writes regardless.
    Any one of the three would save it: the claim, the snapshot, and the comparison."""
    read_held, read_paid = Store.held_by_event, Store.has_paid_without_lock
    scene.patch.setattr(Store, "claim_event", lambda store, event_id, *_: store.event(event_id))
    scene.patch.setattr(
        Store, "held_by_event", lambda store, _session=None, event_id=None: read_held(store, None, event_id)
    )
    scene.patch.setattr(
        Store, "has_paid_without_lock", lambda store, event_id, _session=None: read_paid(store, event_id)
    )
    set_the_counter_regardless(scene)


def set_the_counter_regardless(scene: Scene) -> None:
    scene.blind("swap_counter", "availableSeats", "updatedAt")


def raise_the_counter_before_the_lock_is_out(scene: Scene) -> None:
    def counter_first(store: Store, claims: Sequence[Claim], terms: Terms) -> GivenBack:
        for claim in claims:
            assert claim.hold is not None
            store.add_seats_to(claim.hold.event, claim.hold.seats, terms.now)
            inventory._carry_out(store, claim, terms, None)
        return inventory.prospect(claims)

    scene.patch.setattr(inventory, "_give_back_in_order", counter_first)


def insert_the_lock_before_the_counter_is_down(scene: Scene) -> None:
    def lock_first(
        store: Store, event: Any, seats: int, make_lock: Callable[[datetime], Any]
    ) -> tuple[Any, int] | None:
        lock = make_lock(store.now())
        if store.event(event)["availableSeats"] < seats:
            return None
        store.insert_lock(lock, None)
        return lock, store.take_seats(event, seats, None)["availableSeats"]

    scene.patch.setattr(booking, "take", lock_first)


def extend_the_lock_before_the_booking_is_there(scene: Scene) -> None:
    insert, extend, waiting = Store.insert_booking, Store.extend_lock, []

    def extend_first(store: Store, document: Any, session: Any) -> None:
        deadline, now = document["paymentExpiresAt"], document["createdAt"]
        waiting.append((document, extend(store, document["seatLockId"], deadline, now, session)))

    def insert_second(store: Store, _lock: Any, _deadline: datetime, _now: datetime, session: Any) -> bool:
        document, extended = waiting.pop()
        insert(store, document, session)
        return bool(extended)

    scene.patch.setattr(Store, "insert_booking", extend_first)
    scene.patch.setattr(Store, "extend_lock", insert_second)


def skipping(method: str, answer: Any = None) -> Callable[[Scene], None]:
    return lambda scene: scene.skip(method, answer)


def blinding(method: str, *fields: str) -> Callable[[Scene], None]:
    return lambda scene: scene.blind(method, *fields)


CONTROLS = {
    "the counter has enough seats": Control(
        remove=blinding("take_seats", "availableSeats"),
        attack=two_buyers_one_seat,
        breaks="2",
    ),
    "no counter above the total": Control(
        remove=raise_counters_above_the_total,
        attack=lock_that_took_no_seats,
        breaks="2",
    ),
    "the status in the sweep's batch": Control(
        remove=blinding("expire_locks", "status"),
        attack=released_while_swept,
        breaks="1",
        on=(TRANSACTIONS,),
    ),
    "the status in the sweep's single steps": Control(
        remove=blinding("move_lock", "status"),
        attack=expired_by_another_program_while_swept,
        breaks="1",
        on=(ORDERED,),
    ),
    "the sweep's count of locks": Control(
        remove=believe_the_locks_are_expired,
        attack=released_while_swept,
        breaks="1",
        on=(TRANSACTIONS,),
    ),
    "the sweep's count of bookings and locks": Control(
        remove=believe_the_bookings_are_closed_too,
        attack=failed_while_swept,
        breaks="1",
        on=(TRANSACTIONS,),
    ),
    "whether a release changed its lock": Control(
        remove=lambda scene: scene.pretend("move_lock", lambda *_: True),
        attack=released_while_released,
        breaks="1",
    ),
    "the booking's status in the sweep": Control(
        remove=blinding("close_bookings", "status"),
        attack=paid_while_swept,
        breaks="5",
        on=(ORDERED,),
    ),
    "a payment recorded while the sweep runs stays": Control(
        remove=blinding("close_bookings", "status"),
        attack=marked_paid_while_swept,
        breaks="final",
    ),
    "a booking that the sweep could not close keeps its lock": Control(
        remove=lambda scene: scene.pretend("close_bookings", lambda booking_ids, *_: len(booking_ids)),
        attack=marked_paid_while_swept,
        breaks="4",
    ),
    "the deadline in the sweep's write": Control(
        remove=blinding("close_bookings", "paymentExpiresAt"),
        attack=prolonged_while_swept,
        breaks="6",
    ),
    "the deadline in confirm's write": Control(
        remove=blinding("extend_lock", "expiresAt"),
        attack=deadline_moved_while_confirmed,
        breaks="6",
        on=(ORDERED,),
    ),
    "the booking's status in pay's write": Control(
        remove=blinding("confirm_booking", "status"),
        attack=failed_while_paid,
        breaks="final",
        on=(ORDERED,),
    ),
    "a live booking keeps its lock": Control(
        remove=skipping("live_bookings_of", []),
        attack=foreign_booking_under_an_overdue_lock,
        breaks="4",
    ),
    "confirm writes the lock: swept meanwhile": Control(
        remove=skipping("extend_lock", answer=True),
        attack=swept_while_confirmed,
        breaks="4",
        on=(TRANSACTIONS,),
    ),
    "confirm writes the lock: sweep begun before": Control(
        remove=skipping("extend_lock", answer=True),
        attack=confirmed_while_swept,
        breaks="4",
    ),
    "confirm extends an active lock only": Control(
        remove=blinding("extend_lock", "status"),
        attack=expired_while_confirmed,
        breaks="4",
        on=(ORDERED,),
    ),
    "confirm withdraws its booking from a lost lock": Control(
        remove=skipping("move_booking", answer=True),
        attack=expired_while_confirmed,
        breaks="4",
        on=(ORDERED,),
    ),
    "pay consumes an active lock only": Control(
        remove=blinding("move_lock", "status"),
        attack=expired_while_paid,
        breaks="1",
        on=(ORDERED,),
    ),
    "pay withdraws its payment from a lost lock": Control(
        remove=skipping("move_booking", answer=True),
        attack=expired_while_paid,
        breaks="4",
        on=(ORDERED,),
    ),
    "the deadline in pay": Control(remove=accept_late_payments, attack=paid_too_late, breaks="7"),
    "the deadline in pay's write": Control(
        remove=blinding("confirm_booking", "paymentExpiresAt"),
        attack=deadline_moved_while_paid,
        breaks="7",
        on=(ORDERED,),
    ),
    "release compares the lock with what it read": Control(
        remove=forget_how_the_lock_was_read,
        attack=confirmed_while_released,
        breaks="4",
    ),
    "one lock for a key": Control(
        remove=skipping("ensure_one_lock_per_key"),
        attack=same_key_at_once,
        breaks="key",
    ),
    "the loser of a key returns its seats": Control(
        remove=skipping("add_seats_to"),
        attack=same_key_at_once,
        breaks="1",
        on=(ORDERED,),
    ),
    "one booking for a lock": Control(
        remove=skipping("ensure_one_booking_per_lock"),
        attack=confirmed_twice_at_once,
        breaks="5",
        on=(ORDERED,),
    ),
    "recovery waits for a quiet minute": Control(
        remove=lambda scene: scene.patch.setattr(recovery, "is_quiet", lambda *_: True),
        attack=recovery_while_locking,
        breaks="1",
        on=(ORDERED,),
    ),
    "recovery remembers whom it met": Control(
        remove=lambda scene: scene.patch.setattr(GivenBack, "note_neighbour", forget_neighbour),
        attack=locking_while_recovery_sweeps,
        breaks="1",
        on=(ORDERED,),
    ),
    "recovery claims an event to count it": Control(
        remove=count_without_a_claim,
        attack=locked_while_counted,
        breaks="1",
        on=(TRANSACTIONS,),
    ),
    "recovery compares the counter with what it read": Control(
        remove=set_the_counter_regardless,
        attack=locked_while_counted,
        breaks="1",
        on=(ORDERED,),
    ),
    "the lock is out before the counter goes up": Control(
        remove=raise_the_counter_before_the_lock_is_out,
        attack=crash_while_expiring,
        breaks="1",
        on=(ORDERED,),
    ),
    "the counter is down before the lock appears": Control(
        remove=insert_the_lock_before_the_counter_is_down,
        attack=crash_while_locking,
        breaks="1",
        on=(ORDERED,),
    ),
    "the booking is there before its lock is extended": Control(
        remove=extend_the_lock_before_the_booking_is_there,
        attack=released_between_the_writes_of_confirm,
        breaks="4",
        on=(ORDERED,),
    ),
}
CASES = [(mode, name) for name, control in CONTROLS.items() for mode in control.on]


@pytest.fixture
def scene(mode: str, request: pytest.FixtureRequest, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(request.getfixturevalue(f"{mode}_store"), clock, monkeypatch)


@pytest.mark.parametrize(("mode", "name"), CASES)
def test_with_its_guard(scene: Scene, name: str) -> None:
    """The schedule does no harm."""
    assert CONTROLS[name].attack(scene) == []


@pytest.mark.parametrize(("mode", "name"), CASES)
def test_without_its_guard(scene: Scene, name: str) -> None:
    """The same schedule breaks the promise that the guard is there for."""
    control = CONTROLS[name]
    control.remove(scene)
    broken = control.attack(scene)
    assert control.breaks in {found.partition(":")[0].partition(",")[0] for found in broken}, broken
