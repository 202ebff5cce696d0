"""Each query that runs often reads by an index, and hardly a document that it does not want.

Real commands run on a database full of what is over and done with. The driver tells of each query
just before it is sent; it is explained there and then, on the documents that it will meet.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any

import pytest
from bson import ObjectId
from conftest import EPOCH
from pymongo import MongoClient
from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent
from terminal import here

from seatctl.cli import boundary as edge
from seatctl.domain.model import BookingStatus, Document, Id, JobStatus, JobType, LockStatus
from seatctl.mongo import schema
from seatctl.mongo.client import Deployment
from seatctl.mongo.store import Store
from seatctl.services import audit as findings
from seatctl.services import expiry, health

if TYPE_CHECKING:
    from pymongo.database import Database
    from servers import Server

OLD, OPEN, OVERDUE = 100_000, 2_000, 6_000
"""Documents in each collection that no query here is about; locks that are alive; locks of a backlog,
which make more than one batch."""
EVENTS, USERS = 100, 5_000
SEATS = 1_000_000
SECOND, MINUTE, HOUR, DECADE = (timedelta(seconds=n) for n in (1, 60, 3_600, 315_360_000))
BOUND = 1.1


# --- what a query reads ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """How the server carries out one command, and what that takes."""

    command: str
    stages: tuple[str, ...]
    examined: int
    wanted: int

    @property
    def flaw(self) -> str | None:
        """Why this reads too much, or None."""
        if "COLLSCAN" in self.stages:
            return f"{self.command} scans the collection"
        if self.examined > BOUND * self.wanted:
            return f"{self.command} examines {self.examined:,} documents for {self.wanted:,}"
        return None


def explain(database: Database[Document], sent: Mapping[str, Any]) -> Plan:
    """Have the server carry out a command as far as that changes nothing, and tell how."""
    command = {name: value for name, value in sent.items() if name not in OF_THE_SESSION and name[0] != "$"}
    answer = database.command("explain", command, verbosity="executionStats")
    kind, collection = next(iter(command.items()))
    if kind == "aggregate":  # returns groups
        matched = command["pipeline"][0].get("$match", {})
        wanted = database[collection].count_documents(matched)
    elif kind == "find":
        wanted = answer["executionStats"]["nReturned"]
    else:
        wanted = sum(_values("nMatched", answer["executionStats"]))
    return Plan(
        f"{kind} {collection}",
        tuple(stage for plan in _values("winningPlan", answer) for stage in _values("stage", plan)),
        sum(_values("totalDocsExamined", answer)),
        wanted,
    )


def _values(name: str, tree: Any) -> Iterator[Any]:
    """All values under this name, however deep: each version of MongoDB nests them otherwise."""
    if isinstance(tree, dict):
        yield from (tree[name],) if name in tree else ()
        tree = list(tree.values())
    for branch in tree if isinstance(tree, list) else ():
        yield from _values(name, branch)


OF_THE_SESSION = {"lsid", "txnNumber", "autocommit", "startTransaction", "readConcern", "writeConcern"}
NO_QUERIES = {
    "insert",
    "getMore",
    "createIndexes",
    "listIndexes",
    "commitTransaction",
    "abortTransaction",
    "endSessions",
    "explain",
}


@dataclass
class Explainer(CommandListener):
    """Explains each query of a client just before it is sent. The driver prints and swallows what a
    listener raises, so that all went well shows only in the numbers."""

    database: Database[Document]
    sent: int = 0
    plans: list[Plan] = field(default_factory=list)

    def started(self, event: CommandStartedEvent) -> None:
        if event.command_name not in NO_QUERIES:
            self.sent += 1
            self.plans.append(explain(self.database, event.command))

    def succeeded(self, event: CommandSucceededEvent) -> None:
        pass

    def failed(self, event: CommandFailedEvent) -> None:
        pass

    def explained(self, action: Action, world: World) -> list[Plan]:
        """Do it; returns the plan of each query that it sent."""
        self.sent, self.plans = 0, []
        action(world)
        assert len(self.plans) == self.sent, "a query could not be explained; the driver printed why"
        return self.plans


# --- a database with a past ------------------------------------------------------------------------


def lock_of(
    event: ObjectId, number: int, status: LockStatus, deadline: datetime, lock_id: ObjectId
) -> Document:
    return {
        "_id": lock_id,
        "eventId": event,
        "userId": f"user{number % USERS}",
        "seats": 1,
        "status": status.value,
        "expiresAt": deadline,
        "idempotencyKey": str(lock_id),
        "createdAt": EPOCH,
        "updatedAt": EPOCH,
    }


def booking_of(lock: Document, status: BookingStatus) -> Document:
    return {
        "_id": ObjectId(),
        "event": lock["eventId"],
        "user": lock["userId"],
        "seatLockId": lock["_id"],
        "status": status.value,
        "paymentExpiresAt": lock["expiresAt"],
        "createdAt": EPOCH,
        "updatedAt": EPOCH,
    }


def event_of(event: ObjectId) -> Document:
    times = dict.fromkeys(("eventDate", "createdAt", "updatedAt"), EPOCH)
    return {"_id": event, "name": "Concert", "totalSeats": SEATS, "availableSeats": SEATS // 2, **times}


def run_of(number: int) -> Document:
    return {
        "jobType": list(JobType)[number % 3].value,
        "executedAt": EPOCH - number * MINUTE,
        "status": (JobStatus.SUCCESS if number % 50 else JobStatus.FAILED).value,
        "details": {"recordsProcessed": 0, "seatsRestored": 0, "duration": 4},
    }


SETTLED = (
    (LockStatus.CONSUMED, BookingStatus.CONFIRMED),
    (LockStatus.EXPIRED, BookingStatus.FAILED),
    (LockStatus.EXPIRED, BookingStatus.EXPIRED),
)


def load(database: Database[Document], old: int) -> list[ObjectId]:
    """Insert events, `old` settled locks, bookings and runs, and what is alive; returns the events."""
    events = [ObjectId() for _ in range(EVENTS)]
    locks, bookings = [], []
    for number in range(old):
        held, settled = SETTLED[number % 3]
        deadline = EPOCH - HOUR - number * SECOND
        # The newest of all: a walk from the newest on must pass them to come to what is alive.
        newest = ObjectId(f"ff{number:022x}")
        locks.append(lock_of(events[number % EVENTS], number, held, deadline, newest))
        bookings.append(booking_of(locks[-1], settled) | {"_id": newest})
    for number in range(OPEN):
        locks.append(lock_of(events[number % EVENTS], number, LockStatus.ACTIVE, EPOCH + HOUR, ObjectId()))
        if number % 3:
            bookings.append(booking_of(locks[-1], BookingStatus.PAYMENT_PENDING))
    database[schema.EVENTS].insert_many(map(event_of, events))
    database[schema.LOCKS].insert_many(locks)
    database[schema.BOOKINGS].insert_many(bookings)
    database[schema.JOB_LOGS].insert_many(map(run_of, range(old)))
    return events


@dataclass(frozen=True)
class World:
    """A database with a past, a store on it whose queries are explained, and a way around that."""

    store: Store
    explainer: Explainer
    database: Database[Document]
    events: Iterator[ObjectId]
    """Without end, so that each case works on events of its own, which have a past like the others."""
    capsys: pytest.CaptureFixture[str] | None = None

    def add(self, locks: int, due: timedelta, *, booked: bool = False, events: int = 1) -> Document:
        """Insert ACTIVE locks, `booked` with bookings that wait for payment, that run out at `due`
        from now; returns the first one."""
        mine = list(islice(self.events, events))
        made = [
            lock_of(mine[n % events], n, LockStatus.ACTIVE, EPOCH + due, ObjectId()) for n in range(locks)
        ]
        self.database[schema.LOCKS].insert_many(made)
        if booked:
            pending = [booking_of(lock, BookingStatus.PAYMENT_PENDING) for lock in made]
            self.database[schema.BOOKINGS].insert_many(pending)
        return made[0]

    def run(self, line: str) -> None:
        """Run a command; its words in capitals stand for documents that are made for it."""
        words = [str(self._new(word)) if word.isupper() else word for word in line.split()]
        assert self.capsys
        result = here(self.capsys, *words)
        assert (line, 0) == (line, result.code), result.stderr

    def _new(self, what: str) -> Id:
        match what:
            case "EVENT":
                return next(self.events)
            case "LOCK":
                return self.add(1, HOUR)["_id"]
            case "BOOKED_LOCK":
                return self.add(1, HOUR, booked=True)["_id"]
            case "BOOKING":
                lock = self.add(1, HOUR, booked=True)
                return next(self.database[schema.BOOKINGS].find({"seatLockId": lock["_id"]}))["_id"]
        raise AssertionError(what)


@contextmanager
def open_world(server: Server, old: int, *, indexed: bool) -> Iterator[World]:
    name = f"test_{uuid.uuid4().hex}"
    with server.client() as plain:
        events = load(plain[name], old)
        if indexed:
            Store(Deployment(plain, name, transactions=True)).init(DECADE)
        explainer = Explainer(plain[name])
        with MongoClient[Document](server.uri, tz_aware=True, event_listeners=[explainer]) as client:
            store = Store(Deployment(client, name, transactions=True, clock=lambda: EPOCH))
            yield World(store, explainer, plain[name], cycle(events))
        plain.drop_database(name)


@pytest.fixture(scope="module")
def initialised(replica: Server) -> Iterator[World]:
    with open_world(replica, OLD, indexed=True) as world:
        yield world


@pytest.fixture
def world(initialised: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> World:
    """A big database as `init` leaves it; commands that run here find it."""
    monkeypatch.setattr(edge.Call, "store", lambda _call, **_: initialised.store)
    return replace(initialised, capsys=capsys)


@pytest.fixture
def bare_world(
    replica: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[World]:
    """The same with no index but those on `_id`, and nothing that would create one; much smaller."""
    monkeypatch.setattr(schema, "ensure_guard", lambda *_: None)
    with open_world(replica, OLD // 100, indexed=False) as world:
        monkeypatch.setattr(edge.Call, "store", lambda _call, **_: world.store)
        yield replace(world, capsys=capsys)


# --- what runs often -------------------------------------------------------------------------------

Action = Callable[[World], None]


def command(line: str) -> Action:
    return lambda world: world.run(line)


def same_key_again(world: World) -> None:
    line = f"lock {next(world.events)} --user u --seats 1 --key once"
    world.run(line)
    world.run(line)


def expire_locks(world: World) -> None:
    world.add(OVERDUE, -HOUR, events=50)
    world.run("expire-locks --dry-run")
    world.run("expire-locks")


def expire_bookings(world: World) -> None:
    world.add(OVERDUE, -HOUR, booked=True, events=50)
    world.run("expire-bookings --dry-run")
    world.run("expire-bookings")


def sold_out(world: World) -> None:
    """What `lock` does on a sold-out event before it decides."""
    for booked in (False, True):
        event = world.add(50, -HOUR, booked=booked)["eventId"]
        expiry.reclaim(world.store, event)


def read_again(world: World) -> None:
    """What a sweep does about a batch in which something has changed."""
    for kind, name in ((expiry.lock_sweep, schema.LOCKS), (expiry.booking_sweep, schema.BOOKINGS)):
        some = [document["_id"] for document in world.database[name].find().limit(5_000)]
        kind(world.store).read_again(some)


def job_runs(world: World) -> None:
    """What `health` asks about the jobs."""
    for job in JobType:
        health._job(world.store, job, EPOCH, health.WINDOW)


def backlog(world: World) -> None:
    """What `health` asks about the sweeps."""
    world.add(OVERDUE, -HOUR, booked=True, events=50)
    for kind in (expiry.lock_sweep, expiry.booking_sweep):
        health._backlog(world.store, kind(world.store), EPOCH)


def pairs(world: World) -> None:
    """What `verify` asks about every lock and booking."""
    store = world.store
    doubtful = list(findings._doubtful(store, None))
    assert [*findings._judge(store, doubtful, None), *store.damaged_locks()] == []


EVENT, LOCK, BOOKING, RUN = (f"find {name}" for name in schema.COLLECTIONS)
SET_EVENTS, SET_LOCKS, SET_BOOKINGS = (f"update {name}" for name in schema.COLLECTIONS[:3])
TAKE, COUNT_RUNS = f"findAndModify {schema.EVENTS}", f"aggregate {schema.JOB_LOGS}"

BY_ID = {
    "lock": (command("lock EVENT --user u --seats 1"), {TAKE}),
    "pay": (command("pay BOOKING"), {BOOKING, LOCK, SET_BOOKINGS, SET_LOCKS}),
    "read again": (read_again, {LOCK, BOOKING}),
    "locks": (command("locks"), {LOCK}),
    "bookings": (command("bookings"), {BOOKING}),
}
BY_AN_INDEX_OF_OURS = {
    "key look-up": (same_key_again, {LOCK, TAKE}),
    "confirm": (command("confirm LOCK"), {LOCK, BOOKING, SET_LOCKS}),
    "confirm again": (command("confirm BOOKED_LOCK"), {LOCK, BOOKING}),
    "pay --failed": (command("pay --failed BOOKING"), {BOOKING, LOCK, SET_EVENTS, SET_BOOKINGS, SET_LOCKS}),
    "release": (command("release LOCK"), {LOCK, BOOKING, SET_EVENTS, SET_LOCKS}),
    "expire-locks": (expire_locks, {LOCK, BOOKING, EVENT, SET_EVENTS, SET_LOCKS}),
    "expire-bookings": (expire_bookings, {BOOKING, LOCK, EVENT, SET_EVENTS, SET_BOOKINGS, SET_LOCKS}),
    "nothing due": (command("expire-locks --as-of 2020-01-01"), {LOCK}),
    "nothing to pay": (command("expire-bookings --as-of 2020-01-01"), {BOOKING}),
    "sold out": (sold_out, {LOCK, BOOKING, SET_EVENTS, SET_LOCKS, SET_BOOKINGS}),
    "health: job runs": (job_runs, {RUN, COUNT_RUNS}),
    "health: backlog": (backlog, {LOCK, BOOKING, EVENT}),
    "verify: pairs": (pairs, {LOCK, BOOKING}),
    "jobs": (command("jobs"), {RUN}),
    "jobs --type": (command("jobs --type recovery"), {RUN}),
    "jobs --status success": (command("jobs --status success"), {RUN}),
    "jobs --status failed": (command("jobs --status failed"), {RUN}),
    "jobs --type --status": (command("jobs --type recovery --status failed"), {RUN}),
    "jobs --summary": (command("jobs --summary"), {COUNT_RUNS}),
    "locks --event": (command("locks --event EVENT"), {LOCK}),
    "bookings --event": (command("bookings --event EVENT --limit 0"), {BOOKING}),
}
CASES = BY_ID | BY_AN_INDEX_OF_OURS
"""What to do, and queries that must be among those it sends.

Left out, because no index makes them read less, or none that is worth its price:
- a compare-and-set that comes too late: it examines the document that it names and changes none;
- lists of locks or bookings by user, or by state alone: an index for them would cost every write of
  every sweep more than a person saves who asks for such a list now and then (see `schema.READERS`);
- the newest few of an event's many bookings, for the same reason: all of them are read;
- lists with several filters, but for the runs of a job by outcome: one of the filters finds, the others
  choose from that, and an index for each combination would cost every write;
- what looks for a list in the place of a deadline: no index tells, so `verify` reads what is waiting;
- what is about every event (`events --sort fullest`, the counters in `verify`, `recover`, `health`).
"""


@pytest.mark.parametrize(("action", "sends"), CASES.values(), ids=CASES)
def test_reads_what_it_wants(world: World, action: Action, sends: set[str]) -> None:
    """Each of its queries uses an index and examines at most a tenth more documents than it wants,
    whatever is over and done with around them."""
    plans = world.explainer.explained(action, world)

    assert sends <= {plan.command for plan in plans}
    assert [plan.flaw for plan in plans if plan.flaw] == []


def test_a_missing_index_is_noticed(bare_world: World) -> None:
    """Without our indexes the same check finds fault with each case but those that go by `_id`."""
    found = {
        name: [plan.flaw for plan in bare_world.explainer.explained(action, bare_world)]
        for name, (action, _) in CASES.items()
    }

    assert {name for name, flaws in found.items() if not any(flaws)} == set(BY_ID)
    assert found["jobs"] == ["find jobLogs scans the collection"]


def test_an_index_that_finds_too_much_is_noticed(bare_world: World) -> None:
    """It is not enough that there is an index: most of what it finds must be wanted."""
    bare_world.database[schema.JOB_LOGS].create_index([("executedAt", -1)])
    action, _ = CASES["jobs --type --status"]

    (plan,) = bare_world.explainer.explained(action, bare_world)

    assert plan.flaw == "find jobLogs examines 1,000 documents for 7"
