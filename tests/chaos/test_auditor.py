"""Random games of buyers, jobs and other programs, audited after every step.

A failure prints the shortest game that shows it, and the seed that replays it (`--seed`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
from auditor import NOWHERE, Auditor, few_seats, lock_ttls, pick, which
from bson import Decimal128, ObjectId
from conftest import Clock, fresh_store
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule, run_state_machine_as_test
from safety import booking_is_readable, event_is_readable, lock_is_readable

if TYPE_CHECKING:
    from oracle import Document
    from servers import Server


COMMON_REFUSALS = {"not_found", "sold_out", "key_reused", "wrong_state", "deadline_passed"}
MINUTE = timedelta(minutes=1)
TEN_YEARS = 315_360_000
STATES_OF_BOOKINGS = ["PAYMENT_PENDING"] * 3 + ["CONFIRMED", "INITIATED", "FAILED", "EXPIRED", "CANCELLED"]
booking_states = st.sampled_from(STATES_OF_BOOKINGS)
deadlines = st.sampled_from([MINUTE, 15 * MINUTE])


class Missing:
    """Stands for a field that is not there."""


def as_text(value: Any) -> Any:
    return str(value)


def in_a_list(value: Any) -> Any:
    return [value]


FLAWS: dict[str, list[tuple[str, Any]]] = {
    "seatLocks": [
        *(("status", value) for value in ("HELD", "active", None, 7, Missing)),
        *(("eventId", value) for value in (as_text, in_a_list, Missing, None)),
        *(("seats", value) for value in (as_text, 2.5, 0, -1, True, Decimal128("2"), Missing)),
        *(("expiresAt", value) for value in ("tomorrow", Missing)),
    ],
    "bookings": [
        *(("status", value) for value in ("REFUNDED", "paid", None, Missing)),
        *(("seatLockId", value) for value in (as_text, in_a_list, Missing, None)),
        *(("event", value) for value in (as_text, in_a_list, Missing)),
        *(("paymentExpiresAt", value) for value in ("soon", Missing)),
    ],
    "events": [
        ("eventType", "multi-day"),
        ("dailySeats", {"2027-01-01": {"total": 8, "available": 5}}),
        *(("totalSeats", value) for value in (as_text, 0, Missing)),
        *(("availableSeats", value) for value in (as_text, 2.5, Decimal128("3"), Missing)),
    ],
}
"""What other programs and hands in mongosh were seen to store, or could: by collection, a field and its
value."""


class Game(Auditor):
    """The auditor beside other programs that write to the same database."""

    @initialize(hostile=st.booleans())
    def choose(self, hostile: bool) -> None:
        """Whether documents come to be that nobody can read. Without them the ledger predicts all."""
        self.hostile = hostile
        self.readable_once: dict[tuple[str, Any], Document] = {}

    # --- documents that can be read ----------------------------------------------------------------

    @rule(
        target=Auditor.locks,
        event=Auditor.events | Auditor.events | Auditor.events | st.just(NOWHERE),
        seats=few_seats,
        counted=st.booleans(),
        ttl=lock_ttls,
    )
    def foreign_lock(self, event: ObjectId, seats: int, counted: bool, ttl: timedelta) -> ObjectId:
        """By hand: no key, no oldStatus, no createdAt; and the counter perhaps forgotten."""
        return self.insert_lock(ObjectId(), event, seats, counted, ttl)

    def insert_lock(self, new: Any, event: ObjectId, seats: int, counted: bool, ttl: timedelta) -> Any:
        lock = {
            "_id": new,
            "eventId": event,
            "userId": "somebody",
            "seats": seats,
            "status": "ACTIVE",
            "expiresAt": self.clock() + ttl,
            "note": {"by": "hand"},
        }
        self.database.seatLocks.insert_one(lock)
        if counted:
            self.change_counter(event, -seats)
        self.reload()
        return new

    @precondition(lambda self: self.unbooked())
    @rule(
        target=Auditor.bookings,
        which=which,
        status=booking_states,
        ttl=deadlines,
        other=Auditor.events,
        astray=st.sampled_from([False] * 5 + [True]),
    )
    def foreign_booking(
        self, which: int, status: str, ttl: timedelta, other: ObjectId, astray: bool
    ) -> ObjectId:
        """By a program that does not touch the lock, and perhaps takes one event for another."""
        lock = pick(self.unbooked(), which)
        return self.insert_booking(other if astray else lock["eventId"], lock["_id"], status, ttl)

    @precondition(lambda self: self.booked())
    @rule(target=Auditor.bookings, which=which, status=booking_states, ttl=deadlines)
    def foreign_second_booking(self, which: int, status: str, ttl: timedelta) -> ObjectId:
        lock = pick(self.booked(), which)
        return self.insert_booking(lock["eventId"], lock["_id"], status, ttl)

    @rule(target=Auditor.bookings, event=Auditor.events, status=booking_states, ttl=deadlines)
    def foreign_booking_without_lock(self, event: ObjectId, status: str, ttl: timedelta) -> ObjectId:
        return self.insert_booking(event, ObjectId(), status, ttl)

    def insert_booking(self, event: ObjectId, lock: ObjectId, status: str, ttl: timedelta) -> ObjectId:
        booking = {
            "_id": ObjectId(),
            "event": event,
            "user": "somebody",
            "seatLockId": lock,
            "status": status,
            "paymentExpiresAt": self.clock() + ttl,
            "invoice": 4711,
        }
        self.database.bookings.insert_one(booking)
        self.reload()
        return booking["_id"]

    @precondition(lambda self: self.paid())
    @rule(which=which, state=st.sampled_from(["EXPIRED", "CANCELLED"]), returned=st.booleans())
    def foreign_end_of_a_paid_lock(self, which: int, state: str, returned: bool) -> None:
        """Another program's expiry job does not look at the booking."""
        lock = pick(self.paid(), which)
        self.edit("seatLocks", lock, {"status": state})
        if returned:
            self.change_counter(lock["eventId"], lock["seats"])
        self.reload()

    @precondition(lambda self: self.readable_locks())
    @rule(which=which, status=st.sampled_from(["EXPIRED", "CONSUMED", "CANCELLED"]))
    def foreign_lock_status(self, which: int, status: str) -> None:
        """Another program ends a lock and forgets the seats, or the booking."""
        self.edit("seatLocks", pick(self.readable_locks(), which), {"status": status})
        self.reload()

    @rule(event=Auditor.events, by=st.integers(-3, 3))
    def foreign_counter(self, event: ObjectId, by: int) -> None:
        self.change_counter(event, by)
        self.reload()

    @rule(event=Auditor.events, seats=st.integers(1, 8))
    def foreign_capacity(self, event: ObjectId, seats: int) -> None:
        """A smaller hall, and nobody asked how many seats are sold."""
        if event_is_readable(self.now.events[event]):
            self.edit("events", self.now.events[event], {"totalSeats": seats})
            self.reload()

    @rule(event=Auditor.events)
    def foreign_field(self, event: ObjectId) -> None:
        self.edit("events", self.now.events[event], {"venue": ["hall", 3]})
        self.reload()

    @precondition(lambda self: self.now.locks)
    @rule(which=which)
    def deleted_lock(self, which: int) -> None:
        lock = pick(list(self.now.locks.values()), which)
        self.readable_once.setdefault(("seatLocks", lock["_id"]), lock)
        self.database.seatLocks.delete_one({"_id": lock["_id"]})
        self.reload()

    # --- documents that cannot be read -------------------------------------------------------------

    @precondition(lambda self: self.hostile)
    @rule(collection=st.sampled_from(list(FLAWS)), which=which, flaw=st.integers(0, 100))
    def document_becomes_unreadable(self, collection: str, which: int, flaw: int) -> None:
        readable = {
            "events": [one for one in self.now.events.values() if event_is_readable(one)],
            "seatLocks": self.readable_locks(),
            "bookings": [one for one in self.now.bookings.values() if booking_is_readable(one)],
        }[collection]
        if readable:
            document, (field, value) = pick(readable, which), pick(FLAWS[collection], flaw)
            self.readable_once[collection, document["_id"]] = document
            self.edit(collection, document, {field: value})
            self.reload()

    @precondition(lambda self: self.hostile)
    @rule(
        event=Auditor.events, seats=few_seats, ttl=lock_ttls, status=st.sampled_from(["ACTIVE", "CONSUMED"])
    )
    def foreign_lock_with_an_odd_id(self, event: ObjectId, seats: int, ttl: timedelta, status: str) -> None:
        odd = self.insert_lock(f"lock-{len(self.truth)}", event, seats, True, ttl)
        self.truth[odd] = event, seats
        self.edit("seatLocks", self.now.locks[odd], {"status": status})
        self.reload()

    @precondition(lambda self: self.hostile and not self.deleting)
    @rule(collection=st.sampled_from(list(FLAWS)))
    def foreign_ttl_index(self, collection: str) -> None:
        self.database[collection].create_index("createdAt", expireAfterSeconds=TEN_YEARS)
        self.deleting = True
        self.reload()

    @precondition(lambda self: self.readable_once or self.deleting)
    @rule(which=which)
    def somebody_cleans_up(self, which: int) -> None:
        """Restore a document as it was when it could be read, and drop the TTL index."""
        for collection in FLAWS if self.deleting else ():
            self.database[collection].drop_indexes()
        self.deleting = False
        if self.readable_once:
            place = sorted(self.readable_once, key=str)[which % len(self.readable_once)]
            document = self.readable_once.pop(place)
            self.database[place[0]].replace_one({"_id": document["_id"]}, document, upsert=True)
        self.reload()

    # --- looking and editing -----------------------------------------------------------------------

    def edit(self, collection: str, document: Document, changes: Document) -> None:
        values = {
            field: value(document.get(field)) if value in (as_text, in_a_list) else value
            for field, value in changes.items()
            if value is not Missing
        }
        removed = dict.fromkeys((field for field in changes if changes[field] is Missing), "")
        change = {"$set": values} if values else {"$unset": removed}
        self.database[collection].update_one({"_id": document["_id"]}, change)

    def change_counter(self, event: ObjectId, by: int) -> None:
        if event in self.now.events and event_is_readable(self.now.events[event]):
            available = self.now.events[event]["availableSeats"] + by
            changes = {"availableSeats": available, "updatedAt": self.clock()}
            self.edit("events", self.now.events[event], changes)

    def readable_locks(self) -> list[Document]:
        return list(filter(lock_is_readable, self.now.locks.values()))

    def paid(self) -> list[Document]:
        return [lock for lock in self.readable_locks() if lock["status"] == "CONSUMED"]

    def booked(self) -> list[Document]:
        """Locks of an event that exists, with bookings of that event alone."""
        named: dict[Any, set[Any]] = {}
        for one in map(flat, self.now.bookings.values()):
            named.setdefault(one.get("seatLockId"), set()).add(one.get("event"))
        locks = [lock for lock in self.readable_locks() if lock["eventId"] in self.now.events]
        return [lock for lock in locks if named.get(lock["_id"]) == {lock["eventId"]}]

    def unbooked(self) -> list[Document]:
        named = {one.get("seatLockId") for one in map(flat, self.now.bookings.values())}
        return [lock for lock in self.readable_locks() if lock["_id"] not in named]


def flat(booking: Document) -> Document:
    """Without lists, which no set can have in it."""
    return {field: value for field, value in booking.items() if not isinstance(value, list)}


@pytest.mark.parametrize("part", range(4))
def test_every_answer_and_every_document_is_as_promised(
    part: int, replica: Server, rounds: Callable[[int, int], int], seed: int
) -> None:
    """Whatever is done in whatever order, by whomever, seatctl answers and leaves what it must."""
    refusals: Counter[str] = Counter()

    def game() -> Game:
        opened = fresh_store(replica, clock := Clock())
        machine = Game(opened.__enter__(), clock, refusals)
        machine.teardown = lambda: opened.__exit__(None, None, None)  # type: ignore[method-assign]
        return machine

    thorough = settings(
        max_examples=rounds(15, 125),
        stateful_step_count=30,
        deadline=None,
        derandomize=False,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(hypothesis.seed(seed + part)(game), settings=thorough)
