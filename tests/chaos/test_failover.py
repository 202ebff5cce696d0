"""Failover: the primary of a three-member replica set is killed while buyers buy and jobs run.

A command may fail then, as long as it says so with the right exit code and the same command,
sent again, ends in one purchase. What was acknowledged is there in the end.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from conftest import EPOCH, open_store
from race import (
    Answer,
    Call,
    Crew,
    Diary,
    complaints,
    expire_bookings,
    expire_locks,
    lock,
    mind_the_jobs,
    shop_until,
)
from servers import replica_set, set_uri, wait_until

from seatctl.errors import Contention, SeatctlError, Unreachable, WrongState
from seatctl.services import sales as booking
from seatctl.services.audit import find_all

if TYPE_CHECKING:
    from servers import Server

    from seatctl.domain.model import Id
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
    primary, start `second`, let it run against what it cannot see, and only then let replication
    go on."""
    primary = primary_of(members)
    assert primary
    with Crew(set_uri(members), 1) as one, Crew(set_uri(members), 1) as other, primary.client() as client:
        seen = client[store.database.name][collection]
        with replication_stands_still(members):
            one.start(store.database.name, first)
            wait_until(lambda: seen.count_documents({"status": status}), 30)
            other.start(store.database.name, second)
            time.sleep(1)  # time for the second to give up wrongly; no deadline
        return [*one.answers(), *other.answers()]


@pytest.fixture
def event(store: Store) -> Id:
    """An event in a database with its guards: creating those would wait for the majority, too."""
    store.ensure_one_lock_per_key()
    store.ensure_one_booking_per_lock()
    return booking.create_event(store, "a sale", 10, EPOCH).document["_id"]


def test_same_key_before_the_majority_has_it(
    members: list[Server], store: Store, event: Id, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key sent again while its lock is on the primary alone looks for the lock until it is there to be
    seen, and returns it."""
    primary, look_up, looks = primary_of(members), store.lock_by_key, itertools.count(1)
    assert primary
    stall = ExitStack()

    def look_in_vain_at_first(*key: Any) -> Any:
        found = look_up(*key)
        if next(looks) == LOOKS_IN_VAIN:
            assert found is None
            stall.close()
        return found

    monkeypatch.setattr(store, "lock_by_key", look_in_vain_at_first)
    # Asked for during the stall, the guard would wait for the majority; at the same instant it does not.
    monkeypatch.setattr(store, "ensure_one_lock_per_key", lambda: None)
    with Crew(set_uri(members), 1) as crew, primary.client() as client:
        seen = client[store.database.name].seatLocks
        with stall:
            stall.enter_context(replication_stands_still(members))
            crew.start(store.database.name, Call(lock, (event, "buyer", "key")))
            wait_until(lambda: seen.count_documents({"status": "ACTIVE"}), 30)
            again = lock(store, event, "buyer", "key")
        (first,) = crew.answers()
    assert first.error is None
    assert first.value.document == again.document
    assert next(looks) > LOOKS_IN_VAIN
    assert find_all(store) == []


def test_release_before_the_majority_has_the_booking(members: list[Server], store: Store, event: Id) -> None:
    """A release that meets a confirmation on the primary alone waits for it and is refused."""
    held = lock(store, event, "buyer").document["_id"]
    confirm, release = Call(booking.confirm, (held,)), Call(booking.release, (held,))
    confirmed, released = race_in_a_stall(members, store, confirm, release, "bookings", "PAYMENT_PENDING")
    assert confirmed.error is None
    assert isinstance(released.error, WrongState)
    assert find_all(store) == []


def test_payment_before_the_majority_has_it(members: list[Server], store: Store, event: Id) -> None:
    """A payment that meets the same payment on the primary alone waits for it and is one payment."""
    held = lock(store, event, "buyer").document["_id"]
    call = Call(booking.pay, (booking.confirm(store, held).document["_id"],))
    answers = race_in_a_stall(members, store, call, call, "bookings", "CONFIRMED")
    assert [answer.error for answer in answers] == [None, None]
    assert find_all(store) == []


def test_sweep_before_the_majority_has_it(members: list[Server], store: Store, event: Id) -> None:
    """A sweep that meets the same sweep on the primary alone waits for it and finds nothing to do."""
    lock(store, event, "buyer")
    call = Call(expire_locks, (datetime.now(UTC) + timedelta(days=1),))
    runs = race_in_a_stall(members, store, call, call, "seatLocks", "EXPIRED")
    assert [run.error for run in runs] == [None, None]
    assert [run.value["details"]["seatsRestored"] for run in runs] == [1, 0]
    assert complaints([run.value for run in runs]) == []
    assert find_all(store) == []
