"""What meets faults of a server: each command and job, what it sends, and what it leaves.

MongoDB's own fail points refuse commands, close connections and hold answers back.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pymongo.common
import race
import scene
from conftest import EPOCH, Clock
from pymongo import MongoClient
from pymongo.read_concern import ReadConcern
from servers import Server

from seatctl.domain.rules import PAYMENT_TTL
from seatctl.errors import SeatctlError, WrongState
from seatctl.mongo.client import Deployment, connect
from seatctl.mongo.failures import translate
from seatctl.mongo.store import Store
from seatctl.services import payments, sales

if TYPE_CHECKING:
    import pytest

DATABASE = "faults"
VICTIM = "victim"
"""The application name of the client that meets the fault; the test's own client never does."""
LOOK_AT_ONCE = "serverMonitoringMode=poll"
"""With `look_again_at_once`: after an error the driver looks at the server again at once,
not half a second later."""

Act = Callable[[Store, Any], Any]
State = tuple[int, dict[str, int], dict[str, int]]
"""Seats available, locks by status, bookings by status."""


@dataclass(frozen=True)
class Command:
    """A command or job: what comes before it, what it does, what it leaves on an event with 10 seats, and
    the commands that it sends to the server."""

    prepare: Act
    act: Act
    leaves: State
    sends: tuple[str, ...]


def lock_two(store: Store, event: Any) -> Any:
    return scene.lock(store, event, 2, "buyer", key="key")


def book_two(store: Store, event: Any) -> Any:
    return scene.confirm(store, lock_two(store, event))


def leave_half_done(store: Store, event: Any) -> Any:
    """A failed payment that another program did not finish: it never touched the lock."""
    held = lock_two(store, event)
    scene.insert_booking(store, event, held, "FAILED")
    return held


CLEARANCE = ("find", "listIndexes", "listCollections", "aggregate")
OPERATION = ("connectionStatus", "insert")
"""What an operator's command records, and what a job asks for and logs: who did it."""
COMMANDS = {
    "lock": Command(
        prepare=lambda _store, event: event,
        act=lock_two,
        leaves=(8, {"ACTIVE": 1}, {}),
        sends=("listCollections", "create", "find", "findAndModify", "insert", "commitTransaction"),
    ),
    "confirm": Command(
        prepare=lock_two,
        act=scene.confirm,
        leaves=(8, {"ACTIVE": 1}, {"PAYMENT_PENDING": 1}),
        sends=(
            "listCollections",
            "create",
            "find",
            "explain",
            "findAndModify",
            "insert",
            *OPERATION,
            "commitTransaction",
        ),
    ),
    "pay": Command(
        prepare=book_two,
        act=payments.pay,
        leaves=(8, {"CONSUMED": 1}, {"CONFIRMED": 1}),
        sends=("find", "findAndModify", *OPERATION, "commitTransaction"),
    ),
    "fail": Command(
        prepare=book_two,
        act=payments.fail_payment,
        leaves=(10, {"EXPIRED": 1}, {"FAILED": 1}),
        sends=(*CLEARANCE, "update", "findAndModify", *OPERATION, "commitTransaction", "explain"),
    ),
    "release": Command(
        prepare=lock_two,
        act=sales.release,
        leaves=(10, {"EXPIRED": 1}, {}),
        sends=(*CLEARANCE, "update", "findAndModify", *OPERATION, "commitTransaction", "explain"),
    ),
    "expire-locks": Command(
        prepare=lock_two,
        act=lambda store, _lock: race.expire_locks(store, EPOCH + PAYMENT_TTL),
        leaves=(10, {"EXPIRED": 1}, {}),
        sends=(*CLEARANCE, "update", "commitTransaction", *OPERATION, "explain"),
    ),
    "expire-bookings": Command(
        prepare=book_two,
        act=lambda store, _booking: race.expire_bookings(store, EPOCH + 2 * PAYMENT_TTL),
        leaves=(10, {"EXPIRED": 1}, {"EXPIRED": 1}),
        sends=(*CLEARANCE, "update", "commitTransaction", *OPERATION, "explain"),
    ),
    "recover": Command(
        prepare=leave_half_done,
        act=lambda store, _lock: race.recover(store),
        leaves=(10, {"EXPIRED": 1}, {"FAILED": 1}),
        sends=(*CLEARANCE, "count", "update", "findAndModify", "commitTransaction", *OPERATION, "explain"),
    ),
}
JOBS = ("expire-locks", "expire-bookings", "recover")


HURRY = """
from seatctl.mongo import client, schema, transactions
from seatctl.services import expiry, jobs, payments
transactions.TIME_LIMIT, transactions.PATIENCE, transactions.STATEMENTS = 4.0, 3.5, 3.0
transactions.COMMIT_ANSWER, schema.BUILD_SECONDS = 1.5, 3.0
transactions.MAJORITY_LAG *= 0
expiry.BATCH_PATIENCE, jobs.LOG_TIME_FAILED = 2.0, {log_time}
from seatctl.cli.app import main
main()
"""


def hurried_program(log_time: float = 0.5) -> tuple[str, ...]:
    """The program with limits of a few seconds."""
    return sys.executable, "-c", HURRY.format(log_time=log_time)


@contextmanager
def server_with_fail_points() -> Iterator[Server]:
    server = Server(options=("--setParameter", "enableTestCommands=1")).start()
    yield server
    server.stop()


def look_again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """See LOOK_AT_ONCE."""
    monkeypatch.setattr(pymongo.common, "MIN_HEARTBEAT_INTERVAL", 0.02)


@dataclass
class Bench:
    """A database under the test's clock, for several clients: one that meets faults, and ours."""

    server: Server
    clock: Clock
    clients: list[MongoClient] = field(default_factory=list)

    def store(self, uri: str = "") -> Store:
        deployment = connect(uri or self.server.uri, None, DATABASE)
        self.clients.append(deployment.client)
        return Store(Deployment(deployment.client, DATABASE, clock=self.clock))

    def victim(self, options: str = "") -> Store:
        return self.store(f"{self.server.uri}&appName={VICTIM}&{LOOK_AT_ONCE}{options}")

    def close(self) -> None:
        for client in self.clients:
            client.close()


@contextmanager
def fail_point(
    store: Store, commands: list[str], fault: dict[str, Any], times: int | None = 1
) -> Iterator[None]:
    """The next `times` of these commands from the victim (None: all of them) meet the fault, or the test is
    void."""
    admin = store.deployment.client.admin
    data = {"failCommands": commands, "appName": VICTIM, **fault}
    mode = "alwaysOn" if times is None else {"times": times}
    before = admin.command("configureFailPoint", "failCommand", mode=mode, data=data)["count"]
    try:
        yield
    finally:
        after = admin.command("configureFailPoint", "failCommand", mode="off")["count"]
    assert after - before == times or (times is None and after > before)


def insist(act: Act, store: Store, subject: Any) -> list[SeatctlError]:
    """Do it until it is done; returns the errors on the way, which all must ask for another try."""
    errors: list[SeatctlError] = []
    while True:
        try:
            act(store, subject)
        except WrongState:
            # A lock is released once; the first try did it and its answer was lost.
            assert act is sales.release
            assert errors
        except Exception as error:  # noqa: BLE001 - judged right here
            errors.append(translate(error))
            assert errors[-1].exit_code in (1, 10), errors
            assert len(errors) < 10
            continue
        return errors


def start_with_an_event(store: Store) -> Any:
    """Empty the collections, and put an event with 10 seats there. A fresh database would cost half
    a second for its files. Those of locks and bookings go, so that each command creates what it needs."""
    for collection in store.database.list_collection_names():
        if collection in ("seatLocks", "bookings"):
            store.database.drop_collection(collection)
        else:
            store.database[collection].delete_many({})
    return scene.create(store, 10)


def state_of(store: Store, event: Any) -> State:
    database = store.database
    statuses = [
        Counter(it["status"] for it in kind.find()) for kind in (database.seatLocks, database.bookings)
    ]
    return scene.event_of(store, event)["availableSeats"], dict(statuses[0]), dict(statuses[1])


def operations(store: Store, options: dict[str, Any], where: dict[str, Any]) -> list[dict[str, Any]]:
    """What the server works on, and what it keeps."""
    admin = store.deployment.client.get_database("admin", read_concern=ReadConcern("local"))
    return list(admin.aggregate([{"$currentOp": options}, {"$match": where}]))


def roll_back_what_is_open(store: Store) -> None:
    """As the server does after `transactionLifetimeLimitSeconds` with what a lost client left open."""
    store.deployment.client.admin.command("killAllSessions", [])
