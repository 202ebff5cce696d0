"""Races between real processes: whoever wins, no seat is lost and none is sold twice.

Everything is decided by what the database holds afterwards and by what each process was told.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from conftest import EPOCH, Clock
from pymongo import MongoClient
from race import (
    Answer,
    Call,
    Crew,
    buy_until_swept,
    complaints,
    expire_bookings,
    expire_locks,
    lock,
    recover_often,
    recover_once,
    shop,
)

from seatctl.domain.model import BookingStatus, Document, Id, JobType, LockStatus
from seatctl.errors import DeadlinePassed, Refused, SoldOut, WrongState
from seatctl.mongo.client import Deployment
from seatctl.mongo.store import Store, new_id
from seatctl.services import sales as booking
from seatctl.services.audit import find_all
from seatctl.services.expiry import lock_sweep
from seatctl.services.seats import StartOver, Terms, give_back

if TYPE_CHECKING:
    from servers import Server

pytestmark = pytest.mark.slow

Rounds = Callable[[int, int], int]
BUYERS = 16
SECOND = timedelta(seconds=1)
JITTER = 0.003
"""Seconds. About as long as a command takes, so that each step meets each other step."""


@dataclass
class Arena:
    """A database, the processes that race in it, and what the rounds draw their delays from."""

    store: Store
    crew: Crew
    random: random.Random

    def race(self, *calls: Call) -> list[Answer]:
        return self.crew.race(self.store.database.name, *calls)

    def jitter(self) -> float:
        return self.random.uniform(0, JITTER)

    def fewer(self, count: int) -> int:
        """A twentieth where a sweep goes lock by lock, for want of transactions."""
        return count if self.store.transactions else count // 20

    def event(self, seats: int) -> Id:
        return booking.create_event(self.store, "a race", seats, EPOCH).document["_id"]

    def available(self, event: Id) -> int:
        found = self.store.event(event)
        assert found
        return int(found["availableSeats"])

    def status(self, collection: str, document_id: Id) -> str:
        found = self.store.database[collection].find_one({"_id": document_id})
        assert found
        return str(found["status"])


@pytest.fixture(scope="module", params=["replica", "standalone"])
def ground(request: pytest.FixtureRequest) -> Iterator[tuple[Server, Crew]]:
    """One kind of server and a crew on it."""
    server: Server = request.getfixturevalue(request.param)
    with Crew(server.uri, BUYERS) as crew:
        yield server, crew


@pytest.fixture
def arena(ground: tuple[Server, Crew], clock: Clock, seed: int) -> Iterator[Arena]:
    server, crew = ground
    name = f"test_{uuid.uuid4().hex}"
    with MongoClient(server.uri, tz_aware=True) as client:
        deployment = Deployment(client, name, transactions=server.replica_set is not None, clock=clock)
        yield Arena(Store(deployment), crew, random.Random(seed))
        client.drop_database(name)


def winners(answers: list[Answer]) -> list[Answer]:
    return [answer for answer in answers if answer.error is None]


def errors(answers: list[Answer]) -> list[Exception]:
    return [answer.error for answer in answers if answer.error is not None]


# --- two at a time -------------------------------------------------------------------------------


def test_last_seat(arena: Arena, rounds: Rounds) -> None:
    """Of 16 buyers for the last seat one gets it, and the others are told that it is sold out."""
    for _ in range(rounds(10, 300)):
        event = arena.event(1)
        answers = arena.race(
            *(Call(lock, (event, f"buyer {number}"), EPOCH, arena.jitter()) for number in range(BUYERS))
        )
        assert len(winners(answers)) == 1
        assert {SoldOut} == {type(error) for error in errors(answers)}
        assert arena.available(event) == 0
    assert find_all(arena.store) == []


def test_same_key_at_the_same_instant(arena: Arena, rounds: Rounds) -> None:
    """One key sent twice at once is one lock, and both get its id."""
    for number in range(rounds(60, 1_000)):
        event = arena.event(10)
        answers = arena.race(
            *(Call(lock, (event, "buyer", f"key {number}"), EPOCH, arena.jitter()) for _ in range(2))
        )
        assert errors(answers) == []
        assert len({answer.value.document["_id"] for answer in answers}) == 1
        assert arena.available(event) == 9
    assert find_all(arena.store) == []


def test_same_key_without_init(arena: Arena, rounds: Rounds) -> None:
    """One key sent eight times at once is one lock also in a database that has no collections yet."""
    for _ in range(rounds(8, 100)):
        arena.store.drop()
        event = arena.event(10)
        answers = arena.race(*(Call(lock, (event, "buyer", "key"), EPOCH) for _ in range(8)))
        assert errors(answers) == []
        assert len({answer.value.document["_id"] for answer in answers}) == 1
        assert arena.available(event) == 9
        assert find_all(arena.store) == []


def test_confirm_twice_without_init(arena: Arena, rounds: Rounds) -> None:
    """One lock confirmed eight times at once is one booking, and all get its id."""
    for _ in range(rounds(8, 100)):
        arena.store.drop()
        held = lock(arena.store, arena.event(10), "buyer").document["_id"]
        answers = arena.race(*(Call(booking.confirm, (held,), EPOCH) for _ in range(8)))
        assert errors(answers) == []
        assert len({answer.value.document["_id"] for answer in answers}) == 1
        assert find_all(arena.store) == []


def test_pay_twice(arena: Arena, rounds: Rounds) -> None:
    """One booking paid four times at once is one payment, and all are told that it is paid."""
    for _ in range(rounds(60, 1_000)):
        event = arena.event(10)
        booked = booking.confirm(arena.store, lock(arena.store, event, "buyer").document["_id"]).document
        answers = arena.race(*(Call(booking.pay, (booked["_id"],), EPOCH, arena.jitter()) for _ in range(4)))
        assert errors(answers) == []
        assert arena.status("bookings", booked["_id"]) == BookingStatus.CONFIRMED
        assert arena.status("seatLocks", booked["seatLockId"]) == LockStatus.CONSUMED
        assert arena.available(event) == 9
    assert find_all(arena.store) == []


def test_pay_against_expire_bookings(arena: Arena, rounds: Rounds) -> None:
    """At the deadline either the payment or the sweep wins; a payment that loses is due for refund."""
    paid = 0
    number = rounds(60, 1_000)
    for _ in range(number):
        event = arena.event(10)
        booked = booking.confirm(arena.store, lock(arena.store, event, "buyer").document["_id"]).document
        deadline = booked["paymentExpiresAt"]
        payment, run = arena.race(
            Call(booking.pay, (booked["_id"],), deadline - SECOND, arena.jitter()),
            Call(expire_bookings, (deadline + SECOND,), deadline, arena.jitter()),
        )
        won = payment.error is None
        paid += won
        assert won or "refund is due" in str(payment.error)
        assert won or isinstance(payment.error, Refused)
        assert (0 if won else 1) == run.value["details"]["bookingsExpired"]
        expected = ("CONFIRMED", "CONSUMED", 9) if won else ("EXPIRED", "EXPIRED", 10)
        assert expected == (
            arena.status("bookings", booked["_id"]),
            arena.status("seatLocks", booked["seatLockId"]),
            arena.available(event),
        )
    print(f"the payment won {paid} of {number}")
    assert find_all(arena.store) == []


def test_confirm_against_expire_locks(arena: Arena, rounds: Rounds) -> None:
    """At the deadline either the lock becomes a booking or its seats go back, never both."""
    confirmed = 0
    number = rounds(60, 1_000)
    for _ in range(number):
        event = arena.event(10)
        held = lock(arena.store, event, "buyer").document
        deadline = held["expiresAt"]
        confirmation, run = arena.race(
            Call(booking.confirm, (held["_id"],), deadline - SECOND, arena.jitter()),
            Call(expire_locks, (deadline + SECOND,), deadline, arena.jitter()),
        )
        won = confirmation.error is None
        confirmed += won
        assert won or isinstance(confirmation.error, Refused)
        assert (0 if won else 1) == run.value["details"]["seatsRestored"]
        assert ("ACTIVE" if won else "EXPIRED") == arena.status("seatLocks", held["_id"])
        assert (9 if won else 10) == arena.available(event)
    print(f"the confirmation won {confirmed} of {number}")
    assert find_all(arena.store) == []


def test_release_against_confirm(arena: Arena, rounds: Rounds) -> None:
    """A lock is either released or confirmed, and the loser is told the lock's state."""
    confirmed = 0
    number = rounds(60, 1_000)
    for _ in range(number):
        event = arena.event(10)
        held = lock(arena.store, event, "buyer").document["_id"]
        release, confirmation = arena.race(
            Call(booking.release, (held,), EPOCH, arena.jitter()),
            Call(booking.confirm, (held,), EPOCH, arena.jitter()),
        )
        assert len(winners([release, confirmation])) == 1
        assert isinstance(release.error or confirmation.error, WrongState)
        confirmed += release.error is not None
        assert (9 if release.error else 10) == arena.available(event)
    print(f"the confirmation won {confirmed} of {number}")
    assert find_all(arena.store) == []


# --- many at a time ------------------------------------------------------------------------------


LONG_AGO = EPOCH - timedelta(days=1_000)
"""Before any deadline that the server's own clock can set."""


def overdue_locks(event: Id, count: int) -> list[Document]:
    """Locks past their deadline, as another program left them long ago."""
    then = LONG_AGO - SECOND
    return [
        {"_id": new_id(), "eventId": event, "userId": "nobody", "seats": 1, "status": "ACTIVE"}
        | {"expiresAt": then, "createdAt": then, "updatedAt": then}
        for _ in range(count)
    ]


def leave_overdue(arena: Arena, event: Id, count: int) -> None:
    database = arena.store.database
    database.seatLocks.insert_many(overdue_locks(event, count))
    database.events.update_one({"_id": event}, {"$inc": {"availableSeats": -count}})


def test_eight_sweeps_at_once(arena: Arena, rounds: Rounds) -> None:
    """Eight sweeps over the same 10,000 overdue locks give each seat back once, and each seat
    stands in exactly one run's log."""
    share = arena.fewer(2_500)
    for _ in range(rounds(1, 10)):
        arena.store.drop()
        events = [arena.event(2 * share) for _ in range(4)]
        for event in events:
            leave_overdue(arena, event, share)
            # Leaves room on the counter, or its upper bound would stop a seat from coming back twice.
            booking.lock(arena.store, event, "stays", share)
        # Each at a time of its own: the same change twice would be no change, and hide a double one.
        clocks = [EPOCH + number * SECOND for number in range(8)]
        runs = arena.race(*(Call(expire_locks, (LONG_AGO, 1_000), now, arena.jitter()) for now in clocks))
        assert errors(runs) == []
        assert [arena.available(event) for event in events] == [share] * 4
        logged = list(arena.store.database.jobLogs.find({"jobType": JobType.LOCK_EXPIRY}))
        assert len(logged) == 8
        assert sum(run["details"]["seatsRestored"] for run in logged) == 4 * share
        assert sum(run["details"]["locksExpired"] for run in logged) == 4 * share
        assert find_all(arena.store) == []
        assert complaints(logged) == []


def test_sweep_under_fire(arena: Arena, rounds: Rounds) -> None:
    """A sweep over 20,000 overdue locks of one event ends while four processes lock seats on that
    event, and no buyer gets an error."""
    overdue = arena.fewer(20_000)
    for _ in range(rounds(1, 5)):
        arena.store.drop()
        event = arena.event(1_000_000)
        leave_overdue(arena, event, overdue)
        run, *buyers = arena.race(
            Call(expire_locks, (LONG_AGO,)),
            *(Call(buy_until_swept, (event, f"buyer {number}")) for number in range(4)),
        )
        assert errors([run, *buyers]) == []
        assert run.value["details"]["seatsRestored"] == overdue
        bought = sum(buyer.value for buyer in buyers)
        print(f"{bought} seats locked during the sweep")
        assert arena.available(event) == 1_000_000 - bought
        assert find_all(arena.store) == []


def test_recover_beside_buyers(arena: Arena, rounds: Rounds, seed: int) -> None:
    """Recovery beside eight buyers neither undoes nor invents a seat, and takes nothing back that
    a buyer was promised."""
    events = [arena.event(1_000) for _ in range(2)]
    purchases = rounds(25, 400)
    recoveries, *buyers = arena.race(
        Call(recover_often, (purchases,)),
        *(Call(shop, (events, f"buyer {number}", seed + number, purchases)) for number in range(8)),
    )
    assert errors([recoveries, *buyers]) == []
    # Without transactions, recovery may look just when one buyer after another is half done.
    expected = not arena.store.transactions and "run `seatctl recover` again in a minute"
    told = complaints(recoveries.value)
    assert [complaint for complaint in told if not (expected and expected in complaint)] == []
    diaries = [buyer.value for buyer in buyers]
    assert [error for diary in diaries for error in diary.errors] == []
    for diary in diaries:
        assert {"CONFIRMED"} >= {arena.status("bookings", booked) for booked in diary.paid}
        assert {"ACTIVE"} >= {arena.status("seatLocks", held) for held in diary.waiting}
        assert {"EXPIRED"} >= {arena.status("seatLocks", held) for held in diary.returned}
    assert find_all(arena.store) == []


# --- one inside the other ------------------------------------------------------------------------
#
# Interleavings that processes hit once in a thousand rounds, put together step by step.


def after_first(
    monkeypatch: pytest.MonkeyPatch, store: Store, step: str, meanwhile: Callable[[], object]
) -> None:
    """Let `meanwhile` happen right after this store took `step` for the first time."""
    take_step = getattr(store, step)
    pending = [meanwhile]

    def stepping(*arguments: Any, **options: Any) -> Any:
        result = take_step(*arguments, **options)
        if pending:
            pending.pop()()
        return result

    monkeypatch.setattr(store, step, stepping)


def twin(store: Store, clock: Clock) -> Store:
    """Another program on the same database, which asks the server for the time a second later."""
    there = store.deployment
    clock = Clock(clock() + SECOND)
    return Store(Deployment(there.client, store.database.name, transactions=there.transactions, clock=clock))


def booked(store: Store) -> Document:
    event = booking.create_event(store, "a race", 10, EPOCH).document["_id"]
    return booking.confirm(store, lock(store, event, "buyer").document["_id"]).document


def test_deadline_moved_under_a_payment(standalone_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A payment is refused when its deadline was moved into the past after it had been checked."""
    late = booked(standalone_store)["_id"]

    def move_deadline() -> None:
        standalone_store.database.bookings.update_one({"_id": late}, {"$set": {"paymentExpiresAt": LONG_AGO}})

    after_first(monkeypatch, standalone_store, "lock", move_deadline)
    with pytest.raises(DeadlinePassed, match="refund is due"):
        booking.pay(standalone_store, late)
    assert standalone_store.booking(late)["status"] == "PAYMENT_PENDING"


def test_payment_inside_the_same_payment(
    standalone_store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without transactions, a payment that is wholly done between another's two reads is the same
    payment; no refund is due."""
    paid = booked(standalone_store)["_id"]
    elsewhere = twin(standalone_store, clock)
    after_first(monkeypatch, standalone_store, "booking", lambda: booking.pay(elsewhere, paid))
    assert not booking.pay(standalone_store, paid).changed
    assert find_all(standalone_store) == []


@pytest.mark.parametrize("other", [booking.pay, lambda store, _booking: recover_once(store)])
def test_payment_finished_by_another(
    standalone_store: Store,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    other: Callable[[Store, Id], object],
) -> None:
    """Without transactions, a payment that another payment or recovery finishes between its two
    writes is a payment; it is not taken back."""
    paid = booked(standalone_store)["_id"]
    elsewhere = twin(standalone_store, clock)
    after_first(monkeypatch, standalone_store, "confirm_booking", lambda: other(elsewhere, paid))
    booking.pay(standalone_store, paid)
    assert standalone_store.booking(paid)["status"] == "CONFIRMED"
    assert find_all(standalone_store) == []


def test_recovery_inside_a_sweep(
    standalone_store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without transactions, recovery that meets a sweep between its two writes leaves the counter
    to the sweep: the seat comes back once."""
    event = booking.create_event(standalone_store, "a race", 10, EPOCH).document["_id"]
    for name in ("early", "late"):
        lock(standalone_store, event, name)
    clock.advance(minutes=5)
    booking.lock(standalone_store, event, "stays", 1)
    clock.advance(minutes=6)
    elsewhere = twin(standalone_store, clock)
    after_first(monkeypatch, standalone_store, "move_lock", lambda: recover_once(elsewhere))
    expire_locks(standalone_store, clock())
    assert standalone_store.event(event)["availableSeats"] == 9
    assert find_all(standalone_store) == []


def test_recovery_beside_a_buyer_and_a_long_sweep(
    standalone_store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without transactions, a sweep that began long ago does not hide from recovery that a buyer
    has just taken seats and has not stored the lock yet."""
    event = booking.create_event(standalone_store, "a race", 10, EPOCH).document["_id"]
    lock(standalone_store, event, "overdue")
    began = clock.advance(minutes=11)
    claims, _ = lock_sweep(standalone_store).plan(list(standalone_store.overdue_locks(began)))

    clock.advance(minutes=2)
    elsewhere = twin(standalone_store, clock)

    def sweep_and_recover() -> None:
        give_back(elsewhere, claims, Terms(began, overdue_at=began))
        recover_once(elsewhere)

    after_first(monkeypatch, standalone_store, "take_seats", sweep_and_recover)
    lock(standalone_store, event, "buyer")
    assert standalone_store.event(event)["availableSeats"] == 9
    assert find_all(standalone_store) == []


@pytest.mark.parametrize("kind", ["replica_store", "standalone_store"])
def test_sweep_inside_a_sweep(
    request: pytest.FixtureRequest, clock: Clock, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A sweep whose locks another sweep gives back first has nothing to complain about."""
    store: Store = request.getfixturevalue(kind)
    event = booking.create_event(store, "a race", 2, EPOCH).document["_id"]
    for name in ("one", "another"):
        lock(store, event, name)
    later = clock.advance(minutes=11)
    elsewhere = twin(store, clock)
    # Between a plan and the look at the counters: the second plan where the first meets a conflict.
    if store.transactions:
        after_first(monkeypatch, store, "locks_by_id", lambda: expire_locks(elsewhere, later))
        after_first(monkeypatch, store, "add_seats", start_over)
    else:
        after_first(monkeypatch, store, "live_bookings_of", lambda: expire_locks(elsewhere, later))
    assert complaints([expire_locks(store, later)]) == []
    assert store.event(event)["availableSeats"] == 2
    assert find_all(store) == []


def start_over() -> None:
    raise StartOver


def test_confirm_inside_a_sweep_of_the_future(
    replica_store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sweep as of a time beyond the payment's deadline leaves a lock alone that was confirmed
    after the sweep had looked for its booking (invariant 4)."""
    event = booking.create_event(replica_store, "a race", 10, EPOCH).document["_id"]
    held = lock(replica_store, event, "buyer").document["_id"]
    elsewhere = twin(replica_store, clock)
    after_first(monkeypatch, replica_store, "live_bookings_of", lambda: booking.confirm(elsewhere, held))
    expire_locks(replica_store, EPOCH + timedelta(hours=1))
    assert replica_store.lock(held)["status"] == "ACTIVE"
    assert find_all(replica_store) == []
