"""Databases for the tests: mongomock for rules, real servers for everything that matters.

In CI a missing `mongod` is a failure, never a skip: nothing here skips.
"""

from __future__ import annotations

import os
import random
import signal
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import mongomock
import pytest
from pymongo import MongoClient
from pymongo.errors import OperationFailure
from servers import Server

from seatctl.domain.rules import RETENTION
from seatctl.errors import StaleRead
from seatctl.mongo import schema
from seatctl.mongo.audit import INVALID_OPERATOR
from seatctl.mongo.client import Deployment, connect
from seatctl.mongo.store import Store

Document = dict[str, Any]
SEED = 1
EPOCH = datetime(2027, 1, 1, 12, tzinfo=UTC)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="many more rounds of the chaos tests")
    parser.addoption("--seed", type=int, help="replay the chaos tests that printed this seed")


def pytest_configure() -> None:
    # What starts pytest in the background may have SIGINT ignored, and every process inherits that.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def rounds(pytestconfig: pytest.Config) -> Callable[[int, int], int]:
    """`rounds(short, long)`: how often to try, by `--long`."""
    return lambda short, long: long if pytestconfig.getoption("--long") else short


@pytest.fixture
def seed(pytestconfig: pytest.Config) -> int:
    """The seed of random tests, printed with a failing one: always the same without `--long`, so that
    a change is judged by what it changed; `--seed` chooses one."""
    chosen = pytestconfig.getoption("--seed")
    if chosen is None:
        chosen = random.randrange(2**32) if pytestconfig.getoption("--long") else SEED
    print(f"replay with: pytest --seed {chosen}")
    return chosen


@pytest.fixture(autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the developer's database or settings."""
    monkeypatch.setenv("HOME", str(tmp_path_factory.getbasetemp() / "nobody"))
    for name in list(os.environ):
        if name.startswith(("SEATCTL_", "XDG_")) or name == "CREDENTIALS_DIRECTORY":
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def replica() -> Iterator[Server]:
    """A replica set of one: transactions work."""
    server = Server().start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def standalone() -> Iterator[Server]:
    """A server without transactions, which seatctl refuses."""
    server = Server(replica_set=None).start()
    yield server
    server.stop()


@dataclass
class Clock:
    """The server's clock, as far as seatctl asks; a test moves it instead of waiting."""

    time: datetime = EPOCH

    def __call__(self) -> datetime:
        return self.time

    def advance(self, **time: float) -> datetime:
        self.time += timedelta(**time)
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(replica: Server, clock: Clock) -> Iterator[Store]:
    """A fresh, empty database on a replica set, under the test's clock."""
    with fresh_store(replica, clock) as fresh:
        yield fresh


@contextmanager
def fresh_store(server: Server, clock: Clock) -> Iterator[Store]:
    """A database of its own on this server. It goes with the server; dropping it costs more than most
    tests."""
    client = MongoClient(server.uri, tz_aware=True, datetime_conversion="DATETIME_AUTO")
    yield Store(Deployment(client, f"test_{uuid.uuid4().hex}", clock=clock))
    client.close()


@pytest.fixture
def mock_store(clock: Clock) -> MockStore:
    """A fresh, empty database in memory. It proves nothing about races: it is for rules."""
    client = mongomock.MongoClient(tz_aware=True)
    return MockStore(Deployment(client, f"test_{uuid.uuid4().hex}", clock=clock))


class MockStore(Store):
    """mongomock has no transactions, snapshots and validators: a transaction is a plain block here, which
    a StaleRead begins again."""

    def transaction_attempts(self) -> Iterator[AbstractContextManager[Store]]:
        for _ in range(100):
            attempt = MockAttempt(self)
            yield attempt
            if attempt.succeeded:
                return
        raise AssertionError("a transaction never ends")

    @contextmanager
    def snapshot(self) -> Iterator[Store]:
        yield self

    def missing(self) -> list[str]:
        return schema.missing(self.database)

    def init(self, retention: timedelta | None = None, **_: Any) -> schema.Setup:
        return schema.create(self.database, retention, RETENTION)


class MockAttempt(AbstractContextManager[Store]):
    """A block that is begun again after a StaleRead; nothing is rolled back."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.succeeded = False

    def __enter__(self) -> Store:
        return self.store

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        self.succeeded = kind is None
        return kind is StaleRead


def aggregate(collection: Any, *arguments: Any, **options: Any) -> Any:
    """mongomock refuses an expression that it does not know without the code of a server."""
    try:
        return mongomock_aggregate(collection, *arguments, **options)
    except OperationFailure as refusal:
        code = INVALID_OPERATOR if "Unrecognized expression" in str(refusal) else refusal.code
        raise OperationFailure(str(refusal), code) from None


def create_indexes(collection: Any, models: Any, **_: Any) -> None:
    """mongomock knows no commit quorum."""
    for model in models:
        options = dict(model.document)
        collection.create_index(list(options.pop("key").items()), **options)


mongomock_aggregate = mongomock.Collection.aggregate
mongomock.Collection.create_indexes = create_indexes
mongomock.Collection.aggregate = aggregate


@pytest.fixture
def database_uri(replica: Server) -> Iterator[str]:
    """The URI of a fresh database on the replica set, for commands in processes of their own."""
    name = f"test_{uuid.uuid4().hex}"
    yield replica.uri.replace("/?", f"/{name}?")
    with replica.client() as client:
        client.drop_database(name)


def open_store(uri: str) -> Store:
    """A store as the command line opens it, under the server's own clock."""
    return Store.open(connect(uri, None, "event_booking_db"))


@contextmanager
def examined(store: Store, collection: str) -> Iterator[Callable[[], int]]:
    """Counts, by the server's profiler, the documents of a collection that it examines meanwhile."""
    profile = store.database["system.profile"]
    profile.drop()
    store.database.command("profile", 2)
    yield lambda: sum(
        entry.get("docsExamined", 0)
        for entry in profile.find(
            {"ns": f"{store.name}.{collection}", "op": {"$in": ["query", "command", "getmore"]}}
        )
    )
    store.database.command("profile", 0)


def available(store: Store, event: object) -> int:
    """The event's counter."""
    return store.database.events.find_one({"_id": event})["availableSeats"]


def edit(store: Store, collection: str, document_id: object, **fields: Any) -> None:
    """What another program, or a hand in mongosh, does to a document."""
    store.database[collection].update_one({"_id": document_id}, {"$set": fields})


def everything(store: Store, *but: str) -> dict[str, list[Document]]:
    """All documents of the database, to see that nothing changed."""
    return {
        name: sorted(store.database[name].find(), key=lambda document: str(document["_id"]))
        for name in schema.COLLECTIONS
        if name not in but
    }


def read(path: str) -> str:
    """A file of the project."""
    return (Path(__file__).parent.parent / path).read_text()
