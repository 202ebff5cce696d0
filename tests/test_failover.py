"""Failover: the primary of a three-member replica set is killed while buyers buy and jobs run.

A command may fail then, as long as it says so with the right exit code and the same command,
sent again, ends in one purchase. What was acknowledged is there in the end.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from conftest import EPOCH, open_store
from race import Call, Crew, Diary, complaints, expire_bookings, expire_locks, lock, mind_the_jobs, shop_until
from servers import replica_set, set_uri, wait_until

from seatctl import booking
from seatctl.errors import Contention, SeatctlError, Unreachable
from seatctl.findings import find_all

if TYPE_CHECKING:
    from servers import Server

    from seatctl.model import Id
    from seatctl.store import Store

pytestmark = pytest.mark.slow

Rounds = Callable[[int, int], int]
BUYERS = 4
SEATS = 1_000_000


@pytest.fixture(scope="module")
def members() -> Iterator[list[Server]]:
    servers = replica_set(3)
    yield servers
    for server in servers:
        server.stop()


@pytest.fixture
def store(members: list[Server]) -> Iterator[Store]:
    store = open_store(set_uri(members, "failover"))
    yield store
    store.drop()
    store.deployment.close()


def primary_of(members: list[Server]) -> Server | None:
    for member in members:
        with member.client() as client:
            if client.admin.command("hello")["isWritablePrimary"]:
                return member
    return None


def fail_over(members: list[Server]) -> None:
    """Kill the primary, wait for another, and bring the dead one back into the set."""
    victim = primary_of(members)
    assert victim
    victim.kill()
    survivors = [member for member in members if member is not victim]
    wait_until(lambda: primary_of(survivors), 60)
    victim.start()
    with victim.client() as client:
        wait_until(lambda: client.admin.command("hello").get("secondary"), 60)


def test_the_primary_dies(
    members: list[Server], store: Store, tmp_path: Path, rounds: Rounds, seed: int
) -> None:
    """Whenever the primary dies, each purchase that was acknowledged is there in the end, once,
    and every other seat is free."""
    pause = random.Random(seed)
    events = [booking.create_event(store, "a sale", SEATS, EPOCH).document["_id"] for _ in range(3)]
    stop = tmp_path / "stop"
    with Crew(set_uri(members), BUYERS + 1) as crew:
        crew.start(
            store.database.name,
            *(Call(shop_until, (events, f"buyer {number}", seed + number, stop)) for number in range(BUYERS)),
            Call(mind_the_jobs, (stop,)),
        )
        for _ in range(rounds(2, 20)):
            run_for_a_while(store, pause.randint(20, 60))
            fail_over(members)
        run_for_a_while(store, 20)
        stop.touch()
        answers = crew.answers()
    assert [answer.error for answer in answers if answer.error] == []
    diaries = [answer.value for answer in answers]
    print(f"{sum(len(diary.errors) for diary in diaries)} commands and jobs failed and were sent again")
    assert [error for diary in diaries for error in diary.errors if not may_be_sent_again(error)] == []
    assert [error for diary in diaries for error in complaints(diary.runs)] == []
    check_purchases(store, events, diaries)


def run_for_a_while(store: Store, purchases: int) -> None:
    """Wait until the buyers have locked that many times more."""
    enough = store.database.seatLocks.estimated_document_count() + purchases
    wait_until(lambda: store.database.seatLocks.estimated_document_count() >= enough, 120)


def may_be_sent_again(error: SeatctlError) -> bool:
    """Out of reach, or given up with nothing changed, or a server's own word; no fault of ours."""
    return isinstance(error, Unreachable | Contention) or str(error).startswith("MongoDB answered")


def check_purchases(store: Store, events: list[Id], diaries: list[Diary]) -> None:
    database = store.database
    paid = {booked: seats for diary in diaries for booked, seats in diary.paid.items()}
    assert paid
    assert {found["_id"] for found in database.bookings.find({"status": "CONFIRMED"})} == set(paid)
    for diary in diaries:
        waiting = database.seatLocks.count_documents({"_id": {"$in": diary.waiting}, "status": "ACTIVE"})
        returned = database.seatLocks.count_documents({"_id": {"$in": diary.returned}, "status": "EXPIRED"})
        assert (waiting, returned) == (len(diary.waiting), len(diary.returned))
    assert find_all(store) == []
    later = datetime.now(UTC) + timedelta(days=1)
    expire_bookings(store, later)
    expire_locks(store, later)
    left = sum(event["availableSeats"] for event in store.events_by_id(events).values())
    assert left == len(events) * SEATS - sum(paid.values())
    assert find_all(store) == []


def test_same_key_at_the_same_instant(members: list[Server], store: Store, rounds: Rounds) -> None:
    """One key sent twice at once is one lock, and both get its id, also while the lock is on the
    primary and not yet on a majority."""
    event = booking.create_event(store, "a sale", SEATS, EPOCH).document["_id"]
    number = rounds(50, 500)
    with Crew(set_uri(members), 2) as crew:
        for key in range(number):
            answers = crew.race(
                store.database.name, *(Call(lock, (event, "buyer", f"key {key}")) for _ in range(2))
            )
            assert [answer.error for answer in answers if answer.error] == []
            assert len({answer.value.document["_id"] for answer in answers}) == 1
    assert store.event(event)["availableSeats"] == SEATS - number
    assert find_all(store) == []
