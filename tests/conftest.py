"""Databases for the tests: real servers, since what matters is theirs (`memory.py` has one for rules).

In CI a missing `mongod` is a failure, never a skip: nothing here skips.
"""

from __future__ import annotations

import os
import random
import signal
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient
from servers import Server

from seatctl.mongo import schema
from seatctl.mongo.client import Deployment, connect
from seatctl.mongo.store import Store

Document = dict[str, Any]
SEED = 1
EPOCH = datetime(2027, 1, 1, 12, tzinfo=UTC)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="all cases, and many more rounds of the chaos tests")
    parser.addoption("--seed", type=int, help="replay the chaos tests that printed this seed")


def pytest_configure() -> None:
    # What starts pytest in the background may have SIGINT ignored, and every process inherits that.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_xdist_auto_num_workers() -> int:
    """Twice as many as cores: half of their time the tests wait for a server."""
    return 2 * (os.cpu_count() or 1)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """`@pytest.mark.sampled(n)`: without `--long`, only each n-th case of a test's table runs."""
    if config.getoption("--long"):
        return
    seen: Counter[str] = Counter()
    left_out = []
    for item in items:
        if marker := item.get_closest_marker("sampled"):
            name = item.nodeid.split("[")[0]
            if seen[name] % marker.args[0]:
                left_out.append(item)
            seen[name] += 1
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in set(left_out)]


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
        for name in schema.collections_of()
        if name not in but
    }


def read(path: str) -> str:
    """A file of the project."""
    return (Path(__file__).parent.parent / path).read_text()
