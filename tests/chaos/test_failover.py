"""Failover: the primary of a three-member replica set is killed while buyers buy and jobs run.

A command may fail then, as long as it says so with the right exit code and the same command,
sent again, ends in one purchase. What was acknowledged is there in the end.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import scene
from conftest import available, open_store
from oracle import violations
from race import (
    Answer,
    Call,
    Crew,
    Diary,
    complaints,
    confirm,
    expire_bookings,
    expire_locks,
    lock,
    run_jobs_until,
    shop_until,
)
from servers import replica_set, set_uri, wait_until

from seatctl.domain.documents import EventId
from seatctl.errors import Contention, SeatctlError, Unreachable, WrongState
from seatctl.mongo.locks import SeatLocks
from seatctl.services import sales

if TYPE_CHECKING:
    from pymongo import MongoClient
    from servers import Server

    from seatctl.mongo.store import Store

pytestmark = pytest.mark.slow

Rounds = Callable[[int, int], int]
BUYERS = 4
SEATS = 1_000_000
LOOKS_IN_VAIN = 4
"""After so many, replication goes on: the first is before anything is tried."""


@pytest.fixture(scope="module")
def members() -> Iterator[list[Server]]:
    servers = replica_set(3, "--setParameter", "enableTestCommands=1")
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


def test_no_acknowledged_purchase_is_lost_or_made_twice_when_the_primary_dies(
    members: list[Server], store: Store, tmp_path: Path, rounds: Rounds, seed: int
) -> None:
    """Whenever it dies, each purchase that was acknowledged is there in the end, once, and every other
    seat is free."""
    pause = random.Random(seed)
    events = [scene.create(store, SEATS) for _ in range(3)]
    stop = tmp_path / "stop"
    with Crew(set_uri(members), BUYERS + 1) as crew:
        crew.start(
            store.name,
            *(Call(shop_until, (events, f"buyer {number}", seed + number, stop)) for number in range(BUYERS)),
            Call(run_jobs_until, (stop,)),
        )
        for _ in range(rounds(2, 20)):
            run_for_a_while(store, crew, pause.randint(20, 60))
            fail_over(members)
        run_for_a_while(store, crew, 20)
        stop.touch()
        answers = crew.answers()
    assert [answer.error for answer in answers if answer.error] == []
    diaries = [answer.value for answer in answers]
    print(f"{sum(len(diary.errors) for diary in diaries)} commands and jobs failed and were sent again")
    assert [error for diary in diaries for error in diary.errors if not may_be_sent_again(error)] == []
    assert [error for diary in diaries for error in complaints(diary.runs)] == []
    check_purchases(store, events, diaries)


def run_for_a_while(store: Store, crew: Crew, purchases: int) -> None:
    """Wait until the buyers have locked that many times more, or one has come to grief."""
    enough = store.database.seatLocks.estimated_document_count() + purchases
    locks = store.database.seatLocks
    wait_until(lambda: crew.has_answered() or locks.estimated_document_count() >= enough, 120)


def may_be_sent_again(error: SeatctlError) -> bool:
    """Out of reach, or given up with nothing changed, or a server's own word; no fault of ours."""
    return isinstance(error, Unreachable | Contention) or str(error).startswith("MongoDB answered")


def check_purchases(store: Store, events: list[EventId], diaries: list[Diary]) -> None:
    database = store.database
    paid = {booked: seats for diary in diaries for booked, seats in diary.paid.items()}
    assert paid
    assert {found["_id"] for found in database.bookings.find({"status": "CONFIRMED"})} == set(paid)
    for diary in diaries:
        waiting = database.seatLocks.count_documents({"_id": {"$in": diary.waiting}, "status": "ACTIVE"})
        returned = database.seatLocks.count_documents({"_id": {"$in": diary.returned}, "status": "EXPIRED"})
        assert (waiting, returned) == (len(diary.waiting), len(diary.returned))
    assert violations(database) == []
    later = datetime.now(UTC) + timedelta(days=1)
    assert complaints([expire_bookings(store, later), expire_locks(store, later)]) == []
    assert sum(available(store, event) for event in events) == len(events) * SEATS - sum(paid.values())
    assert violations(database) == []


def test_one_key_sent_twice_at_the_same_instant_is_one_lock(
    members: list[Server], store: Store, rounds: Rounds
) -> None:
    """Both get its id, also while the lock is on the primary and not yet on a majority."""
    store.init()
    event = scene.create(store, SEATS)
    number = rounds(50, 500)
    with Crew(set_uri(members), 2) as crew:
        for key in range(number):
            answers = crew.race(store.name, *(Call(lock, (event, "buyer", f"key {key}")) for _ in range(2)))
            assert [answer.error for answer in answers if answer.error] == []
            assert len({answer.value.lock.id for answer in answers}) == 1
    assert available(store, event) == SEATS - number
    assert violations(store.database) == []


# --- what a majority does not have yet -----------------------------------------------------------------


@contextmanager
def replication_stands_still(members: list[Server]) -> Iterator[None]:
    """The secondaries answer heartbeats and fetch nothing: what the primary commits stays without
    a majority, and whoever reads with majority does not see it yet."""
    secondaries = [member for member in members if member is not primary_of(members)]
    for member in secondaries:
        with member.client() as client:
            count = client.admin.command("configureFailPoint", "stopReplProducer", mode="alwaysOn")["count"]
            client.admin.command(
                "waitForFailPoint", "stopReplProducer", timesEntered=count + 1, maxTimeMS=30_000
            )
    try:
        yield
    finally:
        for member in secondaries:
            with member.client() as client:
                client.admin.command("configureFailPoint", "stopReplProducer", mode="off")


def race_in_a_stall(
    members: list[Server], store: Store, first: Call, second: Call, collection: str, status: str
) -> list[Answer]:
    """Start `first` while replication stands still; once its document has that status on the
    primary, start `second`, let it lose to what it cannot see several times, and only then let
    replication go on."""
    primary = primary_of(members)
    assert primary
    with Crew(set_uri(members), 1) as one, Crew(set_uri(members), 1) as other, primary.client() as client:
        seen = client[store.name][collection]
        with replication_stands_still(members):
            one.start(store.name, first)
            wait_until(lambda: seen.count_documents({"status": status}), 30)
            enough = rolled_back(client) + LOOKS_IN_VAIN
            other.start(store.name, second)
            wait_until(lambda: other.has_answered() or rolled_back(client) >= enough, 30)
            assert not other.has_answered()
        return [*one.answers(), *other.answers()]


def rolled_back(client: MongoClient) -> int:
    """How many transactions this server has rolled back."""
    return int(client.admin.command("serverStatus")["transactions"]["totalAborted"])


@pytest.fixture
def event(store: Store) -> EventId:
    """An event in a database with its collections: creating those would wait for the majority, too."""
    store.init()
    return scene.create(store, 10)


def test_a_key_whose_lock_has_no_majority_yet_waits_for_it_and_gets_the_lock(
    members: list[Server], store: Store, event: EventId, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key sent again while its lock is on the primary alone looks for the lock until it is there to be
    seen, and returns it."""
    primary, look_up, looks = primary_of(members), SeatLocks.by_key, itertools.count(1)
    assert primary
    stall = ExitStack()

    def look_in_vain_at_first(*key: Any) -> Any:
        found = look_up(*key)
        if next(looks) == LOOKS_IN_VAIN:
            assert found is None
            stall.close()
        return found

    monkeypatch.setattr(SeatLocks, "by_key", look_in_vain_at_first)
    with Crew(set_uri(members), 1) as crew, primary.client() as client:
        seen = client[store.name].seatLocks
        with stall:
            stall.enter_context(replication_stands_still(members))
            crew.start(store.name, Call(lock, (event, "buyer", "key")))
            wait_until(lambda: seen.count_documents({"status": "ACTIVE"}), 30)
            again = lock(store, event, "buyer", "key")
        (first,) = crew.answers()
    assert first.error is None
    assert first.value.lock.stored == again.lock.stored
    assert (first.value.created, again.created) == (True, False)
    assert next(looks) > LOOKS_IN_VAIN
    assert violations(store.database) == []


def test_a_release_waits_for_the_majority_of_a_confirmation_and_is_refused(
    members: list[Server], store: Store, event: EventId
) -> None:
    held = scene.lock(store, event)
    confirmed, released = race_in_a_stall(
        members, store, Call(confirm, (held,)), Call(sales.release, (held,)), "bookings", "PAYMENT_PENDING"
    )
    assert confirmed.error is None
    assert isinstance(released.error, WrongState)
    assert violations(store.database) == []


def test_a_payment_waits_for_the_majority_of_the_same_payment_and_is_one_payment(
    members: list[Server], store: Store, event: EventId
) -> None:
    call = Call(sales.pay, (scene.book(store, event)[1],))
    answers = race_in_a_stall(members, store, call, call, "bookings", "CONFIRMED")
    assert [answer.error for answer in answers] == [None, None]
    assert [answer.value.changed for answer in answers] == [True, False]
    assert violations(store.database) == []


def test_a_sweep_waits_for_the_majority_of_the_same_sweep_and_finds_nothing_to_do(
    members: list[Server], store: Store, event: EventId
) -> None:
    scene.lock(store, event)
    call = Call(expire_locks, (datetime.now(UTC) + timedelta(days=1),))
    runs = race_in_a_stall(members, store, call, call, "seatLocks", "EXPIRED")
    assert [run.error for run in runs] == [None, None]
    assert [run.value["details"]["seatsRestored"] for run in runs] == [1, 0]
    assert complaints([run.value for run in runs]) == []
    assert violations(store.database) == []
