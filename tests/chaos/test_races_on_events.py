"""Races over a whole event, between real processes: its capacity, its closing, its cancellation.

Whoever wins, no seat is lost, none is sold twice, and whoever paid is owed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
import scene
from conftest import EPOCH, available
from crash import KillPoint, Target, reap, run, settle
from oracle import sold_twice, violations
from race import (
    Answer,
    Call,
    Crew,
    buy_until_closed,
    cancel_event,
    complaints,
    expire_locks,
    lock,
    recover,
    resize,
)

from seatctl.domain.documents import EventId
from seatctl.errors import Closed, SeatsHeld, SoldOut
from seatctl.mongo.store import Store
from seatctl.services import closing

if TYPE_CHECKING:
    from servers import Server

pytestmark = pytest.mark.slow

Rounds = Callable[[int, int], int]
SIZE = 5
SECOND, HOUR = timedelta(seconds=1), timedelta(hours=1)
JITTER = 0.004


@pytest.fixture(scope="module")
def crew(replica: Server) -> Iterator[Crew]:
    with Crew(replica.uri, SIZE) as crew:
        yield crew


@pytest.fixture
def draw(seed: int) -> random.Random:
    return random.Random(seed)


def errors(answers: list[Answer]) -> list[Exception]:
    return [answer.error for answer in answers if answer.error is not None]


def until_seen(wanted: set[Any], seen: set[Any], least: int) -> Iterator[None]:
    """At least so many rounds, and up to ten times as many until each outcome was seen: who wins depends on
    the load of the machine."""
    for number in range(10 * least):
        if number >= least and wanted <= seen:
            return
        yield


def off_sale(store: Store, event: EventId) -> int:
    return sum(block.seats for block in store.locks.of_closing(event))


def test_a_capacity_that_shrinks_beside_buyers_and_a_sweep_is_never_below_what_is_held(
    store: Store, crew: Crew, draw: random.Random, rounds: Rounds
) -> None:
    """Ten seats, of which four are overdue: the event becomes as small as what is held, while two buyers lock
    a seat each and a sweep returns what is overdue. Safe by the numbers in the update of `set_counter`, and
    by the room that `add_seats` asks for."""
    outcomes, was_resized = set(), set()
    for _ in until_seen({True, False}, was_resized, rounds(30, 500)):
        event = scene.create(store, 10)
        for _ in range(4):
            scene.lock(store, event)
        scene.lock(store, event, 5, ttl=2 * HOUR)
        late = EPOCH + timedelta(minutes=11)
        calls = [
            Call(resize, (event, 6), late),
            Call(lock, (event, "first"), late),
            Call(lock, (event, "second"), late),
            Call(expire_locks, (), late),
        ]
        resized, *buyers, sweep = crew.race(
            store.name, *(Call(c.action, c.arguments, c.now, draw.uniform(0, JITTER)) for c in calls)
        )
        assert all(isinstance(error, SoldOut | SeatsHeld) for error in errors([resized, *buyers])), buyers
        assert complaints([sweep.value]) == []
        bought = len(buyers) - len(errors(buyers))
        total = 10 if resized.error else 6
        assert available(store, event) == total - 5 - bought
        outcomes.add((resized.error is None, bought))
        was_resized.add(resized.error is None)
        assert violations(store.database) == []
    print(f"resized, bought: {sorted(outcomes)}")
    assert was_resized == {True, False}


def test_two_capacities_at_once_are_one_after_the_other(
    store: Store, crew: Crew, draw: random.Random, rounds: Rounds
) -> None:
    totals: set[int] = set()
    for _ in until_seen({6, 20}, totals, rounds(30, 500)):
        event = scene.create(store, 10)
        scene.lock(store, event, 4)
        sizes = (6, 20)
        answers = crew.race(
            store.name,
            *(Call(resize, (event, seats), EPOCH, draw.uniform(0, 10 * JITTER)) for seats in sizes),
            Call(lock, (event, "buyer"), EPOCH, draw.uniform(0, JITTER)),
        )
        assert errors(answers) == []
        totals.add(scene.event_of(store, event)["totalSeats"])
        assert violations(store.database) == []
    assert totals == {6, 20}


def test_an_event_that_is_closed_beside_buyers_sells_nothing_behind_the_closing(
    store: Store, crew: Crew, draw: random.Random, rounds: Rounds
) -> None:
    """What a buyer got is kept, everything else is in the block, and it opens again as a whole. Safe by the
    numbers in the update of `Events.close`, and by `is_open` in that of `take_seats`."""
    for _ in range(rounds(15, 200)):
        event = scene.create(store, 1_000)
        *buyers, closed = crew.race(
            store.name,
            *(Call(buy_until_closed, (event, f"buyer {number}"), EPOCH) for number in range(3)),
            Call(closing.close, (event,), EPOCH, 0.02 + draw.uniform(0, 0.05)),
        )
        assert errors([*buyers, closed]) == []
        bought = sum(len(buyer.value[0]) for buyer in buyers)
        assert bought > 0
        assert (available(store, event), off_sale(store, event)) == (0, 1_000 - bought)
        with pytest.raises(Closed):
            lock(store, event, "late")
        assert violations(store.database) == []
        closing.reopen(store, event)
        assert available(store, event) == 1_000 - bought
        assert violations(store.database) == []


def test_closing_and_reopening_at_once_beside_a_sweep_loses_no_seat(
    store: Store, crew: Crew, draw: random.Random, rounds: Rounds
) -> None:
    for _ in range(rounds(30, 500)):
        event = scene.create(store, 10)
        scene.lock(store, event, 3)
        closing.close(store, event)
        late = EPOCH + timedelta(minutes=11)
        answers = crew.race(
            store.name,
            Call(closing.reopen, (event,), late, draw.uniform(0, JITTER)),
            Call(closing.close, (event,), late, draw.uniform(0, JITTER)),
            Call(expire_locks, (), late, draw.uniform(0, JITTER)),
            Call(expire_locks, (), late + SECOND, draw.uniform(0, JITTER)),
        )
        assert errors(answers) == []
        expire_locks(store)
        assert available(store, event) + off_sale(store, event) == 10
        assert [found for found in violations(store.database) if not found.startswith("14")] == []
        recover(store)
        assert violations(store.database) == []


def test_an_event_cancelled_twice_at_once_beside_buyers_and_a_sweep_ends_and_owes_each_payment_once(
    store: Store, crew: Crew, draw: random.Random, rounds: Rounds
) -> None:
    for _ in range(rounds(6, 100)):
        event = scene.create(store, 1_000, "Gala")
        for _ in range(4):
            scene.sell(store, event, 2)
        first, second, one, other = crew.race(
            store.name,
            Call(cancel_event, (event, "Gala", 3), EPOCH, 0.02 + draw.uniform(0, 0.05)),
            Call(cancel_event, (event, "Gala", 2), EPOCH + SECOND, 0.02 + draw.uniform(0, 0.05)),
            *(Call(buy_until_closed, (event, f"buyer {number}"), EPOCH) for number in range(2)),
        )
        assert errors([first, second, one, other]) == []
        check_cancelled(store, event, 1_000, [booking for each in (one, other) for booking in each.value[1]])
        due = store.database.refunds.count_documents({"eventId": event, "cause": "CANCELLED"})
        assert first.value.refunds + second.value.refunds == due


def check_cancelled(store: Store, event: EventId, seats: int, paid: list[Any]) -> None:
    """Nothing of it is left, and each payment that was acknowledged is owed once."""
    database = store.database
    assert (available(store, event), off_sale(store, event)) == (0, seats)
    assert database.bookings.count_documents({"event": event, "status": {"$ne": "CANCELLED"}}) == 0
    assert {one["kind"] for one in database.seatLocks.find({"eventId": event, "status": "ACTIVE"})} == {
        "BLOCK"
    }
    assert database.seatLocks.count_documents({"eventId": event, "status": "CONSUMED"}) == 0
    owed = [one["bookingId"] for one in database.refunds.find({"eventId": event})]
    assert len(set(owed)) == len(owed)
    assert set(paid) <= set(owed)
    assert violations(database) == []


def test_a_cancellation_that_is_killed_again_and_again_beside_buyers_ends_what_it_began(
    replica: Server, store: Store, crew: Crew, draw: random.Random, rounds: Rounds
) -> None:
    """Killed at a random command until it gets through. No seat is for sale in between, and nobody is
    forgotten. Safe because the seats of a batch go into the block, and its refunds are recorded, in the
    transaction that ends it."""

    def attempt(store: Store, _ids: dict[str, Any]) -> None:
        cancel_event(store, event, "Gala", 2)

    killed = 0
    for _ in range(rounds(3, 60)):
        event = scene.create(store, 500, "Gala")
        for _ in range(3):
            scene.lock(store, event)
            scene.book(store, event, 2)
            scene.sell(store, event, 3)
        calls = [Call(buy_until_closed, (event, f"buyer {number}"), EPOCH) for number in range(2)]
        crew.start(store.name, *calls)
        target = Target(replica.uri, store.name, EPOCH)
        for _ in range(8):
            trace = run(target, attempt, {}, KillPoint(draw.randint(0, 40), draw.choice(["before", "after"])))
            reap(store.deployment.client, trace)
            settle(store.database)
            killed += trace.killed
            assert sold_twice(store.database) == 0
        answers = crew.answers()
        assert errors(answers) == []
        done = cancel_event(store, event, "Gala")
        assert done.error is None
        check_cancelled(store, event, 500, [booking for each in answers for booking in each.value[1]])
    print(f"killed {killed} times")
    assert killed > 0
