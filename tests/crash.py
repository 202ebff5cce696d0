"""Processes that die at a chosen command.

The commands come from the wire: whatever seatctl sends is a point to die at, so a new write is tried
without anyone adding a case.
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
READS = {
    "find",
    "getMore",
    "aggregate",
    "hello",
    "listIndexes",
    "listCollections",
    "count",
    "connectionStatus",
}
KILLED = 77
PATIENCE = 60
"""Seconds after which a process that neither ended nor died counts as stuck."""

Command = Callable[[Store, dict[str, Any]], Any]

# Forked, so that a child pays for no imports: hundreds of them live for some milliseconds each.
# It opens a client of its own and never touches its parent's.
_processes = multiprocessing.get_context("fork")


@dataclass
class Trace:
    """What a process told before it ended: the commands that it sent, the sessions that it used."""

    sent: list[str] = field(default_factory=list)
    sessions: list[dict[str, Any]] = field(default_factory=list)
    killed: bool = False


@dataclass(frozen=True)
class Target:
    """The database that a process works on, and the time there."""

    uri: str
    database: str
    now: datetime


@dataclass(frozen=True)
class KillPoint:
    """When to die: BEFORE or AFTER the `number`-th command, or the `number`-th that is no read."""

    number: int
    moment: str
    reads_count: bool = True


class Tripwire(CommandListener):
    """Ends the process, with no goodbye to anybody, at its kill point."""

    def __init__(self, kill_point: KillPoint | None, report: Connection) -> None:
        self.kill_point = kill_point
        self.report = report
        self.trace = Trace()
        self.requests: dict[int, int] = {}  # a process may have several commands in flight

    def started(self, event: CommandStartedEvent) -> None:
        self.trace.sent.append(event.command_name)
        session = event.command.get("lsid")
        if session and session not in self.trace.sessions:
            self.trace.sessions.append(session)
        if self.kill_point and (self.kill_point.reads_count or event.command_name not in READS):
            self.requests[event.request_id] = len(self.requests)
        self._die_at(BEFORE, event.request_id)

    def succeeded(self, event: CommandSucceededEvent) -> None:
        self._die_at(AFTER, event.request_id)

    def failed(self, event: CommandFailedEvent) -> None:
        self._die_at(AFTER, event.request_id)

    def _die_at(self, moment: str, request: int) -> None:
        point = self.kill_point
        if point and (self.requests.get(request), moment) == (point.number, point.moment):
            self.trace.killed = True
            self.report.send(self.trace)
            os._exit(KILLED)


def _child(
    target: Target, command: Command, ids: dict[str, Any], kill_point: KillPoint | None, report: Connection
) -> None:
    tripwire = Tripwire(kill_point, report)
    client = MongoClient(
        target.uri, tz_aware=True, datetime_conversion="DATETIME_AUTO", event_listeners=[tripwire]
    )
    command(Store(Deployment(client, target.database, clock=lambda: target.now)), ids)
    report.send(tripwire.trace)
    os._exit(0)


def run(target: Target, command: Command, ids: dict[str, Any], kill_point: KillPoint | None = None) -> Trace:
    """Run `command(store, ids)` in a process of its own, which dies at its kill point."""
    receiver, sender = _processes.Pipe(duplex=False)
    process = _processes.Process(target=_child, args=(target, command, ids, kill_point, sender))
    process.start()
    sender.close()
    process.join(PATIENCE)
    if process.exitcode is None:
        process.kill()
        process.join()
    assert process.exitcode in (0, KILLED), f"the process ended with {process.exitcode}"
    trace: Trace = receiver.recv()
    assert trace.killed == (process.exitcode == KILLED)
    return trace


def reap(client: MongoClient, trace: Trace) -> None:
    """Roll back what a dead process left open, as the server itself does after
    `transactionLifetimeLimitSeconds`: a closed connection alone does not end a transaction."""
    ids = [session["id"] for session in trace.sessions]
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


def summary(database: Database) -> Counter[tuple[Any, ...]]:
    """All documents but the job log, without ids and times: what two runs have in common."""
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
    shown.update(
        (
            "refund",
            refund["userId"],
            refund["cause"],
            refund.get("paymentRef"),
            refund["seats"],
            refund["status"],
        )
        for refund in database.refunds.find()
    )
    # How often one that works in batches records them depends on where it began.
    for command, number in Counter(one["command"] for one in database.operations.find()).items():
        shown["operation", command] = min(number, 2) if command == "cancel-event" else number
    return shown
