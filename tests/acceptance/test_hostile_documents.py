"""Whatever other programs store: the lists show it, the jobs skip it and do the rest."""

from __future__ import annotations

import math
import socket
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from bson import DatetimeMS, DBRef, Decimal128, Int64, ObjectId
from pymongo import MongoClient
from terminal import Result, here

if TYPE_CHECKING:
    from pymongo.database import Database
    from servers import Server

Document = dict[str, Any]

PAST = datetime(2020, 1, 1, tzinfo=UTC)
FUTURE = datetime(2090, 1, 1, tzinfo=UTC)
UNKNOWN = "a" * 24
STRANGER = ObjectId("b" * 24)

HUGE_DATE = DatetimeMS(2**55)
"""A date beyond year 9999, which Python cannot hold."""
GONE = object()
"""The field is not there."""
ODD_KEYS = (DBRef("x", {"a": 1}), DBRef("x", [1]), DBRef("x", 1), DBRef("x", 1, a=[]), Decimal128("NaN"))
"""Values of types that are no documents and no lists, of which only the third can be a key in Python."""

BAD_LOCKS: list[Document] = [
    *({"seats": value} for value in ("two", "1", 0, -1, 1.5, math.nan, math.inf, -math.inf, 1e300)),
    *({"seats": value} for value in (Int64(2**62), None, True, [1], {}, PAST, GONE)),
    *({"status": value} for value in ("LIMBO", "active", None, 7, ["ACTIVE"], {}, GONE)),
    *({"expiresAt": value} for value in ("2020-01-01", 1577836800, None, [PAST], {}, GONE)),
    *({"expiresAt": value} for value in (HUGE_DATE, DatetimeMS(-(2**55)), math.nan)),
    *({"eventId": value} for value in (None, UNKNOWN, STRANGER, 7, [], [STRANGER], {}, {"$ne": 1}, GONE)),
    *({"eventId": value} for value in ODD_KEYS),
    *({"_id": value} for value in ODD_KEYS),
    *({"_id": value} for value in ("lock-7", 7, {"a": 1}, math.nan, "{lock}")),
    *({"userId": value} for value in (None, [], {"$ne": 1}, GONE)),
    *({"idempotencyKey": value} for value in (7, None, [])),
    *({"createdAt": value} for value in ("yesterday", HUGE_DATE)),
    {"seats": None, "status": "ACTIVE", "expiresAt": None, "eventId": None, "userId": None},
    {"note": "\x1b[2J\x07", "userId": "\x1b[31mred\x1b[0m"},
]
BAD_BOOKINGS: list[Document] = [
    *({"paymentExpiresAt": value} for value in ("2020-01-01", 1577836800, None, [PAST], HUGE_DATE, GONE)),
    *({"status": value} for value in ("LIMBO", None, 7, [], ["PAYMENT_PENDING"], GONE)),
    *({"seatLockId": value} for value in (None, UNKNOWN, STRANGER, 7, [], [STRANGER], {}, {"$ne": 1}, GONE)),
    *({field: value} for field in ("seatLockId", "event", "_id") for value in ODD_KEYS),
    *({"event": value} for value in (None, UNKNOWN, STRANGER, [], [STRANGER], {"$ne": 1}, GONE)),
    *({"_id": value} for value in ("booking-7", 7, {"a": 1})),
    {"user": {"$gt": ""}},
]
BAD_EVENTS: list[Document] = [
    *({"totalSeats": value} for value in ("many", None, 0, -1, 1.5, math.nan, math.inf, [], GONE)),
    *({"availableSeats": value} for value in ("many", None, -5, 99, 0.5, math.nan, math.inf, [], GONE)),
    *({"name": value} for value in (None, 7, [], "\x1b[2J", GONE)),
    *({"eventDate": value} for value in ("soon", HUGE_DATE, None)),
    *({"_id": value} for value in ODD_KEYS),
    *({"_id": value} for value in ("event-7", 7, {"a": 1})),
    *({"updatedAt": value} for value in ("now", HUGE_DATE, None)),
    {"totalSeats": {"seats": 5}, "availableSeats": {"seats": 5}, "name": {}, "eventDate": []},
]
BAD_RUNS: list[Document] = [
    *({"executedAt": value} for value in ("noon", None, 7, HUGE_DATE, GONE)),
    *({"details": value} for value in (None, "fine", [], {"recordsProcessed": "x"}, GONE)),
    *({"status": value} for value in (None, 7, ["SUCCESS"], "RUNNING", GONE)),
    *({"jobType": value} for value in (None, [], "NIGHTLY", GONE)),
    *({"host": value} for value in (None, {}, "\x1b[2J")),
]
DOCUMENTS = [
    *(("seatLocks", change) for change in BAD_LOCKS),
    *(("bookings", change) for change in BAD_BOOKINGS),
    *(("events", change) for change in BAD_EVENTS),
    *(("jobLogs", change) for change in BAD_RUNS),
]
LISTS = {"seatLocks": "locks", "bookings": "bookings", "events": "events", "jobLogs": "jobs"}
JOBS = (("expire-bookings",), ("expire-locks",), ("recover", "--settle", "1s"))


def changed(document: Document, change: Document) -> Document:
    return {field: value for field, value in {**document, **change}.items() if value is not GONE}


def insert_with_bad(database: Database[Document], collection: str, change: Document) -> ObjectId:
    """Two events, each with an overdue lock and an overdue booking. One document of the second event is
    changed for the worse. Returns the first event's id."""
    good, second = ObjectId(), ObjectId()
    kinds = {"events": second, "seatLocks": ObjectId(), "bookings": ObjectId(), "jobLogs": ObjectId()}
    documents: dict[str, list[Document]] = {name: [] for name in kinds}
    run = {"jobType": "LOCK_EXPIRY", "executedAt": PAST, "status": "SUCCESS", "details": {}, "host": "far"}
    documents["jobLogs"].append({"_id": kinds["jobLogs"], **run})
    for event in (good, second):
        sound = {"name": "Gala", "eventDate": FUTURE, "totalSeats": 10, "availableSeats": 8}
        documents["events"].append({"_id": event, **sound})
        waiting = ObjectId()
        for lock in (waiting, kinds["seatLocks"] if event is second else ObjectId()):
            hold = {"eventId": event, "userId": "ada", "seats": 1, "status": "ACTIVE", "expiresAt": PAST}
            documents["seatLocks"].append({"_id": lock, **hold})
        due = {"user": "ada", "status": "PAYMENT_PENDING", "paymentExpiresAt": PAST}
        booked = kinds["bookings"] if event is second else ObjectId()
        documents["bookings"].append({"_id": booked, "event": event, "seatLockId": waiting, **due})
    for name, stored in documents.items():
        if name == collection:
            stored[-1] = changed(stored[-1], change)
        database[name].insert_many(stored)
    return good


def tell(document: tuple[str, Document]) -> str:
    collection, change = document
    return ascii(f"{collection} {'GONE' if GONE in change.values() else change}")[1:60].replace("[", "(")


@pytest.fixture(scope="module")
def damaged(replica: Server) -> Iterator[Database[Document]]:
    """A database for one bad document after another: cleared between them, which is faster than new."""
    with MongoClient[Document](replica.uri, tz_aware=True) as client:
        database = client[f"test_{uuid.uuid4().hex}"]
        yield database
        client.drop_database(database)


@pytest.mark.sampled(5)
@pytest.mark.parametrize(("collection", "change"), DOCUMENTS, ids=map(tell, DOCUMENTS))
def test_a_bad_document_never_stops_the_rest(
    collection: str,
    change: Document,
    damaged: Database[Document],
    replica: Server,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Beside any damaged document the lists show all, the jobs do the rest, what they had to skip is named
    in their outcome, and what is left is found by verify."""
    monkeypatch.setenv("SEATCTL_URI", replica.uri)
    monkeypatch.setenv("SEATCTL_DATABASE", damaged.name)
    for name in LISTS:
        damaged[name].delete_many({})
    good = insert_with_bad(damaged, collection, change)
    for line in (LISTS[collection], "events", "verify", "health"):
        check_outcome(here(capsys, line), (0, 5))
    for name in ("events", "seatLocks", "bookings"):
        for document in damaged[name].find({"_id": {"$type": "objectId"}}, {"_id": 1}):
            check_outcome(here(capsys, "show", str(document["_id"])), (0,))
    for line in JOBS:
        result = here(capsys, *line)
        check_outcome(result, (0, 1))
        [entry] = damaged.jobLogs.find({"host": socket.gethostname()}).sort("_id", -1).limit(1)
        assert entry["status"] == ("FAILED" if result.code else "SUCCESS")
        if result.code:
            assert entry["error"] in result.stderr
    assert damaged.events.find_one({"_id": good})["availableSeats"] == 10
    assert {lock["status"] for lock in damaged.seatLocks.find({"eventId": good})} == {"EXPIRED"}
    assert {each["status"] for each in damaged.bookings.find({"event": good})} == {"EXPIRED"}
    again = here(capsys, "recover", "--settle", "1s")
    check_outcome(again, (0, 1))
    assert here(capsys, "verify").code == (5 if again.code else 0)


def check_outcome(result: Result, codes: tuple[int, ...]) -> None:
    assert result.code in codes, result
    assert result.stderr.count("\n") == (1 if result.code else result.stderr.count("seatctl: ")), result
    assert "Traceback" not in result.stderr
    assert "Error:" not in result.stderr, result
    assert (result.stdout + result.stderr).replace("\n", "").isprintable(), result
