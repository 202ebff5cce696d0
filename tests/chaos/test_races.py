"""Races between real processes: whoever wins, no seat is lost and none is sold twice.

Everything is decided by what the database holds afterwards and by what each process was told.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
import scene
from conftest import EPOCH, available, edit
from oracle import violations
from race import (
    Answer,
    Call,
    Crew,
    Entry,
    buy_until_swept,
    cancel,
    complaints,
    confirm,
    expire_bookings,
    expire_locks,
    extend,
    lock,
    rebook,
    recover,
    recover_often,
    shop,
)

from seatctl.domain.documents import Booking, EventId, SeatLock
from seatctl.domain.states import JobType
from seatctl.errors import RefundDue, Refused, SoldOut, WrongState
from seatctl.mongo.store import Store
from seatctl.services import payments, sales
from seatctl.services.payments import record_sale

if TYPE_CHECKING:
    from servers import Server

pytestmark = pytest.mark.slow

Rounds = Callable[[int, int], int]
BUYERS = 16
SECOND, HOUR = timedelta(seconds=1), timedelta(hours=1)
JITTER = 0.003
"""Seconds. About as long as a command takes, so that each step meets each other step."""


@dataclass
class Arena:
    """A database, the processes that race in it, and what the rounds draw their delays from."""

    store: Store
    crew: Crew
    random: random.Random

    def race(self, *calls: Call) -> list[Answer]:
        return self.crew.race(self.store.name, *calls)

    def jitter(self) -> float:
        return self.random.uniform(0, JITTER)

    def event(self, seats: int) -> EventId:
        return scene.create(self.store, seats, "a race")

    def lock(self, event: EventId) -> SeatLock:
        return lock(self.store, event, "buyer").lock

    def booking(self, event: EventId) -> Booking:
        return confirm(self.store, self.lock(event).id).booking

    def available(self, event: EventId) -> int:
        return available(self.store, event)

    def status(self, collection: str, document_id: object) -> str:
        return str(self.store.database[collection].find_one({"_id": document_id})["status"])

    def check(self) -> None:
        assert violations(self.store.database) == []


@pytest.fixture(scope="module")
def crew(replica: Server) -> Iterator[Crew]:
    with Crew(replica.uri, BUYERS) as crew:
        yield crew


@pytest.fixture
def arena(crew: Crew, store: Store, seed: int) -> Arena:
    return Arena(store, crew, random.Random(seed))


@dataclass
class Duel:
    """A race of two in which the one that wins starts later the next time: one that a side always wins
    meets none of the other's steps."""

    arena: Arena
    head_start: float = 0.0
    """Seconds that the second starts before the first; the other way round below zero."""
    won: Counter[bool] = field(default_factory=Counter)
    """How often the first won, and how often it did not."""

    def fight(self, first: Call, second: Call, has_won: Callable[[Answer, Answer], bool]) -> list[Answer]:
        first = replace(first, delay=max(0, self.head_start) + self.arena.jitter())
        second = replace(second, delay=max(0, -self.head_start) + self.arena.jitter())
        answers = self.arena.race(first, second)
        won = has_won(*answers)
        self.won[won] += 1
        self.head_start += JITTER if won else -JITTER
        return answers

    def check(self) -> None:
        """Both won, and what they left is consistent."""
        print(f"the first won {self.won[True]} of {self.won.total()}")
        assert set(self.won) == {True, False}
        self.arena.check()


def first_succeeded(first: Answer, _second: Answer) -> bool:
    return first.error is None


def winners(answers: list[Answer]) -> list[Answer]:
    return [answer for answer in answers if answer.error is None]


def errors(answers: list[Answer]) -> list[Exception]:
    return [answer.error for answer in answers if answer.error is not None]


# --- two at a time -------------------------------------------------------------------------------


def test_of_16_buyers_for_the_last_seat_one_gets_it(arena: Arena, rounds: Rounds) -> None:
    """The others are told that it is sold out."""
    for _ in range(rounds(20, 300)):
        event = arena.event(1)
        answers = arena.race(
            *(Call(lock, (event, f"buyer {number}"), EPOCH, arena.jitter()) for number in range(BUYERS))
        )
        assert len(winners(answers)) == 1
        assert {SoldOut} == {type(error) for error in errors(answers)}
        assert arena.available(event) == 0
    arena.check()


@pytest.mark.parametrize("initialized", [True, False])
@pytest.mark.parametrize("seats", [10, 1])
def test_one_key_sent_twice_at_the_same_instant_is_one_lock(
    arena: Arena, rounds: Rounds, seats: int, initialized: bool
) -> None:
    """Both get its id, also when it took the last seat, with the guard index or without it."""
    if initialized:
        arena.store.init()
    for number in range(rounds(30, 1_000)):
        event = arena.event(seats)
        answers = arena.race(
            *(Call(lock, (event, "buyer", f"key {number}"), EPOCH, arena.jitter()) for _ in range(2))
        )
        assert errors(answers) == []
        assert len({answer.value.lock.id for answer in answers}) == 1
        assert {answer.value.created for answer in answers} == {True, False}
        assert arena.available(event) == seats - 1
    arena.check()


def test_the_first_lock_of_a_database_is_one_for_one_key(arena: Arena, rounds: Rounds) -> None:
    """16 processes send one key to an event where no collection exists yet: in the moment of the first
    commit, a snapshot with that commit may not know the collection that it created."""
    for _ in range(rounds(20, 300)):
        arena.store.drop()
        event = arena.event(20)
        answers = arena.race(
            *(Call(lock, (event, "buyer", "key"), EPOCH, 3 * arena.jitter()) for _ in range(BUYERS))
        )
        assert errors(answers) == []
        assert len({answer.value.lock.id for answer in answers}) == 1
        assert arena.available(event) == 19
        arena.check()


def test_the_first_booking_of_a_database_is_one_for_one_lock(arena: Arena, rounds: Rounds) -> None:
    for _ in range(rounds(20, 300)):
        arena.store.drop()
        held = arena.lock(arena.event(10))
        answers = arena.race(*(Call(confirm, (held.id,), EPOCH, arena.jitter()) for _ in range(BUYERS)))
        assert errors(answers) == []
        assert len({answer.value.booking.id for answer in answers}) == 1
        arena.check()


def test_a_booking_paid_four_times_at_once_is_one_payment(arena: Arena, rounds: Rounds) -> None:
    """All are told that it is paid."""
    for _ in range(rounds(60, 1_000)):
        event = arena.event(10)
        booked = arena.booking(event)
        answers = arena.race(*(Call(payments.pay, (booked.id,), EPOCH, arena.jitter()) for _ in range(4)))
        assert errors(answers) == []
        assert sum(answer.value.changed for answer in answers) == 1
        assert arena.status("bookings", booked.id) == "CONFIRMED"
        assert arena.status("seatLocks", booked.lock) == "CONSUMED"
        assert arena.available(event) == 9
    arena.check()


def test_a_payment_either_succeeds_or_fails(arena: Arena, rounds: Rounds) -> None:
    """One booking is paid and failed at the same instant: whoever is later is told, and the seats are
    either sold or returned."""
    duel = Duel(arena)
    for _ in range(rounds(60, 1_000)):
        event = arena.event(10)
        booked = arena.booking(event)
        success, failure = duel.fight(
            Call(payments.pay, (booked.id,), EPOCH),
            Call(payments.fail_payment, (booked.id,), EPOCH),
            first_succeeded,
        )
        assert len(winners([success, failure])) == 1
        assert isinstance(success.error or failure.error, WrongState | RefundDue)
        assert (9 if success.error is None else 10) == arena.available(event)
    duel.check()


def test_at_the_deadline_either_the_payment_or_the_sweep_wins(arena: Arena, rounds: Rounds) -> None:
    """A payment that loses is due for refund."""
    duel = Duel(arena)
    for _ in range(rounds(60, 1_000)):
        event = arena.event(10)
        booked = arena.booking(event)
        deadline = booked.payment_expires_at
        assert deadline
        payment, run = duel.fight(
            Call(payments.pay, (booked.id,), deadline - SECOND),
            Call(expire_bookings, (deadline + SECOND,), deadline),
            first_succeeded,
        )
        won = payment.error is None
        assert won or isinstance(payment.error, RefundDue)
        assert won or arena.store.refunds.of_booking(booked.id)
        assert (0 if won else 1) == run.value["details"]["bookingsExpired"]
        assert complaints([run.value]) == []
        expected = ("CONFIRMED", "CONSUMED", 9) if won else ("EXPIRED", "EXPIRED", 10)
        assert expected == (
            arena.status("bookings", booked.id),
            arena.status("seatLocks", booked.lock),
            arena.available(event),
        )
    duel.check()


def test_at_the_deadline_either_the_confirmation_or_the_sweep_wins(arena: Arena, rounds: Rounds) -> None:
    """The lock becomes a booking or its seats are returned, never both."""
    duel = Duel(arena)
    for _ in range(rounds(60, 1_000)):
        event = arena.event(10)
        held = arena.lock(event)
        deadline = held.expires_at
        assert deadline
        confirmation, run = duel.fight(
            Call(confirm, (held.id,), deadline - SECOND),
            Call(expire_locks, (deadline + SECOND,), deadline),
            first_succeeded,
        )
        won = confirmation.error is None
        assert won or isinstance(confirmation.error, Refused)
        assert (0 if won else 1) == run.value["details"]["seatsRestored"]
        assert complaints([run.value]) == []
        assert ("ACTIVE" if won else "EXPIRED") == arena.status("seatLocks", held.id)
        assert (9 if won else 10) == arena.available(event)
    duel.check()


def test_a_lock_is_either_released_or_confirmed(arena: Arena, rounds: Rounds) -> None:
    """The loser is told the lock's state."""
    duel = Duel(arena)
    for _ in range(rounds(60, 1_000)):
        event = arena.event(10)
        held = arena.lock(event).id
        confirmation, release = duel.fight(
            Call(confirm, (held,), EPOCH), Call(sales.release, (held,), EPOCH), first_succeeded
        )
        assert len(winners([release, confirmation])) == 1
        assert isinstance(release.error or confirmation.error, WrongState)
        assert (9 if release.error else 10) == arena.available(event)
    duel.check()


def test_a_lock_is_either_released_or_swept(arena: Arena, rounds: Rounds) -> None:
    """Its seats come back once, whoever does it: the release of a lock that is gone is refused, and a sweep
    that finds none has nothing to complain about."""
    duel = Duel(arena)
    for _ in range(rounds(60, 1_000)):
        event = arena.event(10)
        arena.lock(event)  # room on the counter, so that a seat could come back twice
        held = arena.lock(event)
        release, run = duel.fight(
            Call(sales.release, (held.id,), EPOCH),
            Call(expire_locks, (EPOCH + HOUR,), EPOCH + SECOND),
            first_succeeded,
        )
        assert release.error is None or isinstance(release.error, WrongState)
        assert complaints([run.value]) == []
        assert run.value["details"]["seatsRestored"] == (1 if release.error is None else 2)
        assert arena.available(event) == 10
    duel.check()


def test_at_the_deadline_either_more_time_or_the_sweep_wins(arena: Arena, rounds: Rounds) -> None:
    """A booking that was given more time keeps its seats and can be paid; one that expired is refused. Safe
    by the deadline in the updates of `extend` and of `expire_overdue`."""
    duel = Duel(arena)
    for _ in range(rounds(60, 1_000)):
        event = arena.event(10)
        booked = arena.booking(event)
        deadline = booked.payment_expires_at
        assert deadline
        extension, run = duel.fight(
            Call(extend, (booked.id, deadline + HOUR), deadline - SECOND),
            Call(expire_bookings, (deadline + SECOND,), deadline),
            first_succeeded,
        )
        won = extension.error is None
        assert won or isinstance(extension.error, WrongState)
        assert (0 if won else 1) == run.value["details"]["bookingsExpired"]
        assert complaints([run.value]) == []
        expected = ("PAYMENT_PENDING", "ACTIVE", 9) if won else ("EXPIRED", "EXPIRED", 10)
        assert expected == (
            arena.status("bookings", booked.id),
            arena.status("seatLocks", booked.lock),
            arena.available(event),
        )
    duel.check()


def test_a_booking_that_is_paid_and_cancelled_at_once_gives_its_seats_back_and_the_money_is_due(
    arena: Arena, rounds: Rounds
) -> None:
    """Whoever comes first: the money is never kept for seats that are free. Safe by the status in the updates
    of `Bookings.confirm` and `Bookings.change`."""
    duel = Duel(arena)
    for _ in range(rounds(60, 1_000)):
        event = arena.event(10)
        arena.lock(event)  # room on the counter, so that a seat could come back twice
        booked = arena.booking(event)
        payment, cancellation = duel.fight(
            Call(payments.pay, (booked.id, "R"), EPOCH), Call(cancel, (booked.id,), EPOCH), first_succeeded
        )
        won = payment.error is None
        assert won or isinstance(payment.error, RefundDue)
        assert cancellation.value.changed
        (refund,) = arena.store.refunds.of_booking(booked.id)
        cause = "CANCELLED" if won else "LATE_PAYMENT"
        assert (refund.cause, refund.payment_ref, refund.seats) == (cause, "R", 1)
        assert arena.status("bookings", booked.id) == "CANCELLED"
        assert arena.status("seatLocks", booked.lock) == ("CANCELLED" if won else "EXPIRED")
        assert arena.available(event) == 9
    duel.check()


def test_two_cancellations_beside_recovery_return_the_seats_once(arena: Arena, rounds: Rounds) -> None:
    """Of a paid booking: its money is due once, and recovery neither undoes nor repeats it. Safe by the
    status in the updates of `change`, and by the stamp of a booking whose seats recovery takes again."""
    for _ in range(rounds(40, 500)):
        event = arena.event(10)
        arena.lock(event)
        booked = arena.booking(event)
        payments.pay(arena.store, booked.id, "R")
        *cancellations, run = arena.race(
            *(Call(cancel, (booked.id,), EPOCH, arena.jitter()) for _ in range(2)),
            Call(recover, (), EPOCH, arena.jitter()),
        )
        assert errors(cancellations) == []
        assert sorted(answer.value.changed for answer in cancellations) == [False, True]
        assert complaints([run.value]) == []
        assert [refund.seats for refund in arena.store.refunds.of_booking(booked.id)] == [1]
        assert arena.status("seatLocks", booked.lock) == "CANCELLED"
        assert arena.available(event) == 9
    arena.check()


def test_a_booking_that_is_booked_again_four_times_at_once_is_one_booking(
    arena: Arena, rounds: Rounds
) -> None:
    """Also where it takes the last seat, and its refund is withdrawn once. Safe by the key, which is looked
    up in the snapshot of the transaction that takes the seats."""
    for _ in range(rounds(40, 500)):
        event = arena.event(1)
        booked = arena.booking(event)
        payments.fail_payment(arena.store, booked.id)
        with suppress(RefundDue):
            payments.pay(arena.store, booked.id, "R")
        answers = arena.race(*(Call(rebook, (booked.id,), EPOCH, arena.jitter()) for _ in range(4)))
        assert errors(answers) == []
        assert sorted(answer.value.created for answer in answers) == [False, False, False, True]
        assert len({answer.value.booking.id for answer in answers}) == 1
        (refund,) = arena.store.refunds.of_booking(booked.id)
        assert refund.status == "WITHDRAWN"
        assert arena.available(event) == 0
    arena.check()


def test_a_sold_lock_is_either_recorded_as_sold_or_cancelled(arena: Arena, rounds: Rounds) -> None:
    duel = Duel(arena)
    for _ in range(rounds(40, 500)):
        event = arena.event(10)
        held = arena.lock(event).id
        edit(arena.store, "seatLocks", held, status="CONSUMED")
        sale, cancellation = duel.fight(
            Call(record_sale, (held,), EPOCH + SECOND), Call(cancel, (held,), EPOCH + SECOND), first_succeeded
        )
        won = sale.error is None
        assert len(winners([sale, cancellation])) == 1
        assert isinstance(sale.error or cancellation.error, WrongState)
        assert arena.status("seatLocks", held) == ("CONSUMED" if won else "CANCELLED")
        assert arena.available(event) == (9 if won else 10)
    duel.check()


def test_a_lock_that_is_sold_at_its_deadline_beside_a_sweep_is_sold_or_expired(
    arena: Arena, rounds: Rounds
) -> None:
    """One instant before the deadline and one instant after it: never both (invariants 4 and 6)."""
    duel = Duel(arena)
    for _ in range(rounds(40, 500)):
        event = arena.event(10)
        lock = arena.lock(event)
        held, deadline = lock.id, lock.expires_at
        assert deadline
        sale, run = duel.fight(
            Call(record_sale, (held, "R"), deadline - SECOND),
            Call(expire_locks, (deadline + SECOND,), deadline),
            first_succeeded,
        )
        won = sale.error is None
        assert won or isinstance(sale.error, WrongState)
        assert complaints([run.value]) == []
        assert arena.status("seatLocks", held) == ("CONSUMED" if won else "EXPIRED")
        assert arena.available(event) == (9 if won else 10)
    duel.check()


def test_two_buyers_of_seats_that_are_overdue_return_them_once(arena: Arena, rounds: Rounds) -> None:
    """On a sold-out event `lock` returns overdue seats itself: of two that do so at once, beside a sweep,
    each seat comes back once and is sold once (invariant 6)."""
    for _ in range(rounds(20, 300)):
        event = arena.event(2)
        leave_overdue(arena, event, 2)
        *buyers, run = arena.race(
            *(Call(lock, (event, f"buyer {number}"), EPOCH, arena.jitter()) for number in range(3)),
            Call(expire_locks, (None,), EPOCH, arena.jitter()),
        )
        assert len(winners(buyers)) == 2
        assert {SoldOut} == {type(error) for error in errors(buyers)}
        assert complaints([run.value]) == []
        assert arena.available(event) == 0
    arena.check()


# --- many at a time ------------------------------------------------------------------------------


LONG_AGO = EPOCH - timedelta(days=1_000)
"""Before any deadline that the server's own clock can set."""


def overdue_lock(event: EventId) -> dict[str, Any]:
    """A lock past its deadline, as another program left it long ago."""
    then = LONG_AGO - SECOND
    document = {"eventId": event, "userId": "nobody", "seats": 1, "status": "ACTIVE"}
    return document | {"expiresAt": then, "createdAt": then, "updatedAt": then}


def leave_overdue(arena: Arena, event: EventId, count: int) -> None:
    arena.store.database.seatLocks.insert_many([overdue_lock(event) for _ in range(count)])
    scene.add(arena.store, event, -count)


def test_eight_sweeps_at_once_return_each_seat_once(arena: Arena, rounds: Rounds) -> None:
    """Of the same 10,000 overdue locks, each seat stands in exactly one run's log."""
    share = 2_500
    for _ in range(rounds(1, 10)):
        arena.store.drop()
        events = [arena.event(2 * share) for _ in range(4)]
        for event in events:
            leave_overdue(arena, event, share)
            # Leaves room on the counter, or its upper bound would stop a seat from coming back twice.
            scene.lock(arena.store, event, share, "stays")
        # Each at a time of its own: the same change twice would be no change, and hide a double one.
        clocks = [EPOCH + number * SECOND for number in range(8)]
        runs = arena.race(*(Call(expire_locks, (LONG_AGO, 1_000), now, arena.jitter()) for now in clocks))
        assert errors(runs) == []
        assert [arena.available(event) for event in events] == [share] * 4
        logged = list(arena.store.database.jobLogs.find({"jobType": JobType.LOCK_EXPIRY}))
        assert len(logged) == 8
        assert sum(run["details"]["seatsRestored"] for run in logged) == 4 * share
        assert sum(run["details"]["locksExpired"] for run in logged) == 4 * share
        arena.check()
        assert complaints(logged) == []


def test_a_sweep_of_a_busy_event_ends_and_no_buyer_gets_an_error(arena: Arena, rounds: Rounds) -> None:
    """20,000 overdue locks of one event are swept while four processes lock seats on that event."""
    overdue = 20_000
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
        arena.check()


def test_recovery_beside_buyers_changes_nothing(arena: Arena, rounds: Rounds, seed: int) -> None:
    """Beside eight buyers it finds nothing to repair, neither undoes nor invents a seat, and takes
    nothing back that a buyer was promised (invariant 8)."""
    events = [arena.event(1_000) for _ in range(2)]
    purchases = rounds(25, 400)
    recoveries, *buyers = arena.race(
        Call(recover_often, (purchases,)),
        *(Call(shop, (events, f"buyer {number}", seed + number, purchases)) for number in range(8)),
    )
    assert errors([recoveries, *buyers]) == []
    assert complaints(recoveries.value) == []
    assert [run["details"] for run in recoveries.value if run["details"]["findings"]] == []
    assert sum(run["details"]["recordsProcessed"] for run in recoveries.value) == 0
    check_diaries(arena, [buyer.value for buyer in buyers])
    arena.check()


def check_diaries(arena: Arena, diaries: list[Any]) -> None:
    assert [error for diary in diaries for error in diary.errors] == []
    for diary in diaries:
        assert {"CONFIRMED"} >= {arena.status("bookings", booked) for booked in diary.paid}
        assert {"ACTIVE"} >= {arena.status("seatLocks", held) for held in diary.waiting}
        assert {"EXPIRED"} >= {arena.status("seatLocks", held) for held in diary.returned}


def test_four_recoveries_at_once_repair_each_violation_once(arena: Arena, rounds: Rounds) -> None:
    """Overdue locks, a counter that is too high, paid bookings that lost their locks: what one recovery
    repairs, no other one repairs again."""
    for _ in range(rounds(5, 100)):
        arena.store.drop()
        event, drifted = arena.event(100), arena.event(100)
        leave_overdue(arena, event, 10)
        for _ in range(5):
            lost = scene.insert_lock(arena.store, event, 2, status="EXPIRED")
            scene.insert_booking(arena.store, event, lost, "CONFIRMED")
        scene.lock(arena.store, drifted, 7)
        scene.add(arena.store, drifted, 5)
        runs = arena.race(*(Call(recover, (), EPOCH, arena.jitter()) for _ in range(4)))
        assert errors(runs) == []
        told: list[Entry] = [run.value["details"] for run in runs]
        assert sum(details["seatsRestored"] for details in told) == 10
        assert sum(details["recordsProcessed"] for details in told) == 10 + 5 + 1
        assert [arena.available(event), arena.available(drifted)] == [90, 93]
        arena.check()
