"""Failover: the primary of a three-member replica set is killed while buyers buy and jobs run.

A command may fail then, as long as it says so with the right exit code and the same command,
sent again, ends in one purchase. What was acknowledged is there in the end.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import scene
from conftest import available, open_store
from faults import hurried_program
from oracle import violations
from pymongo.read_concern import ReadConcern
from race import (
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
from terminal import Shell

from seatctl.domain.documents import EventId
from seatctl.errors import SeatctlError, Unreachable, WrongState
from seatctl.services import payments, sales

if TYPE_CHECKING:
    from pymongo import MongoClient
    from servers import Server

    from seatctl.mongo.store import Store

pytestmark = pytest.mark.slow

Rounds = Callable[[int, int], int]
BUYERS = 4
SEATS = 1_000_000


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
        for _ in range(rounds(3, 20)):
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
    """Exit code 10: out of reach, or the outcome is unknown; no fault of ours."""
    return isinstance(error, Unreachable)


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


@dataclass
class Stall:
    """Two processes and the primary, on which one meets what the other committed without a majority."""

    store: Store
    primary: MongoClient
    crews: list[Crew]

    def start(self, call: Call) -> Crew:
        crew = self.crews.pop()
        crew.start(self.store.name, call)
        return crew

    def start_and_see(self, call: Call, collection: str, status: str) -> Crew:
        """Start it, and wait until its document has that status on the primary."""
        crew, seen = self.start(call), self.primary[self.store.name][collection]
        wait_until(lambda: seen.count_documents({"status": status}), 30)
        return crew

    def commits(self) -> int:
        """How many commits wait for their majority."""
        in_flight = [{"$currentOp": {"allUsers": True}}, {"$match": {"command.commitTransaction": 1}}]
        return len(list(self.primary.admin.aggregate(in_flight)))

    def rolled_back(self) -> int:
        """How many transactions the primary has rolled back."""
        return int(self.primary.admin.command("serverStatus")["transactions"]["totalAborted"])


Begin = Callable[[], AbstractContextManager[Stall]]


@pytest.fixture
def stall(members: list[Server], store: Store) -> Iterator[Begin]:
    """Begins a stall of the replication, which ends with the block."""
    primary = primary_of(members)
    assert primary
    with ExitStack() as stack:
        crews = [stack.enter_context(Crew(set_uri(members), 1)) for _ in range(2)]
        client = stack.enter_context(primary.client())

        @contextmanager
        def begin() -> Iterator[Stall]:
            with replication_stands_still(members):
                yield Stall(store, client, crews)

        yield begin


@pytest.fixture
def event(store: Store) -> EventId:
    """An event in a database with its collections: creating those would wait for the majority, too."""
    store.init()
    return scene.create(store, 10)


def test_a_key_whose_lock_has_no_majority_yet_waits_for_it_and_gets_the_lock(
    stall: Begin, store: Store, event: EventId
) -> None:
    call = Call(lock, (event, "buyer", "key"))
    with stall() as still:
        first = still.start_and_see(call, "seatLocks", "ACTIVE")
        second = still.start(call)
        wait_until(lambda: still.commits() == 2, 30)
        assert not (first.has_answered())
        assert not (second.has_answered())
    answers = [*first.answers(), *second.answers()]
    assert [answer.error for answer in answers] == [None, None]
    assert [answer.value.created for answer in answers] == [True, False]
    assert len({answer.value.lock.id for answer in answers}) == 1
    assert violations(store.database) == []


def test_a_payment_waits_for_the_majority_of_the_same_payment_and_is_one_payment(
    stall: Begin, store: Store, event: EventId
) -> None:
    """ "Already paid" is not said before a majority has the payment."""
    call = Call(payments.pay, (scene.book(store, event)[1],))
    with stall() as still:
        first = still.start_and_see(call, "bookings", "CONFIRMED")
        second = still.start(call)
        wait_until(lambda: still.commits() == 2, 30)
        assert not (first.has_answered())
        assert not (second.has_answered())
    answers = [*first.answers(), *second.answers()]
    assert [answer.error for answer in answers] == [None, None]
    assert [answer.value.changed for answer in answers] == [True, False]
    assert violations(store.database) == []


def test_a_release_that_meets_a_confirmation_without_a_majority_is_refused(
    stall: Begin, store: Store, event: EventId
) -> None:
    held = scene.lock(store, event)
    with stall() as still:
        confirmed = still.start_and_see(Call(confirm, (held,)), "bookings", "PAYMENT_PENDING")
        (release,) = still.start(Call(sales.release, (held,))).answers()
    (confirmation,) = confirmed.answers()
    assert confirmation.error is None
    assert isinstance(release.error, WrongState)
    assert violations(store.database) == []


def test_a_sweep_waits_for_the_majority_of_the_same_sweep_and_finds_nothing_to_do(
    stall: Begin, store: Store, event: EventId
) -> None:
    """Its list, read with a majority, still names the lock: it loses to what it cannot see several times."""
    scene.lock(store, event)
    call = Call(expire_locks, (datetime.now(UTC) + timedelta(days=1),))
    with stall() as still:
        first = still.start_and_see(call, "seatLocks", "EXPIRED")
        enough = still.rolled_back() + 4
        second = still.start(call)
        wait_until(lambda: still.rolled_back() >= enough, 30)
        assert not (first.has_answered())
        assert not (second.has_answered())
    runs = [*first.answers(), *second.answers()]
    assert [run.error for run in runs] == [None, None]
    assert [run.value["details"]["seatsRestored"] for run in runs] == [1, 0]
    assert complaints([run.value for run in runs]) == []
    assert violations(store.database) == []


# --- what is rolled back -----------------------------------------------------------------------------


def test_what_only_the_old_primary_had_is_rolled_back_and_was_never_said_to_be_done(
    members: list[Server], store: Store, tmp_path: Path
) -> None:
    """A command that can reach the new primary does it again there. One that cannot says that the outcome is
    unknown, and the same command, with the same key, makes one lock of it."""
    store.init()
    events = [scene.create(store, 10) for _ in range(2)]
    old = primary_of(members)
    assert old
    anywhere = Shell({"HOME": str(tmp_path), "SEATCTL_URI": set_uri(members, store.name)})
    only_there = Shell(
        {"HOME": str(tmp_path), "SEATCTL_URI": old.uri.replace("/?", f"/{store.name}?")}, hurried_program()
    )
    commands = [["lock", str(event), "--user", "u", "--seats", "1", "--key", "k", "-q"] for event in events]
    with ExitStack() as stack:
        with replication_stands_still(members), old.client() as client:
            processes = [
                stack.enter_context(shell.started(*command))
                for shell, command in zip((anywhere, only_there), commands, strict=True)
            ]
            wait_until(lambda: has_written(client, store.name, locks=2), 30)
            old.kill()
        ended = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 10], ended
    assert "so it is not known whether the change was made" in ended[1][1]
    old.start()
    # What is rolled back is kept in files.
    wait_until(lambda: any((old.directory / "db" / "rollback").rglob("*.bson")), 60)

    ids = [anywhere.new_id(*command[:-1]) for command in commands]
    assert ids[0] == ended[0][0].strip()
    assert {str(lock["_id"]) for lock in store.database.seatLocks.find()} == set(ids)
    assert [available(store, event) for event in events] == [9, 9]
    assert violations(store.database) == []


def has_written(client: MongoClient, database: str, locks: int) -> bool:
    """Whether so many locks are on the disk of this member, whatever the others have."""
    times = client.admin.command("replSetGetStatus")["optimes"]
    found = client.get_database(database, read_concern=ReadConcern("local")).seatLocks.count_documents({})
    return found == locks and bool(times["appliedOpTime"] == times["durableOpTime"])
