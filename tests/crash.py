"""Processes that die at a chosen command, and a plain look at what they left behind.

The commands come from the wire: whatever seatctl sends is a place to die at, so a new write is
tried without anyone adding a case.
"""

from __future__ import annotations

import multiprocessing
import os
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from pymongo import MongoClient
from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent
from servers import wait_until

from seatctl.mongo.client import Deployment
from seatctl.mongo.store import Store

if TYPE_CHECKING:
    from pymongo.database import Database

BEFORE, AFTER = "before", "after"
READS = {"find", "getMore", "aggregate", "hello"}
KILLED = 77
PATIENCE = 60
"""Seconds after which a process that neither ended nor died counts as stuck."""

Command = Callable[[Store, dict[str, Any]], Any]

# Forked, so that a child pays for no imports: hundreds of them live for some milliseconds each.
# It opens a client of its own and never touches its parent's.
_processes = multiprocessing.get_context("fork")


@dataclass
class Life:
    """What a process told before it ended: the commands it sent, the sessions it used."""

    sent: list[str] = field(default_factory=list)
    sessions: list[dict[str, Any]] = field(default_factory=list)
    killed: bool = False


@dataclass(frozen=True)
class Place:
    """The database that a process works on, and the time there."""

    uri: str
    database: str
    transactions: bool
    now: datetime


@dataclass(frozen=True)
class Death:
    """When to die: BEFORE or AFTER the `number`-th command, or the `number`-th that is no read."""

    number: int
    moment: str
    reads_count: bool = True


class Tripwire(CommandListener):
    """Ends the process, with no goodbye to anybody, at its death."""

    def __init__(self, death: Death | None, report: Connection) -> None:
        self.death = death
        self.report = report
        self.life = Life()
        self.requests: dict[int, int] = {}  # a process may have several commands in flight

    def started(self, event: CommandStartedEvent) -> None:
        self.life.sent.append(event.command_name)
        session = event.command.get("lsid")
        if session and session not in self.life.sessions:
            self.life.sessions.append(session)
        if self.death and (self.death.reads_count or event.command_name not in READS):
            self.requests[event.request_id] = len(self.requests)
        self._die_at(BEFORE, event.request_id)

    def succeeded(self, event: CommandSucceededEvent) -> None:
        self._die_at(AFTER, event.request_id)

    def failed(self, event: CommandFailedEvent) -> None:
        self._die_at(AFTER, event.request_id)

    def _die_at(self, moment: str, request: int) -> None:
        if self.death and (self.requests.get(request), moment) == (self.death.number, self.death.moment):
            self.life.killed = True
            self.report.send(self.life)
            os._exit(KILLED)


def _live(
    place: Place, command: Command, ids: dict[str, Any], death: Death | None, report: Connection
) -> None:
    tripwire = Tripwire(death, report)
    client = MongoClient(
        place.uri, tz_aware=True, datetime_conversion="DATETIME_AUTO", event_listeners=[tripwire]
    )
    deployment = Deployment(client, place.database, transactions=place.transactions, clock=lambda: place.now)
    command(Store(deployment), ids)
    report.send(tripwire.life)
    os._exit(0)


def run(place: Place, command: Command, ids: dict[str, Any], death: Death | None = None) -> Life:
    """Run `command(store, ids)` in a process of its own, which dies its `death`."""
    receiver, sender = _processes.Pipe(duplex=False)
    process = _processes.Process(target=_live, args=(place, command, ids, death, sender))
    process.start()
    sender.close()
    process.join(PATIENCE)
    if process.exitcode is None:
        process.kill()
        process.join()
    assert process.exitcode in (0, KILLED), f"the process ended with {process.exitcode}"
    life: Life = receiver.recv()
    assert life.killed == (process.exitcode == KILLED)
    return life


def reap(client: MongoClient, life: Life) -> None:
    """Roll back what a dead process left open, as the server itself does after
    `transactionLifetimeLimitSeconds`: a closed connection alone does not end a transaction."""
    ids = [session["id"] for session in life.sessions]
    at_work = [
        {"$currentOp": {"allUsers": True, "idleSessions": True}},
        {"$match": {"lsid.id": {"$in": ids}}},
    ]

    def nothing_left() -> bool:
        # Asked again: the server passes over a session whose last command it still puts away.
        client.admin.command("killSessions", [{"id": session} for session in ids])
        return not list(client.admin.aggregate(at_work))

    if ids:
        wait_until(nothing_left, PATIENCE)


def settle(database: Database) -> None:
    """Wait until a majority has what was committed: before that, a reader outside of a snapshot may
    see a commit in one collection and, a moment earlier, not in another."""
    database.settled.insert_one({})
    database.settled.drop()


# --- the plain look --------------------------------------------------------------------------------


def violations(database: Database) -> list[str]:
    """Invariants 1, 2, 4 and 5 of the specification, document by document, in its own words."""
    locks = {lock["_id"]: lock for lock in database.seatLocks.find()}
    bookings = defaultdict(list)
    for booking in database.bookings.find():
        bookings[booking["seatLockId"]].append(booking["status"])
    found = []
    for event in database.events.find():
        available, total = event["availableSeats"], event["totalSeats"]
        held = _held(locks.values(), event["_id"])
        if available + held != total:
            found.append(f"1: {available} available + {held} held is not {total} ({event['name']})")
        if not 0 <= available <= total:
            found.append(f"2: {available} available of {total} ({event['name']})")
    for lock_id in locks.keys() | bookings.keys():
        status = locks.get(lock_id, {}).get("status")
        found += [
            f"{rule} (lock of {locks.get(lock_id, {}).get('userId')})"
            for rule in _judge(status, bookings[lock_id])
        ]
    return found


def _judge(lock: str | None, bookings: list[str]) -> list[str]:
    state = f"lock {lock}, bookings {bookings}"
    found = []
    if lock not in ("ACTIVE", "CONSUMED") and {"PAYMENT_PENDING", "CONFIRMED"} & set(bookings):
        found.append(f"4: {state}")
    if (lock == "CONSUMED") != (bookings.count("CONFIRMED") == 1):
        found.append(f"5, consumed and confirmed: {state}")
    if {"FAILED", "EXPIRED"} & set(bookings) and lock != "EXPIRED":
        found.append(f"5, seats not given back: {state}")
    if len(bookings) > 1:
        found.append(f"5, several bookings: {state}")
    return found


def sold_twice(database: Database) -> int:
    """Seats that are available although a lock holds them, in all events."""
    locks = list(database.seatLocks.find())
    return sum(
        max(0, event["availableSeats"] + _held(locks, event["_id"]) - event["totalSeats"])
        for event in database.events.find()
    )


def _held(locks: Any, event_id: Any) -> int:
    return sum(
        lock["seats"]
        for lock in locks
        if lock["eventId"] == event_id and lock["status"] in ("ACTIVE", "CONSUMED")
    )


def picture(database: Database) -> Counter[tuple[Any, ...]]:
    """All events, locks and bookings without ids and times: what two runs have in common."""
    bookings = defaultdict(list)
    for booking in database.bookings.find():
        bookings[booking["seatLockId"]].append(booking["status"])
    shown = Counter(
        ("event", event["name"], event["totalSeats"], event["availableSeats"])
        for event in database.events.find()
    )
    shown.update(
        ("lock", lock["userId"], lock["seats"], lock["status"], *sorted(bookings.pop(lock["_id"], [])))
        for lock in database.seatLocks.find()
    )
    shown.update(("booking", *sorted(statuses)) for statuses in bookings.values())
    return shown
