"""Databases with something in them, and the words that results are checked with."""

from __future__ import annotations

import re
import shlex
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bson import ObjectId
from conftest import open_store
from pymongo import MongoClient
from servers import Server, free_port
from terminal import Result, Shell

from seatctl.mongo.ids import parse_user
from seatctl.services import jobs, lists, payments, sales
from seatctl.services.events import CreateEventRequest, create_event

if TYPE_CHECKING:
    from pymongo.database import Database

    from seatctl.domain.documents import EventId, SeatLock
    from seatctl.mongo.store import Store

PAST = datetime(2020, 1, 1, tzinfo=UTC)
ID = re.compile(r"\b[0-9a-f]{24}\b")
NOBODY = f"mongodb://127.0.0.1:{free_port()}/?serverSelectionTimeoutMS=50"
"""A server that does not answer."""


@dataclass(frozen=True)
class Story:
    """A database with something of everything, and a shell that uses it."""

    shell: Shell
    ids: dict[str, str]

    def __call__(self, line: str) -> list[str]:
        return shlex.split(line.format(**self.ids))


def new_shell(uri: str, home: Path) -> Shell:
    """The program with an existing, empty database configured."""
    with open_database(uri) as database:
        database.create_collection("events")
    return Shell({"SEATCTL_URI": uri, "HOME": str(home)})


@contextmanager
def open_database(uri: str) -> Iterator[Database[dict[str, Any]]]:
    """A database, past seatctl."""
    with MongoClient[dict[str, Any]](uri, tz_aware=True) as client:
        yield client.get_default_database()


def database_of(shell: Shell) -> AbstractContextManager[Database[dict[str, Any]]]:
    """The database that `shell` uses, past seatctl."""
    return open_database(shell.env.get("SEATCTL_URI") or shell.ok("db", "uri").stdout.strip())


def insert_overdue(database: Database[dict[str, Any]], locks: int, available: int, total: int = 100) -> str:
    """An event and its overdue locks of a seat each, as another program writes them: no key."""
    event = {"_id": ObjectId(), "name": "Foreign", "totalSeats": total, "availableSeats": available}
    database.events.insert_one(event)
    database.seatLocks.insert_many(
        {"eventId": event["_id"], "userId": f"buyer {n}", "seats": 1, "status": "ACTIVE", "expiresAt": PAST}
        for n in range(locks)
    )
    return str(event["_id"])


def one_line(result: Result) -> str:
    """The only line on stderr, without the program's name."""
    assert result.stderr.startswith("seatctl: "), result
    assert result.stderr.count("\n") == 1, result
    return result.stderr.strip().removeprefix("seatctl: ")


def new_event(store: Store, name: str, seats: int) -> EventId:
    return create_event(store, CreateEventRequest(name, seats, timedelta(days=9))).id


def new_lock(store: Store, event: EventId, user: str, key: str | None = None) -> SeatLock:
    return sales.lock(store, sales.LockRequest(event, parse_user(user), 1, key=key)).lock


@contextmanager
def everything_once(replica: Server, home: Path) -> Iterator[Story]:
    """A healthy database: an event, a lock and a booking in each state that is not final, a run of each
    job."""
    uri = replica.uri.replace("/?", f"/test_{uuid.uuid4().hex}?")
    store = open_store(uri)
    store.init()
    event = new_event(store, "Soirée ☃", 9)
    locks = [new_lock(store, event, f"buyer {n}", key=f"k{n}").id for n in range(3)]
    waiting = sales.confirm(store, sales.ConfirmRequest(locks[0])).booking.id
    paid = payments.pay(store, sales.confirm(store, sales.ConfirmRequest(locks[1])).booking.id).booking.id
    jobs.expire_locks(store, jobs.JobOptions())
    jobs.expire_bookings(store, jobs.JobOptions())
    jobs.recover(store, jobs.JobOptions())
    runs = [run["_id"] for run in lists.job_runs(store)]
    ids = {
        "event": event,
        "lock": locks[0],
        "free": locks[2],
        "waiting": waiting,
        "paid": paid,
        "run": runs[0],
    }
    told = {name: str(value) for name, value in ids.items()}
    told |= {"locks": "\n".join(map(str, locks)), "runs": "\n".join(map(str, runs))}
    yield Story(Shell({"SEATCTL_URI": uri, "HOME": str(home)}), told)
    store.drop()
    store.deployment.close()


def make_trouble(shell: Shell) -> Story:
    """A small event, a lock of each kind that a command refuses, and documents that are broken."""
    store = open_store(shell.env["SEATCTL_URI"])
    event = new_event(store, "Small", 9)
    lock = new_lock(store, event, "ada", key="k").id
    booked = new_lock(store, event, "ada").id
    sales.confirm(store, sales.ConfirmRequest(booked))
    store.deployment.close()
    other = {"_id": ObjectId(), "name": "Other", "totalSeats": 9, "availableSeats": 9}
    damaged = {"_id": ObjectId(), "name": "Damaged", "totalSeats": "many", "availableSeats": None}
    overdue = {"_id": ObjectId(), "eventId": event, "seats": 1, "status": "ACTIVE", "expiresAt": PAST}
    broken = {**overdue, "_id": ObjectId(), "eventId": other["_id"], "seats": "two"}
    with database_of(shell) as database:
        database.events.update_one({"_id": event}, {"$inc": {"availableSeats": -1}})
        database.events.insert_many([other, damaged])
        database.seatLocks.insert_many([overdue, broken])
    ids = {"event": event, "lock": lock, "booked": booked}
    ids |= {"overdue": overdue["_id"], "damaged": damaged["_id"]}
    return Story(shell, {name: str(value) for name, value in ids.items()})
